"""What is read back from `jobs/`: which jobs match, reports and plans by pages, the sums over all jobs.

Nothing here changes a job; only `ledger` writes, and only its own file of sums. Read first: `filters`.
"""
