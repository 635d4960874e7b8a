"""Decides what an error answer of a store means: retry, fail only this key, or end the job.

Only `classify` decides this. Sources: Amazon S3 API Reference, "Error responses"; the codes that MinIO, Ceph
and Swift add.
"""

from __future__ import annotations

from time import time

from syncworker.errors import FatalError, FileError, RetryError, SyncError

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
# The storage received other bytes than were sent.
DAMAGED = frozenset(
    {"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
     "XAmzContentChecksumMismatch"}
)  # fmt: skip
_RETRY = EXPIRED | DAMAGED | frozenset(
    {"InternalError", "InternalFailure", "ServiceUnavailable", "RequestTimeout", "OperationAborted",
     "XMinioServerNotInitialized"}
)  # fmt: skip
_THROTTLED = frozenset(
    {"SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestLimitExceeded",
     "TooManyRequests", "BandwidthLimitExceeded", "RequestThrottled"}
)  # fmt: skip
_FULL = "the storage is full, or its quota is used up: free space or raise the quota, and resume the job"
_FATAL = {
    "InvalidAccessKeyId": "the storage does not know the access key: check access_key",
    "SignatureDoesNotMatch": "the storage refuses the signature: check secret_key (and that no proxy changes"
    " requests)",
    "AuthorizationHeaderMalformed": "the storage refuses the signature: check AWS_REGION",
    "InvalidToken": "the storage refuses the session token: renew the credentials",
    "AccountProblem": "the storage says there is a problem with the account",
    "AllAccessDisabled": "the storage has disabled all access",
    "NotSignedUp": "the account is not signed up for this storage",
    "NoSuchBucket": "the bucket is gone: somebody deleted it while the job ran; sync again to create it",
    "InvalidBucketName": "the storage refuses the name of the bucket",
    "BucketAlreadyExists": "the bucket belongs to somebody else: choose another name",
    "TooManyBuckets": "the account has as many buckets as it may have",
    "QuotaExceeded": _FULL,
    "BucketQuotaExceeded": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "InsufficientStorage": _FULL,
    "InsufficientCapacity": _FULL,
    "NotEnoughSpace": _FULL,
    "StorageFull": _FULL,
    "PermanentRedirect": "the bucket is at another endpoint: set storage_url and AWS_REGION to its own",
    "TemporaryRedirect": "the bucket is at another endpoint: set storage_url and AWS_REGION to its own",
    "MovedPermanently": "the storage answers with a redirect, which is never followed: correct storage_url",
}
# The storage accepts the bucket only as part of the host (Alibaba OSS, Tencent COS, Volcengine, Huawei).
WANTS_VIRTUAL = frozenset(
    {
        "SecondLevelDomainForbidden",
        "PathStyleDomainForbidden",
        "InvalidPathAccess",
        "VirtualHostDomainRequired",
    }
)
# The credentials are wrong: the message must name the setting that they come from.
ABOUT_KEYS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AccessDenied", "NotSignedUp"}
)
_CODE_MAX = 100  # characters of a store's code, which goes into the status up to a hundred times
_BUCKET_WIDE = frozenset(
    {"ListObjectsV2", "CreateBucket", "HeadBucket", "DeleteBucket", "ListObjectVersions"}
)


def classify(operation: str, status: int, code: str, message: str, headers: dict[str, str]) -> SyncError:
    """Returns the error for an answer. `code` is the store's, "" if it sent none (HEAD)."""
    code = code[:_CODE_MAX]
    if not code:
        code = {403: "AccessDenied", 404: "NotFound", 301: "MovedPermanently", 307: "MovedPermanently"}.get(
            status, f"Http{status}"
        )
    said = f": {message}" if message else ""
    if _FATAL.get(code) is _FULL:  # for any status: MinIO sends 507, others 503
        return FatalError(code, _FULL)
    if code in _THROTTLED or status == 429 or (status == 503 and code not in _RETRY):
        return RetryError(code, f"the storage asks to slow down{said}", throttled=True)
    if code == "RequestTimeTooSkewed":
        return FatalError(code, _skew(headers))
    if code in _FATAL:
        return FatalError(code, _FATAL[code])
    if status in (301, 302, 303, 307, 308):
        return FatalError(code, _FATAL["MovedPermanently"])
    if code == "NotImplemented" or status == 501:
        return FileError("NotImplemented", f"the storage cannot do {operation}{said}")
    if status == 507:
        return FatalError(code, _FATAL["InsufficientStorage"])
    if code in _RETRY or status >= 500 or status == 408:
        return RetryError(code, f"the storage failed with {status}{said}")
    if code in ("AccessDenied", "AllAccessDisabled") and operation in _BUCKET_WIDE:
        return FatalError(code, f"the storage denies {operation}: the keys need that permission{said}")
    if status == 401:
        return FatalError(code, f"the storage refuses the keys{said}")
    return FileError(code, f"the storage refused {operation} with {status}{said}")


def _skew(headers: dict[str, str]) -> str:
    try:
        from email.utils import parsedate_to_datetime  # importing it slows each start; rarely needed

        minutes = (time() - parsedate_to_datetime(headers["date"]).timestamp()) / 60
        off = f"{abs(minutes):.0f} minutes {'ahead of' if minutes > 0 else 'behind'} the storage's"
    except (KeyError, ValueError):
        off = "too far from the storage's"
    return f"this machine's clock is {off}: correct it (chronyd, systemd-timesyncd) and resume"
