"""`python -m benchmarks.bare_pages URL ACCESS_KEY SECRET_KEY BUCKET FOLDER`: lists a bucket page by page, and
asks for the size and date of each file of the folder meanwhile. Both are counted, and nothing is compared:
what any client needs at least to find out that there is nothing to do.
"""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from syncworker.s3.signing import Keys

from benchmarks.bare_parts import Sender

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


def _files(folder: str) -> int:
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                count += _files(entry.path)
            else:
                count += entry.stat(follow_symlinks=False).st_size >= 0
    return count


def main() -> None:
    url, access_key, secret_key, bucket, folder = sys.argv[1:]
    with ThreadPoolExecutor(1) as pool:
        objects = pool.submit(_objects, Sender(url, Keys(access_key, secret_key), bucket, "md5"))
        files = _files(folder)
        assert objects.result() == files, (objects.result(), files)


if __name__ == "__main__":
    main()
