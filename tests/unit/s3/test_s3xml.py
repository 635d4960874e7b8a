"""The XML of S3: what is read is what was asked for, whole, or it is a broken answer; never anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import RetryError
from syncworker.model import ObjectEntry
from syncworker.s3 import xml_documents, xml_listing_fast, xml_messages

NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
PARSERS: list[Callable[[bytes], Any]] = [
    xml_messages.parse_listing,
    xml_messages.parse_versions,
    xml_messages.parse_uploads,
    xml_messages.parse_parts,
    xml_messages.parse_upload_id,
    xml_messages.parse_completed,
    xml_messages.parse_delete_result,
]
ROOTS = {
    xml_messages.parse_listing: "ListBucketResult",
    xml_messages.parse_versions: "ListVersionsResult",
    xml_messages.parse_uploads: "ListMultipartUploadsResult",
    xml_messages.parse_parts: "ListPartsResult",
    xml_messages.parse_upload_id: "InitiateMultipartUploadResult",
    xml_messages.parse_completed: "CompleteMultipartUploadResult",
    xml_messages.parse_delete_result: "DeleteResult",
}
KEYS = st.text(min_size=1, max_size=30).map(
    lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
)


def listing(inner: str, namespace: str = NS) -> bytes:
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{declaration}<ListBucketResult {namespace}>{inner}</ListBucketResult>".encode()


def contents(
    key: str, size: object = 3, etag: str = '"ab"', modified: str = "2026-11-22T13:12:42.000Z"
) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def test_a_page_gives_its_objects_and_where_to_go_on() -> None:
    body = listing(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinuationToken>"
        + contents("a b", 0, "&quot;D41D8CD98F00B204E9800998ECF8427E&quot;")
        + contents("x/y", 7, "")
    )
    page = xml_messages.parse_listing(body)
    assert page.entries == [
        ObjectEntry("a b", 0, "d41d8cd98f00b204e9800998ecf8427e", "2026-11-22T13:12:42.000Z"),
        ObjectEntry("x/y", 7, "", "2026-11-22T13:12:42.000Z"),
    ]
    assert (page.truncated, page.token) == (True, "t+/=")


def test_a_page_without_a_namespace_is_read_as_well() -> None:
    assert xml_messages.parse_listing(listing(contents("k"), "")).entries[0].key == "k"


@pytest.mark.parametrize(
    ("listed", "encoding", "key"),
    [
        ("a+b%2Bc%25", "<EncodingType>url</EncodingType>", "a b+c%"),
        ("caf%C3%A9%0A", "<EncodingType>url</EncodingType>", "caf\u00e9\n"),
        ("%ff", "<EncodingType>url</EncodingType>", "\udcff"),
        ("100%", "<EncodingType>url</EncodingType>", "100%"),
        ("a+b%2Bc%25", "", "a+b%2Bc%25"),
        ("a&#13;&#10;b", "", "a\r\nb"),
    ],
)
def test_a_key_is_decoded_when_the_store_says_that_it_is_encoded(
    listed: str, encoding: str, key: str
) -> None:
    assert xml_messages.parse_listing(listing(encoding + contents(listed))).entries[0].key == key


@given(KEYS)
def test_any_key_comes_back_from_its_url_form(key: str) -> None:
    listed = quote_plus(key, errors="surrogateescape")
    encoded = "<EncodingType>url</EncodingType>"
    assert xml_messages.parse_listing(listing(encoded + contents(listed))).entries[0].key == key
    version = f"<Version><Key>{listed}</Key><VersionId>v</VersionId></Version>"
    body = f"<ListVersionsResult>{encoded}{version}</ListVersionsResult>".encode()
    assert [version[:2] for version in xml_messages.parse_versions(body)[0]] == [(key, "v")]
    upload = f"<Upload><Key>{listed}</Key><UploadId>u</UploadId></Upload>"
    body = f"<ListMultipartUploadsResult>{encoded}{upload}</ListMultipartUploadsResult>".encode()
    assert xml_messages.parse_uploads(body)[0] == [xml_messages.Upload(key, "u")]


@pytest.mark.parametrize(
    ("etag", "clean"),
    [('"ABCdef"', "abcdef"), ('W/"AB-2"', "ab-2"), (" ab ", "ab"), ("", ""), (None, ""), ('""', "")],
)
def test_an_etag_loses_quotes_weak_mark_and_capitals(etag: str | None, clean: str) -> None:
    assert xml_messages.clean_etag(etag) == clean
    assert xml_messages.parse_listing(listing(contents("k", 1, etag or ""))).entries[0].etag == clean


@pytest.mark.parametrize(
    "inner",
    [
        "<Contents><Size>3</Size></Contents>",
        "<Contents><Key/><Size>3</Size></Contents>",
        "<Contents><Key>k</Key></Contents>",
        "<Contents><Key>k</Key><Size/></Contents>",
        "<Contents><Key>k</Key><Size>many</Size></Contents>",
        "<Contents><Key>k</Key><Size>-1</Size></Contents>",
        "<Contents><Key>k</Key><Size>9223372036854775808</Size></Contents>",
        "<Contents><Key>k</Key><Size>" + "9" * 5000 + "</Size></Contents>",
    ],
)
def test_an_object_without_a_key_or_a_size_breaks_the_listing(inner: str) -> None:
    with pytest.raises(RetryError, match="without a key or a size"):
        xml_messages.parse_listing(listing(contents("before") + inner))


def test_a_version_or_an_upload_without_a_key_or_an_id_is_a_broken_answer() -> None:
    for inner in ("<Version><VersionId>v</VersionId></Version>", "<DeleteMarker><Key/></DeleteMarker>"):
        with pytest.raises(RetryError):
            xml_messages.parse_versions(f"<ListVersionsResult>{inner}</ListVersionsResult>".encode())
    for inner in ("<Upload><UploadId>u</UploadId></Upload>", "<Upload><Key>k</Key></Upload>"):
        with pytest.raises(RetryError):
            xml_messages.parse_uploads(
                f"<ListMultipartUploadsResult>{inner}</ListMultipartUploadsResult>".encode()
            )


def test_a_key_outside_of_the_prefix_that_was_asked_for_breaks_the_listing() -> None:
    assert len(xml_messages.parse_listing(listing(contents("a/b")), "a/").entries) == 1
    with pytest.raises(RetryError, match="outside of the prefix"):
        xml_messages.parse_listing(listing(contents("a/b") + contents("b")), "a/")


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<html><body>Sign in</body></html>",
        b"<Error><Code>InternalError</Code></Error>",
        b"{}",
        b"<ListBucketResult><Contents><Key>a</Key>",
        b"<Other/>",
        b'<?xml version="1.0" encoding="big5"?><a/>',
        b'<?xml version="1.0" encoding="idna"?><a/>',
        b'<?xml version="1.0" encoding="rot13"?><a/>',
        b'<?xml version="1.0" encoding="none-such"?><a/>',
    ],
)
def test_another_root_or_no_xml_is_a_broken_answer_and_never_an_empty_one(
    parse: Callable[[bytes], Any], body: bytes
) -> None:
    with pytest.raises(RetryError):
        parse(body)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("before", ["", "<!--" + "x" * 2000 + "-->"])
def test_a_document_type_is_refused(parse: Callable[[bytes], Any], encoding: str, before: str) -> None:
    root = ROOTS[parse]
    text = (
        f'{before}<!DOCTYPE {root} [<!ENTITY a "b">]><{root}><Key>&a;</Key><UploadId>&a;</UploadId></{root}>'
    )
    with pytest.raises(RetryError):
        parse(text.encode(encoding))
    with pytest.raises(RetryError):
        parse(f"{before}<!DOCTYPE {root} SYSTEM 'file:///etc/hostname'><{root}/>".encode(encoding))


def test_white_space_before_the_document_is_no_fault() -> None:
    """A store keeps a slow CompleteMultipartUpload's connection alive with it."""
    root = "CompleteMultipartUploadResult"
    body = f'  \n <?xml version="1.0"?><{root}><ETag>"AB-2"</ETag></{root}>'
    assert xml_messages.parse_completed(body.encode()) == xml_messages.Completed("ab-2")


