"""What an answer of a store means: one row for each kind that is told apart."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from syncworker.errors import FatalError, FileError, RetryError
from syncworker.s3.error_codes import classify

TABLE = [
    # operation, status, code, class, throttled, a word of the message
    ("PutObject", 500, "InternalError", RetryError, False, "500"),
    ("PutObject", 502, "", RetryError, False, "502"),
    ("PutObject", 504, "", RetryError, False, "504"),
    ("PutObject", 408, "", RetryError, False, "408"),
    ("PutObject", 400, "RequestTimeout", RetryError, False, "400"),
    ("PutObject", 400, "BadDigest", RetryError, False, "400"),
    ("PutObject", 400, "ExpiredToken", RetryError, False, "400"),
    ("PutObject", 409, "OperationAborted", RetryError, False, "409"),
    ("PutObject", 503, "SlowDown", RetryError, True, "slow down"),
    ("PutObject", 503, "", RetryError, True, "slow down"),
    ("PutObject", 503, "ServiceUnavailable", RetryError, False, "503"),
    ("PutObject", 429, "", RetryError, True, "slow down"),
    ("PutObject", 400, "RequestLimitExceeded", RetryError, True, "slow down"),
    ("PutObject", 403, "AccessDenied", FileError, None, "PutObject"),
    ("ListObjectsV2", 403, "AccessDenied", FatalError, None, "permission"),
    ("CreateBucket", 403, "AccessDenied", FatalError, None, "permission"),
    ("DeleteBucket", 403, "", FatalError, None, "permission"),
    ("HeadObject", 404, "", FileError, None, "HeadObject"),
    ("PutObject", 404, "NoSuchBucket", FatalError, None, "gone"),
    ("PutObject", 403, "InvalidAccessKeyId", FatalError, None, "access_key"),
    ("PutObject", 403, "SignatureDoesNotMatch", FatalError, None, "secret_key"),
    ("PutObject", 400, "AuthorizationHeaderMalformed", FatalError, None, "AWS_REGION"),
    ("PutObject", 400, "InvalidToken", FatalError, None, "renew"),
    ("PutObject", 401, "Unauthorized", FatalError, None, "keys"),
    ("CreateBucket", 409, "BucketAlreadyExists", FatalError, None, "another name"),
    ("PutObject", 403, "QuotaExceeded", FatalError, None, "full"),
    ("PutObject", 507, "", FatalError, None, "full"),
    ("PutObject", 507, "XMinioStorageFull", FatalError, None, "full"),
    ("PutObject", 301, "PermanentRedirect", FatalError, None, "another endpoint"),
    ("PutObject", 301, "", FatalError, None, "redirect"),
    ("PutObject", 302, "", FatalError, None, "redirect"),
    ("PutObject", 308, "Odd", FatalError, None, "redirect"),
    ("PutObject", 501, "", FileError, None, "cannot do"),
    ("DeleteObjects", 400, "NotImplemented", FileError, None, "cannot do"),
    ("PutObject", 400, "KeyTooLongError", FileError, None, "400"),
    ("PutObject", 400, "EntityTooLarge", FileError, None, "400"),
    ("PutObject", 412, "PreconditionFailed", FileError, None, "412"),
    ("DeleteBucket", 409, "BucketNotEmpty", FileError, None, "409"),
    ("PutObject", 418, "", FileError, None, "418"),
]


@pytest.mark.parametrize(("operation", "status", "code", "kind", "throttled", "word"), TABLE)
def test_the_table_of_answers(
    operation: str, status: int, code: str, kind: type, throttled: bool | None, word: str
) -> None:
    error = classify(operation, status, code, "", {})
    assert type(error) is kind
    assert word in error.message
    assert error.code
    if isinstance(error, RetryError):
        assert error.throttled is throttled


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NotFound"), (400, "Http400")])
def test_an_answer_without_a_body_has_a_code(status: int, code: str) -> None:
    assert classify("HeadObject", status, "", "", {}).code == code


def test_what_the_store_says_is_passed_on() -> None:
    assert "key is locked" in classify("DeleteObject", 403, "AccessDenied", "key is locked", {}).message


@pytest.mark.parametrize(("off", "words"), [(3600, "60 minutes behind"), (-7200, "120 minutes ahead of")])
def test_a_wrong_clock_is_reported_with_its_difference(off: float, words: str) -> None:
    headers = {"date": formatdate(time.time() + off, usegmt=True)}
    error = classify("PutObject", 403, "RequestTimeTooSkewed", "", headers)
    assert isinstance(error, FatalError)
    assert words in error.message


@pytest.mark.parametrize("date", [{}, {"date": "yesterday"}, {"date": ""}, {"date": "0"}])
def test_a_wrong_clock_is_reported_even_without_the_date_of_the_store(date: dict[str, str]) -> None:
    error = classify("PutObject", 403, "RequestTimeTooSkewed", "", date)
    assert isinstance(error, FatalError)
    assert "clock" in error.message
