"""The keys that sign requests: given ones, or those that boto3's credential chain finds and refreshes.

Only this module imports boto3, and only when the chain is used, because the import takes half a second.
Finding and refreshing keys runs programs and uses the network (`credential_process`, STS, SSO, the instance's
metadata), which may hang. So it runs in a thread that is abandoned when the job is to stop, or after a
minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from syncworker.errors import FatalError, Stopped
from syncworker.s3.signing import Keys
from syncworker.system.daemon_call import call_in_daemon

PATIENCE_SECONDS = 60.0
_FRESH_SECONDS = 20.0
_POLL_SECONDS = 0.1
# Describes boto3's names for the places of keys.
_FOUND = {
    "env": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment",
    "shared-credentials-file": "those of AWS_PROFILE in ~/.aws/credentials",
    "config-file": "those of AWS_PROFILE in ~/.aws/config",
    "custom-process": "those of AWS_PROFILE's credential_process",
}


class KeySource(Protocol):
    """A source of keys. `origin`: describes the setting that they come from."""

    origin: str

    async def keys(self) -> Keys:
        """Returns keys that are valid now. Raises FatalError if there are none."""

    async def renew(self, used: Keys) -> bool:
        """Called if the store reports that these keys have expired. Returns whether there are new ones."""


class Given:
    """Keys that were given and never change."""

    def __init__(
        self,
        access_key: str,
        secret_key: str,
        token: str | None = None,
        origin: str = "as given",
    ) -> None:
        self._keys = Keys(access_key, secret_key, token)
        self.origin = origin

    async def keys(self) -> Keys:
        return self._keys

    async def renew(self, used: Keys) -> bool:
        return False


class Chain:
    """boto3's chain: environment, profile, web identity, SSO, container and instance roles. Raises Stopped
    once `stopping` returns True."""

    def __init__(
        self,
        stopping: Callable[[], bool] = lambda: False,
        patience_seconds: float = PATIENCE_SECONDS,
        *,
        profile: str | None = None,
    ) -> None:
        self._profile = profile
        self.origin = "what boto3 finds"
        self._stopping = stopping
        self._patience_seconds = patience_seconds
        self._credentials: Any = None
        self._keys: Keys | None = None
        self._loaded_at = 0.0
        self._hung: FatalError | None = None  # no second try: the first one still waits
        self._lock = asyncio.Lock()

    async def keys(self) -> Keys:
        if self._keys is None or time.monotonic() - self._loaded_at > _FRESH_SECONDS:
            async with self._lock:
                if self._keys is None or time.monotonic() - self._loaded_at > _FRESH_SECONDS:
                    self._keys = await self._ask()
        return self._keys

    async def renew(self, used: Keys) -> bool:
        async with self._lock:
            if self._keys == used:  # else they were already loaded again
                self._credentials = None
                self._keys = await self._ask()
            return self._keys != used

    async def _ask(self) -> Keys:
        """Loads the keys. Gives up when the patience ends or the job is to stop."""
        if self._hung is not None:
            raise self._hung
        began = time.monotonic()
        found = call_in_daemon("keys", self._load)
        while not found.done():
            if self._stopping():
                raise Stopped("told to stop while the keys are looked for")
            if time.monotonic() - began > self._patience_seconds:
                self._hung = FatalError(
                    "NoCredentials",
                    f"the source of the keys has not answered within {self._patience_seconds:g} s"
                    " (credential_process, SSO, a role or the instance's metadata): check AWS_PROFILE and"
                    " what it names",
                )
                raise self._hung
            await asyncio.wait({found}, timeout=_POLL_SECONDS)
        self._loaded_at = time.monotonic()
        return found.result()

    def _load(self) -> Keys:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._credentials is None:
                self._credentials = boto3.Session(profile_name=self._profile).get_credentials()
            if self._credentials is None:
                raise FatalError(
                    "NoCredentials",
                    "no keys: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY, or what boto3 reads (AWS_PROFILE,"
                    " AWS_ACCESS_KEY_ID, a role)",
                )
            how = self._credentials.method
            self.origin = _FOUND.get(how, f"what boto3 finds ({how})")
            frozen = self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError, ValueError, LookupError, RuntimeError) as error:
            # A credential program may be missing or print anything, and renewed keys may have expired: boto3
            # passes those errors on. The error's class shows the cause; its text may quote a configuration
            # file or a secret, so it is never shown or logged.
            name = type(error).__name__
            raise FatalError(
                "NoCredentials",
                f"boto3 finds no valid keys ({name}): check AWS_PROFILE, and the source of the keys",
            ) from None
        if frozen.token and how == "env":
            self.origin += ", with AWS_SESSION_TOKEN"
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or None)
