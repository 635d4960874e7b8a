"""Everything that is said to the storage: requests, signatures, retries, connections, XML.

Nothing here knows a folder, an index or a job. Read first: `bucket`.
"""
