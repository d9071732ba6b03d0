"""Paths that may be URLs: what is shown of them, what they are fetched from, and what their errors end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from hlfeat.audio.clip import Clip
from hlfeat.errors import UnreachableError, UsageError
from hlfeat.remote.retries import RemoteError
from hlfeat.remote.systems import need_installed
from hlfeat.remote.urls import is_url, normal_url, other_scheme, scheme_of, shown_url, unknown_scheme
from hlfeat.text import escape_unprintable


def clip_at(id_: str, path: str, **fields: Any) -> Clip:
    """The clip at a path, or at a URL, of which it shows no secrets. One at a URL that cannot be read fails.

    Args:
        fields: others of the clip.
    """
    if "://" not in path:
        return Clip(id_, path, **fields)
    if is_url(path):
        url, shown = normal_url(path), shown_url(normal_url(path))
        return Clip(id_, shown, url=None if shown == url else url, **fields)
    if other_scheme(path) and not os.path.lexists(path):
        fields["fault"] = fields.get("fault") or ("unsupported", unknown_scheme(path))
        path = shown_url(path)
    return Clip(id_, path, **fields)


def need_schemes(clips: Iterable[Clip]) -> None:
    """Raises UsageError where what the clips' URLs are read by is not installed."""
    for scheme in {scheme_of(clip.path) for clip in clips if "://" in clip.path}:
        if scheme is not None:
            need_installed(scheme)


@contextmanager
def asking(path: str, missing: Mapping[str, str] = {}) -> Iterator[None]:
    """Turns what keeps an input of the run from being listed or read into the error that ends the run.

    Args:
        path: as it is shown.
        missing: what to say by the code of the error, in place of its text.

    Raises:
        UsageError: it does not exist, or may not be read.
        UnreachableError: it may be there.
    """
    try:
        yield
    except RemoteError as e:
        end_run(path, e, missing.get(e.code))


def end_run(path: str, error: RemoteError, text: str | None = None) -> NoReturn:
    """Raises UnreachableError or UsageError."""
    message = f"{escape_unprintable(path)}: {escape_unprintable(text or str(error))}"
    if error.code == "unreachable":
        raise UnreachableError(f"{message}; nothing was done: run the same again") from error
    raise UsageError(message) from error
