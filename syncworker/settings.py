"""The settings: one table of names, defaults, meanings and checks. The environment wins over `.env`.

Every wrong value is reported, all at once, before anything starts. Relative folders are relative to the
project's folder, so that server and shell mean the same place wherever they are called from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from syncworker import forwarded
from syncworker import setting_values as value
from syncworker.errors import UsageError
from syncworker.paths import PROJECT

_KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
_LONG_NAME = 12  # letters, of which two may be wrong
_FOREIGN = frozenset({"APP_PORT", "API_BIND", "AWS_REGIONS"})  # near ours, and used by others or by Compose
_ENV_FILE = os.path.join(PROJECT, ".env")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
T = TypeVar("T")


class Setting(NamedTuple):
    name: str
    default: str
    parse: Callable[[str], Any]
    meaning: str


def _row(default: str, parse: Callable[[str], T], meaning: str) -> T:
    """Describes a field of Settings, which has the type that `parse` returns; TABLE is made of these."""
    return cast(T, (default, parse, meaning))


class Settings(NamedTuple):
    """The values, by the name of their setting in lower case. Only `load` makes one: a row is no default."""

    api_host: str = _row("127.0.0.1", str, "address the server listens on")
    api_port: int = _row("5000", value.integer(1, 65535), "port the server listens on")
    api_token: str | None = _row(
        "", value.optional, "token that requests must carry; `auto` makes one at the first start"
    )
    api_allow_unauthenticated: bool = _row("0", value.flag, "1: listen beyond loopback without a token")
    allowed_hosts: tuple[str, ...] = _row(
        ",".join(LOOPBACK_NAMES),
        value.words,
        "values of the Host header that are served, beside loopback's names",
    )
    # Begins and ends with a slash.
    api_base_path: str = _row(
        "/", forwarded.parse_base_path, "path below which a proxy in front shows the pages and routes"
    )
    trusted_proxies: tuple[forwarded.Network, ...] = _row(
        "",
        forwarded.parse_networks,
        "addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed",
    )
    allowed_storage_urls: tuple[str, ...] = _row(
        "", value.words, "prefixes that `storage_url` must start with; empty: any"
    )
    uploads_dir: str = _row("app/uploads", value.folder, "the uploads root: folders to sync are below it")
    jobs_dir: str = _row("jobs", value.folder, "job files: a local disk, not a network or shared folder")
    storage_url: str | None = _row("", value.url, "the S3 endpoint; unset: an embedded S3 server is started")
    storage_patience: int = _row(
        "900",
        value.integer(0, 86_400),
        "seconds that a job waits for a storage that has answered before; 0: fails after its tries",
    )
    storage_dir: str = _row("app/storage", value.folder, "where the embedded S3 server keeps its data")
    minio_port: int = _row("9000", value.integer(1, 65535), "port of the embedded S3 server")
    minio_access_key: str | None = _row(
        "", value.optional, "access key of the storage; unset: boto3's credential chain"
    )
    minio_secret_key: str | None = _row("", value.optional, "secret key of the storage")
    aws_region: str = _row("us-east-1", str, "region that requests are signed for")
    storage_timeout: float | None = _row(
        "",
        value.optional_seconds(0.1, 86_400),
        "seconds of silence allowed for any request; unset: 120 listing, 600 completing an upload, 60 others",
    )
    storage_addressing: str = _row(
        "auto",
        value.one_of("auto", "path", "virtual"),
        "where the bucket's name goes: path; virtual, in the host; auto chooses, and switches if asked to",
    )
    max_running_jobs: int = _row(
        str(max(2, os.cpu_count() or 1)), value.integer(1, 1000), "workers at one time"
    )
    max_queued_jobs: int = _row("1000", value.integer(1, 1_000_000), "jobs that may wait")
    keep_jobs: int = _row("1000", value.integer(1, 1_000_000), "finished jobs whose files are kept")
    auto_resume: bool = _row(
        "1", value.flag, "1: a starting server resumes what the end of a server or machine interrupted"
    )
    bucket_delete: str = _row(
        "allow", value.one_of("allow", "refuse"), "refuse: an empty folder fails the job"
    )
    mirrors_file: str = _row("mirrors.toml", value.file, "the file that names mirrors, beside `.env`")
    max_delete: int | str = _row(
        "",
        value.most_deletions,
        "how many objects a job may delete unapproved: a count, or 10% of those listed; empty: no limit",
    )
    bandwidth: int = _row(
        "", value.rate, "bytes a second of all running jobs together (512K, 1.5M); unset or 0: no limit"
    )
    # One of "", "local:N", "tls://host:port".
    cluster: str = _row(
        "",
        value.cluster,
        "who else sends files: `local:N` processes here, the scheduler at `tls://HOST:PORT`; empty: nobody",
    )
    cluster_tls_ca: str | None = _row(
        "", value.optional, "file of the cluster's authority (`cluster keys` makes one)"
    )
    cluster_tls_cert: str | None = _row(
        "", value.optional, "file of the certificate that this machine shows there"
    )
    cluster_tls_key: str | None = _row(
        "", value.optional, "file of that certificate's key, readable by its owner alone"
    )
    cluster_min_files: int = _row(
        "10000",
        value.integer(0, 1_000_000_000),
        "number of files to send, or 1 GiB of them, from which a job uses the cluster; 0: all wait for it",
    )
    cluster_alone: bool = _row(
        "1", value.flag, "0: a job fails when the cluster is gone, instead of going on alone"
    )
    cluster_patience: int = _row(
        "60", value.integer(1, 86_400), "seconds that a job waits without any member before that"
    )
    cluster_keys: str = _row(
        "send",
        value.one_of("send", "own"),
        "own: members use the keys of their own settings; send: those of the job's process",
    )
    fail_on_skipped: bool = _row("0", value.flag, "1: a job that skipped files fails, when all else is done")

    @property
    def default_storage_url(self) -> str:
        """The configured storage; if none is configured, the embedded one."""
        return self.storage_url or f"http://127.0.0.1:{self.minio_port}"

    def is_own(self, url: str) -> bool:
        """Whether a URL, in any spelling, is that of the configured storage: the server's own keys go only
        there."""
        from syncworker.storage_url import canonical_url

        own = self.default_storage_url
        return url == own or canonical_url(url) == canonical_url(own)


TABLE = tuple(Setting(name.upper(), *row) for name, row in Settings._field_defaults.items())
_NAMES = frozenset(setting.name for setting in TABLE)


def _read_env_file(path: str) -> tuple[dict[str, str | None], list[str]]:
    """Returns the values, and a sentence for each line that sets nothing, such as `BUCKET_DELETE: refuse`.
    The line itself is not shown, because it may hold a key."""
    if not os.path.exists(path):
        return {}, []
    from dotenv.parser import parse_stream  # imported late: most workers have no such file

    values: dict[str, str | None] = {}
    wrong = []
    try:
        with open(path, encoding="utf-8") as file:
            for line in parse_stream(file):
                if line.key is not None:
                    values[line.key] = line.value
                if line.error or (line.value is None and line.key in _NAMES):
                    wrong.append(f"line {line.original.line} cannot be read: write it as NAME=value")
    except UnicodeDecodeError:
        raise UsageError("BadEnvFile", f"the file {path} is not valid UTF-8") from None
    return values, wrong


def embedded_keys_file(storage_dir: str) -> str:
    """Returns the path of the generated keys of the embedded storage, a file like `.env`."""
    return os.path.join(storage_dir, "keys.env")


def _embedded_keys(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str | None]:
    """Returns the generated keys of the embedded storage if it is used and no keys are set."""
    set_here = any(values.get(name.lower()) or name in environ for name in _KEYS)
    if values.get("storage_url") or set_here or "storage_dir" not in values:
        return {}
    return _read_env_file(embedded_keys_file(values["storage_dir"]))[0]


def origin_of_keys() -> str:
    """Returns which setting the server's own keys come from, in words."""
    if os.environ.get(_KEYS[0]):
        where = "of the environment"
    elif _read_env_file(_ENV_FILE)[0].get(_KEYS[0]):
        where = "of the file .env"
    else:
        return "those made for the embedded storage, in keys.env of STORAGE_DIR"
    with_token = (
        "; AWS_SESSION_TOKEN is not theirs, and not sent" if os.environ.get("AWS_SESSION_TOKEN") else ""
    )
    return f"{' and '.join(_KEYS)} {where}{with_token}"


