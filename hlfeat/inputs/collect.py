"""Inputs of a run to its clips, in an order that depends on names alone."""

from __future__ import annotations

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.inputs.archives import Archive
from hlfeat.inputs.audio_folder import AudioFolder
from hlfeat.inputs.base import Argument, InputKind, Origin, Reading, Skipped, is_missing
from hlfeat.inputs.distinct_ids import refuse_duplicates, warn_of_unicode_forms, with_distinct_ids
from hlfeat.inputs.manifests import JsonLines, KaldiFolder
from hlfeat.inputs.objects import ObjectPattern, Objects
from hlfeat.inputs.parquet import PARQUET, Parquet, skipped_without_pyarrow
from hlfeat.inputs.paths import File, Folder, PathList, StandardInput
from hlfeat.inputs.root import Root
from hlfeat.inputs.tables import Table
from hlfeat.inputs.unfound import Unfound, nothing_found
from hlfeat.inputs.urls import need_schemes
from hlfeat.remote.retries import Retries
from hlfeat.remote.systems import need_installed
from hlfeat.remote.urls import is_url, other_scheme, scheme_of, shown_url, unknown_scheme
from hlfeat.text import count, escape_unprintable, nearest

# Tried in this order: inputs of a run, lines of a list, entries of a folder alike.
INPUT_KINDS: tuple[InputKind, ...] = (
    StandardInput(),
    ObjectPattern(),
    KaldiFolder(),
    AudioFolder(),
    Folder(),
    Table(),
    JsonLines(),
    Parquet(),
    Archive(),
    PathList(),
    Objects(),
    File(),
)
log = logging.getLogger("hlfeat")

_MOST_COMPARED = 2000  # names beside an input that does not exist
ARROW = ".arrow"
_NEED_PARQUET = "Arrow files are not read: Dataset.to_parquet of the package datasets writes Parquet tables"
MOST_SHOWN = 10  # extensions of skipped files in a message
_MANIFESTS = (Table, JsonLines, KaldiFolder, AudioFolder, Parquet)
_KINDS = {origin: [kind for kind in INPUT_KINDS if origin in kind.origins] for origin in Origin}


@dataclass
class Inputs:
    """All clips of a run, in order. `collect_inputs` makes it; so may you, from clips of your own.

    Attributes:
        clips: with different ids.
        skipped: how many files of folders and archives were skipped, by extension (`.txt`), as it is not one of audio.
        hidden_folders: how many folders were not searched, as their names begin with a dot.
        manifests: paths of the manifests among the inputs.
        unfound: the lists and manifests of which no path exists.

    >>> from hlfeat import Clip
    >>> inputs = Inputs([Clip("first-second", "a.wav", end=1.0), Clip("rest", "a.wav", start=1.0)])
    >>> len(inputs.clips)
    2
    """

    clips: list[Clip] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    hidden_folders: int = 0
    manifests: list[str] = field(default_factory=list)
    unfound: list[Unfound] = field(default_factory=list)

    def check_found(self, known: Container[str] = ()) -> None:
        """Raises UsageError if no path of a list or a manifest exists: its paths are relative to another folder.

        Args:
            known: ids of clips that are done or have failed: where all of a list are, their files may be gone.
        """
        for unfound in self.unfound:
            unfound.check(known)

    @property
    def ignored(self) -> int:
        """How many files were skipped."""
        return self.skipped.total()

    def describe_skipped(self) -> str:
        """What was not used: `skipped 12 files (not an audio extension): .txt 10, .jpg 2`; "" for nothing."""
        parts = []
        if self.skipped:
            kinds = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
            shown = [f"{escape_unprintable(kind)} {n}" for kind, n in kinds[:MOST_SHOWN]]
            rest = sum(n for _, n in kinds[MOST_SHOWN:])
            shown += [f"others {rest}"] if rest else []
            parts.append(f"{count(self.ignored, 'file')} (not an audio extension): {', '.join(shown)}")
        if self.hidden_folders:
            parts.append(count(self.hidden_folders, "hidden folder"))
        return f"skipped {'; '.join(parts)}" if parts else ""


