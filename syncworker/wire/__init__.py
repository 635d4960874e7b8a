"""Bytes to and from the storage: addresses that are refused, proxies, connections and their pool, throttling.

Nothing here knows an operation of S3, a signature or a key. Read first: `pool`.
"""