TAGS = [*ROOTS.values(), "Contents", "Key", "Size", "ETag", "Part", "Version", "Upload"]
FRAGMENTS = st.sampled_from(
    [
        *(f"<{tag}>" for tag in TAGS),
        *(f"</{tag}>" for tag in TAGS),
        *("1", "a%FF+", "&#0;", "&lt;", "<![CDATA[", "]]>", "<!--", "-->", "\ufeff", "<!DOCTYPE a>"),
        "<PartNumber>1</PartNumber>",
        "<EncodingType>url</EncodingType>",
        "<IsTruncated>true</IsTruncated>",
        "<VersionId>v</VersionId>",
        "<UploadId>u</UploadId>",
        '<?xml version="1.0" encoding="gb18030"?>',
    ]
)


@given(st.binary(max_size=200) | st.lists(FRAGMENTS, max_size=14).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_parsed_or_broken_and_nothing_else(body: bytes) -> None:
    for parse in PARSERS:
        try:
            parse(body)
        except RetryError as error:
            assert error.code == "BadAnswer"
    assert len(xml_messages.parse_error(body)) == 3


@given(st.lists(FRAGMENTS, max_size=14).map("".join), st.sampled_from(list(ROOTS)))
def test_any_content_of_the_right_root_is_parsed_or_broken(inner: str, parse: Callable[[bytes], Any]) -> None:
    root = ROOTS[parse]
    try:
        found = parse(f"<{root}>{inner}</{root}>".encode())
    except RetryError:
        return
    if parse is xml_messages.parse_listing:
        assert all(entry.key and entry.size >= 0 for entry in found.entries)


# -- the other answers


def test_versions_and_delete_markers_come_with_the_markers_of_the_next_page() -> None:
    body = f"""<ListVersionsResult {NS}><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
      <NextKeyMarker>b+c</NextKeyMarker><NextVersionIdMarker>v2</NextVersionIdMarker>
      <Version><Key>a+b</Key><VersionId>v1</VersionId></Version>
      <DeleteMarker><Key>b%2Bc</Key><VersionId>v2</VersionId></DeleteMarker>
      <Version><Key>old</Key></Version></ListVersionsResult>""".encode()
    found, following = xml_messages.parse_versions(body)
    assert [version[:2] for version in found] == [("a b", "v1"), ("b+c", "v2"), ("old", "null")]
    assert following == {"key-marker": "b c", "version-id-marker": "v2"}


def test_uploads_come_with_the_markers_of_the_next_page() -> None:
    body = f"""<ListMultipartUploadsResult {NS}>
      <IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>
      <NextUploadIdMarker>u</NextUploadIdMarker><Upload><Key>a%2B</Key><UploadId>1</UploadId></Upload>
      </ListMultipartUploadsResult>""".encode()
    assert xml_messages.parse_uploads(body) == ([("a%2B", "1")], {"key-marker": "k", "upload-id-marker": "u"})
    whole = body.replace(b"true", b"false")
    assert xml_messages.parse_uploads(whole)[1] is None


@pytest.mark.parametrize(
    ("marker", "truncated", "following"),
    [
        ("<NextPartNumberMarker>2</NextPartNumberMarker>", "true", {"part-number-marker": "2"}),
        ("", "true", {"part-number-marker": "7"}),
        ("<NextPartNumberMarker>2</NextPartNumberMarker>", "false", None),
    ],
)
def test_parts_come_with_the_marker_of_the_next_page(
    marker: str, truncated: str, following: dict[str, str] | None
) -> None:
    body = f"""<ListPartsResult {NS}><IsTruncated>{truncated}</IsTruncated>{marker}
      <Part><PartNumber>7</PartNumber><Size>5</Size><ETag>"AB"</ETag></Part></ListPartsResult>""".encode()
    assert xml_messages.parse_parts(body) == ([xml_messages.Part(7, 5, "ab")], following)


def test_the_parts_of_moto_come_under_a_name_of_its_own() -> None:
    body = (
        b"<ListPartsResponse><Part><PartNumber>1</PartNumber><Size>5</Size><ETag>e</ETag></Part>"
        b"</ListPartsResponse>"
    )
    assert xml_messages.parse_parts(body) == ([xml_messages.Part(1, 5, "e")], None)


@pytest.mark.parametrize("name", ["CRC64NVME", "CRC32C"])
def test_parts_come_with_their_checksum(name: str) -> None:
    body = f"""<ListPartsResult><Part><PartNumber>1</PartNumber><Size>5</Size><ETag>e</ETag>
      <Checksum{name}>AA==</Checksum{name}></Part></ListPartsResult>"""
    assert xml_messages.parse_parts(body.encode())[0] == [xml_messages.Part(1, 5, "e", name, "AA==")]


def test_a_part_without_a_number_is_a_broken_answer() -> None:
    with pytest.raises(RetryError, match="without a number"):
        xml_messages.parse_parts(b"<ListPartsResult><Part><Size>5</Size></Part></ListPartsResult>")


def test_an_upload_begins_with_an_id_under_either_name_of_the_answer() -> None:
    for root in ("InitiateMultipartUploadResult", "InitiateMultipartUpload"):
        assert xml_messages.parse_upload_id(f"<{root} {NS}><UploadId>u</UploadId></{root}>".encode()) == "u"
        with pytest.raises(RetryError, match="without an upload id"):
            xml_messages.parse_upload_id(f"<{root} {NS}><UploadId/></{root}>".encode())


def test_each_key_that_was_not_deleted_is_reported_with_its_reason() -> None:
    body = f"""<DeleteResult {NS}><Deleted><Key>fine</Key></Deleted>
      <Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error>
      <Error><Key>b</Key><VersionId>v</VersionId><Code>InternalError</Code></Error></DeleteResult>""".encode()
    assert xml_messages.parse_delete_result(body).errors == [
        ("a", "", "AccessDenied", "no"),
        ("b", "v", "InternalError", ""),
    ]
    assert xml_messages.parse_delete_result(body).named == {"fine", "a", "b"}
    assert xml_messages.parse_delete_result(b"<DeleteResult><Deleted/></DeleteResult>").named == set()


def test_an_error_is_parsed_with_all_its_fields_and_other_bodies_give_none() -> None:
    body = f"<Error {NS}><Code>X</Code><Message> m </Message><Region>eu</Region></Error>".encode()
    assert xml_messages.parse_error(body) == ("X", "m", {"Code": "X", "Message": "m", "Region": "eu"})
    for other in (b"", b"<html/>", b"oops", listing("")):
        assert xml_messages.parse_error(other) == ("", "", {})


# -- what we write


@given(
    st.lists(
        st.tuples(KEYS.filter(xml_documents.can_carry), st.none() | st.text("abc-_.", min_size=1)), max_size=5
    )
)
def test_a_delete_document_names_each_key_exactly(objects: list[tuple[str, str | None]]) -> None:
    root = ElementTree.fromstring(xml_documents.delete_document(objects))
    ns = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    found = [(o.findtext(f"{ns}Key"), o.findtext(f"{ns}VersionId")) for o in root.iterfind(f"{ns}Object")]
    assert found == objects
    assert root.findtext(f"{ns}Quiet") == "false"  # what was deleted is to be named


@pytest.mark.parametrize("said", ["urue", "galse", "1"])
def test_a_page_without_is_truncated_is_broken(said: str) -> None:
    with pytest.raises(RetryError, match="is complete"):
        xml_messages.parse_listing(
            f"<ListBucketResult><IsTruncated>{said}</IsTruncated></ListBucketResult>".encode()
        )


@pytest.mark.parametrize("said", ["<IsTruncated>False</IsTruncated>", ""])
def test_a_page_without_a_word_of_more_is_the_last(said: str) -> None:
    assert not xml_messages.parse_listing(f"<ListBucketResult>{said}</ListBucketResult>".encode()).truncated


def test_no_bit_that_turns_hides_an_object_or_the_rest_of_a_listing() -> None:
    """It may change a key, a size or an ETag: then another is listed, and the count stays."""
    rows = "".join(
        f"<Contents><Key>d/k{n}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{n:032x}"
        f"&quot;</ETag><Size>1{n}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for n in range(3)
    )
    page = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>{rows}"
        "<NextContinuationToken>next</NextContinuationToken></ListBucketResult>"
    ).encode()
    read = 0
    for place in range(8 * len(page)):
        turned = bytearray(page)
        turned[place // 8] ^= 1 << place % 8
        try:
            found = xml_messages.parse_listing(bytes(turned))
        except RetryError:
            continue
        read += 1
        assert (len(found.entries), found.truncated, bool(found.token)) == (3, True, True), bytes(turned)
    assert read > 100, "most turn text into other text"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)))