def _overlaps(values: Mapping[str, Any]) -> list[str]:
    """Finds files of ours inside the uploads folder: they change all the time, and some hold keys."""
    uploads = os.path.realpath(values["uploads_dir"]) if "uploads_dir" in values else "\0"

    def inside(path: str) -> bool:
        return f"{os.path.realpath(path)}/".startswith(f"{uploads.rstrip('/')}/")

    wrong = [
        f"{name.upper()}: must not be inside UPLOADS_DIR"
        for name in ("jobs_dir", "storage_dir", "mirrors_file")
        if name in values and inside(values[name])
    ]
    if inside(PROJECT):
        wrong.append(f"UPLOADS_DIR: must not hold {PROJECT}, whose .env may hold keys")
    return wrong


def misspelt(names: Iterable[str]) -> list[str]:
    """Returns a sentence for each name that is nearly one of ours and would be ignored without a word."""
    found = []
    for name in sorted(set(names) - _NAMES - _FOREIGN):
        meant = next((own for own in sorted(_NAMES) if _is_near(name.upper().replace("-", "_"), own)), None)
        if meant is not None:
            found.append(f"{name[:100]}: there is no such setting, do you mean {meant}?")
    return found


def _is_near(name: str, own: str) -> bool:
    """Whether one edit turns `name` into `own`, two in a long name. A long name may also lack the end of its
    last word."""
    if len(name) >= 8 and own.startswith(name) and name != own and name.count("_") == own.count("_"):
        return name[-1] != "_"
    return _is_within(2 if len(own) >= _LONG_NAME else 1, name, own)


