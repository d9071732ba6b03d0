"""One row of a manifest to one clip: its path, id, segment and channel."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from hlfeat.audio.clip import Clip, relative_id
from hlfeat.errors import UsageError
from hlfeat.text import escape_unprintable

PATH_KEYS = ("path", "audio_filepath", "audio_path", "file", "filename", "wav")


def row_error(path: str, line: int, message: str) -> UsageError:
    """An error about one line of a manifest."""
    return UsageError(f"{escape_unprintable(path)}:{line}: {escape_unprintable(message)}")


def clip_of_row(path: str, line: int, row: Mapping[str, object]) -> Clip:
    """One clip from the keys of a row.

    Args:
        path: of the manifest.
        line: number in the manifest, from 1.
        row: the keys and their values; numbers may be strings.

    Raises:
        UsageError: a key is missing or has an impossible value.
    """
    key = next((k for k in PATH_KEYS if k in row), None)
    if key is None:
        keys = ", ".join(map(str, list(row)[:8])) or "nothing"
        raise row_error(path, line, f"expected a path (or audio_filepath), got {keys}")
    file = row[key]
    if not isinstance(file, str) or not relative_id(file):
        raise row_error(path, line, f"expected {key} to be a path, got {file!r}")
    if file.rstrip().endswith("|"):
        raise row_error(path, line, f"expected a file, got a pipe, and commands are never run: {file}")
    start, end = seconds_of(path, line, row, "start"), seconds_of(path, line, row, "end")
    offset, duration = seconds_of(path, line, row, "offset"), seconds_of(path, line, row, "duration")
    if start is not None and offset is not None:
        raise row_error(path, line, f"expected a start or an offset, got {start:g} and {offset:g}")
    if end is None and duration is not None and (start is not None or offset is not None):
        end = (start or offset or 0.0) + duration
    start = start if start is not None else (offset or None)
    fault = None
    if end is not None and end <= (start or 0.0):
        fault = "bad-segment", f"expected a segment that ends after its start, got {start or 0:g} to {end:g} s"
    channel = row.get("channel")
    if channel is not None:
        if isinstance(channel, bool) or not str(channel).isdecimal():
            raise row_error(path, line, f"expected channel to be a number from 0, got {channel!r}")
        channel = int(str(channel))
    name = row.get("id")
    if name is None:
        name = relative_id(file) + (f"#t={start or 0:g},{'' if end is None else f'{end:.10g}'}" if start or end else "")
    elif not isinstance(name, str | int) or isinstance(name, bool) or not relative_id(str(name)):
        raise row_error(path, line, f"expected id to be a name, got {name!r}")
    return Clip(relative_id(str(name)), resolve_path(file, path), start, end, channel, fault=fault)


def resolve_path(file: str, manifest: str) -> str:
    """The path as written, or below the manifest's folder if the file only exists there."""
    if not os.path.isabs(file) and not os.path.exists(file):
        other = os.path.join(os.path.dirname(manifest), file)
        if os.path.exists(other):
            return other
    return file


def seconds_of(path: str, line: int, row: Mapping[str, object], key: str) -> float | None:
    """The value of a key in seconds; None if the row does not have it."""
    value = row.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError
    except (ValueError, OverflowError):
        raise row_error(path, line, f"expected {key} in seconds, from 0, got {value!r}") from None
    return number
