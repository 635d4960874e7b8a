"""Escapes text from outside for JSON, terminals, logs and bash. Each of them allows other characters."""

from __future__ import annotations

import os


def escape_non_utf8(name: str) -> str:
    """Returns a file name with the bytes that are not UTF-8 as backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def escape_surrogates(key: str) -> str:
    """Returns a key for JSON, with the bytes that are not UTF-8 as backslash escapes."""
    return key.encode("utf-8", "backslashreplace").decode() if not key.isascii() else key


def escape_ascii(text: str) -> str:
    """Returns the first 2,000 characters in printable ASCII, for a log."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02x}" for c in text[:2000])


def escape_control(text: object) -> str:
    """Returns text that is safe on a terminal and stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def in_bash(path: str) -> str:
    """Returns a path, of any bytes, as a word for bash: `$'caf\\xe9'`."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in os.fsencode(path)
    )
    return f"$'{''.join(plain)}'"
