"""Wording of messages: counts, durations, names on one line, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(word: str, names: Sequence[str]) -> str:
    """'; did you mean X?', or '' if no name is similar."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """A value as an error message shows it: on one line, and short."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of too many digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def count(n: int, noun: str) -> str:
    """'1 clip', '2 clips'."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """A duration in a readable unit: '4.1 s', '3.2 min', '1.34 h'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def size(n: int) -> str:
    """Bytes in a readable unit: '640 bytes', '2.44 MB', '1.2 GB'."""
    for unit, of in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= of:
            return f"{n / of:.3g} {unit}" if n < 1000 * of else f"{n / of:.0f} {unit}"
    return f"{n} bytes"


def escape_unprintable(text: str) -> str:
    """The text on one line: unprintable characters, such as newlines in file names, become escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def as_unicode(text: str) -> str:
    """Text that UTF-8 can hold: bytes of file names that are no UTF-8 become escapes such as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()
