"""When things happen: a job's lock, the order of its phases, its final state.

Read first: `worker`, then `sync`, then `sending`: what one file needs; `accounts`: what became of it.
"""
