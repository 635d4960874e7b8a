"""Parses the XML of S3's answers: listings, results, errors. xml_documents.py writes the XML of requests.

An answer with an unexpected root element, with a document type, or that is not XML, is a broken answer, never
an empty one. Source: Amazon S3 API Reference, the operations' response syntax.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from syncworker.errors import RetryError
from syncworker.model import ObjectEntries, ObjectEntry
from syncworker.s3.xml_listing_fast import decode_key, entries_of_columns, split

# Ceph's gateway writes references to characters that XML forbids into fields that it does not encode: tokens,
# prefixes, markers. Before parsing, each is replaced by a character of a plane that the document does not
# use; afterwards it is restored.
_REFERENCE = re.compile(rb"&#(?:x([0-9a-fA-F]{1,8})|([0-9]{1,8}));")
_FORBIDDEN = frozenset({*range(32), 0xFFFE, 0xFFFF}) - {9, 10, 13}
_PLANES = (0xF0000, 0x100000)  # both for private use

FEW_BYTES = 16 << 10  # the parser is faster for a page up to this size (about fifty objects)
PAGE_KEYS = 1000  # of each listing: the most that Amazon S3 returns


class StartAfter(str):
    """A substitute token for a store that sends none: the key after which the listing continues."""

    __slots__ = ()


class Page(NamedTuple):
    """A page of a listing. `token` is None on the last one."""

    entries: Sequence[ObjectEntry]
    token: str | None
    truncated: bool


class Version(NamedTuple):
    """A version of an object, or a delete marker. `is_latest`: a GET without a version finds this one."""

    key: str
    version_id: str
    size: int | None = None  # None: a delete marker, or not in the answer
    is_marker: bool = False
    is_latest: bool = True
    etag: str = ""
    modified: str = ""


class Upload(NamedTuple):
    key: str
    upload_id: str


class Part(NamedTuple):
    """`algorithm` and `checksum`: "" if the store lists none."""

    number: int
    size: int
    etag: str
    algorithm: str = ""
    checksum: str = ""


class Completed(NamedTuple):
    """`crc64`: of the whole object, "" if the store sends none."""

    etag: str
    crc64: str = ""


def clean_etag(text: str | None) -> str:
    """Returns an ETag without quotes and `W/`, in lower case (some stores write upper case)."""
    text = (text or "").strip()
    return text.removeprefix("W/").strip('"').lower()


def parse(body: bytes, *root_names: str) -> tuple[ElementTree.Element, str]:
    """Returns the root element, which must have one of these names, and its namespace prefix (`{…}` or
    "")."""
    root_name = root_names[0]
    if b"<!DOCTYPE" in body or b"\0" in body:  # a NUL: UTF-16, in which a document type would not show
        raise RetryError("BadAnswer", "the storage sent XML with a document type: not an S3 answer")
    try:
        # It may begin with white space: some stores send it to keep a slow operation's connection alive.
        root = _tree(body)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: odd encodings
        raise RetryError("BadAnswer", f"the storage sent invalid XML instead of {root_name}") from error
    namespace, _, name = root.tag.rpartition("}")
    if name not in root_names:
        raise RetryError("BadAnswer", f"the storage sent <{name[:40]}> instead of {root_name}")
    return root, f"{namespace}}}" if namespace else ""


def _element(body: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(body)  # noqa: S314


def _tree(body: bytes) -> ElementTree.Element:
    body = body.lstrip()
    try:
        return _element(body)
    except ElementTree.ParseError:
        numbers = _FORBIDDEN.intersection(map(_number, _REFERENCE.finditer(body)))
        if not numbers:
            raise
    without = _element(_REFERENCE.sub(_without_forbidden, body))
    used = {character for element in without.iter() for character in element.text or ""}
    for plane in _PLANES:
        back = {plane + number: number for number in numbers}
        if used.isdisjoint(map(chr, back)):
            root = _element(_REFERENCE.sub(_moved_to(plane), body))
            for element in root.iter():
                element.text = element.text and element.text.translate(back)
            return root
    raise ValueError("both planes are used")


def _number(reference: re.Match[bytes]) -> int:
    hexadecimal, decimal = reference.groups()
    return int(decimal) if hexadecimal is None else int(hexadecimal, 16)


def _without_forbidden(reference: re.Match[bytes]) -> bytes:
    return b"" if _number(reference) in _FORBIDDEN else reference[0]


def _moved_to(plane: int) -> Callable[[re.Match[bytes]], bytes]:
    def move(reference: re.Match[bytes]) -> bytes:
        number = _number(reference)
        return b"&#%d;" % (plane + number) if number in _FORBIDDEN else reference[0]

    return move


def parse_error(body: bytes) -> tuple[str, str, dict[str, str]]:
    """Returns (code, message, all fields) of an error answer; ("", "", {}) if the body is not one."""
    try:
        root, ns = parse(body, "Error")
    except RetryError:
        return "", "", {}
    fields = {child.tag.removeprefix(ns): (child.text or "").strip() for child in root}
    return fields.get("Code", ""), fields.get("Message", ""), fields


def parse_listing(body: bytes, prefix: str = "") -> Page:
    """Parses a page of ListObjectsV2.

    The last page has IsTruncated `false`. Some stores omit it: then the first page that has no token and is
    not full is the last; otherwise the listing continues with the token, or after the last key.
    """
    regular = split(body) if len(body) > FEW_BYTES else None  # compiling takes a millisecond
    root, ns = parse(regular[0] if regular else body, "ListBucketResult")
    if regular and len(root.findall(f"{ns}Contents")) == 1:
        entries: Sequence[ObjectEntry] = entries_of_columns(regular[1], encoded=_is_encoded(root, ns))
    else:
        root, ns = parse(body, "ListBucketResult")
        entries = _entries_of(root, ns)
    if prefix and not all(key.startswith(prefix) for key in ObjectEntries.of(entries).keys):
        raise RetryError("BadAnswer", "the storage listed a key outside of the prefix that was asked for")
    token = root.findtext(f"{ns}NextContinuationToken") or None
    more = _says_more(root, ns)
    if more is None:
        if token is None and entries and len(entries) >= _most(root, ns, "MaxKeys"):
            token = StartAfter(entries[-1].key)
        more = token is not None
    elif token is not None and not more:
        raise _contradiction("is marked complete but has a continuation token")
    return Page(entries, token, more)


def _says_more(root: ElementTree.Element, ns: str) -> bool | None:
    """Returns the listing's IsTruncated, or None if it has none."""
    said = {(element.text or "").strip().lower() for element in root.iterfind(f"{ns}IsTruncated")} - {""}
    if not said:
        return None
    if len(said) > 1:
        raise _contradiction("is marked both complete and truncated")
    if not said <= {"true", "false"}:  # reading it as false would end the listing early
        raise RetryError("BadAnswer", "the storage's listing does not say whether it is complete")
    return said == {"true"}


