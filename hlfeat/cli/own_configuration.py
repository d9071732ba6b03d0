"""The configuration that a command computes: the one that is given, or that of the folder that it goes on with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hlfeat.errors import UsageError
from hlfeat.files import hash_file

if TYPE_CHECKING:
    from hlfeat.storage.description import HashedFile, RunDescription
    from hlfeat.storage.output_place import OutputPlace

log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class Chosen:
    """What to compute.

    Attributes:
        name: of a shipped configuration, or the path of a YAML file.
        overrides: settings on top of it, `key=value`.
        weights, stats: files, if there are any.
        viterbi: of pitch tracks.
    """

    name: str
    overrides: Sequence[str] = ()
    weights: Path | None = None
    stats: Path | None = None
    viterbi: bool = False

    @property
    def is_given(self) -> bool:
        """Whether the command has options about what is computed."""
        return bool(self.name or self.overrides or self.weights or self.stats or self.viterbi)


def choose(given: Chosen, default: str, out: OutputPlace, overwrite: bool, pitch: bool = False) -> Chosen:
    """What is given; if nothing is, what the output holds already; otherwise the default configuration.

    Args:
        given: by the command's options; its name is empty without -c.
        default: name of the configuration that the command has without -c.
        out: the output, a folder or a prefix of a bucket.
        overwrite: whether it is begun anew, so that it does not matter what it holds.
        pitch: whether the command writes pitch tracks.

    Raises:
        UsageError: the weights or statistics of the folder are not where they were, or have changed.
        OutputError: the folder's hlfeat.yaml is damaged, or the bucket cannot be read.
    """
    from hlfeat.storage.layout import Layout

    if given.is_given or overwrite or not Layout(out.folder()).description.is_file():
        name = given.name or default
        files = {"weights": given.weights, "stats": given.stats}
        if pitch:  # its tracks are of features that are not normalised
            del files["stats"]
        warn_of_files(name, files)
        return Chosen(name, given.overrides, given.weights, given.stats, given.viterbi)
    with out.naming():
        return _of_folder(out, default, pitch)


def _of_folder(out: OutputPlace, default: str, pitch: bool) -> Chosen:
    from hlfeat.storage.description import read_description
    from hlfeat.storage.layout import Layout

    path = Layout(out.folder()).description
    description = read_description(path.parent)
    if (description.pitch is not None) != pitch:
        return Chosen(default)  # the run says that they do not go into one folder
    chosen = Chosen(
        str(path),
        weights=_unchanged(path, "weights", description.weights),
        stats=_unchanged(path, "stats", description.stats),
        viterbi=description.pitch is not None and description.pitch.viterbi,
    )
    if not _is_default(description, default):
        used = [f"{key} {file}" for key, file in (("weights", chosen.weights), ("stats", chosen.stats)) if file]
        log.info("going on with the configuration of %s", ", ".join([str(out.shown(path)), *used]))
    return chosen


def _is_default(description: RunDescription, default: str) -> bool:
    """Whether a folder holds what the command would compute for a new one."""
    from hlfeat.config.loading import load_config

    plain = description.weights is None and description.stats is None
    plain = plain and (description.pitch is None or not description.pitch.viterbi)
    return plain and dict(description.config) == load_config(default).model_dump(mode="json")


def _unchanged(path: Path, key: str, file: HashedFile | None) -> Path | None:
    """A file that a folder depends on. Raises UsageError where it is not what it was."""
    if file is None:
        return None
    remedy = f"-c {path} --{key} FILE says where it is now"
    for place in _places(path.parent, file.path):
        with suppress(OSError):
            if hash_file(place) == file.sha256:
                return place
    try:
        digest = hash_file(Path(file.path))
    except OSError as e:
        raise UsageError(
            f"{path}: expected its {key} in {file.path} (sha256 {file.sha256[:12]}): {e.strerror}; {remedy}"
        ) from e
    raise UsageError(
        f"{path}: expected its {key} in {file.path} (sha256 {file.sha256[:12]}), but the file has changed "
        f"(sha256 {digest[:12]}); {remedy}"
    )


def _places(folder: Path, written: str) -> Iterator[Path]:
    """Where a file may be: relative to this folder; or to one that the output is in, as where its run began."""
    yield Path(written)
    if not Path(written).is_absolute():
        here = Path.cwd()
        for parent in folder.absolute().parents:
            if parent != here:
                yield Path(os.path.relpath(parent / written))


def warn_of_files(name: str, given: Mapping[str, Path | None], option: str = "--{}") -> None:
    """Say that a configuration of a run was used with weights or statistics that the command does not name.

    Args:
        name: of the configuration, as typed.
        given: the files that the command takes, by key; None where it is not named.
        option: how it takes a file, with its key in place of {}.
    """
    from hlfeat.config.run_file import files_of_run

    for key, file in files_of_run(name).items():
        if key not in given:
            log.warning("%s: was used with %s %s, which this command does not use", name, key, file)
        elif given[key] is None:
            log.warning("%s: was used with %s %s; %s names them", name, key, file, option.format(key))
