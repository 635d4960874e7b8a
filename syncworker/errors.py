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
        """Forgets where it was raised: a traceback holds the frames that it came through, and what they hold,
        a file's body say."""
        error: BaseException | None = self
        seen: set[int] = set()
        while error is not None and id(error) not in seen:  # one that was raised from itself is a circle
            seen.add(id(error))
            error.__traceback__ = None
            error = error.__cause__ or error.__context__


class RetryError(SyncError):
    """The network or the store failed in a way that may pass: try again later, with fewer in flight."""

    def __init__(self, code: str, message: str, *, throttled: bool = False) -> None:
        super().__init__(code, message)
        self.throttled = throttled


class FileError(SyncError):
    """This file or key cannot be done now; the others can. Recorded, and the job goes on."""


class FatalError(SyncError):
    """Nothing can be done until somebody changes something: stop the job at once."""


class UsageError(SyncError):
    """What was asked for is not valid, or not allowed. `param` names the parameter at fault, if one is."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(code, message)
        self.param = param


class Stopped(SyncError):
    """The job was told to stop: by its sentinel (cancelled) or by a signal (interrupted)."""

    def __init__(self, reason: str) -> None:
        super().__init__("Stopped", reason)
