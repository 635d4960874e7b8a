"""The settings: every wrong value is named, all at once, and no secret is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncworker import settings
from syncworker.errors import UsageError
from syncworker.paths import PROJECT
from syncworker.settings import Settings

NOWHERE = "/nonexistent/.env"


def load(**environ: str) -> Settings:
    return settings.load(environ, NOWHERE)


def test_the_defaults_are_those_of_the_contract() -> None:
    found = load()
    assert (found.api_host, found.api_port, found.api_token) == ("127.0.0.1", 5000, None)
    assert found.allowed_hosts == ("localhost", "127.0.0.1", "[::1]")
    assert (found.uploads_dir, found.jobs_dir) == (f"{PROJECT}/app/uploads", f"{PROJECT}/jobs")
    assert (found.storage_url, found.storage_dir) == (None, f"{PROJECT}/app/storage")
    assert (found.minio_port, found.aws_region) == (9000, "us-east-1")
    assert found.max_running_jobs == max(2, os.cpu_count() or 1)
    assert (found.max_queued_jobs, found.keep_jobs) == (1000, 1000)
    assert (found.auto_resume, found.bucket_delete) == (True, "allow")
    assert found.default_storage_url == "http://127.0.0.1:9000"


def test_the_table_and_the_fields_are_the_same() -> None:
    assert [row.name.lower() for row in settings.TABLE] == list(Settings._fields)


WRONG = {
    "API_PORT": "http",
    "MINIO_PORT": "65536",
    "MAX_RUNNING_JOBS": "0",
    "MAX_QUEUED_JOBS": "-1",
    "KEEP_JOBS": "many",
    "AUTO_RESUME": "perhaps",
    "API_ALLOW_UNAUTHENTICATED": "2",
    "BUCKET_DELETE": "maybe",
    "STORAGE_URL": "localhost:9000",
    "MINIO_ACCESS_KEY": "half-a-pair",
}


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        load(**WRONG)
    for name, value in WRONG.items():
        assert name in str(caught.value)
        assert (value in str(caught.value)) == (not name.endswith("KEY")), name


@pytest.mark.parametrize("name", sorted(WRONG))
def test_each_wrong_value_alone_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        load(**{name: WRONG[name]})


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "0", "169.254.169.254", "[::]", "[fe80::1]", "224.0.0.1", "a..b"]
)
def test_a_storage_that_no_job_would_be_let_to_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="STORAGE_URL"):
        load(STORAGE_URL=f"http://{host}:9000")


@pytest.mark.parametrize("name", [row.name for row in settings.TABLE if row.default])
def test_an_empty_value_is_the_default(name: str) -> None:
    assert load(**{name: ""}) == load(**{name: "  "}) == load()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        ("on", True),
        ("0", False),
        ("False", False),
        ("off", False),
    ],
)
def test_flags(text: str, expected: bool) -> None:
    assert load(AUTO_RESUME=text).auto_resume is expected


def test_the_own_storage_is_known_in_every_spelling() -> None:
    for host in ("localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "LOCALHOST."):
        assert load(MINIO_PORT="9007").is_own(f"http://{host}:9007/")
        assert load(STORAGE_URL="http://localhost:9").is_own(f"http://{host}:9")
    for url in (
        "http://127.0.0.1:9008",
        "https://127.0.0.1:9007",
        "http://127.0.0.1:9007/x",
        "http://a:9007",
    ):
        assert not load(MINIO_PORT="9007").is_own(url)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("BUCKET_DELTE", "BUCKET_DELETE"),
        ("FAIL_ON_SKIP", "FAIL_ON_SKIPPED"),
        ("BUCKET_DELETES", "BUCKET_DELETE"),
        ("BUKCET_DELETE", "BUCKET_DELETE"),
        ("bucket_delete", "BUCKET_DELETE"),
        ("BUCKET-DELETE", "BUCKET_DELETE"),
        ("UPLOAD_DIR", "UPLOADS_DIR"),
        ("ALLOWED_HOST", "ALLOWED_HOSTS"),
        ("STORAGE_URI", "STORAGE_URL"),
        ("MAX_RUNING_JOB", "MAX_RUNNING_JOBS"),
        ("API_TOKN", "API_TOKEN"),
    ],
)
def test_a_misspelt_setting_is_refused_in_the_file_and_reported_in_the_environment(
    tmp_path: Path, name: str, meant: str
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}=S3CRET\n")
    with pytest.raises(UsageError, match=f"{name}: .*do you mean {meant}") as caught:
        settings.load({}, str(env_file))
    assert "S3CRET" not in str(caught.value)
    load(**{name: "x"})  # other programs' variables are nobody's fault
    assert settings.misspelt([name, "PATH", "HOME"]) == [
        f"{name}: there is no such setting, do you mean {meant}?"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "BUCKET_DELETE: refuse",
        "BUCKET_DELETE refuse",
        "set BUCKET_DELETE=refuse",
        "BUCKET_DELETE",
        "A='refuse",
    ],
)
def test_a_line_of_the_file_that_says_nothing_is_refused(tmp_path: Path, line: str) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"# a remark\n\nOTHERS\nexport API_PORT=5001\n{line}\n")
    with pytest.raises(UsageError, match=r"\.env: line 5 cannot be read") as caught:
        settings.load({}, str(env_file))
    assert "refuse" not in str(caught.value)


def test_names_of_others_are_no_misspelt_settings() -> None:
    others = [
        "API_BIND", "APP_UID", "APP_GID", "COMPOSE_PROJECT_NAME", "MINIO_CONSOLE_PORT", "MINIO_DOMAIN",
        "MINIO_HOST",
        "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "AWS_DEFAULT_REGION",
        "AWS_CA_BUNDLE", "AWS_REGION_NAME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SYNC_ACCESS_KEY",
        "SYNC_SECRET_KEY", "SYNC_SESSION_TOKEN", "HOSTNAME", "LOGNAME", "API_URL", "APP_PORT",
        "MINIO_ROOT_USER",
    ]  # fmt: skip
    assert settings.misspelt([*others, *(row.name for row in settings.TABLE)]) == []


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    env_file = tmp_path / "the.env"
    env_file.write_text(
        "API_PORT=5001\nMINIO_PORT=9001\n# KEEP_JOBS=1\nUPLOADS_DIR='a b'\nAWS_REGION=$API_PORT\n"
    )
    found = settings.load({"API_PORT": "5002"}, str(env_file))
    assert (found.api_port, found.minio_port, found.keep_jobs) == (5002, 9001, 1000)
    assert found.uploads_dir == f"{PROJECT}/a b"
    assert found.aws_region == "$API_PORT"  # nothing is expanded: a `$` in a secret stays


def test_folders_are_relative_to_the_project_and_normal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(JOBS_DIR="x/../y/").jobs_dir == f"{PROJECT}/y"
    assert load(JOBS_DIR=str(tmp_path)).jobs_dir == str(tmp_path)
    assert load(JOBS_DIR="~/jobs").jobs_dir == os.path.expanduser("~/jobs")


def test_the_storage_url_is_in_one_spelling() -> None:
    found = load(STORAGE_URL="HTTPS://S3.Example.com:443/")
    assert found.storage_url == found.default_storage_url == "https://s3.example.com"


def test_lists_are_split_at_commas() -> None:
    assert load(ALLOWED_HOSTS=" a , b:80,, ").allowed_hosts == ("a", "b:80")


def test_files_with_keys_are_never_synced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "uploads")
    (tmp_path / "uploads").mkdir()
    with pytest.raises(UsageError, match="JOBS_DIR: must not be inside UPLOADS_DIR"):
        load(UPLOADS_DIR=str(tmp_path / "uploads"), JOBS_DIR=str(tmp_path / "link" / "jobs"))
    for folder in (PROJECT, os.path.dirname(PROJECT), "/"):
        with pytest.raises(UsageError, match="UPLOADS_DIR: must not hold"):
            load(UPLOADS_DIR=folder, JOBS_DIR="/nonexistent/jobs", STORAGE_DIR="/nonexistent/storage")
