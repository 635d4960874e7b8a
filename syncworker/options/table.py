"""The options of a sync: one table of name, parser, flag and JSON Schema, for HTTP, shell, OpenAPI and docs.

`parse` checks the values and keeps them as given (numbers as numbers). It leaves out options that were not
given or are empty. A new option is a row here and the code that acts on it. Reads no clock, file or socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from syncworker.errors import UsageError
from syncworker.options.effective import DEEP
from syncworker.options.object_headers import ACLS, ENCRYPTIONS, parse_rules, parse_tags
from syncworker.system.rates import RATE, RATE_MAX, parse_rate

WAIT_MAX_SECONDS = 3600.0
PREFIX_MAX_BYTES = 900
_WAIT = r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE]-?[0-9]+)?"
_MAX_DELETE = r"[0-9]{1,15}|(100(\.0{1,6})?|0?[0-9]{1,2}(\.[0-9]{1,6})?)%|none"


class Option(NamedTuple):
    """`parse` takes the name and the text of a query or a flag; it may raise UsageError. `bare` is the value
    of a flag without a value; None: it needs one. `schema` describes what JSON may carry. `is_list`: the
    option may be given several times; its text has one value a line."""

    name: str
    parse: Callable[[str, str], Any]
    schema: Mapping[str, Any]
    bare: str | None = None
    is_list: bool = False

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """Returns the flag's help for argparse: the description of the schema, and its words."""
        words = ", ".join(filter(None, self.schema.get("enum", ())))
        text = self.schema["description"] + (f": {words}" if words else "")
        text = text.replace("%", "%%").replace("`", "")
        return f"{text}; may be repeated" if self.is_list else text


def parse_wait(name: str, text: str) -> float:
    """Seconds between two operations: 0 to 3600, decimals allowed."""
    wait = float(text) if re.fullmatch(_WAIT, text) else -1
    if not 0 <= wait <= WAIT_MAX_SECONDS:
        raise UsageError("BadWait", "wait must be a number of seconds from 0 to 3600", param=name)
    return wait


