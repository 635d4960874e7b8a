"""Calls a blocking function in a thread that nobody has to wait for: it may take minutes, or never return."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


def call_in_daemon(name: str, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
    """Returns the future result of the function. Threads of an executor would hold up the end of the job;
    this one, called `name`, ends with the process at the latest."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(cast(T, result))
        else:
            answer.set_exception(error)
            answer.exception()  # marks it as retrieved: perhaps nobody waits any more

    def ask() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except Exception as failure:  # noqa: BLE001 - raised again where it is waited for
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=ask, name=name, daemon=True).start()
    return answer
