"""One job carried out by several processes and machines: what goes to them, and what may not go wrong there.

The job's process plans, counts, remembers and deletes as ever; members read, hash, compare and PUT. Nothing
here deletes an object. Read first: `protocol`, then `shares` (the job's process), then `member`.
"""
