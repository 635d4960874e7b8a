"""The settings: one table of names, defaults, meanings and checks. The environment wins over `.env`.

Every wrong value is reported, all at once, before anything starts. Relative folders are relative to the
project's folder, so that server and shell mean the same place wherever they are called from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from syncworker import setting_values as value
from syncworker.errors import UsageError
from syncworker.paths import PROJECT

_KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
_LONG_NAME = 12  # letters, of which two may be wrong
_FOREIGN = frozenset({"APP_PORT", "API_BIND", "AWS_REGIONS"})  # near ours, and used by others or by Compose
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Setting(NamedTuple):
    name: str
    default: str
    parse: Callable[[str], Any]
    meaning: str


TABLE = (
    Setting("API_HOST", "127.0.0.1", value.text, "address the server listens on"),
    Setting("API_PORT", "5000", value.integer(1, 65535), "port the server listens on"),
    Setting(
        "API_TOKEN", "", value.optional, "token that requests must carry; `auto` makes one at the first start"
    ),
    Setting("API_ALLOW_UNAUTHENTICATED", "0", value.flag, "1: listen beyond loopback without a token"),
    Setting(
        "ALLOWED_HOSTS",
        ",".join(LOOPBACK_NAMES),
        value.words,
        "values of the Host header that are served, beside loopback's names",
    ),
    Setting(
        "API_BASE_PATH", "/", value.base_path, "path below which a proxy in front shows the pages and routes"
    ),
    Setting(
        "TRUSTED_PROXIES",
        "",
        value.networks,
        "addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed",
    ),
    Setting(
        "ALLOWED_STORAGE_URLS", "", value.words, "prefixes that `storage_url` must start with; empty: any"
    ),
    Setting("UPLOADS_DIR", "app/uploads", value.folder, "the uploads root: folders to sync are below it"),
    Setting("JOBS_DIR", "jobs", value.folder, "job files: a local disk, not a network or shared folder"),
    Setting("STORAGE_URL", "", value.url, "the S3 endpoint; unset: an embedded S3 server is started"),
    Setting(
        "STORAGE_PATIENCE",
        "900",
        value.integer(0, 86_400),
        "seconds that a job waits while a storage that had answered is away; 0: fails after its tries",
    ),
    Setting("STORAGE_DIR", "app/storage", value.folder, "where the embedded S3 server keeps its data"),
    Setting("MINIO_PORT", "9000", value.integer(1, 65535), "port of the embedded S3 server"),
    Setting(
        "MINIO_ACCESS_KEY", "", value.optional, "access key of the storage; unset: boto3's credential chain"
    ),
    Setting("MINIO_SECRET_KEY", "", value.optional, "secret key of the storage"),
    Setting("AWS_REGION", "us-east-1", value.text, "region that requests are signed for"),
    Setting(
        "STORAGE_TIMEOUT",
        "",
        value.optional_seconds(0.1, 86_400),
        "seconds of silence allowed for any request; unset: 120 listing, 600 completing an upload, 60 others",
    ),
    Setting(
        "STORAGE_ADDRESSING",
        "auto",
        value.one_of("auto", "path", "virtual"),
        "where the bucket stands: path; virtual, in the host; auto knows, or turns when asked",
    ),
    Setting(
        "MAX_RUNNING_JOBS", str(max(2, os.cpu_count() or 1)), value.integer(1, 1000), "workers at one time"
    ),
    Setting("MAX_QUEUED_JOBS", "1000", value.integer(1, 1_000_000), "jobs that may wait"),
    Setting("KEEP_JOBS", "1000", value.integer(1, 1_000_000), "finished jobs whose files are kept"),
    Setting(
        "AUTO_RESUME", "1", value.flag, "1: a starting server resumes what its own or the machine's end cut"
    ),
    Setting(
        "BUCKET_DELETE", "allow", value.one_of("allow", "refuse"), "refuse: an empty folder fails the job"
    ),
    Setting("MIRRORS_FILE", "mirrors.toml", value.file, "the file that names mirrors, beside `.env`"),
    Setting(
        "MAX_DELETE",
        "",
        value.most_deletions,
        "how many objects a job may delete unasked: a count, or 10% of those listed; empty: no limit",
    ),
    Setting(
        "BANDWIDTH",
        "",
        value.rate,
        "bytes a second of all running jobs together (512K, 1.5M); unset or 0: no limit",
    ),
    Setting(
        "CLUSTER",
        "",
        value.cluster,
        "who else sends files: `local:N` processes here, the scheduler at `tls://HOST:PORT`; empty: nobody",
    ),
    Setting(
        "CLUSTER_TLS_CA", "", value.optional, "file of the cluster's authority (`cluster keys` makes one)"
    ),
    Setting("CLUSTER_TLS_CERT", "", value.optional, "file of the certificate that this machine shows there"),
    Setting(
        "CLUSTER_TLS_KEY", "", value.optional, "file of that certificate's key, readable by its owner alone"
    ),
    Setting(
        "CLUSTER_MIN_FILES",
        "10000",
        value.integer(0, 1_000_000_000),
        "files to be sent before the cluster is opened for a job, or 1 GiB of them; 0: all wait for it",
    ),
    Setting(
        "CLUSTER_ALONE", "1", value.flag, "0: a job fails when the cluster is gone, and does not go on alone"
    ),
    Setting(
        "CLUSTER_PATIENCE", "60", value.integer(1, 86_400), "seconds without any member that it waits before"
    ),
    Setting(
        "CLUSTER_KEYS",
        "send",
        value.one_of("send", "own"),
        "own: members use the keys of their own settings; send: those of the job's process",
    ),
    Setting("FAIL_ON_SKIPPED", "0", value.flag, "1: a job that skipped files fails, when all else is done"),
)


class Settings(NamedTuple):
    """One field for each row of TABLE, in lower case."""

    api_host: str
    api_port: int
    api_token: str | None
    api_allow_unauthenticated: bool
    allowed_hosts: tuple[str, ...]
    api_base_path: str  # with a slash at both ends
    trusted_proxies: tuple[Any, ...]  # networks
    allowed_storage_urls: tuple[str, ...]
    uploads_dir: str
    jobs_dir: str
    storage_url: str | None
    storage_patience: int
    storage_dir: str
    minio_port: int
    minio_access_key: str | None
    minio_secret_key: str | None
    aws_region: str
    storage_timeout: float | None
    storage_addressing: str
    max_running_jobs: int
    max_queued_jobs: int
    keep_jobs: int
    auto_resume: bool
    bucket_delete: str
    mirrors_file: str
    max_delete: int | str
    bandwidth: int
    cluster: str  # "", "local:N" or "tls://host:port"
    cluster_tls_ca: str | None
    cluster_tls_cert: str | None
    cluster_tls_key: str | None
    cluster_min_files: int
    cluster_alone: bool
    cluster_patience: int
    cluster_keys: str
    fail_on_skipped: bool

    @property
    def default_storage_url(self) -> str:
        """The configured storage, the embedded one when none is."""
        return self.storage_url or f"http://127.0.0.1:{self.minio_port}"

    def is_own(self, url: str) -> bool:
        """Whether a storage's URL is the configured one, however it is spelled: the server's own keys may go
        there, and nowhere else."""
        from syncworker.storage_url import canonical_url

        own = self.default_storage_url
        return url == own or canonical_url(url) == canonical_url(own)


def _read_env_file(path: str) -> dict[str, str | None]:
    return _parse_env_file(path)[0]


def _parse_env_file(path: str) -> tuple[dict[str, str | None], list[str]]:
    """The values, and a sentence for each line that says nothing, `BUCKET_DELETE: refuse` for example. Such
    a line is not shown: it may hold a key."""
    from dotenv.parser import parse_stream  # only where there is such a file: a worker's start is short

    values: dict[str, str | None] = {}
    wrong = []
    try:
        with open(path, encoding="utf-8") as file:
            for line in parse_stream(file):
                if line.key is not None:
                    values[line.key] = line.value
                ours = line.value is None and line.key in {setting.name for setting in TABLE}
                if line.error or ours:
                    wrong.append(f"line {line.original.line} cannot be read: write it as NAME=value")
    except UnicodeDecodeError:
        raise UsageError("BadEnvFile", f"the file {path} is not valid UTF-8") from None
    return values, wrong


def embedded_keys_file(storage_dir: str) -> str:
    """Where the keys that were made for the embedded storage are, in the form of `.env`."""
    return os.path.join(storage_dir, "keys.env")


def _embedded_keys(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str | None]:
    """The keys that were made for the embedded storage, where it is used and none are set."""
    set_here = any(values.get(name.lower()) or name in environ for name in _KEYS)
    if values.get("storage_url") or set_here or "storage_dir" not in values:
        return {}
    path = embedded_keys_file(values["storage_dir"])
    return _read_env_file(path) if os.path.exists(path) else {}


def origin_of_keys(config: Settings, environ: Mapping[str, str] | None = None) -> str:
    """Which setting the server's own keys come from, in words."""
    environ = os.environ if environ is None else environ
    path = os.path.join(PROJECT, ".env")
    if environ.get(_KEYS[0]):
        where = "of the environment"
    elif os.path.exists(path) and _read_env_file(path).get(_KEYS[0]):
        where = "of the file .env"
    else:
        return "those made for the embedded storage, in keys.env of STORAGE_DIR"
    with_token = "; AWS_SESSION_TOKEN is not theirs, and not sent" if environ.get("AWS_SESSION_TOKEN") else ""
    return f"{' and '.join(_KEYS)} {where}{with_token}"


