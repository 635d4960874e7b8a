"""Reads and sends files, deletes objects, and checks that the store has done both.

Nothing here decides whether a file is sent. Read first: `lanes`.
"""
