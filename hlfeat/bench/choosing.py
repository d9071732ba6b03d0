"""Settings of a bench, chosen by a part of their name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from hlfeat.errors import UsageError


class Named(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def chosen(settings: Sequence[N], only: Sequence[str]) -> list[N]:
    """The settings whose names contain one of these words; all settings if there is no word.

    Raises UsageError for a word that no name contains.
    """
    for word in only:
        if not any(word.lower() in s.name.lower() for s in settings):
            raise UsageError(f"only {word}: expected (a part of) {', '.join(s.name for s in settings)}")
    return [s for s in settings if not only or any(w.lower() in s.name.lower() for w in only)]
