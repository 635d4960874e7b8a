"""What a terminal sees: commands, their help and completion, progress and tables.

Read first: `cli`.
"""
