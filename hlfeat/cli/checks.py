"""Checks of a command's arguments before a long computation. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hlfeat.errors import UsageError


def refuse(options: Mapping[str, object], wording: str) -> None:
    """Raises UsageError for the first of these options that has a value; `wording` says where it belongs."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option}: {wording}")


def local_folder(text: str, option: str = "") -> Path:
    """A folder of this machine. Raises UsageError for a URL."""
    from hlfeat.remote.urls import is_url, shown_url

    if is_url(text):
        raise UsageError(
            f"{option and option + ' '}{shown_url(text)}: expected a folder on this machine; copy it first"
        )
    return Path(text)


def local_file(text: str | Path) -> Path:
    """The path of a file of this machine, as options have it. Raises UsageError for a URL."""
    from hlfeat.remote.urls import is_url, shown_url

    if is_url(str(text)):  # before it is a path, which has one of two slashes
        raise UsageError(f"{shown_url(str(text))}: expected a file on this machine")
    return Path(text)


def need_writable(option: str, path: Path) -> None:
    """Raises UsageError if no file of that name can be written."""
    from tempfile import TemporaryFile

    if path.is_dir():
        raise UsageError(f"{option} {path}: expected a file, found a folder")
    try:
        TemporaryFile(dir=path.parent).close()
    except OSError as e:
        raise UsageError(f"{option} {path}: cannot be written: {path.parent}: {e.strerror}") from e


def refuse_own_file(option: str, path: Path) -> None:
    """Raises UsageError for a file that a run writes, or has written, into a folder of features or pitch tracks."""
    from hlfeat.storage.layout import TRACK_SUFFIX, Layout

    for target in (path, path.resolve()):
        own = Layout.parse(target.name) is not None or target.name.endswith(TRACK_SUFFIX)
        if own and Layout(target.parent).description.exists():
            raise UsageError(f"{option} {path}: expected another name, as the folder's own files have such names")


def need_matplotlib() -> None:
    """Raises UsageError if matplotlib is not installed."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'hlfeat[plot]'")
