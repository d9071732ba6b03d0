"""Files, folders, and lists of paths."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator

from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import extension, has_audio_name
from hlfeat.errors import UsageError
from hlfeat.inputs.base import GIVEN, Argument, InputKind, Origin, Skipped
from hlfeat.inputs.text_files import in_utf8
from hlfeat.inputs.urls import clip_at
from hlfeat.remote.urls import is_url, joined
from hlfeat.text import escape_unprintable

LISTS = frozenset({"txt", "lst", "list"})


class File(InputKind):
    """One file: a clip, whatever its name, unless it was found in a folder. A file that is missing is a clip too."""

    origins = frozenset(Origin) - {Origin.MANIFEST}

    def matches(self, argument: Argument) -> bool:
        return True

    def clips(self, argument: Argument) -> Iterator[Clip | Skipped]:
        if not argument.id:
            raise UsageError(f"expected paths in the list, got {escape_unprintable(argument.path)!r}")
        is_there = argument.status is not None or argument.url is not None
        if argument.origin is Origin.FOLDER and is_there and not has_audio_name(argument.path):
            yield Skipped(argument.path)
        elif argument.url is not None:
            yield Clip(argument.id, argument.path, url=argument.secret_url, listed=argument.listed)
        else:
            yield clip_at(argument.id, argument.path)


class Folder(InputKind):
    """Everything in a folder, in the order of names. Links are followed, except those back up.

    Folders in it whose names begin with a dot are not searched: `.Trash-1000`, `.ipynb_checkpoints`, `.git`.
    """

    origins = frozenset(Origin) - {Origin.MANIFEST}

    def matches(self, argument: Argument) -> bool:
        return argument.is_folder

    def clips(self, argument: Argument) -> Iterator[Clip | Skipped | Argument]:
        assert argument.status is not None
        if argument.origin is Origin.FOLDER and posixpath.basename(argument.path).startswith("."):
            yield Skipped(argument.path, is_folder=True)
            return
        folder = argument.status.st_dev, argument.status.st_ino
        if folder in argument.parents:
            return
        try:
            names = sorted(os.listdir(argument.path))
        except OSError:
            yield Clip(argument.prefix or posixpath.basename(argument.path), argument.path)  # decoding says why
            return
        parents = (*argument.parents, folder)
        for name in names:
            id_ = posixpath.join(argument.prefix, name)
            path, root, column = posixpath.join(argument.path, name), argument.root, argument.audio_column
            yield Argument.of(path, Origin.FOLDER, id_, id_, parents, root=root, audio_column=column)


class StandardInput(InputKind):
    """`-`: a list of paths from a stream."""

    origins = frozenset({Origin.ARGUMENT})

    def matches(self, argument: Argument) -> bool:
        return argument.path == "-"

    def clips(self, argument: Argument) -> Iterator[Argument]:
        if argument.stdin is None:
            raise UsageError("expected files or folders, got - without a stream to read the list from")
        yield from _list_entries(argument.stdin.read(), argument)


class PathList(InputKind):
    """A file with one path a line, or with paths that end with NUL."""

    origins = GIVEN

    def matches(self, argument: Argument) -> bool:
        return extension(argument.name) in LISTS

    def clips(self, argument: Argument) -> Iterator[Argument]:
        data = argument.content()
        try:
            if data is None:
                with open(argument.path, "rb") as f:
                    data = f.read()
        except OSError as e:
            raise UsageError(f"{escape_unprintable(argument.path)}: the list cannot be read: {e.strerror}") from e
        yield from _list_entries(data, argument)


def _list_entries(data: bytes, argument: Argument) -> Iterator[Argument]:
    """The paths of a list. Ids in a folder among them are relative to a root, if there is one, else to the folder.

    Relative paths of a list at a URL are relative to it.
    """
    null, root = argument.null, argument.root
    data = in_utf8(data)
    if not null and b"\0" in data:
        raise UsageError("the list has NUL bytes in it, as if its paths were separated by NUL", remedy="null")
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    for path in map(os.fsdecode, filter(None, lines)):
        where = root.path_of(path)
        if argument.url is not None and root.folder is None and not (is_url(path) or os.path.isabs(path)):
            where = joined(argument.url, path)
        retries, column = argument.retries, argument.audio_column
        entry = Argument.of(where, Origin.LIST, root.id_of(path), root=root, retries=retries, audio_column=column)
        below = root.below(f"{entry.path}/") if entry.is_folder or where.endswith("/") else None
        yield entry._replace(prefix=below) if below else entry
