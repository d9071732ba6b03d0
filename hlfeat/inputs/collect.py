"""Inputs to clips: files, folders, archives, and lists of paths, in an order that depends on their names alone."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from hlfeat.audio.clip import Clip, display_path
from hlfeat.audio.formats import extension
from hlfeat.errors import UsageError
from hlfeat.inputs.archives import is_archive, members, refuse_compressed
from hlfeat.inputs.clip_list import Inputs, add_clips
from hlfeat.inputs.folders import add_folder
from hlfeat.inputs.path_lists import LISTS, add_list, add_list_file
from hlfeat.inputs.tables import is_manifest, read_manifest
from hlfeat.text import escape_unprintable


def collect_inputs(
    paths: Sequence[str], stdin: BinaryIO | None = None, null: bool = False, manifests: Sequence[str] = ()
) -> Inputs:
    """The clips that the arguments of `hlfeat extract` stand for, in order.

    A folder stands for the audio files below it (by extension); a clip's id is its path below the folder. A file's id
    is its name. `-` and *.txt are lists of paths; their ids are the paths as written, without a leading `/`, `./` or
    `../`. An archive stands for its audio members (hlfeat/inputs/archives.py), whose ids are the members' names; in a
    folder, the archive's id goes before them. Manifests (hlfeat/inputs/tables.py) may also be among the paths.

    Args:
        paths: files, folders, archives, lists and manifests; "-" for the list in `stdin`.
        stdin: the list that "-" stands for: one path a line.
        null: paths in lists end with NUL instead of a newline.
        manifests: manifests, whatever their names.

    Raises:
        UsageError: two clips have the same id; there is no clip at all; "-" without `stdin`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "b.wav").touch()
    ...     Path(folder, "a.flac").touch()
    ...     Path(folder, "notes.pdf").touch()
    ...     inputs = collect_inputs([folder])
    >>> [clip.id for clip in inputs.clips], inputs.ignored
    (['a.flac', 'b.wav'], 1)
    """
    inputs = Inputs()
    for path in paths:
        if not path.strip("/"):
            raise UsageError(f"expected a file, a folder, a list or -, got {path!r}")
        if path == "-":
            if stdin is None:
                raise UsageError("expected files or folders, got - without a stream to read the list from")
            add_list(inputs, stdin.read(), null)
        elif is_manifest(path):
            inputs.clips += read_manifest(path)
        elif os.path.isdir(path):
            add_folder(inputs, path)
        elif is_archive(path):
            refuse_compressed(path)
            add_clips(inputs, members(path, posixpath.basename(path)))
        elif extension(path) in LISTS:
            add_list_file(inputs, path, null)
        else:
            inputs.clips.append(Clip(posixpath.basename(path.rstrip("/")), path))
    for path in manifests:
        if extension(path) in LISTS:
            add_list_file(inputs, path, null)
        elif is_archive(path):
            refuse_compressed(path)
            if not os.path.exists(path):
                raise UsageError(f"{escape_unprintable(path)}: the archive cannot be read: no such file")
            add_clips(inputs, members(path, posixpath.basename(path)))
        else:
            inputs.clips += read_manifest(path)
    if not inputs.clips:
        shown = ", ".join(escape_unprintable(p) for p in [*paths, *manifests][:3])
        passed = f" (files that are no audio by name: {inputs.ignored})" if inputs.ignored else ""
        raise UsageError(f"no audio files in {shown}{passed}")
    _refuse_duplicates(inputs.clips)
    return inputs


def _refuse_duplicates(clips: Iterable[Clip]) -> None:
    seen: dict[str, Clip] = {}
    for clip in clips:
        first = seen.setdefault(clip.id, clip)
        if first is not clip:
            raise UsageError(f"two clips with the id {escape_unprintable(clip.id)}: {_both(first, clip)}")


def _both(first: Clip, second: Clip) -> str:
    if first.path != second.path:
        return f"{display_path(first)} and {display_path(second)}; give the folder above them, or a list of paths"
    if first.span == second.span or first.span is None or second.span is None:
        return f"{display_path(first)} given twice"
    other = f"{escape_unprintable(second.name)} at byte {second.span.offset}"
    return f"{display_path(first)} at byte {first.span.offset} and {other}"
