"""What the attack tests share: an attack is a function that says whether it got through, and a defence can be
switched off, here and nowhere else: by a patch, or by compiling a function of the product anew with a piece
of its text replaced."""

from __future__ import annotations
import __future__ as future

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from serving import Site

Off = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table in docs/security.md. `attack` is True when it got through; `off` takes the defence
    away; `environ` are the settings of the site."""

    name: str
    attack: Callable[[Site], bool]
    off: Off
    environ: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return self.name


def without(*headers: str) -> Off:
    """The guard's first checks do not see these headers; without `HTTP_HOST` every host is ours."""

    def off(patch: pytest.MonkeyPatch) -> None:
        from syncworker.web import middleware

        real = middleware.refusal_of_origin

        def blind(environ: dict[str, Any], allowed: frozenset[str]) -> Any:
            seen = {name: value for name, value in environ.items() if name not in headers}
            return real({"HTTP_HOST": "localhost", **seen}, allowed)

        patch.setattr(middleware, "refusal_of_origin", blind)

    return off


def replaced(owner: Any, name: str, value: Any) -> Off:
    return lambda patch: patch.setattr(owner, name, value)


def both(*offs: Off) -> Off:
    def off(patch: pytest.MonkeyPatch) -> None:
        for each in offs:
            each(patch)

    return off


def mutated(module: ModuleType, path: str, old: str, new: str) -> Off:
    """A function or a method (`Class.name`) with a piece of its text replaced. The text must be there."""

    def off(patch: pytest.MonkeyPatch) -> None:
        owner: Any = module
        *classes, name = path.split(".")
        for each in classes:
            owner = getattr(owner, each)
        text = textwrap.dedent(inspect.getsource(getattr(owner, name)))
        assert old in text, f"{path} does not hold {old!r} any more: what is its defence now?"
        code = compile(text.replace(old, new), f"<{path} mutated>", "exec", future.annotations.compiler_flag)
        names: dict[str, Any] = {}
        exec(code, module.__dict__, names)
        patch.setattr(owner, name, names[name])

    return off
