"""Checks that the bucket has the right content: lists it once more after a run, or compares it (`verify`).

Nothing here decides what a sync sends. Read first: `recheck`.
"""
