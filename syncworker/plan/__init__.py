"""Decides which files are sent and which objects deleted: joins and compares folder, listing and index.

Nothing here sends or deletes. Read first: `compare`.
"""
