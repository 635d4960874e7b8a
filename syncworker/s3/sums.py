"""The checksums with which a storage can verify the body of a part: name, header and value of each.

A CRC is sent as the plain header `x-amz-checksum-…`, never as a trailer, and is named when the upload begins:
otherwise Amazon S3 refuses the header. SHA-256 is sent in the signature, instead of UNSIGNED-PAYLOAD.
Source: Amazon S3 user guide, "Checking object integrity"; API reference, CreateMultipartUpload, UploadPart.

`awscrt` is imported when the first CRC is computed, because the import takes 49 ms and more.
"""

from __future__ import annotations

import binascii
import hashlib
import importlib.util
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from syncworker.wire.body import blocks

_BLOCK = 256 << 10
_TIMED_BYTES = 64 << 10


class Algorithm(NamedTuple):
    """`header`: the request header, "" if the sum is in the signature. `type`: x-amz-checksum-type."""

    name: str
    header: str = ""
    type: str = ""

    @property
    def is_crc(self) -> bool:
        return self.name.startswith("CRC")

    @property
    def naming(self) -> dict[str, str]:
        """The headers of CreateMultipartUpload."""
        named = {"x-amz-checksum-algorithm": self.name, "x-amz-checksum-type": self.type}
        return {name: value for name, value in named.items() if value} if self.is_crc else {}


CRC64NVME = Algorithm("CRC64NVME", "x-amz-checksum-crc64nvme", "FULL_OBJECT")
CRC32C = Algorithm("CRC32C", "x-amz-checksum-crc32c")  # multipart upload: the CRC32C of its parts' CRC32Cs
SHA256 = Algorithm("SHA256")
MD5 = Algorithm("MD5", "content-md5")
CRCS = (CRC64NVME, CRC32C)
BY_NAME = {algorithm.name: algorithm for algorithm in (*CRCS, SHA256, MD5)}


class Digest(Protocol):
    """The interface of hashlib's objects."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, function: Callable[[bytes | memoryview, int], int], size: int) -> None:
        self._function, self._size, self._value = function, size, 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def new(algorithm: Algorithm) -> Digest:
    if algorithm is MD5:
        return hashlib.md5(usedforsecurity=False)
    if algorithm is SHA256:
        return hashlib.sha256()
    from awscrt import checksums  # only if a CRC is needed, see above

    return _Crc(checksums.crc64nvme, 8) if algorithm is CRC64NVME else _Crc(checksums.crc32c, 4)


def can_make(algorithm: Algorithm) -> bool:
    """Whether to try this sum here: a CRC if its library is installed, SHA-256 if it is faster than MD5."""
    if algorithm.is_crc:
        return importlib.util.find_spec("awscrt") is not None
    return algorithm is MD5 or _seconds(SHA256) < _seconds(MD5)


def loads(algorithm: Algorithm) -> bool:
    """Whether this sum can really be computed. An installed library may not fit the machine."""
    try:
        new(algorithm)
    except (ImportError, OSError, AttributeError):
        return False
    return True


def _seconds(algorithm: Algorithm) -> float:
    """Measures the time for 64 KiB, about a tenth of a millisecond; returns the best of three."""
    data = bytes(_TIMED_BYTES)
    taken = []
    for _ in range(3):
        began = time.thread_time()  # of this thread alone, because others use the processor, too
        digest = new(algorithm)
        digest.update(data)
        digest.digest()
        taken.append(time.thread_time() - began)
    return min(taken)


def encode(digest: bytes) -> str:
    return binascii.b2a_base64(digest, newline=False).decode()


def combine(digests: Sequence[bytes], sizes: Sequence[int]) -> bytes:
    """Returns the CRC64NVME of an object from those of its parts."""
    from awscrt import checksums

    whole = 0
    for digest, size in zip(digests, sizes, strict=True):
        whole = checksums.combine_crc64nvme(whole, int.from_bytes(digest, "big"), size)
    return whole.to_bytes(8, "big")


def of_range(
    fd: int, offset: int, size: int, algorithms: Collection[Algorithm], into: memoryview | None = None
) -> Mapping[Algorithm, bytes]:
    """Reads a range of a file once, into `into` if that is given, and returns its sums. Raises EOFError if
    the file is shorter."""
    digests = {algorithm: new(algorithm) for algorithm in algorithms}
    for block in blocks(fd, offset, size, _BLOCK, into):
        for digest in digests.values():
            digest.update(block)
    return {algorithm: digest.digest() for algorithm, digest in digests.items()}
