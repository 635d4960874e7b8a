"""How bytes move and objects go: reading, sending, deleting, and checking that it was done.

Nothing here decides whether a file is sent. Read first: `lanes`.
"""
