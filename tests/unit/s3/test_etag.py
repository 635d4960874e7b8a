"""Part sizes and content hashes, against what is plain to see with hashlib."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncworker.s3 import etag
from syncworker.s3.etag import MIB, OBJECT_MAX, PART_MIN, PARTS_MAX

SIZES = st.integers(1, OBJECT_MAX)


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def plain(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def multipart(data: bytes, part: int) -> str:
    pieces = [data[i : i + part] for i in range(0, len(data), part)] or [b""]
    return f"{plain(b''.join(hashlib.md5(piece).digest() for piece in pieces))}-{len(pieces)}"


@given(SIZES)
@example(1)
@example(PART_MIN * PARTS_MAX)
@example(PART_MIN * PARTS_MAX + 1)
@example(OBJECT_MAX)
def test_a_part_size_is_whole_mebibytes_that_cut_a_file_into_10_000_parts_at_most(size: int) -> None:
    part = etag.part_size(size)
    assert part % MIB == 0
    assert part >= PART_MIN
    assert -(-size // part) <= PARTS_MAX
    assert part == PART_MIN or -(-size // (part - MIB)) > PARTS_MAX, "larger than need be"
    assert etag.part_size(size) == part


@given(SIZES, SIZES)
def test_a_larger_file_never_has_smaller_parts(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert etag.part_size(small) <= etag.part_size(large)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("d41d8cd98f00b204e9800998ecf8427e", 0),
        ("d41d8cd98f00b204e9800998ecf8427e-1", 1),
        ("d41d8cd98f00b204e9800998ecf8427e-10000", 10000),
        ("d41d8cd98f00b204e9800998ecf8427e-0", None),
        ("d41d8cd98f00b204e9800998ecf8427e-01", None),
        ("d41d8cd98f00b204e9800998ecf8427e-", None),
        ("d41d8cd98f00b204e9800998ecf8427e\n", None),
        ("D41D8CD98F00B204E9800998ECF8427E", None),
        ("d41d8cd98f00b204e9800998ecf8427", None),
        ("", None),
        ("0x8D4BCC2E4835CD0", None),
    ],
)
def test_an_etag_has_the_number_of_parts_in_its_form(text: str, parts: int | None) -> None:
    assert etag.parts_of(text) == parts


@given(SIZES, st.integers(0, 12_000), st.none() | st.integers(1, OBJECT_MAX))
def test_every_candidate_cuts_the_file_into_that_many_parts(size: int, parts: int, known: int | None) -> None:
    found = etag.candidates(size, parts, known)
    assert len(found) == len(set(found)) <= 24
    assert all(-(-size // part) == parts for part in found)
    if known is not None and parts and -(-size // known) == parts:
        assert found[0] == known


TOOLS_MIB = {"aws and boto3": 8, "s5cmd": 50, "rclone": 5, "s3cmd": 15, "mc": 16}


@pytest.mark.parametrize("tool", TOOLS_MIB)
@given(size=st.integers(2, 1 << 36))
def test_the_part_size_of_the_tools_that_people_use_is_a_candidate(tool: str, size: int) -> None:
    part = TOOLS_MIB[tool] * MIB
    assert part in etag.candidates(size, -(-size // part)) or size <= part


@given(st.integers(1, 200), st.integers(1, 20))
def test_any_whole_mebibyte_size_of_a_small_upload_is_a_candidate_when_few_are(
    mib: int, part_mib: int
) -> None:
    size, part = mib * MIB - 17, part_mib * MIB
    parts = -(-size // part)
    fitting = [n for n in range(1, 201) if -(-size // (n * MIB)) == parts]
    if parts > 1 and len(fitting) <= 6:
        assert part in etag.candidates(size, parts)


def test_the_hash_of_a_single_part_is_looked_for_once() -> None:
    """Every part size from the file's own upwards gives the same ETag: hashing each would be in vain."""
    assert etag.candidates(6 * MIB, 1) == [6 * MIB]
    assert etag.candidates(0, 1) == []


@given(st.binary(max_size=3000), st.lists(st.integers(0, 4000), max_size=6, unique=True), st.integers(1, 700))
def test_hashes_of_all_part_sizes_come_from_one_read(data: bytes, sizes: list[int], block: int) -> None:
    with opened(data) as fd, pytest.MonkeyPatch.context() as patch:
        patch.setattr(etag, "_READ", block)
        found = etag.hash_file(fd, len(data), sizes, lambda: False)
        for offset in (0, len(data) // 3):
            assert etag.md5_range(fd, offset, len(data) - offset) == hashlib.md5(data[offset:]).digest()
    assert found == {part: multipart(data, part) if part else plain(data) for part in sizes}


def test_a_file_larger_than_a_block_is_hashed_as_it_is() -> None:
    data = os.urandom(5 * MIB + 123)
    with opened(data) as fd:
        found = etag.hash_file(fd, len(data), [0, MIB, 2 * MIB, 5 * MIB, 5 * MIB + 123], lambda: False)
    assert found == {part: multipart(data, part) if part else plain(data) for part in found}


def test_a_file_that_became_shorter_is_reported_and_never_hashed() -> None:
    with opened(b"short") as fd:
        with pytest.raises(EOFError):
            etag.hash_file(fd, 6, [0], lambda: False)
        with pytest.raises(EOFError):
            etag.md5_range(fd, 3, 3)


def test_a_stop_ends_hashing() -> None:
    with opened(b"x" * 100) as fd, pytest.raises(InterruptedError):
        etag.hash_file(fd, 100, [0], lambda: True)
