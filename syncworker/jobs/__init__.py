"""Everything that is written under `jobs/` (status, report, keys, sentinels) and what is read of it.

Nothing here talks to a storage. Read first: `store`, then `status`.
"""
