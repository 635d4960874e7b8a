"""What is remembered of a destination: a cache, never believed against the listing of the bucket.

Nothing here talks to S3 or reads the folder. Read first: `database`.
"""
