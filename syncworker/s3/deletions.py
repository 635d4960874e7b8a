"""DeleteObjects: deletes many objects in one request, and checks the result if the answer does not prove
it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from syncworker.errors import FileError, RetryError, SyncError
from syncworker.s3 import error_codes, xml_documents, xml_messages
from syncworker.s3.bucket import MISSING, Bucket
from syncworker.s3.client import CUT
from syncworker.s3.request import S3Request
from syncworker.s3.sums import encode
from syncworker.system.control import settling
from syncworker.system.gather import side_by_side
from syncworker.wire.connection import Response

ObjectVersion = tuple[str, str | None]  # key, version id

DELETE_BATCH = 1000  # Amazon S3 API Reference, DeleteObjects


async def delete_many(bucket: Bucket, keys: Sequence[str]) -> dict[str, SyncError]:
    """Sends one DeleteObjects for up to 1,000 keys. Returns the keys that still exist, with their errors: a
    RetryError if a separate request may succeed.

    Few stores check the body of this request, so over plain http a flipped bit may delete another object.
    There, an answer that is lost or does not name every key proves nothing, and the request is not repeated,
    because that would hide what the first one has done. So we check afterwards which objects still exist. A
    batch has at least two objects; otherwise a corrupted request and an ignored one look alike.
    """
    try:
        response, result = await _delete_objects(bucket, [(key, None) for key in keys])
    except RetryError as error:
        if bucket.uses_tls or error.code not in CUT or bucket.client.stop.requested():
            raise
        with settling():
            return await _verify_deletions(bucket, keys, set())
    failures = {key: error for key, _, error in _refused(bucket, response, result)}
    others = result.named.difference(keys)
    bucket.delete_result_lists_keys = result.named.issuperset(keys)
    if others or not (bucket.uses_tls or bucket.delete_result_lists_keys):
        with settling():
            failures |= await _verify_deletions(bucket, keys, result.named)
    return failures


async def delete_listed(bucket: Bucket, objects: Sequence[ObjectVersion]) -> dict[ObjectVersion, SyncError]:
    """Sends one DeleteObjects for up to 1,000 objects of a bucket that is being emptied. Returns those that
    the store refuses to delete. The next listing, not this answer, shows whether the others are gone."""
    response, result = await _delete_objects(bucket, objects)
    asked = {(key, version or ""): (key, version) for key, version in objects}
    refused = _refused(bucket, response, result)
    return {asked.get((key, v)) or asked.get((key, "")) or (key, None): error for key, v, error in refused}


async def _delete_objects(
    bucket: Bucket, objects: Sequence[ObjectVersion]
) -> tuple[Response, xml_messages.DeleteResult]:
    body = xml_documents.delete_document([(bucket.key_prefix + key, version) for key, version in objects])
    digest = encode(hashlib.md5(body, usedforsecurity=False).digest())
    headers = {"content-md5": digest, "content-type": "application/xml"}
    request = S3Request("DeleteObjects", "POST", None, {"delete": ""}, headers, body)
    response = await bucket.client.call(request)
    return response, _below(bucket, xml_messages.parse_delete_result(response.body))


def _refused(
    bucket: Bucket, response: Response, result: xml_messages.DeleteResult
) -> Iterator[tuple[str, str, SyncError]]:
    """Yields the key, version id ("" for none) and error of each refused deletion in the answer."""
    for key, version, code, said in result.errors:
        if code not in MISSING:
            message = bucket.client.without_keys(said)
            yield key, version, error_codes.classify("DeleteObjects", 400, code, message, response.headers)


def _below(bucket: Bucket, result: xml_messages.DeleteResult) -> xml_messages.DeleteResult:
    """Removes the prefix from the keys. Puts a NUL before keys without it, which were not requested."""

    def below(key: str) -> str:
        return key.removeprefix(bucket.key_prefix) if key.startswith(bucket.key_prefix) else f"\0{key}"

    if not bucket.key_prefix:
        return result
    errors = [(below(key), *rest) for key, *rest in result.errors]
    return xml_messages.DeleteResult(errors, set(map(below, result.named)))  # type: ignore[arg-type]


async def _verify_deletions(bucket: Bucket, keys: Sequence[str], named: set[str]) -> dict[str, SyncError]:
    """Checks which objects still exist after a deletion whose answer does not name exactly these keys.
    Returns them with their errors."""
    others = named.difference(keys)
    there: set[str] = set()
    unsure: list[FileError] = []

    async def head_one(key: str) -> None:
        try:
            if await bucket.head(key) is None:
                return
        except FileError as error:  # HEAD is not allowed: nothing can be proved
            unsure.append(error)
        there.add(key)

    await side_by_side(head_one, [key for key in keys if key not in named])
    still = [key for key in keys if key in there]
    if not still:  # the answer may have spelled the keys differently
        return {}
    if len(still) == len(keys) > 1 and not others and not unsure:
        return dict.fromkeys(still, RetryError("NotDeleted", "the storage has deleted nothing"))
    instead = f"{', '.join(sorted(others)[:3])!r}, perhaps" if others else "perhaps"
    error = FileError(
        "DeletedOther",
        f"the storage has deleted another object instead, {instead}: the request may have been corrupted in"
        " transit; use https, and resume the job to send again what is missing",
    )
    return dict.fromkeys(still, error)
