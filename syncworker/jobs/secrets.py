"""Reads and writes `ID.secret`: a request's own credentials, or the name of the AWS profile that has them."""

from __future__ import annotations

import os

from syncworker.request import Request, RequestKeys
from syncworker.system import durable_files


class Secrets:
    """The secrets of the jobs in the directory at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def file(self, job_id: str) -> str:
        return os.path.join(self._path, f"{job_id}.secret")

    def keep(self, job_id: str, request: Request) -> None:
        if request.keys is not None:
            self.keep_keys(job_id, request.keys)
        elif request.profile is not None:
            durable_files.replace_json(self.file(job_id), {"profile": request.profile}, durable=True)

    def keep_keys(self, job_id: str, keys: RequestKeys) -> None:
        secret = {name: value for name, value in keys._asdict().items() if value}
        durable_files.replace_json(self.file(job_id), secret, durable=True)

    def keys(self, job_id: str) -> RequestKeys | None:
        """Returns the request's own credentials, if any."""
        value = durable_files.read_json(self.file(job_id))
        if value is None or "access_key" not in value:
            return None
        token = value.get("session_token")
        return RequestKeys(str(value["access_key"]), str(value["secret_key"]), str(token) if token else None)

    def profile(self, job_id: str) -> str | None:
        """Returns the AWS profile that has the job's credentials, if any."""
        name = (durable_files.read_json(self.file(job_id)) or {}).get("profile")
        return name if isinstance(name, str) else None

    def has_any(self, job_id: str) -> bool:
        """Whether the job has its own credentials, or a profile."""
        return self.keys(job_id) is not None or self.profile(job_id) is not None

    def exists(self, job_id: str) -> bool:
        return os.path.lexists(self.file(job_id))

    def drop(self, job_id: str) -> None:
        durable_files.remove(self.file(job_id))
