"""Lists of paths, one a line or separated by NUL."""

from __future__ import annotations

import os

from hlfeat.audio.clip import Clip, relative_id
from hlfeat.errors import UsageError
from hlfeat.inputs.archives import is_archive, members
from hlfeat.inputs.clip_list import Inputs, add_clips
from hlfeat.inputs.folders import add_folder
from hlfeat.text import escape_unprintable

LISTS = frozenset({"txt", "lst", "list"})


def add_list_file(inputs: Inputs, path: str, null: bool) -> None:
    try:
        with open(path, "rb") as f:
            add_list(inputs, f.read(), null)
    except OSError as e:
        raise UsageError(f"{escape_unprintable(path)}: the list cannot be read: {e.strerror}") from e


def add_list(inputs: Inputs, data: bytes, null: bool) -> None:
    data = data.removeprefix(b"\xef\xbb\xbf")  # some editors begin a text file with a byte order mark
    if not null and b"\0" in data:
        raise UsageError("the list has NUL bytes in it, as if its paths were separated by NUL", remedy="null")
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    for path in map(os.fsdecode, filter(None, lines)):
        if os.path.isdir(path):
            add_folder(inputs, path)
        elif is_archive(path):
            add_clips(inputs, members(path, relative_id(path)))
        elif relative_id(path):
            inputs.clips.append(Clip(relative_id(path), path))
        else:
            raise UsageError(f"expected paths in the list, got {escape_unprintable(path)!r}")
