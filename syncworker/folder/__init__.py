"""Everything that is read from the folder, but the bodies of files: safe opening, symlinks, the scan.

Nothing here writes, and nothing here knows the storage. Read first: `uploads_root`.
"""
