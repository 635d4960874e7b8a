"""A small S3 server in memory that answers as stores do which none of the real ones here is.

`OddStore(dialect)` is Ceph's RADOS Gateway by default: with `encoding-type=url` it encodes `<Key>`, and what
it does not encode (tokens, markers, the prefix) has character references that XML forbids. The other fields
of `Dialect` make it leave out `<IsTruncated>` or its tokens, say both, give few entries a page, keep
versions, and hold what is under retention. Signatures are not looked at. Sources: Ceph,
src/rgw/rgw_rest_s3.cc and src/common/escape.cc; Amazon S3 API Reference.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree

ODD_NAMES = (
    *("\x01control", "\x7fdel", "tab\tname", "new\nline", "c\rr", "\ufeffbom", "\u2028ls", "&amp;", "]]>"),
    *("%41", "A", "%2F", "+", " ", "a+b", "a b", "caf\u00e9", "cafe\u0301", "&#x1;", "<x>", '"', "'"),
    *("n" * 255, "/".join(["d" * 255] * 4)),
)
_NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_TIME = "2026-11-22T13:12:42.000Z"
Query = dict[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    page_size: int = 1000
    encodes_markers: bool = False  # Ceph 17 and later
    says_truncated: bool = True
    gives_tokens: bool = True
    token_on_last: bool = False
    versioned: bool = False
    refuses_start_after: bool = False
    forbids: Callable[[str], bool] = lambda _key: False  # an answer to a listing by this prefix is no XML


@dataclass(slots=True)
class Version:
    id: str
    body: bytes | None  # None: a delete marker
    until: str | None = None  # retained
    hold: bool = False

    @property
    def is_locked(self) -> bool:
        return self.until is not None or self.hold


def ceph_text(text: str) -> str:
    """As Ceph's escape_xml: control characters as references, whether or not XML allows these."""
    named = {"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;", "'": "&apos;"}
    return "".join(
        named.get(c) or (f"&#x{ord(c):02x};" if (c < " " and c not in "\t\n") or c == "\x7f" else c)
        for c in text
    )


