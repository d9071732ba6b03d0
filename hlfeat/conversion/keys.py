"""Ids as the keys of programs that do not allow all characters, quoted as in a URL."""

from __future__ import annotations

import re


def key_of(text: str, illegal: re.Pattern[str], sign: str = "%") -> str:
    """A name for programs that do not allow all characters: `%` and these become `%20`, as in a URL.

    `urllib.parse.unquote` gives the text again. `sign`: instead of `%`.

    >>> key_of("a b%.wav", re.compile(r"\\s"))
    'a%20b%25.wav'
    """
    legal = (c != sign and not illegal.match(c) and c.isprintable() for c in text)
    return "".join(c if keep else _quoted(c, sign) for c, keep in zip(text, legal, strict=True))


def _quoted(character: str, sign: str) -> str:
    code = ord(character)
    data = character.encode("utf-8", "surrogateescape" if 0xDC80 <= code <= 0xDCFF else "surrogatepass")
    return "".join(f"{sign}{byte:02X}" for byte in data)
