"""The certificates of a cluster: an authority of its own, and one certificate for each machine or run.

Who has a certificate of the authority can run programs in scheduler and members, as their user. So keys are
readable by their owner alone (0600), and those of a run on this machine are in no file at all: they are in
memory that this process and those that it starts have open (memfd), and gone with them.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import NamedTuple

from syncworker.errors import UsageError
from syncworker.settings import Settings

DAYS = 825
_CA, _CA_KEY = "ca.pem", "ca.key"


class Files(NamedTuple):
    """Paths: of the authority, of a certificate, of its key."""

    ca: str
    cert: str
    key: str


class _Made(NamedTuple):
    cert: bytes
    key: bytes


def _make(name: str, days: int, issuer: _Made | None) -> _Made:
    """A certificate with a key of its own: of an authority (no issuer), or signed by one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True
        )
    )
    signing_key, signer = key, subject
    if issuer is not None:
        loaded = serialization.load_pem_private_key(issuer.key, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signing_key, signer = loaded, x509.load_pem_x509_certificate(issuer.cert).subject
    signed = builder.issuer_name(signer).sign(signing_key, hashes.SHA256())
    return _Made(
        signed.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def write(folder: str, names: list[str], days: int = DAYS) -> list[str]:
    """Makes an authority in the folder, unless it has one, and a certificate with its key for each name.
    Nothing is replaced. Returns what was written."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name in names:
        if not name or name.startswith((".", "-")) or "/" in name or name == "ca":
            raise UsageError("BadParameter", f"{name!r} is not a valid name for a machine's certificate")
    written = []
    ca, ca_key = os.path.join(folder, _CA), os.path.join(folder, _CA_KEY)
    if not os.path.lexists(ca_key):
        authority = _make("s3-sync-api cluster", 3650, None)
        written += [_write(ca_key, authority.key, 0o600), _write(ca, authority.cert, 0o644)]
    else:
        authority = _Made(Path(ca).read_bytes(), Path(ca_key).read_bytes())
    for name in names:
        made = _make(name, days, authority)
        key, cert = os.path.join(folder, f"{name}.key"), os.path.join(folder, f"{name}.pem")
        written += [_write(key, made.key, 0o600), _write(cert, made.cert, 0o644)]
    return written


def _write(path: str, data: bytes, mode: int) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise UsageError("BadParameter", f"{path} exists already: nothing was replaced") from None
    with open(fd, "wb") as file:
        file.write(data)
    return path


def of_settings(settings: Settings) -> Files:
    """UsageError: one is not named, or missing, or others may read the key or replace the authority. Those of
    a run are in no file."""
    named = settings.cluster_tls_ca, settings.cluster_tls_cert, settings.cluster_tls_key
    files = Files(*(os.path.abspath(os.path.expanduser(path or "")) for path in named))
    why = "" if all(named) else "CLUSTER_TLS_CA, CLUSTER_TLS_CERT and CLUSTER_TLS_KEY must name files"
    for path in () if why or files.key.startswith("/proc/self/fd/") else files:
        if not os.path.isfile(path):
            why = f"{path}: no such file: `cluster keys` makes it"
        elif os.stat(path).st_mode & (0o077 if path == files.key else 0o022):
            verb, mode = ("read", 600) if path == files.key else ("written", 644)
            why = f"{path} can be {verb} by other users, who could run programs here with it: chmod {mode} it"
    if why:
        raise UsageError("BadClusterKeys", why)
    return files


class RunKeys:
    """Those of one run on this machine. `fds` are to be handed to the processes that are started."""

    def __init__(self) -> None:
        authority = _make("s3-sync-api run", 30, None)
        made = _make("run", 30, authority)
        self.fds: list[int] = []
        self.files = Files(*(self._hold(data) for data in (authority.cert, made.cert, made.key)))

    def _hold(self, data: bytes) -> str:
        fd = os.memfd_create("cluster")
        self.fds.append(fd)
        os.fchmod(fd, 0o600)
        os.write(fd, data)
        return f"/proc/self/fd/{fd}"

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []
