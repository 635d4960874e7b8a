"""Every code of an error in the source, and what is said with it: read from the syntax trees, so that nothing
is missed that a `raise` can write.

A code is the first argument of an error's class, the second of `Reply`, `problem`,
`error_response` and `Unreadable`, and the value of "code" in a dictionary or a `Fault`. Codes that are no
constants are those that a store or the kernel chooses: PASSED_ON has the expressions, and one that is not in
it is an error here.
"""

from __future__ import annotations

import ast
import glob
import os
from collections.abc import Collection, Iterator

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES_AT_LEAST = 80  # of the service: fewer means that they were looked for in the wrong place
SECOND = {"Reply", "problem", "error_response", "Unreadable"}
PASSED_ON = {
    "code",
    "error.code",
    "failure.code",
    "item.code",
    "last.code",
    "planned.code",
    "reply.code",
    "_code(error)",
}
PASSED_ON |= {
    "self.request.error.reason.replace(' ', '')",
    "value.code",
    "reason",
    "what",
}  # HTTP's; a skip's; what was seen
NO_ERRORS = {"openapi.py", "operations.py", "schemas.py", "status_schema.py"}  # they describe


def trees() -> Iterator[tuple[str, ast.Module]]:
    """(file name, syntax tree) of the service's own modules."""
    paths = sorted(glob.glob(os.path.join(PROJECT, "syncworker", "**", "*.py"), recursive=True))
    assert len(paths) >= MODULES_AT_LEAST, f"only {len(paths)} modules were found"
    for path in (
        *(path for path in paths if os.path.basename(path) not in NO_ERRORS),
        os.path.join(PROJECT, "server.py"),
    ):
        with open(path, encoding="utf-8") as file:
            yield os.path.basename(path), ast.parse(file.read())


def error_classes() -> set[str]:
    """SyncError and all that inherits from it."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"SyncError"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def text(node: ast.expr | None) -> str:
    """A message as it is written in the source; what is put in at run time as `…`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp):
        return text(node.left) + text(node.right)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        return "".join(map(str, parts))
    return "…"


def alternatives(node: ast.expr) -> list[str]:
    """The texts of `one if … else another`, without None."""
    if isinstance(node, ast.IfExp):
        return [*alternatives(node.body), *alternatives(node.orelse)]
    return [] if isinstance(node, ast.Constant) and node.value is None else [text(node)]


def returned(module: str, functions: Collection[str]) -> list[str]:
    """The texts that these functions of a module return."""
    return list(
        dict.fromkeys(
            words
            for name, tree in trees()
            if name == module
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name in functions
            for end in ast.walk(function)
            if isinstance(end, ast.Return) and end.value is not None
            for words in alternatives(end.value)
        )
    )


def messages(node: ast.expr, function: ast.AST, tree: ast.Module) -> list[str]:
    """The texts that a message may be: a variable's is what its function gave it last; a helper's what it
    returns; of a message that ends in its function's argument (`f"source {why}"`), those of the calls."""
    if isinstance(node, ast.Name):
        steps = [step for step in (*tree.body, *ast.walk(function)) if isinstance(step, ast.Assign)]
        given = [
            (step.lineno, step.value.elts[-1] if isinstance(step.value, ast.Tuple) else step.value)
            for step in steps
            if ast.unparse(step.targets[0]).split(",")[-1].strip(" )") == node.id
        ]
        before = [found for found in given if found[0] < node.lineno]
        return alternatives(max(before, key=lambda found: found[0])[1]) if before else ["…"]
    if isinstance(node, ast.BoolOp):
        return [words for value in node.values for words in messages(value, function, tree)]
    if isinstance(node, ast.Call):
        helpers = [
            step
            for step in tree.body
            if isinstance(step, ast.FunctionDef) and step.name == ast.unparse(node.func)
        ]
        ends = [end for helper in helpers for end in ast.walk(helper) if isinstance(end, ast.Return)]
        return [text(end.value) for end in ends] or ["…"]
    if isinstance(node, ast.JoinedStr) and isinstance(function, ast.FunctionDef):
        names = [ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)]
        if names and names == [argument.arg for argument in function.args.args]:
            calls = [
                text(call.args[0])
                for call in ast.walk(tree)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == function.name
            ]
            if calls := [words for words in calls if words != "…"]:
                return [text(node).replace("…", words, 1) for words in calls]
    return [text(node)]


def _calls(tree: ast.AST, classes: set[str], inside: ast.AST) -> Iterator[tuple[ast.expr, ast.expr, ast.AST]]:
    """(code, message, its function) of every error that is made, and of every dictionary with a "code"."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _calls(node, classes, node if is_function else inside)
        if isinstance(node, ast.Dict):
            given = {text(key): value for key, value in zip(node.keys, node.values, strict=True)}
            if {"code", "message"} <= set(given):
                yield given["code"], given["message"], inside
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "Fault":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            yield given["code"], given["message"], inside
        elif name in SECOND and len(node.args) > 2:
            yield node.args[1], node.args[2], inside
        elif len(node.args) > 1 and (
            name.rsplit(".", 1)[-1] in classes
            or (name == "super().__init__" and isinstance(node.args[0], ast.Constant))
        ):
            yield node.args[0], node.args[1], inside


def collect() -> dict[str, list[str]]:
    """code -> what is said with it, in the order of the source."""
    classes = error_classes() | {"Question"}  # that a job waits with
    found: dict[str, list[str]] = {}
    for name, tree in trees():
        for code, message, function in _calls(tree, classes, tree):
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                said = found.setdefault(code.value, [])
                said += [words for words in messages(message, function, tree) if words not in said]
            elif (expression := ast.unparse(code)) not in PASSED_ON:
                raise AssertionError(f"{name}:{code.lineno}: {expression} is a code that is not understood")
    return found
