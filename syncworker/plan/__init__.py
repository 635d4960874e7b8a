"""Why a file is sent or an object goes: folder, listing and index are joined and compared.

Nothing here sends or deletes. Read first: `compare`.
"""
