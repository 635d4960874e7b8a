"""Messages of commands on stderr: refusals, warnings, and why a job did not succeed."""

from __future__ import annotations

import os
import sys

from syncworker import escape
from syncworker import settings as settings_table
from syncworker.jobs.record import Status
from syncworker.jobs.status import recorded_state
from syncworker.model import State
from syncworker.shell import formats
from syncworker.shell.display import Output

BROKEN_PIPE = 141  # the exit status that a shell reports for a program ended by SIGPIPE


def complain(message: str) -> None:
    """Prints a message on stderr; a closed stderr is no error."""
    Output(sys.stderr).print(f"syncworker: {escape.escape_control(message)}")


def warn_of_misspelt() -> None:
    for sentence in settings_table.misspelt(os.environ):
        complain(f"warning: {sentence}")


def explain(status: Status) -> None:
    """Prints on stderr why a job did not succeed, and what to do next."""
    if recorded_state(status) is State.DONE:
        return
    messages = Output(sys.stderr)
    for text in formats.error_lines(status):
        messages.print(text)
    if text := formats.error_text(status):
        messages.print(f"syncworker: {text}")
    if recorded_state(status) is State.WAITING:
        if not status.get("error"):
            messages.print(f"syncworker: {escape.escape_control(status['message'])}")
        messages.print(f"syncworker: to see its plan: python -m syncworker plan {status['id']}")
        messages.print(f"syncworker: to carry it out: python -m syncworker approve {status['id']}")
        return
    messages.print(f"syncworker: to go on: python -m syncworker resume {status['id']}")


def printed(output: Output, text: str | None = None) -> int:
    """Prints the text, if any. Returns the exit status: 0 if everything was written."""
    if text is not None:
        output.print(text)
    if output.error is None:
        return 0
    if isinstance(output.error, BrokenPipeError):
        return BROKEN_PIPE
    complain(f"cannot write to the standard output: {output.error.strerror}")
    return 1
