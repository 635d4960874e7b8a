"""ETags as content hashes: part sizes, and the hash of a file in each form that its ETag may have.

An ETag of 32 hexadecimal digits is the MD5 of the object; `…-N` is the MD5 of the MD5s of its N parts, so the
part size must be known or guessed. `candidates` returns our part size and those of common tools and, if only
a few whole-MiB sizes give N parts, all of these. Sources: the tools' documentation of their defaults
(aws-cli 8 MiB, s5cmd 50 MiB, rclone 5 MiB, s3cmd 15 MiB, mc 16 MiB, boto3 8 MiB); S3's limit of 10,000 parts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from syncworker.s3 import sums
from syncworker.wire.body import blocks

MIB = 1 << 20
PART_MIN = 8 * MIB
PARTS_MAX = 10_000
_READ = 1 * MIB
OBJECT_MAX = 5 << 40  # Amazon S3 user guide, "Uploading an object"; other stores have not followed to more
_KNOWN_MIB = (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024)
_FEW = 6
_HASH = re.compile(r"[0-9a-f]{32}(?:-([1-9][0-9]{0,4}))?")


def part_size(size: int) -> int:
    """Returns the size of every part but the last, for a file of `size` bytes: whole MiB, at least 8 MiB, and
    large enough for 10,000 parts. Depends only on the size, so a resumed upload has the same parts."""
    needed = -(-size // PARTS_MAX)
    return max(PART_MIN, -(-needed // MIB) * MIB)


def is_single(size: int) -> bool:
    """Whether a file of that size is sent as one PUT."""
    return size <= PART_MIN


def parts_of(etag: str) -> int | None:
    """Returns the number of parts in an ETag: 0 for a plain MD5, None if it does not have the form of a
    content hash."""
    match = _HASH.fullmatch(etag)
    return int(match[1] or 0) if match else None


def candidates(size: int, parts: int, known: int | None = None) -> list[int]:
    """Returns part sizes that cut `size` bytes into `parts` parts, the likeliest first. `known`: the part
    size in the index."""
    if parts < 1 or size == 0:
        return []
    if parts == 1:  # every part size that holds the whole file gives the same hash
        return [known if known is not None and known >= size else size]
    low = -(-size // parts)
    high = (size - 1) // (parts - 1)
    first, last = -(-low // MIB), high // MIB
    guesses = [known or 0, part_size(size), *(n * MIB for n in _KNOWN_MIB)]
    if last - first < _FEW:
        guesses += [n * MIB for n in range(first, last + 1)]
    return list(dict.fromkeys(part for part in guesses if part > 0 and -(-size // part) == parts))


def composite(digests: Sequence[bytes]) -> str:
    """Returns the ETag of a multipart upload from the MD5s of its parts."""
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def hash_file(fd: int, size: int, sizes: Sequence[int], should_stop: Callable[[], bool]) -> dict[int, str]:
    """Returns {part size: ETag} of an open file, read once; part size 0 stands for the plain MD5. Raises
    EOFError if the file is shorter than `size`, and InterruptedError if `should_stop` returns True."""
    cuts = {part: _Cut(part or size) for part in sizes}
    for block in blocks(fd, 0, size, _READ):
        if should_stop():
            raise InterruptedError
        for cut in cuts.values():
            cut.update(block)
    return {part: composite(cut.end()) if part else cut.end()[0].hex() for part, cut in cuts.items()}


class _Cut:
    """Computes the MD5s of the parts of a file for one part size."""

    def __init__(self, part: int) -> None:
        self._part = self._left = part  # bytes missing from the current part
        self._digest = hashlib.md5(usedforsecurity=False)
        self._digests: list[bytes] = []

    def update(self, block: bytes | memoryview) -> None:
        view = memoryview(block)
        while view:
            if not self._left:
                self._digests.append(self._digest.digest())
                self._digest, self._left = hashlib.md5(usedforsecurity=False), self._part
            piece = view[: self._left]
            self._digest.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def end(self) -> list[bytes]:
        """Returns the MD5s at the end of the file. The current part is the last one, even if it is empty."""
        return [*self._digests, self._digest.digest()]


def md5_range(fd: int, offset: int, size: int) -> bytes:
    """Returns the MD5 of a range of a file. Raises EOFError if the file is shorter."""
    return sums.of_range(fd, offset, size, [sums.MD5])[sums.MD5]
