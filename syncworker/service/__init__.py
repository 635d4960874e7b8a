"""What lives as long as the server: the queue that starts and adopts workers, the embedded storage.

Nothing here talks to a storage itself. Read first: `supervisor`.
"""
