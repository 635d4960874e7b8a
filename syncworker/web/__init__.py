"""What a client of the HTTP API sees: parameters, answers, the page, metrics, who may ask at all.

Handlers read files under `jobs/`; they never talk to a storage. Read first: `operations`, then `app`.
"""