def _matching(pattern: str, what: str, convert: Callable[[str], Any] = str) -> Callable[[str, str], Any]:
    """Returns a parser of texts that match the pattern; `what` completes the message."""

    def parse(name: str, text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise UsageError("BadOption", f"{name} must be {what}", param=name)
        return convert(text)

    return parse


def _number_or_word(text: str) -> int | str:
    return int(text) if text.isdigit() else text


zero_or_one = _matching("[01]", "0 or 1", int)
parse_max_delete = _matching(_MAX_DELETE, "a count, a percentage (10%) or none", _number_or_word)


def _patterns(name: str, text: str) -> list[str]:
    from syncworker.options import patterns  # RE2 is for those who ask for it

    lines = text.split("\n")
    try:
        patterns.check(lines, may_negate=name == "exclude")
    except patterns.Malformed as error:
        raise UsageError("BadPattern", f"{name}: {error}", param=name) from None
    return lines


def _tags(name: str, text: str) -> str:
    try:
        parse_tags(text)
    except ValueError as error:
        raise UsageError("BadOption", f"{name}: {error}", param=name) from None
    return text


def _rules(name: str, text: str) -> list[str]:
    lines = text.split("\n")
    try:
        parse_rules(lines)
    except ValueError as error:
        raise UsageError("BadHeader", f"header: {error}", param=name) from None
    return lines


def _rate(name: str, text: str) -> int | str:
    try:
        parse_rate(text)
    except ValueError as error:
        raise UsageError("BadBandwidth", f"bandwidth {error}", param=name) from None
    return _number_or_word(text)


def either(description: str, number: dict[str, Any], pattern: str, **more: Any) -> dict[str, Any]:
    """The schema of a number that a query or a form carries as text; an empty text counts as not given."""
    texts = {"type": "string", "pattern": f"^({pattern})?$"}
    return {"description": description, "anyOf": [number, texts], **more}


def flag_schema(description: str, default: int = 0, *words: str) -> dict[str, Any]:
    texts = {"type": "string", "enum": ["0", "1", *words, ""]}
    kinds = [{"type": "integer", "enum": [0, 1]}, texts]
    return {"description": description, "anyOf": kinds, "default": default}


def _text_schema(description: str, example: str) -> dict[str, Any]:
    return {"type": "string", "description": description, "examples": [example]}


def _flag(name: str, description: str, default: int = 0) -> Option:
    return Option(name, zero_or_one, flag_schema(description, default), bare="1")


def _word(name: str, words: Sequence[str], description: str) -> Option:
    parse = _matching("|".join(words), f"one of {', '.join(words)}")
    return Option(name, parse, {"description": description, "type": "string", "enum": [*words, ""]})


def _lines(name: str, parse: Callable[[str, str], list[str]], description: str, *examples: str) -> Option:
    array = {"type": "array", "items": {"type": "string"}, "maxItems": 1000}
    kinds = [array, {"type": "string"}]
    schema = {"description": description, "anyOf": kinds, "examples": [[*examples]]}
    return Option(name, parse, schema, is_list=True)


def parse_prefix(name: str, text: str) -> str:
    """Returns the key prefix with `/` at its end. Raises UsageError."""

    def refuse(why: str) -> UsageError:
        return UsageError("BadPrefix", f"prefix {why}", param=name)

    prefix = text if text.endswith("/") else f"{text}/"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise refuse("must not hold control characters")
    if prefix.startswith("/") or "//" in prefix:
        raise refuse("must not begin with `/` or hold `//`")
    if {".", ".."} & set(prefix.split("/")):
        raise refuse("must not have `.` or `..` as a component")
    if len(prefix.encode()) > PREFIX_MAX_BYTES:
        raise refuse(f"is longer than {PREFIX_MAX_BYTES} bytes")
    return prefix


TABLE = (
    Option(
        "wait",
        parse_wait,
        either(
            "Seconds to wait between two operations, which then run one at a time; 0: no wait,"
            " full parallel speed",
            {"type": "number", "minimum": 0, "maximum": 3600},
            _WAIT,
            default=0,
        ),
    ),
    Option(
        "prefix",
        parse_prefix,
        _text_schema(
            "A key prefix; `/` is added at its end. The mirror is only the part of the bucket"
            " below it: nothing else in the bucket is listed, changed or deleted, and the"
            " bucket itself is never deleted",
            "backups/vm1/",
        ),
    ),
    _lines(
        "exclude",
        _patterns,
        "Lines of .gitignore, relative to the source. Files that match are not sent, and"
        " objects that match are not deleted; a line that begins with `!` includes files again. An"
        " excluded folder is not read",
        "*.tmp",
        "/cache/",
    ),
    _lines(
        "include",
        _patterns,
        "Lines of .gitignore without `!`. If given, only files and objects that match one of"
        " them, and that `exclude` does not match, belong to the mirror",
        "*.jpg",
        "/albums/",
    ),
    _flag("delete", "0: no object is deleted; new and changed files are sent as usual", 1),
    Option(
        "max_delete",
        parse_max_delete,
        either(
            "How many objects a sync may delete without approval: a count, a percentage of the"
            " listed objects, or `none` for no limit. If it would delete more, it deletes"
            " nothing and is `waiting`; its plan lists the deletions. If not given, MAX_DELETE"
            " applies",
            {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999},
            _MAX_DELETE,
            examples=["10%"],
        ),
    ),
    _flag(
        "plan",
        "1: the job changes nothing at the storage, but writes a plan. It ends `waiting` for"
        " the approval of the plan, or `done` if there is nothing to do",
    ),
    Option(
        "verify",
        _matching(f"[01]|{DEEP}", f"0, 1 or {DEEP}", _number_or_word),
        flag_schema(
            "1: after the last operation, the mirror is listed again, and each object is"
            " compared with its file; `deep`: each object is read back and compared byte by"
            " byte. Nothing is repaired: if there is a difference, the job fails"
            " (`VerifyFailed`)",
            0,
            DEEP,
        ),
        bare="1",
    ),
    Option(
        "storage_class",
        _matching("[A-Z0-9_-]{1,64}", "a class as S3 names them, STANDARD_IA for example"),
        _text_schema("The storage class of every object that is sent", "STANDARD_IA"),
    ),
    _word("acl", ACLS, "The canned ACL of every object that is sent"),
    _word("sse", ENCRYPTIONS, "How the storage encrypts every object that is sent"),
    Option(
        "sse_kms_key_id",
        _matching("[!-~]{1,2048}", "the id of a key, without spaces"),
        _text_schema("The id of the key for `sse=aws:kms` and `sse=aws:kms:dsse`", "alias/backups"),
    ),
    Option(
        "tags",
        _tags,
        _text_schema("The tags of every object that is sent, `a=b&c=d`, at most ten", "team=photo&keep=1"),
    ),
    _lines(
        "header",
        _rules,
        "Lines of `PATTERN NAME: VALUE`. Files that match the gitignore pattern (write a space"
        " in it as `\\ `) get the header. If several lines for one name match, the last one"
        " applies; if its value is empty, the header is not sent. Valid names: Cache-Control,"
        " Content-Disposition, Content-Encoding, Content-Language, Content-Type, Expires and"
        " x-amz-meta-…; all names and values together have at most 2 KB",
        "*.html Cache-Control: no-cache",
    ),
    Option(
        "bandwidth",
        _rate,
        either(
            "Limit of this job, in bytes per second: `500000`, `512K`, `1.5M`, `1G` (K is"
            " 1,024). It counts the bodies that are sent and, with `verify=deep`, read. 0: only"
            " the limit for all jobs applies. It may be changed while the job runs",
            {"type": "integer", "minimum": 0, "maximum": RATE_MAX},
            RATE,
            examples=["1.5M"],
        ),
    ),
    _flag(
        "forget_mounts",
        "1: forget the disks that were mounted at earlier syncs and are not mounted now, so"
        " that the objects of their files may be deleted. This happens once: a resume does not"
        " repeat it",
    ),
)
NAMES = tuple(option.name for option in TABLE)
NUMBERS = frozenset(  # JSON may carry them as numbers
    option.name
    for option in TABLE
    if any(kind.get("type") in ("integer", "number") for kind in option.schema.get("anyOf", ()))
)
LISTS = frozenset(option.name for option in TABLE if option.is_list)


def check_line(name: str, line: str) -> str:
    """Returns a value of a list option. Raises UsageError if it would be more than one line."""
    if "\n" in line or "\0" in line:
        raise UsageError("BadPattern", f"{name}: a line holds a line end or NUL", param=name)
    return line


def of_flags(given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the texts of the options, by name, from the values of their flags. Raises UsageError."""
    texts: dict[str, str] = {name: given[name] for name in NAMES}
    return texts | {name: "\n".join(check_line(name, line) for line in given[name]) for name in LISTS}


def parse(given: Mapping[str, str | None]) -> dict[str, Any]:
    """Returns the options that were asked for, by name. Raises UsageError that names the wrong one."""
    found = {}
    for option in TABLE:
        if text := given.get(option.name):
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):  # in a shell's arguments
                raise UsageError("BadEncoding", f"{option.name} is not valid UTF-8", param=option.name)
            found[option.name] = option.parse(option.name, text)
    if "sse_kms_key_id" in found and not str(found.get("sse", "")).startswith("aws:kms"):
        raise UsageError(
            "BadOption", "sse_kms_key_id needs sse=aws:kms or aws:kms:dsse", param="sse_kms_key_id"
        )
    return found
