"""Short functions for JSON Schema (2020-12, as in OpenAPI 3.1), for the tables of parameters and answers."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

ID_PATTERN = "^[0-9]{8}T[0-9]{6}-[0-9a-f]{8}$"


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def integer(description: str, **more: Any) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description, **more}


def number(description: str, **more: Any) -> Schema:
    return {"type": "number", "minimum": 0, "description": description, **more}


def flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def anything(description: str) -> Schema:
    return {"type": "object", "description": description}


def nullable(schema: Schema) -> Schema:
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **values, "type": [schema["type"], "null"]}


def time(description: str) -> Schema:
    return text(f"{description}; UTC, RFC 3339 with milliseconds", format="date-time")


def record(description: str, properties: dict[str, Schema], *optional: str) -> Schema:
    """An object that has all of these, but `optional` ones not always."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "description": description, "properties": properties, "required": required}


def nullable_record(description: str, properties: dict[str, Schema]) -> Schema:
    return nullable(record(description, properties))


def rows(description: str, schema: Schema, **more: Any) -> Schema:
    return {"type": "array", "description": description, "items": schema, **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def counts(description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": {"type": "number", "minimum": 0},
    }
