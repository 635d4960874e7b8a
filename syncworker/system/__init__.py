"""What the machine offers: files that last, locks, processes, threads that may be left behind.

The only users of fcntl, fsync, psutil and signal. Nothing here knows a job or a storage. Read first:
`durable_files`.
"""
