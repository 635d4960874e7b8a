"""The S3 client: requests, signatures, retries, XML.

Nothing here knows a folder, an index or a job. Read first: `bucket`.
"""