def test_the_keys_that_an_answer_names_are_read_back(keys: list[str]) -> None:
    rows = "".join(f"<Deleted>\n  <Key>{escape(key)}</Key></Deleted>" for key in keys)
    assert xml_messages.parse_delete_result(f"<DeleteResult>{rows}</DeleteResult>".encode()).named == set(
        keys
    )


@pytest.mark.parametrize("key", ["\x00", "a\x01", "\x0b", "\x1f", "\ufffe", "\uffff", "\udcff", "\ud800"])
def test_a_key_that_xml_cannot_carry_is_known(key: str) -> None:
    assert not xml_documents.can_carry(key)


def test_a_complete_document_names_the_parts_in_order() -> None:
    parts = [xml_documents.PartName(1, "ab"), xml_documents.PartName(2, "cd", "CRC32C", "AAAAAA==")]
    root = ElementTree.fromstring(xml_documents.complete_document(parts))
    ns = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    found = [(p.findtext(f"{ns}PartNumber"), p.findtext(f"{ns}ETag")) for p in root.iterfind(f"{ns}Part")]
    assert found == [("1", '"ab"'), ("2", '"cd"')]
    assert [p.findtext(f"{ns}ChecksumCRC32C") for p in root.iterfind(f"{ns}Part")] == [None, "AAAAAA=="]
    assert b"<LocationConstraint>eu-1</LocationConstraint>" in xml_documents.location_document("eu-1")


