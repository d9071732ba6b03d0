"""Lists and manifests of which no path exists: mostly their paths are relative to another folder."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import has_audio_name
from hlfeat.errors import UsageError
from hlfeat.inputs.base import Argument, is_missing
from hlfeat.inputs.root import Root
from hlfeat.text import count, escape_unprintable


@dataclass(frozen=True)
class Unfound:
    """A list or a manifest of which no path exists.

    Attributes:
        error: what to say of it.
        ids: of its clips.
    """

    error: UsageError
    ids: Sequence[str]

    def check(self, known: Container[str]) -> None:
        """Raises the error, unless all of its clips are known to the folder that the run goes on with."""
        if any(id_ not in known for id_ in self.ids):
            raise self.error


def nothing_found(argument: Argument, clips: Sequence[Clip], root: Root) -> Unfound | None:
    """What is to be said of a list or a manifest none of whose files exists; None if one does.

    Args:
        clips: what it stands for.
        root: what its paths are relative to.
    """
    files = [clip.path for clip in clips if clip.fault is None]
    if not files or not all(map(is_missing, files)):
        return None
    message = f"{argument.path}: none of its {count(len(files), 'path')} exists, such as {files[0]}"
    relative = [] if root.folder is not None else [path for path in files if not os.path.isabs(path)]
    if relative:
        message += f"; looked in {_places(argument, relative)}"
    cells = re.split(r"[,;\t|]", files[0])
    if len(cells) > 1 and has_audio_name(cells[0].strip('"')):
        message += "; these are rows of a table, which needs a name that ends with .csv and a header line"
    error = UsageError(escape_unprintable(message), remedy="root" if relative else "")
    return Unfound(error, [clip.id for clip in clips if clip.fault is None])


def _places(argument: Argument, paths: Sequence[str]) -> str:
    """Where the paths are not: in the working folder, and in that of the list or manifest. Or where they are."""
    here = os.getcwd()
    if argument.path == "-":
        return here
    beside = os.path.abspath(argument.path if argument.is_folder else os.path.dirname(argument.path))
    if beside == here:
        return here
    if all(is_missing(os.path.join(beside, path)) for path in paths):
        return f"{here} and in {beside}"
    return f"{here}; they are in {beside}"
