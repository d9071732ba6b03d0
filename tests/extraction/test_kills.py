"""Runs that are killed at any moment leave what the next run finishes to the same bytes.

Two ways of killing. One takes a copy of the output directory before every operation that changes it, which is what a
kill there would leave, so that every such moment is tried. The other kills processes, at moments drawn at random.
"""

from __future__ import annotations

import io
import itertools
import logging
import multiprocessing
import multiprocessing.process
import multiprocessing.synchronize
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hlfeat import FeatureStore
from hlfeat.config.loading import load_config
from hlfeat.extraction import multi_device
from hlfeat.extraction.extract import extract_clips
from hlfeat.extraction.one_device import extract_on_device
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits, Options
from hlfeat.extraction.pitch_tracks import PitchTracks
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.failure_record import read_failures
from tests import helpers
from tests.extraction import runs
from tests.extraction.runs import CHEAP, contents, files_below

KILLS = int(os.environ.get("HLFEAT_KILLS", "20"))
ONE = Options(quiet=True, workers=2)


@pytest.fixture(autouse=True)
def _no_syncing(monkeypatch):
    """A kill of a process loses nothing that it has written: only a failure of the system does."""
    monkeypatch.setattr(os, "fsync", lambda f: None)


def run(
    folder: Path | Inputs,
    out: Path,
    options: Options = ONE,
    shard: int = 3,
    form: str = "npy",
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    settings = [f"output.shard_size={shard}", f"output.format={form}"]
    runs.run(folder, out, *settings, options=options, limits=limits)


def mixed_clips(folder: Path, n: int, seconds: float = 2) -> Path:
    """Short clips of all lengths, one of so many seconds, and some that fail."""
    helpers.good_clips(folder, n, longest=0.6)
    soundfile.write(folder / "d0/long.flac", helpers.tone(seconds, 8000), 8000)
    (folder / "d0/a text.wav").write_text("no audio")
    (folder / "d1/empty.wav").write_bytes(b"")
    for i, name in enumerate(("d0/loud.wav", "d1/zz last.wav")):
        soundfile.write(folder / name, np.full(900 + i, 1e30, np.float32), 16000, subtype="FLOAT")
    return folder


# --- every moment --------------------------------------------------------------------------------------------------

_watch: Callable[[str, tuple], None] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _watch is not None:
        _watch(event, arguments)


sys.addaudithook(_hook)  # cannot be taken away again


@contextmanager
def changes(out: Path, told: Callable[[str, str], None]) -> Iterator[None]:
    """Tells of every operation that changes the directory just before it is done: what, and the file's name."""
    global _watch
    thread, fsync, busy = threading.get_ident(), os.fsync, []

    def tell(what: str, path: Path) -> None:
        if threading.get_ident() == thread and not busy and (path == out or out in path.parents):
            busy.append(1)
            told(what, path.name)
            busy.clear()

    def watch(event: str, arguments: tuple) -> None:
        if event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir") or (
            event == "open"
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            and not os.path.isdir(arguments[0])  # a file without a name in a folder is gone with its process
        ):
            tell(event.removeprefix("os."), Path(os.fsdecode(arguments[0])))

    def synced(f: int) -> None:
        tell("sync", Path(os.readlink(f"/proc/self/fd/{f}")))
        fsync(f)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        _watch = watch
        try:
            yield
        finally:
            _watch = None


