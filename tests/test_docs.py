"""What the documents name exists, and what exists is named: errors, files, fields, targets, options."""

from __future__ import annotations

import ast
import errno
import sys

import pytest
from bench import PROJECT

from syncworker import faults, findings

sys.path.insert(0, str(PROJECT / "scripts"))
import error_codes
import error_docs


def page(name: str) -> str:
    return (PROJECT / "docs" / name).read_text()


# -- errors -----------------------------------------------------------------------------------------------


def test_the_page_of_errors_is_made_from_the_source() -> None:
    """`render` fails when a code has no meaning, or a meaning no code."""
    assert page("troubleshooting.md") == error_docs.render(), "run `make docs`"


@pytest.mark.parametrize("change", ["a code without a meaning", "a meaning without a code"])
def test_the_page_of_errors_cannot_leave_one_out(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    *others, (title, intro, meanings) = error_docs.SECTIONS
    changed = dict(list(meanings.items())[1:]) if "without a meaning" in change else meanings | {"New": "…"}
    monkeypatch.setattr(error_docs, "SECTIONS", (*others, (title, intro, changed)))
    with pytest.raises(AssertionError, match="both"):
        error_docs.render()


def test_the_search_for_codes_finds_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
class SyncError(Exception): pass
class Own(SyncError):
    def __init__(self): super().__init__("InAClass", "of a class")
def refuse(why): return UsageError("ByAHelper", f"source {why}")
class UsageError(SyncError): pass
def f():
    raise refuse("is wrong") from None
    raise errors.UsageError("Plain", f"the file {x} is", param="x")
    message = "kept before"
    raise UsageError("InAVariable", message)
    return Refusal(403, "AsAnAnswer", "no")
    error = {"code": "InADictionary", "message": "in it"}
    raise UsageError(error.code, error.message)
"""
    monkeypatch.setattr(error_codes, "trees", lambda: [("x.py", ast.parse(source))])
    assert error_codes.collect() == {
        "InAClass": ["of a class"],
        "ByAHelper": ["source is wrong"],
        "Plain": ["the file … is"],
        "InAVariable": ["kept before"],
        "AsAnAnswer": ["no"],
        "InADictionary": ["in it"],
    }
    chosen = source + "def g(): raise UsageError(chosen_somewhere, 'x')\n"
    monkeypatch.setattr(error_codes, "trees", lambda: [("x.py", ast.parse(chosen))])
    with pytest.raises(AssertionError, match="not understood"):
        error_codes.collect()


def test_every_code_that_a_store_may_send_and_we_know_is_on_the_page() -> None:
    text = page("troubleshooting.md")
    for code in (*faults._RETRY, *faults._THROTTLED, *faults._FATAL, *error_docs.STORE_ADVICE):
        assert f"`{code}`" in text, code
    for number in findings._HINTS:
        assert f"`{errno.errorcode[number]}`" in text
    sources = "".join(path.read_text() for path in (PROJECT / "syncworker").glob("*.py"))
    for code in error_docs.STORE_ADVICE:
        assert f'"{code}"' in sources, code


def test_every_reason_to_skip_a_file_is_on_the_page() -> None:
    named = {
        node.args[1].value
        for _, tree in error_codes.trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("Skip", ".skipped"))
        and isinstance(node.args[1], ast.Constant)
    }
    named |= {*findings._LOST_LINKS.values(), *findings._SPECIAL.values(), "special"}
    assert named == set(error_docs.SKIPS)
