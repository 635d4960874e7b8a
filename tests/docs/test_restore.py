"""docs/operations.md, Restore and Uninstall: its commands, run as they stand there."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import PROJECT, Shell, expected, tree
from stores import Store

DOCUMENT = (PROJECT / "docs" / "operations.md").read_text()
[RESTORE] = re.findall(r"^## Restore\n(.*?)^## ", DOCUMENT, re.MULTILINE | re.DOTALL)
[UNINSTALL] = re.findall(r"^## Uninstall\n(.*?)^## ", DOCUMENT, re.MULTILINE | re.DOTALL)
RCLONE, AWS, VERSIONS = re.findall(r"^```sh\n(.*?)^```", RESTORE, re.MULTILINE | re.DOTALL)
READ = ("RCLONE_S3_PROVIDER", "RCLONE_S3_ENV_AUTH", "RCLONE_S3_ENDPOINT")  # by rclone, of the environment
TREE = {"2024/a.jpg": "one", "2024/b/c.jpg": b"\0\1" * 3_000_000, "odd name é %41+.txt": "3", "top": ""}


def run(script: str, store: Store, bucket: str, folder: Path, **more: str) -> str:
    environment = {
        "PATH": f"{PROJECT / '.venv' / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder),
        "RCLONE_CONFIG": "/dev/null",
        "ENDPOINT": store.url,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        **more,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("mybucket", bucket)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("store", ["juicefs", "moto"], indirect=True)
@pytest.mark.parametrize("program", ["rclone", "aws"])
def test_a_file_and_all_of_it_come_back(
    make_shell: Callable[..., Shell], store: Store, bucket: str, tmp_path: Path, program: str
) -> None:
    shell = make_shell(store)
    photos = tree(shell.uploads / "photos", TREE)
    shell.sync(bucket)
    run({"rclone": RCLONE, "aws": AWS}[program], store, bucket, tmp_path)
    restored = tmp_path / "restored"
    assert (restored / "a.jpg").read_bytes() == b"one"
    assert expected(restored / "all") == expected(photos)
    if program == "rclone":
        assert expected(restored / "2024") == expected(photos / "2024")


def test_what_is_not_kept_is_what_the_page_says(
    make_shell: Callable[..., Shell], juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    shell = make_shell(juicefs)
    photos = tree(shell.uploads / "photos", {"2024/a.jpg": "one", "run.sh": "#!/bin/sh"})
    (photos / "run.sh").chmod(0o700)
    (photos / "link").symlink_to("2024/a.jpg")
    (photos / "empty").mkdir()
    os.utime(photos / "2024" / "a.jpg", (1_600_000_000, 1_600_000_000))
    shell.sync(bucket)
    run(RCLONE, juicefs, bucket, tmp_path)
    back = tmp_path / "restored" / "all"
    assert not stat.S_IMODE((back / "run.sh").stat().st_mode) & 0o100
    assert not (back / "link").is_symlink() and (back / "link").read_bytes() == b"one"
    assert not (back / "empty").exists()
    assert (back / "2024" / "a.jpg").stat().st_mtime == 1_600_000_000


def test_an_older_version_comes_back(
    make_shell: Callable[..., Shell], moto: Store, bucket: str, tmp_path: Path
) -> None:
    client = moto.client()
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    shell = make_shell(moto)
    photos = tree(shell.uploads / "photos", {"2024/a.jpg": "the old one", "b": "b"})
    shell.sync(bucket)
    (photos / "2024" / "a.jpg").write_text("new")
    shell.sync(bucket)
    (photos / "2024" / "a.jpg").unlink()
    shell.sync(bucket)
    listing, getting = VERSIONS.split("\naws", 1)
    region = {"AWS_REGION": "us-east-1"}
    rows = [line.split() for line in run(listing, moto, bucket, tmp_path, **region).splitlines()]
    assert sorted(int(size) for _, _, size in rows) == [3, 11]
    [version] = [version for version, _, size in rows if size == "11"]
    (tmp_path / "restored").mkdir()
    run(f"aws{getting}", moto, bucket, tmp_path, VERSION=version, **region)
    assert (tmp_path / "restored" / "a.jpg").read_text() == "the old one"


def test_uninstalling_names_what_there_is_and_make_clean_takes_no_data() -> None:
    done = subprocess.run(
        ["make", "-n", "clean"], cwd=PROJECT, capture_output=True, text=True, timeout=30, check=True
    )
    assert not set(done.stdout.split()) & {"jobs", "app", "app/uploads", "app/storage", ".env"}
    role = "".join(
        path.read_text()
        for path in (PROJECT / "ansible" / "roles" / "service").rglob("*.*")
        if path.is_file()
    )
    for path in re.findall(r"`(/[a-z][^`]+)`", UNINSTALL):
        assert path in role or os.path.basename(path) in role, path
    for name in ("jobs", "app/storage", ".env"):
        assert f" {name} " in UNINSTALL