class Moments:
    """The directory as a kill before each change would have left it: copies of it."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self.names: list[str] = []
        self.seen: list[dict[str, bytes]] = []

    def take(self, what: str, name: str) -> None:
        now = files_below(self.out) if self.out.exists() else {}
        if now not in self.seen:
            self.seen.append(now)
            self.names.append(f"before {what} {name}")

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        for name, files in zip(self.names, self.seen, strict=True):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            for file, data in files.items():
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / file).write_bytes(data)
            yield name, self.folder


def check_nothing_torn(out: Path, want: dict[str, bytes], moment: str) -> None:
    """What has its final name is whole, whenever the run was killed."""
    for path in out.iterdir():
        if path.name.startswith("shard") and path.suffix != ".tmp":
            assert path.read_bytes() == want[path.name], moment
        if path.name.startswith("failures") and path.suffix != ".tmp":
            list(read_failures(path))


def killed_anywhere(tmp: Path, out: Path, go: Callable[[Path], None]) -> tuple[Moments, dict[str, bytes]]:
    moments = Moments(out, tmp / "moment")
    with changes(out, moments.take):
        go(out)
    want = contents(out)
    for moment, left in moments:
        go(left)
        assert contents(left) == want, moment
    return moments, want


LONG_IS_SHORT = Limits(long_samples=8000, window_samples=4000)  # clips of half a second are computed in windows


@pytest.mark.parametrize("form", ["npy", "pt"] if helpers.THOROUGH else ["npy"])
def test_killed_at_every_moment(tmp_path, form):
    folder = mixed_clips(tmp_path / "clips", 6)
    go = partial(run, folder, form=form, limits=LONG_IS_SHORT)
    moments, want = killed_anywhere(tmp_path, tmp_path / "out", go)
    assert len(want) > 2 + 2 * 2
    assert len(moments.seen) > 25
    for moment, left in moments:
        check_nothing_torn(left, want, moment)


def test_killed_twice(tmp_path):
    """The run that goes on is killed too, at every moment."""
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.3)
    (folder / "d0/a.wav").write_text("no audio")
    first = Moments(tmp_path / "out", tmp_path / "moment")
    with changes(first.out, first.take):
        run(folder, first.out, shard=2)
    want = contents(first.out)
    for i, (one, left) in enumerate(first):
        if not helpers.THOROUGH and i % 6 != 2:
            continue
        again = Moments(left, tmp_path / "again")
        with changes(left, again.take):
            run(folder, left, shard=2)
        for other, out in again:
            run(folder, out, shard=2)
            assert contents(out) == want, f"{one}, then {other}"


def test_files_reach_the_disk_before_their_names_do(tmp_path):
    """The system may fail too: a file is synced before it is renamed, and its folder after."""
    folder = mixed_clips(tmp_path / "clips", 4)
    out, done = tmp_path / "out", []
    with changes(out, lambda what, name: done.append((what, name))):
        run(folder, out)
    renamed = [i for i, (what, _) in enumerate(done) if what == "rename"]
    assert len(renamed) > 8
    for i in renamed:
        assert done[i - 1] == ("sync", done[i][1])
        assert done[i + 1] == ("sync", "out")
    names = [name for what, name in done if what == "rename" and name.startswith("shard")]
    assert names == [f"shard-0000{i}.{e}.tmp" for i in range(len(names) // 2) for e in ("npy", "jsonl")]


@pytest.mark.parametrize("first", [1, 2] if helpers.THOROUGH else [2])
def test_parts_killed_at_every_moment(tmp_path, first):
    folder = mixed_clips(tmp_path / "clips", 3, seconds=0.5)
    parts = Part(2, first), Part(2, 3 - first)

    def both(out: Path) -> None:
        for part in parts:
            run(folder, out, replace(ONE, part=part), shard=2)

    _, want = killed_anywhere(tmp_path, tmp_path / "out", both)
    assert "failures.jsonl" in want
    assert not list((tmp_path / "out").glob("*.lock"))


def test_parts_share_no_temporary_file(tmp_path):
    """Two that end at once would take each other's away."""
    folder, opened = helpers.good_clips(tmp_path / "clips", 4, longest=0.2), [set(), set()]
    for part, names in zip(WHOLE.split(2), opened, strict=True):
        with changes(tmp_path / "out", lambda what, name, names=names: names.add(name) if what == "open" else None):
            run(folder, tmp_path / "out", replace(ONE, part=part))
    assert all(len(names) > 3 for names in opened)
    assert not opened[0] & opened[1]


def test_retrying_killed_at_every_moment(tmp_path):
    folder, start = mixed_clips(tmp_path / "clips", 4), tmp_path / "start"
    for i in range(5):
        (folder / f"d1/broken {i}.wav").write_text("not yet")
    run(folder, start)
    for i in (0, 2, 3, 4):
        soundfile.write(folder / f"d1/broken {i}.wav", helpers.tone(0.2 + i / 10, 16000), 16000)
    shutil.copytree(start, tmp_path / "out")
    moments, want = killed_anywhere(
        tmp_path, tmp_path / "out", lambda out: run(folder, out, replace(ONE, retry_failed=True))
    )
    run(folder, tmp_path / "out")  # and nothing is lost without the option
    assert contents(tmp_path / "out") == want
    for _, left in moments:
        run(folder, left)
        everything(folder, left)


def everything(folder: Path, out: Path) -> None:
    """Every clip is in the index or among the failures, once."""
    ids = FeatureStore(out).ids + [f.id for f in read_failures(out / "failures.jsonl")]
    assert sorted(ids) == sorted(clip.id for clip in collect_inputs([str(folder)], io.BytesIO()).clips)


def test_updating_killed_at_every_moment(tmp_path):
    """Changed clips keep their lengths, so that the directory becomes that of a run from nothing."""
    folder, out = helpers.good_clips(tmp_path / "clips", 8, longest=0.4), tmp_path / "out"
    (folder / "d0/text.wav").write_text("no audio")
    run(folder, out, shard=2)
    for clip in collect_inputs([str(folder)], io.BytesIO()).clips[1:6:2]:
        if not clip.id.endswith("text.wav"):
            info = soundfile.info(clip.path)
            x, rate = soundfile.read(clip.path)
            soundfile.write(clip.path, x[::-1], rate, format=info.format, subtype=info.subtype)
    run(folder, tmp_path / "anew", shard=2)
    _, want = killed_anywhere(tmp_path, out, lambda out: run(folder, out, replace(ONE, update=True), shard=2))
    assert want == contents(tmp_path / "anew")


