"""What a sync may be asked for beside source and destination.

One table of name, parser, flag and schema, and what its rows need. No input or output here. Read first:
`table`.
"""
