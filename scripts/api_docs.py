"""Writes docs/api.md from the OpenAPI document: `make docs`. A test sees that it was done."""

from __future__ import annotations

import os
import sys
from typing import Any

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, PROJECT)

from syncworker.web import openapi, operations, schemas  # noqa: E402 - the project's folder is not a package that is installed

TARGET = os.path.join(PROJECT, "docs", "api.md")
HEAD = "<!-- Written by `make docs` from syncworker/web/operations.py: change that. -->\n\n# The HTTP API\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def kind(schema: dict[str, Any]) -> str:
    """A schema's type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(part) for part in schema["anyOf"]))
    if "const" in schema:
        return "empty" if schema["const"] == "" else f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join("null" if word is None else f"`{word}`" for word in schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if types == ["array"]:
        return f"list of {kind(schema['items'])}"
    if types == ["object"] and "additionalProperties" in schema:
        return f"object of {kind(schema['additionalProperties'])}"
    bounds = [str(schema[word]) for word in ("minimum", "maximum") if word in schema]
    limits = f" {' to '.join(bounds)}" if len(bounds) == 2 else ""
    return " or ".join(types) + limits


def meaning(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        schema = schemas.ALL[schema["$ref"].rsplit("/", 1)[1]]
    return str(schema["description"])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return [*lines, *(f"| {' | '.join(cell(text) for text in row)} |" for row in rows), ""]


def example(path: str, operation: operations.Operation) -> str:
    values = {"source": "photos", "dest": "mybucket", "id": "20261122T131242-9f3a61c2"}
    names = ("source", "dest") if path == "/sync" else operation.required
    given = "&".join(f"{name}={values[name]}" for name in names)
    return f"```sh\ncurl -s 'http://localhost:5000{path}{'?' if given else ''}{given}'\n```\n"


def route(path: str, operation: operations.Operation, item: dict[str, Any]) -> list[str]:
    methods = " ".join(method.upper() for method in item)
    lines = [f"## {path}", "", f"{operation.summary}. {operation.description}", "", f"Methods: {methods}", ""]
    if operation.parameters:
        rows = []
        for name in operation.parameters:
            schema = operation.schema(name)
            needed = "yes" if name in operation.required else ""
            text = schema["description"]
            if schema.get("default"):
                text = f"{text.removesuffix('.')}. Default: `{schema['default']}`."
            rows.append((f"`{name}`", needed, kind(schema), text))
        lines += table(("parameter", "needed", "type", "meaning"), rows)
    answers = [(str(s), d, kind_of_content(c)) for s, (d, c) in operation.answers.items()]
    if operation.conditional:
        answers.append(("304", "Nothing has changed since the answer with the `ETag` in `If-None-Match`", ""))
    answers += [(str(s), d, "[Problem](#problem)") for s, d in sorted(operation.errors.items())]
    lines += table(("status", "meaning", "body"), answers)
    return [*lines, example(path, operation)]


def kind_of_content(content: str) -> str:
    return f"[{content}](#{content.lower()})" if content in schemas.ALL else content


def render() -> str:
    document = openapi.document()
    lines = [HEAD, document["info"]["description"], ""]
    for path, operation in operations.OPERATIONS.items():
        if path.startswith("/static/"):
            continue
        lines += route(path, operation, document["paths"][path])
    lines += ["## /login", "", "Exists only if API_TOKEN is set. " + openapi.LOGIN, ""]
    lines += ["# Errors of every route", ""]
    lines += table(("status", "meaning"), [(str(s), d) for s, d in openapi.SHARED_ERRORS.items()])
    lines += ["# Shapes", ""]
    for name, schema in document["components"]["schemas"].items():
        rows = [
            (f"`{n}`", kind(s), s.get("description", "")) for n, s in schema.get("properties", {}).items()
        ]
        lines += [f"## {name}", "", schema["description"], "", *table(("field", "type", "meaning"), rows)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    with open(TARGET, "w", encoding="utf-8") as file:
        file.write(render())
