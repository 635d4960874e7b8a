"""When things happen: from a job's lock over the order of its phases to its final state.

Read first: `worker`, then `sync`, then `sending`: what one file needs; `accounts`: what became of it.
"""
