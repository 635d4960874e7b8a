"""`python -m benchmarks.bare_pages URL ACCESS_KEY SECRET_KEY BUCKET FOLDER [THREADS]`: lists a bucket, and
asks for the size and date of each file of the folder meanwhile. Both are counted, and nothing is compared:
what any client needs at least to find out that there is nothing to do. The bucket is listed page by page;
with THREADS, in ranges of a page each, which end at names of the folder, so many at the same time.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from syncworker.s3.signing import Keys

from benchmarks.bare_parts import Sender

PAGE = 1000
_token = re.compile(r"<NextContinuationToken>(.*?)</NextContinuationToken>").search


def _objects(sender: Sender) -> int:
    count, token = 0, None
    while True:
        answer = sender.page(token)
        count += answer.count("<Key>")
        found = _token(answer)
        if found is None:
            return count
        token = found[1]


def _names(folder: str, prefix: str = "") -> Iterator[str]:
    """Yields the keys of the files, in order; each file has been asked for its size and date."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _names(entry.path, f"{prefix}{entry.name}/")
        else:
            assert entry.stat(follow_symlinks=False).st_size >= 0
            yield prefix + entry.name


def _keys_until(sender: Sender, after: str | None, last: str) -> int:
    """Returns how many keys follow `after`, up to `last`: they are one page."""
    answer = sender.page(after=after)
    assert f"<Key>{last}</Key>" in answer, last
    return answer.count("<Key>", 0, answer.index(f"<Key>{last}</Key>") + 5)


def _by_ranges(sender: Sender, pool: ThreadPoolExecutor, folder: str) -> tuple[int, int]:
    pages: list[Future[int]] = []
    after, count, name = None, 0, ""
    for count, name in enumerate(_names(folder), 1):
        if count % PAGE == 0:
            pages.append(pool.submit(_keys_until, sender, after, name))
            after = name
    if count % PAGE:
        pages.append(pool.submit(_keys_until, sender, after, name))
    return count, sum(page.result() for page in pages)


def main() -> None:
    url, access_key, secret_key, bucket, folder, *threads = sys.argv[1:]
    sender = Sender(url, Keys(access_key, secret_key), bucket, "md5")
    with ThreadPoolExecutor(int(threads[0]) if threads else 1) as pool:
        if threads:
            files, objects = _by_ranges(sender, pool, folder)
        else:
            listing = pool.submit(_objects, sender)
            files = sum(1 for _ in _names(folder))
            objects = listing.result()
    assert files == objects, (files, objects)


if __name__ == "__main__":
    main()
