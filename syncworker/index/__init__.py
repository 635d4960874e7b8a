"""What is remembered of a destination: a cache, which the listing of the bucket always outweighs.

Nothing here talks to S3 or reads the folder. Read first: `database`.
"""
