"""Writes the XML of requests: DeleteObjects, CompleteMultipartUpload, CreateBucket.

Source: Amazon S3 API Reference, the operations' request syntax.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple


@cache  # compiling it takes half a millisecond, which a job without deletions saves
def _not_xml() -> re.Pattern[str]:
    """Matches characters that XML 1.0 cannot contain. U+000D needs a reference: see `_ESCAPES`."""
    return re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


class PartName(NamedTuple):
    """A part as CompleteMultipartUpload names it."""

    number: int
    etag: str
    algorithm: str = ""
    checksum: str = ""


def can_carry(key: str) -> bool:
    """Whether XML can contain this key."""
    return not _not_xml().search(key)


_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
)


def _text(value: str) -> str:
    return value.translate(_ESCAPES)


def _element(name: str, content: str) -> str:
    return f'<{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{name}>'


def delete_document(objects: Iterable[tuple[str, str | None]]) -> bytes:
    """Returns the body of DeleteObjects for (key, version id or None). Quiet mode is off, so that the answer
    names the deleted keys: few stores check this body against its MD5."""
    rows = []
    for key, version_id in objects:
        version = f"<VersionId>{_text(version_id)}</VersionId>" if version_id is not None else ""
        rows.append(f"<Object><Key>{_text(key)}</Key>{version}</Object>")
    return f"{_DECLARATION}{_element('Delete', '<Quiet>false</Quiet>' + ''.join(rows))}".encode()


def complete_document(parts: Iterable[PartName]) -> bytes:
    """Returns the body of CompleteMultipartUpload for parts in ascending order."""
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag>"
        f"{f'<Checksum{algorithm}>{checksum}</Checksum{algorithm}>' if checksum else ''}</Part>"
        for number, etag, algorithm, checksum in parts
    )
    return f"{_DECLARATION}{_element('CompleteMultipartUpload', rows)}".encode()


def location_document(region: str) -> bytes:
    content = f"<LocationConstraint>{_text(region)}</LocationConstraint>"
    return _element("CreateBucketConfiguration", content).encode()
