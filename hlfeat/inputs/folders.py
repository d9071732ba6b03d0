"""Folders searched for audio files."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator

from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import AUDIO, extension
from hlfeat.inputs.archives import is_archive, members
from hlfeat.inputs.clip_list import Inputs, add_clips


def add_folder(inputs: Inputs, folder: str) -> None:
    add_clips(inputs, walk_folder(folder))


def walk_folder(top: str) -> Iterator[Clip | None]:
    """Clips of a folder in the order of their names; None for a file that is passed over. Links are followed."""
    # what is left of each folder on the way down, and which it is: they may be nested deeper than calls can be
    stack: list[tuple[Iterator[tuple[str, str]], tuple[int, int]]] = [(iter([(top, "")]), (0, 0))]
    while stack:
        path, id_ = next(stack[-1][0], ("", ""))
        if not path:
            stack.pop()
            continue
        try:
            info = os.stat(path)
            here = (info.st_dev, info.st_ino)
            if stat.S_ISDIR(info.st_mode):
                if all(here != other for _, other in stack):  # not a link back up
                    stack.append((_entries(path, id_, sorted(os.listdir(path))), here))
                continue
        except OSError:  # what is there cannot be told, so it is not passed over: decoding it will say why
            yield Clip(id_ or posixpath.basename(path), path)
            continue
        if is_archive(path):
            yield from members(path, id_, id_)
        else:
            # "._a.wav" is not audio, but what macOS puts beside a.wav on other file systems
            is_clip = extension(path) in AUDIO and not posixpath.basename(path).startswith("._")
            yield Clip(id_, path) if is_clip else None


def _entries(folder: str, id_: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((posixpath.join(folder, name), posixpath.join(id_, name)) for name in names)