def _overlaps(values: Mapping[str, Any]) -> list[str]:
    """Our own files must not be part of what is synced: they change all the time, and some hold keys."""
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
    """A sentence for each name that is nearly one of ours, and would be ignored in silence."""
    ours = {setting.name for setting in TABLE}
    found = []
    for name in sorted(set(names) - ours - _FOREIGN):
        meant = next((own for own in sorted(ours) if _is_near(name.upper().replace("-", "_"), own)), None)
        if meant is not None:
            found.append(f"{name[:100]}: there is no such setting, do you mean {meant}?")
    return found


def _is_near(name: str, own: str) -> bool:
    """Whether one letter is missing, too many or another, or two neighbours are swapped; in a long name two
    letters may be, and its last word may be cut short."""
    if name == own:
        return True
    if len(name) >= 8 and own.startswith(name) and name.count("_") == own.count("_"):
        return name[-1] != "_"
    if abs(len(name) - len(own)) > 2:
        return False
    rows: list[list[int]] = [list(range(len(own) + 1))]
    for i, letter in enumerate(name, 1):
        row = [i]
        for j, wanted in enumerate(own, 1):
            best = min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == own[j - 2] and name[i - 2] == wanted:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1] <= (2 if len(own) >= _LONG_NAME else 1)


def variables(environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """All of `.env` and the environment, which wins: where `keys` of a mirror are looked up."""
    path = os.path.join(PROJECT, ".env")
    return {
        **(_read_env_file(path) if os.path.exists(path) else {}),
        **(os.environ if environ is None else environ),
    }


def load(environ: Mapping[str, str] | None = None, env_file: str | None = None) -> Settings:
    """Reads `.env` and the environment. Raises UsageError that names every wrong value."""
    environ = os.environ if environ is None else environ
    path = os.path.join(PROJECT, ".env") if env_file is None else env_file
    file_values, unread = _parse_env_file(path) if os.path.exists(path) else ({}, [])
    values: dict[str, Any] = {}
    wrong = [f".env: {sentence}" for sentence in unread]
    for setting in TABLE:
        text = environ.get(setting.name)
        if text is None:
            text = file_values.get(setting.name)
        if text is None or (not text.strip() and setting.default):
            text = setting.default
        try:
            values[setting.name.lower()] = setting.parse(text.strip())
        except ValueError as error:
            # The value itself is not shown for keys and tokens: messages carry no secret.
            shown = "" if setting.name.endswith(("KEY", "TOKEN")) else f"={text!r}"
            wrong.append(f"{setting.name}{shown}: {error}")
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
