"""ETags as content hashes: part sizes, and the hash of a file in each form that its ETag may have.

An ETag of 32 hexadecimal digits is the MD5 of the object; `…-N` is the MD5 of the MD5s of its N parts, so the
part size must be known or guessed. `candidates` guesses: ours, those of the tools that people use, and, when
few whole-MiB sizes give N parts at all, each of these. Sources: the tools' documentation of their defaults
(aws-cli 8 MiB, s5cmd 50 MiB, rclone 5 MiB, s3cmd 15 MiB, mc 16 MiB, boto3 8 MiB); S3's limit of 10,000 parts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence

MIB = 1 << 20
PART_MIN = 8 * MIB
PARTS_MAX = 10_000
OBJECT_MAX = 5 << 40  # Amazon S3 user guide, "Uploading an object"; other stores have not followed to more
_READ = 1 * MIB
_KNOWN_MIB = (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024)
_FEW = 6
_SINGLE = re.compile(r"[0-9a-f]{32}")
_MULTI = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")


def part_size(size: int) -> int:
    """The size of every part but the last, for a file of `size` bytes: whole MiB, 8 MiB at least, grown so
    that 10,000 parts are enough. A pure function of the size: a resumed upload cuts the file as before."""
    needed = -(-size // PARTS_MAX)
    return max(PART_MIN, -(-needed // MIB) * MIB)


def is_single(size: int) -> bool:
    """Whether a file of that size goes as one PUT."""
    return size <= PART_MIN


def parts_of(etag: str) -> int | None:
    """How many parts an ETag speaks of: 0 for a plain MD5, None when it is no content hash by its form."""
    if _SINGLE.fullmatch(etag):
        return 0
    match = _MULTI.fullmatch(etag)
    return int(match[1]) if match else None


def candidates(size: int, parts: int, known: int | None = None) -> list[int]:
    """Part sizes that cut `size` bytes into `parts` parts, the likeliest first; `known` is the index's."""
    if parts < 1 or size == 0:
        return []

    def fits(part: int) -> bool:
        return part > 0 and -(-size // part) == parts

    if parts == 1:  # every part that holds the whole gives the same hash
        return [known if known is not None and known >= size else size]
    low = -(-size // parts)
    high = (size - 1) // (parts - 1)
    first, last = -(-low // MIB), high // MIB
    guesses = [known or 0, part_size(size), *(n * MIB for n in _KNOWN_MIB)]
    if last - first < _FEW:
        guesses += [n * MIB for n in range(first, last + 1)]
    return list(dict.fromkeys(part for part in guesses if fits(part)))


def composite(digests: Sequence[bytes]) -> str:
    """The ETag of a multipart upload from the MD5 of each of its parts."""
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def hash_file(fd: int, size: int, sizes: Sequence[int], should_stop: Callable[[], bool]) -> dict[int, str]:
    """{part size: ETag} of an open file, all in one read; part size 0 stands for the plain MD5.

    Raises EOFError when the file is shorter than `size`, and InterruptedError when told to stop.
    """
    plain = hashlib.md5(usedforsecurity=False) if 0 in sizes else None
    cuts = {part: (hashlib.md5(usedforsecurity=False), [part], []) for part in sizes if part}  # type: ignore[var-annotated]
    position = 0
    while position < size:
        if should_stop():
            raise InterruptedError
        block = os.pread(fd, min(_READ, size - position), position)
        if not block:
            raise EOFError
        position += len(block)
        if plain is not None:
            plain.update(block)
        for part, state in list(cuts.items()):
            cuts[part] = _feed(part, state, block)
    found = {0: plain.hexdigest()} if plain is not None else {}
    for part, (digest, left, digests) in cuts.items():
        if left[0] != part or not digests:  # a part is begun (or the file is empty)
            digests.append(digest.digest())
        found[part] = composite(digests)
    return found


def _feed(part: int, state: tuple, block: bytes) -> tuple:  # type: ignore[type-arg]
    """Adds a block to the hash of the part under way, and begins new ones at their borders."""
    digest, left, digests = state
    view = memoryview(block)
    while view:
        piece = view[: left[0]]
        digest.update(piece)
        left[0] -= len(piece)
        view = view[len(piece) :]
        if left[0] == 0:
            digests.append(digest.digest())
            digest = hashlib.md5(usedforsecurity=False)
            left[0] = part
    return digest, left, digests


def md5_range(fd: int, offset: int, size: int) -> bytes:
    """MD5 of a range of a file; EOFError when the file ends before it does."""
    digest = hashlib.md5(usedforsecurity=False)
    position, end = offset, offset + size
    while position < end:
        block = os.pread(fd, min(_READ, end - position), position)
        if not block:
            raise EOFError
        digest.update(block)
        position += len(block)
    return digest.digest()
