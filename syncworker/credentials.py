"""The keys that requests are signed with: given ones, or those that boto3's chain finds and refreshes.

The only module that imports boto3, and only when the chain is asked: it takes half a second. Refreshing
talks to the network (STS, SSO, the instance's metadata), so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from syncworker.errors import FatalError
from syncworker.sigv4 import Keys

_LOOK_SECONDS = 20.0


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self) -> Keys:
        """Keys that are valid now. FatalError when there are none."""
        ...

    async def renew(self, used: Keys) -> bool:
        """The store says that these keys have expired: look again. False when there are no others."""
        ...


class Given:
    """Keys that were given and never change."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._keys = Keys(access_key, secret_key)

    async def keys(self) -> Keys:
        return self._keys

    async def renew(self, used: Keys) -> bool:
        return False


class Chain:
    """boto3's chain: environment, profile, web identity, SSO, container and instance roles."""

    def __init__(self) -> None:
        self._credentials: Any = None
        self._keys: Keys | None = None
        self._looked_at = 0.0
        self._lock = asyncio.Lock()

    async def keys(self) -> Keys:
        if self._keys is None or time.monotonic() - self._looked_at > _LOOK_SECONDS:
            async with self._lock:
                if self._keys is None or time.monotonic() - self._looked_at > _LOOK_SECONDS:
                    self._keys = await asyncio.to_thread(self._look)
                    self._looked_at = time.monotonic()
        return self._keys

    async def renew(self, used: Keys) -> bool:
        async with self._lock:
            if self._keys == used:  # else somebody has looked since
                self._credentials = None
                self._keys = await asyncio.to_thread(self._look)
                self._looked_at = time.monotonic()
            return self._keys != used

    def _look(self) -> Keys:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._credentials is None:
                self._credentials = boto3.Session().get_credentials()
            if self._credentials is None:
                raise FatalError(
                    "NoCredentials",
                    "no keys: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY, or what boto3 reads (AWS_PROFILE,"
                    " AWS_ACCESS_KEY_ID, a role)",
                )
            frozen = self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError, ValueError, LookupError, RuntimeError) as error:
            # A program that gives keys may be missing or say anything, and keys may be renewed to ended ones:
            # boto3 lets those errors through as they are. The class says what failed; the text may quote a
            # configuration file or a secret, so it is not shown, here or in the log.
            name = type(error).__name__
            raise FatalError(
                "NoCredentials",
                f"boto3 finds no valid keys ({name}): check AWS_PROFILE, and what gives the keys",
            ) from None
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or None)
