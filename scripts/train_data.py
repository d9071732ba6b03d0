"""The clips that scripts/train.py learns from: reading them, what they are labelled with, and how they are divided."""

from __future__ import annotations

import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor
from train_tracks import Track

import hlfeat
from hlfeat import Clip, ClipError, ClipLabel, UsageError

PITCH = "pitch"  # the label of clips that have tracks
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun


def say(message: str) -> None:
    """Print a message on one line, whatever the names of files and folders in it."""
    if RANK == 0:
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        print(f"train: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Example:
    """A clip to learn from, or a part of one.

    Attributes:
        wave: samples [T].
        label: the name of its class; of all clips with tracks, "pitch".
        group: what must not be on both sides of a split.
        split: the part of the data set, if a table says it.
        track: the clip's frequencies, if these are to be learnt.
        start: samples of the clip before the first of `wave`.
    """

    wave: Tensor
    label: str
    group: str
    split: str | None = None
    track: Track | None = None
    start: int = 0


@dataclass(frozen=True)
class Parts:
    """The examples to train with, those to look at after each epoch, and those to look at once, if there are any."""

    train: list[Example]
    valid: list[Example]
    test: list[Example]


TracksOf = Callable[[Sequence[str]], dict[str, Track]]  # ids of clips -> the tracks of those that have one


def read(
    folder: Path, config: hlfeat.Config, table: dict[str, ClipLabel] | None = None, tracks_of: TracksOf | None = None
) -> list[Example]:
    """All clips; one that cannot be used is reported with the reason.

    Without a table, a folder is a class; with tracks, it is a group.
    """
    classes = tracks_of is None
    if not folder.is_dir():
        raise UsageError(f"expected a folder of audio, got {folder}")
    clips = hlfeat.collect_inputs([str(folder)]).clips
    if table is None and classes and not any("/" in clip.id for clip in clips):
        raise UsageError(f"{folder}: expected a folder for each class in it, or --labels with a table; got clips alone")
    if table is not None:
        if not any(clip.id in table for clip in clips):
            raise UsageError(f"{folder}: expected clips at the table's paths, such as {next(iter(table))}, got others, "
                             f"such as {clips[0].id}; paths are relative to this folder")  # fmt: skip
        missing = sorted(set(table) - {clip.id for clip in clips})
        if missing:
            say(f"{len(missing)} of {len(table)} rows have no file, such as {missing[0]}")
        without = [clip for clip in clips if clip.id not in table]
        if without:
            say(f"{len(without)} of {len(clips)} clips have no row and are not used, such as {without[0].id}")
        clips = [clip for clip in clips if clip.id in table]
    tracks = tracks_of([clip.id for clip in clips]) if tracks_of is not None else {}
    if not classes:
        without = [clip for clip in clips if clip.id not in tracks]
        if without:
            say(f"{len(without)} of {len(clips)} clips have no track and are not used, such as {without[0].id}")
        clips = [clip for clip in clips if clip.id in tracks]

    def load(clip: Clip) -> Tensor | ClipError:
        if table is None and classes and "/" not in clip.id:
            return ClipError("no-class", f"{clip}: no-class: expected in the folder of a class, found beside them")
        try:
            return hlfeat.load_audio(clip, config.audio.sample_rate, config.audio.channels)
        except ClipError as e:
            return e

    examples: list[Example] = []
    usable = 0
    with ThreadPoolExecutor(2) as readers:
        for clip, channels in zip(clips, readers.map(load, clips), strict=True):
            if isinstance(channels, ClipError):
                say(str(channels))
                continue
            usable += 1
            label = table[clip.id] if table is not None else label_of(clip.id, classes)
            name = label.label if classes else PITCH
            examples += [Example(w, name, label.group, label.split, tracks.get(clip.id)) for w in channels]
    if not classes and not examples:
        raise UsageError(f"{folder}: expected clips that can be used, got none")
    sizes = Counter(e.label for e in examples)
    if classes and len(sizes) < 2:
        what = "clips of two classes or more" if table is not None else "the folders of two classes or more"
        raise UsageError(f"{folder}: expected {what}, got {len(sizes)}")
    hours = sum(len(e.wave) for e in examples) / config.audio.sample_rate / 3600
    names = ": " + ", ".join(f"{name} {sizes[name]}" for name in sorted(sizes)) if classes else ""
    say(f"{usable} clips, {hours:.2f} h{names}")
    if usable < len(clips):
        say(f"{len(clips) - usable} of {len(clips)} clips cannot be used, for the reasons above")
    return examples


def label_of(id_: str, classes: bool) -> ClipLabel:
    """What a path says: class and group, or where there are no classes, the group alone."""
    return ClipLabel(id_.split("/")[0], group_of(id_)) if classes else ClipLabel(PITCH, group_of(f"{PITCH}/{id_}"))


def group_of(id_: str) -> str:
    """The speaker, from a path below the folder; or the path itself, if it does not name one."""
    _, *folders, name = id_.split("/")
    speaker = re.match(r"(\d+)-\d+-\d+\.", name)
    if folders or speaker:
        return folders[0] if folders else speaker[1]  # type: ignore[index]
    return id_


def fingerprint(examples: Sequence[Example]) -> str:
    """What the clips to train with are, in a few characters."""
    contents = [(e.label if e.track is None else e.track.digest(), len(e.wave)) for e in examples]
    return f"{len(examples)} ({zlib.crc32(repr(contents).encode()):08x})"


def hold_out(examples: Sequence[Example], share: float, seed: int) -> Parts:
    """About `share` of every class, in whole groups, for a look after each epoch."""
    kept, held = hlfeat.split_groups([e.label for e in examples], [e.group for e in examples], share, seed)
    groups = {e.group for e in examples}
    if len(groups) == len(examples):
        how = "by file, as no folder, name or column tells who speaks"
    else:
        how = f"{len({examples[i].group for i in held})} of {len(groups)} groups"
    say(f"held out {len(held)} of {len(examples)} clips ({how}; seed {seed})")
    return Parts([examples[i] for i in kept], [examples[i] for i in held], [])


def divide(examples: Sequence[Example]) -> Parts:
    """The parts that a table names. Where nothing is for validation, the test part is looked at after each epoch."""
    parts = Parts(*([e for e in examples if e.split == name] for name in ("train", "valid", "test")))
    if not parts.train or not (parts.valid or parts.test):
        raise UsageError("expected clips of the split train, and of valid or test, got "
                         + ", ".join(f"{len(part)} of {name}" for name, part in vars(parts).items()))  # fmt: skip
    learnt = {e.label for e in parts.train}
    for e in examples:
        if e.label not in learnt:
            raise UsageError(f"class {e.label}: expected clips of the split train, got none")
    for name, part in (("valid", parts.valid), ("test", parts.test)):
        if both := sorted({e.group for e in parts.train} & {e.group for e in part}):
            say(f"warning: in train and in {name}, which flatters the result: {len(both)} groups, such as {both[0]}")
    say(", ".join(f"{name} {len(part)}" for name, part in vars(parts).items() if part) + " clips, as the table divides")
    return parts if parts.valid else Parts(parts.train, parts.test, [])


def crops(examples: Sequence[Example], samples: int, rng: np.random.Generator) -> list[Example]:
    """All examples in random order, each cut to `samples` somewhere; shorter ones as they are."""
    cut = []
    for i in rng.permutation(len(examples)):
        start = int(rng.integers(max(1, len(examples[i].wave) - samples + 1)))
        cut.append(replace(examples[i], wave=examples[i].wave[start : start + samples], start=start))
    return cut
