"""Writes and reads the files under `jobs/` (status, report, keys, sentinels).

Nothing here talks to a storage. Read first: `store`, then `status`.
"""