def collect_inputs(
    paths: Sequence[str],
    stdin: BinaryIO | None = None,
    null: bool = False,
    manifests: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    retries: int = 5,
    audio_column: str | None = None,
) -> Inputs:
    """List the clips that the inputs of `hlfeat extract` stand for, in order.

    A folder stands for the audio files below it (by extension), but those in hidden folders; a clip's id is its path
    below the folder. A file's id is its name. `-` and *.txt are lists of paths; their ids are the paths as written,
    without a leading `/`, `./` or `../`. An archive stands for its audio members (hlfeat/inputs/archives.py), whose ids
    are the members' names; in a folder, the archive's id goes before them. Manifests (hlfeat/inputs/manifests.py) may
    also be among the paths. All of them may be at URLs, where folders are prefixes and patterns such as
    `s3://bucket/clips/**/*.flac`.

    Args:
        paths: files, folders, archives, lists and manifests; "-" for the list in `stdin`.
        stdin: the list that "-" stands for: one path a line.
        null: paths in lists end with NUL instead of a newline.
        manifests: manifests, lists or archives that are read as such or refused.
        root: a folder that relative paths of lists and manifests are relative to. Ids of what is below it are relative
            to it too, also of files and folders among the paths.
        retries: how often a request to a URL is made again, if its connection breaks or its server is busy.
        audio_column: the name of the column of audio in Parquet tables (hlfeat/inputs/parquet.py); None: the only one
            that looks like it.

    Raises:
        UnreachableError: the server of a URL among the inputs does not answer.
        UsageError: an input does not exist; two clips have the same id; there is no clip at all; "-" without `stdin`; a
            list or a manifest cannot be read; the root is no folder; it is not clear which column of a table is that of
            audio, or there is a column to choose and no table.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "b.wav").touch()
    ...     Path(folder, "a.flac").touch()
    ...     Path(folder, "notes.pdf").touch()
    ...     inputs = collect_inputs([folder])
    >>> [clip.id for clip in inputs.clips], inputs.ignored
    (['a.flac', 'b.wav'], 1)
    >>> inputs.describe_skipped()
    'skipped 1 file (not an audio extension): .pdf 1'
    """
    inputs, kinds = Inputs(), set[type[InputKind]]()
    reading = Reading(Root(None if root is None else os.fspath(root)), Retries(retries), audio_column)
    for argument in _arguments(paths, manifests, stdin, null, reading):
        kind, first = kind_of(argument), len(inputs.clips)
        file = argument.origin is Origin.ARGUMENT and isinstance(kind, File | Archive | Parquet)
        if file and is_missing(argument.path):
            raise UsageError(_no_such_input(argument.path))
        if argument.origin is Origin.ARGUMENT and argument.name.lower().endswith(ARROW):
            raise UsageError(f"{escape_unprintable(argument.path)}: {_NEED_PARQUET}")
        if isinstance(kind, _MANIFESTS):
            inputs.manifests.append(argument.path)
        for entry in expand(argument, kinds):
            if isinstance(entry, Clip):
                inputs.clips.append(entry)
                continue
            log.debug("skipped %s (%s)", escape_unprintable(entry.path), entry.reason)
            if entry.is_folder:
                inputs.hidden_folders += 1
            else:
                inputs.skipped[entry.kind] += 1
        if isinstance(kind, (*_MANIFESTS, PathList, StandardInput)):
            root_of_paths = Root(argument.path) if isinstance(kind, AudioFolder) else argument.root
            unfound = nothing_found(argument, inputs.clips[first:], root_of_paths)
            inputs.unfound += [] if unfound is None else [unfound]
    skipped_without_pyarrow(inputs.skipped)
    if audio_column is not None and Parquet not in kinds:
        more = f"; {_NEED_PARQUET}" if inputs.skipped[ARROW] else ""
        raise UsageError(f"audio_column: expected a Parquet table among the inputs, got none{more}")
    if Parquet in kinds:
        inputs.clips = with_distinct_ids(inputs.clips)
    if not inputs.clips:
        if audio_column is not None and any(inputs.skipped[kind] for kind in PARQUET):
            raise UsageError(f"audio_column: no table of the inputs has a column {escape_unprintable(audio_column)}")
        shown = ", ".join(escape_unprintable(shown_url(p)) for p in [*paths, *manifests][:3])
        skipped = [inputs.describe_skipped(), _NEED_PARQUET if inputs.skipped[ARROW] else ""]
        raise UsageError("; ".join(filter(None, [f"no audio files in {shown}", *skipped])))
    need_schemes(inputs.clips)
    warn_of_unicode_forms(refuse_duplicates(inputs.clips))
    return inputs


