"""The token that requests must carry: API_TOKEN, or one made once and kept in a private file."""

from __future__ import annotations

import os
import re
import secrets

from syncworker.errors import UsageError
from syncworker.settings import Settings
from syncworker.system import durable_files


def load(settings: Settings, folder: str) -> str | None:
    """Returns the token that requests must carry; None: no token. `auto` generates one once, in `.api-token`
    (0600) in the jobs folder, which is writable even where the program's folder is not. A token that an
    earlier version wrote to `folder`, beside the program, stays valid."""
    if settings.api_token is None:
        return None
    if settings.api_token == "auto":  # noqa: S105 - a word, no token
        earlier = os.path.join(folder, ".api-token")
        if os.path.lexists(earlier):
            return _kept(earlier)
        durable_files.make_private_directory(settings.jobs_dir)
        return _kept(os.path.join(settings.jobs_dir, ".api-token"))
    if not re.fullmatch(r"[!-~]+", settings.api_token):
        raise UsageError("BadToken", "API_TOKEN must be printable ASCII without spaces")
    return settings.api_token


def _kept(path: str) -> str:
    if not os.path.lexists(path):  # whole or not at all: half a token would keep later starts from starting
        durable_files.replace_bytes(path, f"{secrets.token_urlsafe(32)}\n".encode(), durable=True)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "r") as file:
        found = os.fstat(file.fileno())
        token = file.read(1024).strip()
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise UsageError("BadToken", f"{path} can be read by others: remove it, a new token is made")
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,}", token):
        raise UsageError("BadToken", f"{path} holds no token: remove it, a new one is made")
    return token