ODD = [
    *b"< > & &amp; &#13; ]]> <!-- --> <![CDATA[ <Contents> </Contents> <Contents/> <X> </X> <Key>".split(),
    *b"</Key> <Key/> <Key>k</Key> <Size>1</Size> %41 %zz + - W/ a:b <?x?>".split(),
    *b"<EncodingType>url</EncodingType> </ListBucketResult>".split(),
    *b"<Owner><ID>1</ID></Owner> <P><Contents></Contents></P>".split(),
    *b"<ETag> </ETag> <ETag>&quot; &quot;</ETag> </ETag><ETag> &quot;</ETag><ETag> <ETag></ETag>".split(),
    *(
        b"9" * 19,
        b"",
        b" ",
        b'"',
        b"\n",
        b"\r",
        b"\0",
        b"\x01",
        b"\x0b",
        b"\x1c",
        b"\xc2\xa0",
        b"\xff",
        b"\xc3\xa9",
        b"\xef\xbf\xbe",
        b"<Contents x='1'>",
    ),
]
NAMES = (
    "Z",
    "Z1",
    "_z",
    "1",
    "1z",
    "\N{MICRO SIGN}",
    "z\N{FEMININE ORDINAL INDICATOR}",
    "z:z",
    "\N{CJK UNIFIED IDEOGRAPH-4E00}",
)