def expand(argument: Argument, kinds: set[type[InputKind]] | None = None) -> Iterator[Clip | Skipped]:
    """All clips of an argument, and of the arguments that it leads to, depth first. Adds what kinds these are of.

    With a stack and not by recursion, as folders may be nested deeper than Python's calls.
    """
    stack: list[Iterator[Clip | Skipped | Argument]] = [iter((argument,))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Argument):
            kind = kind_of(entry)
            if kinds is not None:
                kinds.add(type(kind))
            stack.append(kind.clips(entry))
        else:
            yield entry


def kind_of(argument: Argument) -> InputKind:
    """The first of `INPUT_KINDS` that matches.

    Raises:
        UsageError: none does, which only happens to a path that was given as a manifest.
    """
    for kind in _KINDS[argument.origin]:
        if kind.matches(argument):
            return kind
    path = escape_unprintable(argument.path)
    raise UsageError(
        f"{path}: expected a manifest (.csv, .tsv, .jsonl, .parquet, or a folder of Kaldi's or Hugging Face's)"
    )


def _arguments(
    paths: Sequence[str], manifests: Sequence[str], stdin: BinaryIO | None, null: bool, reading: Reading
) -> Iterator[Argument]:
    root = reading.root
    for path in paths:
        if not path.strip("/"):
            raise UsageError(f"expected a file, a folder, a list or -, got {path!r}")
        _check_scheme(path)
        id_ = root.below(path) or posixpath.basename(shown_url(path).rstrip("/"))
        argument = Argument.of(path, Origin.ARGUMENT, id_, reading=reading)
        is_folder = argument.is_folder or argument.url is not None
        prefix = root.below(f"{path}/") or "" if is_folder else ""
        yield argument._replace(prefix=prefix, stdin=stdin, null=null)
    for path in manifests:
        _check_scheme(path)
        argument = Argument.of(path, Origin.MANIFEST, posixpath.basename(shown_url(path)), reading=reading)
        yield argument._replace(null=null)


def _check_scheme(path: str) -> None:
    """Raises UsageError for a URL that cannot be read, or has no place in it."""
    shown = escape_unprintable(shown_url(path))
    if (other_scheme(path) and not os.path.lexists(path)) or (not path.partition("://")[2].strip("/") and is_url(path)):
        raise UsageError(f"{shown}: {unknown_scheme(path) if other_scheme(path) else 'expected a bucket or a host'}")
    if is_url(path):
        need_installed(scheme_of(path) or "")


def _no_such_input(path: str) -> str:
    """What to say of an input that does not exist, with the nearest name in its folder."""
    name = escape_unprintable(path)
    if os.path.islink(path):
        return f"{name}: a link to {escape_unprintable(os.readlink(path))}, which does not exist"
    folder, base = posixpath.split(path.rstrip("/"))
    names: list[str] = []
    with suppress(OSError, ValueError), os.scandir(folder or ".") as entries:
        names = [entry.name for entry in islice(entries, _MOST_COMPARED)]
    return f"{name}: no such file or folder{escape_unprintable(nearest(base, names))}"
