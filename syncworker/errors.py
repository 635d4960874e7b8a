"""Every way to fail, in one tree.

The class says what a caller may do about it; `code` is a short word for programs (an S3 error code or one
of ours), the message is a sentence for people: what failed, which file or key, what to do next.
No message carries a secret.
"""

from __future__ import annotations


class SyncError(Exception):
    """Base: `code` is stable and machine-readable, `str(error)` is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def clear_traceback(self) -> None:
        """Clears the traceback, whose frames would keep, for example, a file's body in memory."""
        error: BaseException | None = self
        seen: set[int] = set()
        while error is not None and id(error) not in seen:  # causes may form a circle
            seen.add(id(error))
            error.__traceback__ = None
            error = error.__cause__ or error.__context__


class RetryError(SyncError):
    """A failure of the network or the store that may pass: try again later, with fewer requests in flight."""

    def __init__(self, code: str, message: str, *, throttled: bool = False) -> None:
        super().__init__(code, message)
        self.throttled = throttled


class FileError(SyncError):
    """This file or key failed; others may succeed. It is recorded, and the job goes on."""


class FatalError(SyncError):
    """Nothing works until somebody changes something: stop the job at once."""


class UsageError(SyncError):
    """The request is not valid, or not allowed. `param` names the wrong parameter, if there is one."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(code, message)
        self.param = param


class Stopped(SyncError):
    """The job was told to stop: by its sentinel (cancelled) or by a signal (interrupted)."""

    def __init__(self, reason: str) -> None:
        super().__init__("Stopped", reason)