@pytest.mark.parametrize("command", ["extract", "pitch"])
def test_taking_over_metadata_killed_at_every_moment(tmp_path, command):
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.3)
    clips = collect_inputs([str(folder)], io.BytesIO()).clips

    def labelled(out: Path, label: str) -> None:
        inputs = Inputs([replace(clip, meta={"label": label, "of": clip.id}) for clip in clips])
        options = replace(ONE, update=True)
        if command == "pitch":
            extract_clips(load_config("pitch-salience"), inputs, out, options, product=PitchTracks(False))
        else:
            run(inputs, out, options, shard=2)

    labelled(tmp_path / "out", "old")
    labelled(tmp_path / "want", "new")
    moments, want = killed_anywhere(tmp_path, tmp_path / "out", lambda out: labelled(out, "new"))
    assert len(moments.names) > 3
    assert want == contents(tmp_path / "want")


# --- any moment ----------------------------------------------------------------------------------------------------


def _child(begun: multiprocessing.synchronize.Event, arguments: tuple) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    begun.set()
    run(*arguments)


class Processes:
    """Runs in processes that start quickly: copies of one that has imported torch and has no threads."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.extraction.test_kills"])

    def start(self, *arguments: object) -> multiprocessing.process.BaseProcess:
        begun = self.context.Event()
        process = self.context.Process(target=_child, args=(begun, arguments))
        process.start()
        assert begun.wait(60)
        return process


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes()


def seconds_of(process: multiprocessing.process.BaseProcess) -> float:
    start = time.monotonic()
    process.join(60)
    assert process.exitcode == 0
    return time.monotonic() - start


def killed(process: multiprocessing.process.BaseProcess, after: float) -> bool:
    """Whether the process was killed after so many seconds, or had ended."""
    process.join(after)
    process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def moments(dice: random.Random, seconds: float) -> Iterator[float]:
    """When to kill a run that took so many seconds: at any time of it, and then ever later.

    A run that goes on starts anew, and with the clip in which it was killed: were they most of a run, and the machine
    busier than it was, it would be killed there for ever.
    """
    return (dice.uniform(0, seconds * 1.2**n) for n in itertools.count())


@pytest.mark.parametrize("seed", [0])
def test_processes_killed_at_random_moments(tmp_path, processes, seed):
    folder = mixed_clips(tmp_path / "clips", 54, seconds=66)
    seconds = min(seconds_of(processes.start(folder, tmp_path / name, ONE, 4)) for name in ("first", "whole"))
    want = contents(tmp_path / "whole")
    assert len(want) > 2 + 2 * 12
    dice, kills = random.Random(seed), 0
    while kills < KILLS:
        out, past = tmp_path / f"after {kills}", []
        for moment in moments(dice, seconds):
            past.append(moment)
            if not killed(processes.start(folder, out, ONE, 4), moment):
                break
            kills += 1
            if out.exists():
                check_nothing_torn(out, want, f"seed {seed}: killed after {past} s")
        assert contents(out) == want, f"seed {seed}: killed after {past} s"


@pytest.mark.parametrize("seed", [1])
def test_parts_at_once_killed_at_random_moments(tmp_path, processes, seed):
    folder = mixed_clips(tmp_path / "clips", 24)
    parts = [replace(ONE, part=part) for part in WHOLE.split(2)]
    started = [processes.start(folder, tmp_path / "whole", part, 2) for part in parts]
    seconds = max(map(seconds_of, started))
    want = contents(tmp_path / "whole")
    dice, kills = random.Random(seed), 0
    while kills < KILLS // 3:
        out, past, left = tmp_path / f"after {kills}", [], dict.fromkeys(parts)
        later = moments(dice, seconds)
        while left:
            at_once = {part: processes.start(folder, out, part, 2) for part in left}
            for part, process in at_once.items():
                past.append(next(later))
                if killed(process, past[-1]):
                    kills += 1
                else:
                    del left[part]
        assert contents(out) == want, f"seed {seed}: killed after {past} s"


def test_a_device_whose_parent_was_killed_ends_in_silence(tmp_path, processes):
    folder, out = mixed_clips(tmp_path / "clips", 8), tmp_path / "out"
    config = load_config("eleaf-8g-opt", [*CHEAP, "output.shard_size=2"])
    inputs = collect_inputs([str(folder)], io.BytesIO())
    ours, theirs = multiprocessing.Pipe(duplex=False)
    task = partial(extract_on_device, config, inputs, out, DEFAULT_LIMITS)
    options = replace(ONE, device="cpu", part=Part(2, 1))
    child = processes.context.Process(target=multi_device._child, args=(theirs, task, options, logging.ERROR))
    child.start()
    theirs.close()
    while ours.recv()[0] != "shard":
        pass
    ours.close()
    child.join(60)
    assert child.exitcode == 0
    for part in WHOLE.split(2):
        run(folder, out, replace(ONE, part=part), shard=2)
    everything(folder, out)
