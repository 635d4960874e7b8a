"""Text from outside, made safe for JSON, for a terminal and for a log. Four forms, because each place can
carry other characters."""

from __future__ import annotations

import os


def escape_non_utf8(name: str) -> str:
    """The name itself when it is UTF-8; else with the other bytes as backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def escape_surrogates(key: str) -> str:
    """A key as JSON may carry it: bytes that are no UTF-8 as backslash escapes."""
    return key.encode("utf-8", "backslashreplace").decode() if not key.isascii() else key


def escape_ascii(text: str) -> str:
    """Text from outside, for a terminal: no control character, nothing beyond ASCII."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02x}" for c in text[:2000])


def escape_control(text: object) -> str:
    """Text that is safe on a terminal and stays on its line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def in_bash(path: str) -> str:
    """A path as bash takes it, whatever bytes it has: `$'caf\\xe9'`."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in os.fsencode(path)
    )
    return f"$'{''.join(plain)}'"
