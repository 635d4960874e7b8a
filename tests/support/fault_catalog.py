"""The faults between a worker and its store, one row each of the table in docs/reliability.md.

A fault arms the proxy of a `Scene`. What comes of it is not written here but found by
`test_fault_table.py` and kept in the document; here stands only which words a failed job must say: the cause,
and what to do.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from proxy import Answer, Cut, Hook, RecordingProxy, Request, s3_error
from stores import Store, list_keys
from toxics import Toxic

# The same twelve bytes of length everywhere, and two names that differ in one bit.
BEFORE = {"docs/keep": b"kept content", "docs/changed": b"old  content", "note-2": b"gone content"}
BEFORE |= {"docs/gone": b"gone content"}
AFTER = {"docs/keep": b"kept content", "docs/changed": b"new  content", "note-3": b"live content"}
AFTER |= {"docs/new": b"born content"}
LARGE = "large"
LARGE_BYTES = 9 << 20  # two parts

SENDS = {"PUT", "UploadPart"}
DELETES = {"DELETE", "DeleteObjects"}
Matches = Callable[[Request], bool]
Decision = Answer | Cut | Toxic


@dataclass(slots=True)
class Scene:
    """Where a fault happens. `struck` counts how often it did: a fault that never did has shown nothing."""

    proxy: RecordingProxy
    store: Store
    bucket: str
    struck: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def always(self, matches: Matches, decision: Decision) -> None:
        self.decide(lambda request: decision if matches(request) else None)

    def once(self, matches: Matches, decision: Decision) -> None:
        """At the first request of its kind for each key and part: what is tried again goes through."""
        seen: Counter[tuple[str, str, int | None]] = Counter()

        def first(request: Request) -> Decision | None:
            if not matches(request):
                return None
            seen[request.kind, request.key, request.part] += 1
            return decision if seen[request.kind, request.key, request.part] == 1 else None

        self.decide(first)

    def every(self, count: int, decision: Decision) -> None:
        requests: list[Request] = []

        def one_in(request: Request) -> Decision | None:
            requests.append(request)
            return decision if len(requests) % count == 0 else None

        self.decide(one_in)

    def decide(self, hook: Hook) -> None:
        def counted(request: Request) -> Decision | None:
            decision = hook(request)
            self.struck += decision is not None
            return decision

        self.proxy.on_request(counted)

    def hang(self, matches: Matches) -> None:
        """These requests are taken and never answered; what hangs is dropped by `release`."""

        def hold(request: Request) -> Cut | None:
            if self.released.is_set() or not matches(request):
                return None
            self.struck += 1
            self.released.wait(120)
            return Cut()

        self.proxy.on_request(hold)

    def listing(self) -> list[str]:
        """The `Contents` of a listing of the bucket as it is, key by key."""
        rows = []
        for key, item in list_keys(self.store.client(), self.bucket).items():
            etag = item["ETag"].strip('"')
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{etag}&quot;</ETag><Size>{item['Size']}</Size></Contents>"
            )
        return rows

    def pages(self, first: Answer, second: Answer | Cut) -> None:
        """The listing comes in two pages, and these are they."""

        def page(request: Request) -> Answer | Cut | None:
            if not is_listing(request):
                return None
            return second if "continuation-token" in request.query else first

        self.decide(page)


def is_listing(request: Request) -> bool:
    """The listing of the bucket, and not a question for one key."""
    return request.kind == "LIST" and "prefix" not in request.query


def any_request(_: Request) -> bool:
    return True


def of(kinds: set[str]) -> Matches:
    return lambda request: request.kind in kinds


def sending(key: str) -> Matches:
    return lambda request: request.kind in SENDS and request.key == key


def listed(rows: list[str], token: str = "", truncated: str = "false") -> Answer:
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    body = f"<ListBucketResult>{''.join(rows)}<IsTruncated>{truncated}</IsTruncated>{more}</ListBucketResult>"
    return Answer(200, {"Content-Type": "application/xml"}, body.encode())


def half(answer: Answer) -> Answer:
    """Well-formed as HTTP, and its XML ends in the middle."""
    return Answer(200, answer.headers, answer.body[: len(answer.body) // 2])


ERROR_INSIDE = Answer(200, {"Content-Type": "application/xml"}, s3_error(500, "InternalError").body)
SLOW_DOWN = s3_error(503, "SlowDown")
FAILURE = s3_error(500, "InternalError")


# -- what a fault does -------------------------------------------------------------------------------------


def dies(scene: Scene, back_after_seconds: float | None) -> None:
    """With the first upload the server is gone."""
    alive = threading.Lock()

    def die(request: Request) -> Cut | None:
        if request.kind not in SENDS or not alive.acquire(blocking=False):
            return None
        scene.proxy.refuse()
        if back_after_seconds is not None:
            threading.Timer(back_after_seconds, scene.proxy.listen).start()
        return Cut()

    scene.decide(die)


def absent(scene: Scene) -> None:
    scene.proxy.refuse()
    scene.struck = 1


def sliced_answers(scene: Scene) -> None:
    scene.always(lambda r: r.kind not in SENDS, Toxic(slice_bytes=7))
    scene.always(of(SENDS), Toxic(slice_bytes=1500))


def wrong_etags_of_uploads(head: bytes, body: bytes) -> bytes:
    return re.sub(rb'(?i)(etag: *"?)[0-9a-f]{32}', rb"\g<1>" + b"0" * 32, head) + body


def wrong_etags_in_listings(head: bytes, body: bytes) -> bytes:
    return head + re.sub(rb'((?:&quot;|&#34;|"))[0-9a-f]{32}', rb"\g<1>" + b"0" * 32, body)


def twice(head: bytes, body: bytes) -> bytes:
    return head + body + head + body


def never(head: bytes, body: bytes) -> bytes:
    return b""


def ends_early(scene: Scene, second: Callable[[list[str]], Answer | Cut]) -> None:
    """The first page is right; the second is not."""
    rows = scene.listing()
    scene.pages(listed(rows[:2], "more", "true"), second(rows[2:]))


def says_more_without_a_way(scene: Scene) -> None:
    scene.pages(listed(scene.listing()[:2], "", "true"), FAILURE)


def flipped_truncation(scene: Scene) -> None:
    """`true` becomes `urue` on its way, once."""
    rows = scene.listing()
    more = listed(rows[:2], "more", "true")
    broken = Answer(200, more.headers, more.body.replace(b"true", b"urue"))
    first = iter([broken])
    scene.decide(
        lambda request: (
            None
            if not is_listing(request)
            else listed(rows[2:])
            if "continuation-token" in request.query
            else next(first, more)
        )
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """`says`: patterns that what a failed job says must match. `altered`: how its worker differs from a
    user's. `in_deletion`: it fails when all is uploaded, so that some deletions may have been made. `harms`:
    keys whose objects the fault itself takes or keeps."""

    name: str
    arm: Callable[[Scene], None]
    says: tuple[str, ...] = ()
    altered: tuple[str, ...] = ("short_waits",)
    in_deletion: bool = False
    harms: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return self.name


RESUME = "resume"
IMPATIENT = ("short_waits", "short_silence")

SLOW = [
    Fault("each answer comes 50 ms later", lambda s: s.always(any_request, Toxic(latency_seconds=0.05))),
    Fault(
        "each answer comes 0 to 100 ms later, at random",
        lambda s: s.always(any_request, Toxic(jitter_seconds=0.1)),
    ),
    Fault("a bandwidth of 10 MB/s", lambda s: s.always(any_request, Toxic(bytes_per_second=10_000_000))),
    Fault("data arrives in small pieces", sliced_answers),
    Fault(
        "each connection ends after its answer",
        lambda s: s.always(any_request, Toxic(slow_close_seconds=0.02)),
    ),
]

SILENT = [
    Fault(
        "the store accepts requests and never answers",
        lambda s: s.hang(any_request),
        ("silent", "check storage_url"),
        IMPATIENT,
    ),
    Fault(
        "an upload is never answered", lambda s: s.hang(sending("docs/new")), ("silent", RESUME), IMPATIENT
    ),
    Fault(
        "parts of a large file are not read",
        lambda s: s.hang(sending(LARGE)),
        ("silent", RESUME),
        IMPATIENT,
    ),
    Fault(
        "answers to the listing stop in the middle",
        lambda s: s.always(is_listing, Toxic(stall_at=200)),
        ("silent", "resume|check storage_url"),
        IMPATIENT,
    ),
    Fault("deletions are never answered", lambda s: s.hang(of(DELETES)), ("silent", RESUME), IMPATIENT, True),
]

GONE = [
    Fault("no server", absent, ("[Cc]onnection refused", "check storage_url")),
    Fault("the server dies and stays away", lambda s: dies(s, None), ("[Cc]onnection refused", RESUME)),
    Fault("the server dies and comes back", lambda s: dies(s, 0.3), altered=()),
]

CUT = [
    Fault("each request is reset, once", lambda s: s.once(any_request, Cut())),
    Fault("each upload is reset after 1 KB, once", lambda s: s.once(of(SENDS), Cut(body_bytes=1000))),
    Fault(
        "a large upload is always reset after 1 MB",
        lambda s: s.always(sending(LARGE), Cut(body_bytes=1 << 20)),
        ("closed the connection", RESUME),
    ),
    Fault("each answer is lost, once", lambda s: s.once(any_request, Cut(answer_bytes=0))),
    Fault("each answer is cut short, once", lambda s: s.once(any_request, Cut(answer_bytes=30, reset=False))),
    Fault(
        "the listing is always cut short",
        lambda s: s.always(is_listing, Cut(answer_bytes=300)),
        ("closed the connection", "check storage_url"),
    ),
]

ERRORS = [
    Fault("503 SlowDown, every third request", lambda s: s.every(3, SLOW_DOWN)),
    Fault(
        "503 SlowDown, always, for one file",
        lambda s: s.always(sending("docs/new"), SLOW_DOWN),
        ("slow down", RESUME),
        altered=("short_waits", "few_tries"),
    ),
    Fault(
        "500, each request, once",
        lambda s: s.once(any_request, FAILURE),
        altered=("short_waits", "patient"),
    ),
    Fault("500, always, for one file", lambda s: s.always(sending("docs/new"), FAILURE), ("500", RESUME)),
    Fault("500, always, for one large file", lambda s: s.always(sending(LARGE), FAILURE), ("500", RESUME)),
    Fault(
        "500, always, for deletions",
        lambda s: s.always(of(DELETES), FAILURE),
        ("500", RESUME),
        in_deletion=True,
    ),
    Fault("500, always, for the listing", lambda s: s.always(is_listing, FAILURE), ("500", RESUME)),
    Fault(
        "200 with an error inside, each request, once",
        lambda s: s.once(any_request, ERROR_INSIDE),
        ("instead of .*", RESUME),
    ),
    Fault(
        "200 with an error inside, always, for one file",
        lambda s: s.always(sending("docs/new"), ERROR_INSIDE),
        ("GetObject", RESUME),
    ),
    Fault(
        "200 with an error inside, always, for CompleteMultipartUpload",
        lambda s: s.always(of({"CompleteMultipartUpload"}), ERROR_INSIDE),
        ("failed", RESUME),
    ),
    Fault(
        "200 with an error inside, always, for the listing",
        lambda s: s.always(is_listing, ERROR_INSIDE),
        ("instead of ListBucketResult", "check storage_url"),
    ),
]

LISTINGS = [
    Fault(
        "a listing's XML ends in the middle, once", lambda s: s.once(is_listing, half(listed(s.listing())))
    ),
    Fault(
        "a listing's XML always ends in the middle",
        lambda s: s.always(is_listing, half(listed(s.listing()))),
        ("invalid XML", "check storage_url"),
    ),
    Fault(
        "the second page of a listing is answered by 500",
        lambda s: ends_early(s, lambda _: FAILURE),
        ("500", RESUME),
    ),
    Fault(
        "the XML of a listing's second page ends in the middle",
        lambda s: ends_early(s, lambda rows: half(listed(rows))),
        ("invalid XML", "check storage_url"),
    ),
    Fault(
        "the connection ends at the second page of a listing",
        lambda s: ends_early(s, lambda _: Cut()),
        ("closed the connection", RESUME),
    ),
    Fault(
        "the second page of a listing is sent again and again",
        lambda s: ends_early(s, lambda rows: listed(rows, "more", "true")),
        ("listing", "nothing was deleted|check storage_url"),
    ),
    Fault(
        "a listing is truncated and has no continuation token",
        says_more_without_a_way,
        ("listing", "nothing was deleted|check"),
    ),
    Fault("a bit flips in a listing's `true`, once", flipped_truncation),
]

WRONG = [
    Fault(
        "the ETag answered to an upload is wrong",
        lambda s: s.always(of(SENDS), Toxic(edit=wrong_etags_of_uploads)),
        ("CompleteMultipartUpload", RESUME),
    ),
    Fault(
        "ETags in the listing are wrong", lambda s: s.always(is_listing, Toxic(edit=wrong_etags_in_listings))
    ),
    Fault("each answer comes twice", lambda s: s.always(any_request, Toxic(edit=twice))),
    Fault(
        "a bit of each upload flips, once",
        lambda s: s.once(of(SENDS), Toxic(flip_body=3)),
        ("different bytes", RESUME),
    ),
    Fault(
        "a bit of a file flips, always",
        lambda s: s.always(sending("docs/new"), Toxic(flip_body=3)),
        ("400|different bytes", RESUME),
    ),
    Fault(
        "a bit of a part flips, always",
        lambda s: s.always(sending(LARGE), Toxic(flip_body=3)),
        ("400|different bytes|NoSuchUpload", RESUME),
    ),
    Fault(
        "a bit flips in a key to be deleted",
        lambda s: s.once(of({"DeleteObjects"}), Toxic(flip_body=b"<Key>note-2")),
        ("corrupted in transit", RESUME),
        in_deletion=True,
        harms=frozenset({"note-2", "note-3"}),
    ),
    Fault(
        "a bit flips in a key to be deleted, and the answer is lost",
        lambda s: s.once(of({"DeleteObjects"}), Toxic(flip_body=b"<Key>note-2", edit=never)),
        ("corrupted in transit", RESUME),
        IMPATIENT,
        in_deletion=True,
        harms=frozenset({"note-2", "note-3"}),
    ),
    Fault(
        "a bit flips in the listed key of an object without a file",
        lambda s: s.always(is_listing, Toxic(flip_answer=b"<Key>docs/gone")),
        ("corrupted in transit", RESUME),
        in_deletion=True,
    ),
    Fault("a bit flips in a listed size", lambda s: s.always(is_listing, Toxic(flip_answer=b"<Size>12"))),
]

REFUSED = [
    Fault(
        "the worker's clock is 20 minutes ahead",
        lambda s: s.decide(lambda _: None),
        ("20 minutes ahead", "correct it"),
        ("short_waits", "clock_ahead"),
    ),
    Fault(
        "403 RequestTimeTooSkewed",
        lambda s: s.always(any_request, s3_error(403, "RequestTimeTooSkewed")),
        ("clock", "correct it"),
    ),
    Fault(
        "400 ExpiredToken, always, for uploads",
        lambda s: s.always(of(SENDS), s3_error(400, "ExpiredToken")),
        ("expired", "renew.*resume"),
    ),
]

FAULTS = [*SLOW, *SILENT, *GONE, *CUT, *ERRORS, *LISTINGS, *WRONG, *REFUSED]