def outcome(body: bytes) -> Any:
    try:
        return xml_messages.parse_listing(body)
    except RetryError as error:
        return error.code


QUOTES = ("&quot;", "&#34;", '"', "")


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 12), st.sampled_from(ODD)), max_size=3),
    st.booleans(),
    st.lists(st.sampled_from(QUOTES), min_size=3, max_size=3) | st.sampled_from([[q] * 3 for q in QUOTES]),
)
def test_a_page_that_is_read_the_quick_way_says_what_a_parser_says(
    changes: list[tuple[int, int, bytes]], encoded: bool, quotes: list[str]
) -> None:
    first, second, third = quotes
    body = listing(
        "<IsTruncated>false</IsTruncated>"
        + "<EncodingType>url</EncodingType>" * encoded
        + contents("a%20b", 0, f"{first}D41D8CD98F00B204E9800998ECF8427E{first}")
        + contents("x/y", 7, f"{second}ab-3{second}")
        + contents("z", 8, third + third)
    )
    if len(set(quotes)) == 1:
        assert xml_listing_fast.split(body) is not None
    for place, cut, odd in changes:
        place %= len(body)
        body = body[:place] + odd + body[place + cut :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xml_messages, "FEW_BYTES", 0)
        quick = outcome(body)
        patch.setattr(xml_messages, "split", lambda _: None)
        assert quick == outcome(body)


@pytest.mark.parametrize("name", NAMES)
def test_an_element_that_xml_cannot_name_so_is_refused_the_quick_way_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = contents("k", 1, '"0a"').replace("<Size>", f"<{name}>1</{name}><Size>")
    body = listing("<IsTruncated>false</IsTruncated>" + entry * 2)
    monkeypatch.setattr(xml_messages, "FEW_BYTES", 0)
    quick = outcome(body)
    monkeypatch.setattr(xml_messages, "split", lambda _: None)
    assert quick == outcome(body)


def test_a_page_of_a_few_objects_is_worth_no_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(xml_messages, "split", lambda body: asked.append(len(body)))
    for objects in (10, 1000):
        keys = [f"{number:04}" for number in range(objects)]
        page = xml_messages.parse_listing(listing("".join(contents(key, 1, '"0a"') for key in keys)))
        assert [entry.key for entry in page.entries] == keys
    assert len(asked) == 1
    assert asked[0] > 100_000


def test_what_real_stores_list_is_read_the_quick_way() -> None:
    for owner in ("", "<Owner><ID>1</ID><DisplayName>d</DisplayName></Owner>"):
        entry = contents("k", 1, "&quot;0a&quot;").replace("<StorageClass>", f"{owner}<StorageClass>")
        for blank in ("", "\n", " \t"):
            spaced = entry.replace("><", f">{blank}<").replace(owner.replace("><", f">{blank}<"), owner)
            assert xml_listing_fast.split(listing(spaced * 3)) is not None
