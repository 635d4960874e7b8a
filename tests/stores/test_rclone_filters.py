"""Filters beside `rclone sync --filter`, on patterns that mean the same to both: the same bucket comes of it.

They agree on names and on whole folders, if the lines are turned round (rclone takes the first that matches,
git the last), if no folder's name matches a line for files, and if nothing below an excluded folder is
included again, which git does not do.
"""

from __future__ import annotations

import random
from pathlib import Path

from bench import Mirror, contents, fill, tree
from stores import Store
from test_filters import flags
from test_foreign import Tool

SETS = 12
FOLDERS = ["", "a/", "b/", "a/b/", "a/c/", "b/a/", "c/a/b/"]
NAMES = ["x.txt", "y.txt", "x.tmp", "yy.tmp", "notes.md", "x"]
OF_FILES = [
    "*.tmp",
    "*.txt",
    "x.*",
    "?.txt",
    "/x.txt",
    "/a/x.*",
    "/a/b/*.tmp",
    "y*",
    "[xy].txt",
    "notes.md",
    "/*.md",
]
OF_FOLDERS = ["a/", "b/", "/a/", "/b/", "/a/b/", "/c/a/"]


def lines(chance: random.Random) -> tuple[list[str], list[str]]:
    """Lines of exclude, and rclone's filters of the same meaning."""
    folders = chance.sample(OF_FOLDERS, chance.randint(0, 2))
    files = [(chance.random() < 0.3, pattern) for pattern in chance.sample(OF_FILES, chance.randint(1, 4))]
    exclude = [f"{'!' * again}{pattern}" for again, pattern in files] + folders
    rclone = [f"- {folder}**" for folder in folders]
    rclone += [f"{'+' if again else '-'} {pattern}" for again, pattern in reversed(files)]
    return exclude, rclone


def test_the_bucket_is_the_one_that_rclone_makes(
    mirror: Mirror, juicefs: Store, make_bucket: object, tmp_path: Path
) -> None:
    chance = random.Random(16)
    tool = Tool(juicefs, tmp_path)
    keys = [folder + name for folder in FOLDERS for name in NAMES]
    mirror.make({})
    for number in range(SETS):
        exclude, rclone = lines(chance)
        here = {key: f"{number}" for key in keys if chance.random() < 0.6}
        there = {key: b"old" for key in keys if chance.random() < 0.4}
        bucket = make_bucket(juicefs)  # type: ignore[operator]
        theirs = make_bucket(juicefs)  # type: ignore[operator]
        for name in (bucket, theirs):
            fill(juicefs, name, there)
        source = f"s{number}"
        folder = tree(mirror.shell.uploads / source, here)
        mirror.shell.sync(bucket, source, *flags(exclude=exclude))
        more = [word for line in rclone for word in ("--filter", line)]
        tool.run("rclone", "sync", "--checksum", *more, str(folder), f"s:{theirs}")
        assert contents(juicefs, bucket) == contents(juicefs, theirs), (exclude, rclone)