def _most(root: ElementTree.Element, ns: str, tag: str) -> int:
    """Returns how many entries a page may have: the requested number, or a lower one from the answer."""
    said = (root.findtext(f"{ns}{tag}") or "").strip()
    return min(PAGE_KEYS, int(said)) if said.isdecimal() and 0 < len(said) < 10 and int(said) else PAGE_KEYS


def _contradiction(how: str) -> RetryError:
    return RetryError("BrokenListing", f"the storage's listing {how}: nothing was deleted")


def _entries_of(root: ElementTree.Element, ns: str) -> list[ObjectEntry]:
    encoded = _is_encoded(root, ns)
    key_tag, size_tag, etag_tag, time_tag = f"{ns}Key", f"{ns}Size", f"{ns}ETag", f"{ns}LastModified"
    entries: list[ObjectEntry] = []
    append = entries.append
    try:
        for element in root.iterfind(f"{ns}Contents"):
            fields = {child.tag: child.text for child in element}
            key = fields[key_tag]
            if not key:  # an empty key in a path is the bucket itself
                raise ValueError(key)
            if encoded and ("%" in key or "+" in key):
                key = decode_key(key)
            size = int(fields[size_tag] or "")
            if not 0 <= size < 1 << 63:
                raise ValueError(size)
            append(ObjectEntry(key, size, clean_etag(fields.get(etag_tag)), fields.get(time_tag) or ""))
    except (KeyError, ValueError) as error:
        raise RetryError("BadAnswer", "the storage listed an object without a key or a size") from error
    return entries


def _is_encoded(root: ElementTree.Element, ns: str) -> bool:
    return (root.findtext(f"{ns}EncodingType") or "") == "url"


def _key_of(element: ElementTree.Element, ns: str, encoded: bool) -> str:
    key = element.findtext(f"{ns}Key")
    if not key:  # an empty key in a path is the bucket itself
        raise RetryError("BadAnswer", "the storage listed a version or an upload without a key")
    return decode_key(key) if encoded else key


def parse_versions(body: bytes) -> tuple[list[Version], dict[str, str] | None]:
    """Parses a page of ListObjectVersions: versions and delete markers, and the markers of the next page."""
    root, ns = parse(body, "ListVersionsResult")
    encoded = _is_encoded(root, ns)
    found = []
    for element in root:
        if element.tag in (f"{ns}Version", f"{ns}DeleteMarker"):
            size = (element.findtext(f"{ns}Size") or "").strip()
            found.append(
                Version(
                    _key_of(element, ns, encoded),
                    element.findtext(f"{ns}VersionId") or "null",
                    int(size) if size.isdecimal() and len(size) < 20 else None,
                    element.tag == f"{ns}DeleteMarker",
                    (element.findtext(f"{ns}IsLatest") or "").strip().lower() != "false",
                    clean_etag(element.findtext(f"{ns}ETag")),
                    element.findtext(f"{ns}LastModified") or "",
                )
            )
    return found, _next(root, ns, found, _VERSION_MARKERS)