def _is_within(edits: int, name: str, own: str) -> bool:
    """Whether at most so many edits turn `name` into `own`. An edit adds, drops or changes a letter, or swaps
    two neighbours."""
    if name == own or edits == 0:
        return name == own
    while name[:1] == own[:1]:
        name, own = name[1:], own[1:]
    tries = [(name[1:], own[1:]), (name[1:], own), (name, own[1:])]
    if name[:2] == own[1::-1]:
        tries.append((name[2:], own[2:]))
    return any(_is_within(edits - 1, *left) for left in tries)


def variables() -> dict[str, str | None]:
    """Returns all of `.env` and of the environment, which wins: `keys` of a mirror are looked up there."""
    return {**_read_env_file(_ENV_FILE)[0], **os.environ}


def load(environ: Mapping[str, str] | None = None, env_file: str | None = None) -> Settings:
    """Reads `.env` and the environment. Raises UsageError that names every wrong value."""
    environ = os.environ if environ is None else environ
    file_values, unread = _read_env_file(_ENV_FILE if env_file is None else env_file)
    values: dict[str, Any] = {}
    wrong = [f".env: {sentence}" for sentence in unread]
    for name, default, parse, _ in TABLE:
        text = environ.get(name, file_values.get(name))
        if text is None or (not text.strip() and default):
            text = default
        try:
            values[name.lower()] = parse(text.strip())
        except ValueError as error:
            # Keys and tokens are not shown: messages carry no secret.
            shown = "" if name.endswith(("KEY", "TOKEN")) else f"={text!r}"
            wrong.append(f"{name}{shown}: {error}")
    for name, text in _embedded_keys(values, environ).items():
        if name in _KEYS:
            values[name.lower()] = text or None
    if bool(values.get("minio_access_key")) != bool(values.get("minio_secret_key")):
        wrong.append("MINIO_ACCESS_KEY and MINIO_SECRET_KEY: set both, or none")
    tls = [values.get(f"cluster_tls_{part}") for part in ("ca", "cert", "key")]
    if str(values.get("cluster", "")).startswith("tls://") and not all(tls):
        wrong.append("CLUSTER: tls:// needs CLUSTER_TLS_CA, CLUSTER_TLS_CERT and CLUSTER_TLS_KEY")
    wrong += [f".env: {sentence}" for sentence in misspelt(file_values)]
    wrong += _overlaps(values)
    if wrong:
        raise UsageError("WrongSetting", "wrong settings: " + "; ".join(wrong))
    return Settings(**values)
