"""Jobs of the crash loop that ask before they delete: by `plan=1`, or by `max_delete`. Whatever is killed in
between, an unapproved plan has changed nothing at the store, and nothing has gone that no approved plan
names."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench import RecordingProxy, Service, exists
from stores import Store, list_keys

MAX_DELETE = 1


@dataclass(frozen=True, slots=True)
class Before:
    """What the bucket held before a step, by key, and how many requests there had been."""

    objects: dict[str, str]
    requests: int


class Asked:
    def __init__(self, service: Service, store: Store, bucket: str, proxy: RecordingProxy) -> None:
        self.service, self.store, self.bucket, self.proxy = service, store, bucket, proxy
        self.counts: Counter[str] = Counter()
        self._plans: dict[
            str, dict[str, str]
        ] = {}  # job: keys that its newest plan deletes, with their ETags
        self._approved: dict[str, dict[str, str]] = {}

    def _objects(self) -> dict[str, str]:
        if not exists(self.store, self.bucket):
            return {}
        found = list_keys(self.store.client(), self.bucket)
        return {key: item["ETag"].strip('"') for key, item in found.items() if not key.endswith("/")}

    def look(self) -> Before:
        return Before(self._objects(), len(self.proxy.requests))

    def approve(self, job: str) -> str:
        """Notes that somebody says yes to what the job has planned; that plan's ETag."""
        self._approved[job] = self._plans[job]
        self.counts["approved"] += 1
        etag: str = self.service.status(job)["plan"]["etag"]
        return etag

    def judge(self, job: str, before: Before, status: dict[str, Any]) -> None:
        """After a step in which no other job has worked."""
        now = self._objects()
        gone = {key: etag for key, etag in before.objects.items() if key not in now}
        options, said = status["options"], json.dumps(status)
        if job in self._approved:
            strange = {key for key, etag in gone.items() if self._approved[job].get(key) != etag}
            assert not strange, f"deleted, and in no approved plan: {sorted(strange)}\n{said}"
        elif options.get("plan"):
            assert now == before.objects, f"a plan has changed the bucket\n{said}"
            sent = self.proxy.requests[before.requests :]
            writing = {request.kind for request in sent if request.method not in ("GET", "HEAD")}
            assert not writing, f"a plan has sent {writing}\n{said}"
        elif "max_delete" in options:
            most = MAX_DELETE * status["attempt"]
            assert len(gone) <= most, f"deleted more than max_delete: {sorted(gone)}\n{said}"
        if status["state"] == "waiting":
            self._read_plan(job, status)

    def _read_plan(self, job: str, status: dict[str, Any]) -> None:
        data = self.service.file(job, "plan.jsonl").read_bytes()
        lines = [json.loads(line) for line in data.splitlines()]
        assert status["plan"]["etag"] == hashlib.sha256(data).hexdigest(), status["plan"]
        assert status["plan"]["lines"] == len(lines), status["plan"]
        self._plans[job] = {line["key"]: line["etag"] for line in lines if line["op"] == "delete"}
        self.counts[(status["error"] or {}).get("code", "planned")] += 1