def parse_uploads(body: bytes) -> tuple[list[Upload], dict[str, str] | None]:
    """Parses a page of ListMultipartUploads: unfinished uploads, and the markers of the next page."""
    root, ns = parse(body, "ListMultipartUploadsResult")
    encoded = _is_encoded(root, ns)
    found = []
    for element in root.iterfind(f"{ns}Upload"):
        upload_id = element.findtext(f"{ns}UploadId")
        if not upload_id:  # an abort without one would delete the object
            raise RetryError("BadAnswer", "the storage listed an upload without an id")
        found.append(Upload(_key_of(element, ns, encoded), upload_id))
    return found, _next(root, ns, found, _UPLOAD_MARKERS)


# The element with the maximum number of entries, the element of the next id, the parameter for the next id.
_VERSION_MARKERS = ("MaxKeys", "NextVersionIdMarker", "version-id-marker")
_UPLOAD_MARKERS = ("MaxUploads", "NextUploadIdMarker", "upload-id-marker")


def _next(
    root: ElementTree.Element, ns: str, found: Sequence[Version | Upload], names: tuple[str, str, str]
) -> dict[str, str] | None:
    """Returns the markers of the next page, None after the last. (A page with IsTruncated `false` may have
    markers: Amazon and Ceph always name the last entry.)"""
    most_tag, id_tag, id_parameter = names
    more = _says_more(root, ns)
    key = root.findtext(f"{ns}NextKeyMarker") or ""
    if more is False or (more is None and not key and len(found) < _most(root, ns, most_tag)):
        return None
    last = found[-1] if found else None
    if not key and more is None and last is not None:
        return {"key-marker": last.key, id_parameter: last[1]}
    if not key:
        raise _contradiction("is truncated but does not say where it continues")
    # Ceph's gateway names the last key of the page, before its version 17 without encoding it.
    if _is_encoded(root, ns) and not (last is not None and key == last.key):
        key = decode_key(key)
    marker = {"key-marker": key}
    if identifier := root.findtext(f"{ns}{id_tag}"):
        marker[id_parameter] = identifier
    return marker


def parse_parts(body: bytes) -> tuple[list[Part], dict[str, str] | None]:
    """Parses a page of ListParts: parts, and the marker of the next page."""
    root, ns = parse(body, "ListPartsResult", "ListPartsResponse")  # the latter: moto
    try:
        parts = [
            Part(
                int(element.findtext(f"{ns}PartNumber") or ""),
                int(element.findtext(f"{ns}Size") or ""),
                clean_etag(element.findtext(f"{ns}ETag")),
                *_checksum(element, ns),
            )
            for element in root.iterfind(f"{ns}Part")
        ]
    except ValueError as error:
        raise RetryError("BadAnswer", "the storage listed a part without a number or a size") from error
    marker = root.findtext(f"{ns}NextPartNumberMarker") or (str(parts[-1].number) if parts else "")
    more = _says_more(root, ns)
    if more is None:
        more = len(parts) >= _most(root, ns, "MaxParts")
    return parts, {"part-number-marker": marker} if more and marker else None


def _checksum(element: ElementTree.Element, ns: str) -> tuple[str, str]:
    """Returns the algorithm and value of the first of a part's checksums that we know."""
    for name in ("CRC64NVME", "CRC32C"):
        if text := (element.findtext(f"{ns}Checksum{name}") or "").strip():
            return name, text
    return "", ""


def parse_upload_id(body: bytes) -> str:
    # rclone's server leaves out the last word.
    root, ns = parse(body, "InitiateMultipartUploadResult", "InitiateMultipartUpload")
    upload_id = root.findtext(f"{ns}UploadId")
    if not upload_id:
        raise RetryError("BadAnswer", "the storage started a multipart upload without an upload id")
    return upload_id


def parse_completed(body: bytes) -> Completed:
    """Parses the answer to CompleteMultipartUpload."""
    root, ns = parse(body, "CompleteMultipartUploadResult")
    return Completed(
        clean_etag(root.findtext(f"{ns}ETag")), (root.findtext(f"{ns}ChecksumCRC64NVME") or "").strip()
    )


def parse_copied(body: bytes, operation: str) -> str:
    """Returns the ETag of a copied object or part, "" if the store sends none. `operation`: CopyObject or
    UploadPartCopy."""
    root, ns = parse(body, "CopyObjectResult" if operation == "CopyObject" else "CopyPartResult")
    return clean_etag(root.findtext(f"{ns}ETag"))


class DeleteResult(NamedTuple):
    """`errors`: (key, version id, code, message) of each object that was not deleted. `named`: the keys in
    the answer, deleted or not; some stores name none."""

    errors: list[tuple[str, str, str, str]]
    named: set[str]


def parse_delete_result(body: bytes) -> DeleteResult:
    root, ns = parse(body, "DeleteResult")
    errors = [
        (
            element.findtext(f"{ns}Key") or "",
            element.findtext(f"{ns}VersionId") or "",
            element.findtext(f"{ns}Code") or "",
            element.findtext(f"{ns}Message") or "",
        )
        for element in root.iterfind(f"{ns}Error")
    ]
    deleted = {element.findtext(f"{ns}Key") or "" for element in root.iterfind(f"{ns}Deleted")}
    return DeleteResult(errors, (deleted | {key for key, *_ in errors}) - {""})
