"""Runs a job: takes its lock, runs its phases in order, and records its final state.

Read first: `worker`, then `sync`, `sending` (the steps for one file) and `accounts` (their result).
"""
