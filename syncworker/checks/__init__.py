"""Whether the bucket has what it should: listed once more after a run, or compared by `verify`.

Nothing here decides what a sync sends. Read first: `recheck`.
"""