@dataclass
class OddStore:
    dialect: Dialect = field(default_factory=Dialect)
    keys: dict[str, list[Version]] = field(default_factory=dict)  # the newest version first
    uploads: dict[tuple[str, str], None] = field(default_factory=dict)
    exists: bool = True
    requests: list[tuple[str, str, Query]] = field(default_factory=list)  # method, key, query
    access_key: str = "AKIDODDSTORE00001"
    secret_key: str = "secret-of-the-odd-store-0123456789"
    name: str = "odd"

    def __enter__(self) -> OddStore:
        self.ids = itertools.count(1)
        self.lock = threading.Lock()
        self.before: Callable[[str, str, Query], None] = lambda _method, _key, _query: None
        handler = type("Handler", (_Handler,), {"store": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, key: str, body: bytes = b"x", **lock: Any) -> str:
        versions = self.keys.setdefault(key, [])
        if not self.dialect.versioned:
            versions.clear()
        versions.insert(0, Version(f"v{next(self.ids)}", body, **lock))
        return versions[0].id

    def objects(self) -> dict[str, bytes]:
        """What a listing of the bucket shows."""
        return {key: v[0].body for key, v in sorted(self.keys.items()) if v and v[0].body is not None}

    def count(self, method: str, *parameters: str) -> int:
        return sum(m == method and all(p in query for p in parameters) for m, _, query in self.requests)

    # -- what is asked
    def answer(self, method: str, key: str, query: Query, body: bytes) -> tuple[int, str, dict[str, str]]:
        self.before(method, key, query)
        with self.lock:
            self.requests.append((method, key, query))
            if not self.exists and not (method == "PUT" and not key):
                return _error(404, "NoSuchBucket")
            return self._object(method, key, query, body) if key else self._bucket(method, query, body)

    def _bucket(self, method: str, query: Query, body: bytes) -> tuple[int, str, dict[str, str]]:
        if method == "PUT":
            self.exists = True
            return 200, "", {}
        if method == "DELETE":
            if any(self.keys.values()) or self.uploads:
                return _error(409, "BucketNotEmpty")
            self.exists = False
            return 204, "", {}
        if method == "POST":
            return 200, self._delete_many(body), {}
        if method == "HEAD":
            return 200, "", {}
        if "versioning" in query:
            status = "<Status>Enabled</Status>" if self.dialect.versioned else ""
            return 200, f"<VersioningConfiguration {_NS}>{status}</VersioningConfiguration>", {}
        if "uploads" in query:
            return 200, self._list_uploads(query), {}
        if self.dialect.refuses_start_after and "start-after" in query:
            return _error(501, "NotImplemented")
        return 200, self._list_versions(query) if "versions" in query else self._list(query), {}

    def _object(self, method: str, key: str, query: Query, body: bytes) -> tuple[int, str, dict[str, str]]:
        if method == "POST" and "uploads" in query:
            upload = f"u{next(self.ids)}"
            self.uploads[key, upload] = None
            root = "InitiateMultipartUploadResult"
            return 200, f"<{root} {_NS}><UploadId>{upload}</UploadId></{root}>", {}
        if method == "PUT":
            self.put(key, body)
            return 200, "", {"ETag": _etag(body)}
        if method == "DELETE" and "uploadId" in query:
            found = (key, query["uploadId"]) in self.uploads
            self.uploads.pop((key, query["uploadId"]), None)
            return (204, "", {}) if found else _error(404, "NoSuchUpload")
        if method == "DELETE":
            return (204, "", {}) if self._delete(key, query.get("versionId")) else _error(403, "AccessDenied")
        versions = self.keys.get(key) or []
        wanted = [v for v in versions if v.id == query.get("versionId", v.id)]
        if not wanted or wanted[0].body is None:
            return _error(404, "NoSuchKey")
        version = wanted[0]
        headers = {"ETag": _etag(version.body or b""), "Content-Length": str(len(version.body or b""))}
        if version.until:
            headers |= {"x-amz-object-lock-mode": "GOVERNANCE"}
            headers |= {"x-amz-object-lock-retain-until-date": version.until}
        if version.hold:
            headers |= {"x-amz-object-lock-legal-hold": "ON"}
        return 200, "" if method == "HEAD" else (version.body or b"").decode("latin-1"), headers

    def _delete(self, key: str, version_id: str | None) -> bool:
        versions = self.keys.get(key, [])
        if version_id is None:
            if self.dialect.versioned:
                self.keys.setdefault(key, []).insert(0, Version(f"m{next(self.ids)}", None))
            else:
                self.keys.pop(key, None)
            return True
        if any(v.id == version_id and v.is_locked for v in versions):
            return False
        self.keys[key] = [v for v in versions if v.id != version_id]
        return True

    def _delete_many(self, body: bytes) -> str:
        ns = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        rows = ""
        for item in ElementTree.fromstring(body).iterfind(f"{ns}Object"):
            key, version = item.findtext(f"{ns}Key") or "", item.findtext(f"{ns}VersionId")
            named = f"<Key>{ceph_text(key)}</Key>" + (f"<VersionId>{version}</VersionId>" if version else "")
            refused = "<Code>AccessDenied</Code><Message>object protected by object lock</Message>"
            gone = self._delete(key, version)
            rows += f"<Deleted>{named}</Deleted>" if gone else f"<Error>{named}{refused}</Error>"
        return f"<DeleteResult {_NS}>{rows}</DeleteResult>"

    # -- listings
    def _frame(self, query: Query, asked: str) -> tuple[int, Callable[[str], str], str]:
        """How many to give, how a key is written, and what stands before the entries."""
        encoded = query.get("encoding-type") == "url"
        size = min(self.dialect.page_size, int(query.get(asked, "1000")))
        frame = f"<Prefix>{ceph_text(query.get('prefix', ''))}</Prefix><MaxKeys>{size}</MaxKeys>"
        frame += "<EncodingType>url</EncodingType>" * encoded
        return size, (lambda key: quote(key, safe="")) if encoded else ceph_text, frame

    def _truncated(self, more: bool) -> str:
        return f"<IsTruncated>{str(more).lower()}</IsTruncated>" if self.dialect.says_truncated else ""

    def _list(self, query: Query) -> str:
        if self.dialect.forbids(query.get("prefix", "")):
            return "<ListBucketResult><Key>\x01</ListBucketResult>"
        size, written, frame = self._frame(query, "max-keys")
        after = query.get("continuation-token") or query.get("start-after") or ""
        keys = [k for k in self.objects() if k > after and k.startswith(query.get("prefix", ""))]
        more = len(keys) > size
        frame += self._truncated(more) + f"<StartAfter>{ceph_text(query.get('start-after', ''))}</StartAfter>"
        if keys and self.dialect.gives_tokens and (more or self.dialect.token_on_last):
            frame += f"<NextContinuationToken>{ceph_text(keys[:size][-1])}</NextContinuationToken>"
        objects = self.objects()
        rows = "".join(
            f"<Contents><Key>{written(k)}</Key><LastModified>{_TIME}</LastModified>"
            f"<ETag>&quot;{_etag(objects[k])}&quot;</ETag><Size>{len(objects[k])}</Size></Contents>"
            for k in keys[:size]
        )
        return f"<ListBucketResult {_NS}>{frame}{rows}</ListBucketResult>"

    def _marker(self, key: str, written: Callable[[str], str]) -> str:
        return written(key) if self.dialect.encodes_markers else ceph_text(key)

    def _list_versions(self, query: Query) -> str:
        size, written, frame = self._frame(query, "max-keys")
        every = [
            (key, number, version)
            for key, versions in sorted(self.keys.items())
            for number, version in enumerate(versions)
        ]
        place = (query.get("key-marker", ""), query.get("version-id-marker", ""))
        rest = [
            e for e in every
            if e[0] > place[0] or (e[0] == place[0] and place[1] and e[1] > self._number(*place))
        ]  # fmt: skip
        more = len(rest) > size
        frame += self._truncated(more)
        if more and self.dialect.gives_tokens:
            key, _, version = rest[size - 1]
            frame += f"<NextKeyMarker>{self._marker(key, written)}</NextKeyMarker>"
            frame += f"<NextVersionIdMarker>{version.id}</NextVersionIdMarker>"
        rows = ""
        for key, number, version in rest[:size]:
            tag = "DeleteMarker" if version.body is None else "Version"
            length = f"<Size>{len(version.body)}</Size>" if version.body is not None else ""
            rows += f"<{tag}><Key>{written(key)}</Key><VersionId>{version.id}</VersionId>"
            rows += f"<IsLatest>{str(number == 0).lower()}</IsLatest>{length}</{tag}>"
        return f"<ListVersionsResult {_NS}>{frame}{rows}</ListVersionsResult>"

    def _number(self, key: str, version_id: str) -> int:
        """The place of a version that may be gone already: ids count up, and the newest come first."""
        wanted = int(version_id[1:])
        return sum(int(v.id[1:]) >= wanted for v in self.keys.get(key, [])) - 1

    def _list_uploads(self, query: Query) -> str:
        size, written, frame = self._frame(query, "max-uploads")
        frame = frame.replace("MaxKeys", "MaxUploads")
        place = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        prefix = query.get("prefix", "")
        rest = [u for u in sorted(self.uploads) if u > place and u[0].startswith(prefix)]
        frame += self._truncated(len(rest) > size)
        if rest and self.dialect.gives_tokens:  # Ceph names the last one, whether or not there is more
            key, upload = rest[:size][-1]
            frame += f"<NextKeyMarker>{self._marker(key, written)}</NextKeyMarker>"
            frame += f"<NextUploadIdMarker>{upload}</NextUploadIdMarker>"
        rows = "".join(
            f"<Upload><Key>{written(key)}</Key><UploadId>{upload}</UploadId></Upload>"
            for key, upload in rest[:size]
        )
        return f"<ListMultipartUploadsResult {_NS}>{frame}{rows}</ListMultipartUploadsResult>"


def _etag(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def _error(status: int, code: str) -> tuple[int, str, dict[str, str]]:
    return status, f"<Error><Code>{code}</Code><Message>made up by the test</Message></Error>", {}


class _Handler(BaseHTTPRequestHandler):
    store: OddStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, query = self.path.partition("?")
        _bucket, _, key = path[1:].partition("/")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        status, text, headers = self.store.answer(self.command, unquote(key), asked, body)
        data = text.encode("utf-8", "surrogateescape")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _do
