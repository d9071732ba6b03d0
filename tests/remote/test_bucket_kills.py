"""Runs into a bucket that are killed anywhere leave what the same command completes to the same bytes.

What is in the bucket is kept before each request that changes it, which is what a kill there leaves; the run goes on
from each of these. Processes are killed too, at the n-th change and at moments drawn at random.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.process
import os
import random
import re
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import soundfile
import torch

from hlfeat.partition import WHOLE
from tests import helpers
from tests.extraction import runs
from tests.remote import buckets
from tests.remote.buckets import ONE, as_if_killed, contents, left, run
from tests.remote.object_server import ObjectServer

KILLS = int(os.environ.get("HLFEAT_BUCKET_KILLS", "3"))
SEED = int(os.environ.get("HLFEAT_BUCKET_SEED", "0"))


def killed_anywhere(
    server: ObjectServer, go: Callable[[], object], want: dict[str, bytes], tried: str = ""
) -> list[str]:
    """Have a run go on from what a kill before each change leaves. Returns the changes.

    Args:
        tried: a regular expression that these changes have; no kill is tried before the others.
    """
    before = left(server)
    server.record("speech")
    go()
    assert left(server) == want
    moments = server.recorded()
    server.record("")
    seen: list[dict[str, bytes]] = []
    for change, objects in moments:
        check_nothing_torn(contents(objects), change, want, before)
        here = {key: b"" if key.endswith(".lock") else data for key, data in objects.items()}
        if here in seen or not re.search(tried, change):
            continue
        seen.append(here)
        server.restore("speech", as_if_killed(objects))
        go()
        assert left(server) == want, f"killed before {change}"
    return [change for change, _ in moments]


def check_nothing_torn(objects: dict[str, bytes], moment: str, *whole: dict[str, bytes]) -> None:
    """Where there is an index, there are its features and statistics, and all are as in one of the whole runs."""
    for name in objects:
        if name.startswith("shard") and name.endswith(".jsonl"):
            number = name.removeprefix("shard-").removesuffix(".jsonl")
            names = name, f"shard-{number}.npy", f"stats-{number}.json"
            there = [objects.get(n) for n in names]
            assert there in [[run.get(n) for n in names] for run in whole], f"{name}, {moment}"


def test_killed_before_each_step(server: ObjectServer, tmp_path: Path):
    folder = buckets.some_clips(tmp_path / "clips", 3)
    want = buckets.local(folder, tmp_path / "local")
    server.put("speech", {})
    changes = killed_anywhere(server, partial(run, folder), want)
    assert [c.rpartition("/")[2] for c in changes if "shard-00001" in c or "stats-00001" in c] == [
        "shard-00001.npy",
        "stats-00001.json",
        "shard-00001.jsonl",
    ]


def test_updating_killed_before_each_step(server: ObjectServer, tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})
    run(folder, shard=1)
    path = sorted(folder.rglob("*.*"))[1]
    x, rate = soundfile.read(path)
    soundfile.write(path, -x, rate, format=soundfile.info(path).format, subtype=soundfile.info(path).subtype)
    want = buckets.local(folder, tmp_path / "anew", shard=1)
    go = partial(run, folder, options=replace(ONE, update=True), shard=1)
    changes = killed_anywhere(server, go, want, "00001")
    of_shard = [c for c in changes if "00001" in c]
    assert [c.partition(" ")[0] for c in of_shard] == ["DELETE"] * 3 + ["PUT"] * 3
    assert of_shard[0].endswith("shard-00001.jsonl")


def test_starting_anew_killed_before_each_step(server: ObjectServer, tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})
    run(folder, shard=1)
    want = buckets.local(folder, tmp_path / "local")
    go = partial(run, folder, options=replace(ONE, overwrite=True))
    changes = killed_anywhere(server, go, want, "DELETE .*(00001|report|yaml)")
    removed = [change.rpartition("/")[2] for change in changes if change.startswith("DELETE")]
    assert removed[:2] == ["shard-00000.jsonl", "shard-00001.jsonl"]
    assert removed[-2:] == ["hlfeat.yaml", "hlfeat.lock"]


def test_parts_killed_before_each_step(server: ObjectServer, tmp_path: Path):
    folder = buckets.some_clips(tmp_path / "clips", 2)
    parts = WHOLE.split(2)

    def go(out: str | Path = buckets.URL) -> None:
        for part in parts:
            run(folder, out, replace(ONE, part=part))

    go(tmp_path / "local")
    want = contents(runs.files_below(tmp_path / "local"))
    server.put("speech", {})
    server.record("speech")
    go()
    assert left(server) == want
    moments = server.recorded()
    server.record("")
    for change, objects in moments:
        if change.startswith("PUT") and change.endswith(("/report.json", "/failures.jsonl", "/report-p2of2.json")):
            server.restore("speech", as_if_killed(objects))
            go()
            assert left(server) == want, f"killed before {change}"


# --- processes ---------------------------------------------------------------------------------------------------


def _child(environment: Mapping[str, str], temporary: Path, *arguments: object) -> None:
    os.environ.update(environment)
    tempfile.tempdir = str(temporary)  # where killed runs leave folders
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    run(*arguments)


def start(server: ObjectServer, temporary: Path, *arguments: object) -> multiprocessing.process.BaseProcess:
    """A run in a copy of a process that has imported torch and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.remote.buckets"])
    process = context.Process(target=_child, args=(server.environment, temporary, *arguments))
    process.start()
    return process


def test_processes_killed_at_random(server: ObjectServer, tmp_path: Path):
    """At a change of the bucket, or at any moment, and again where they go on."""
    folder = buckets.some_clips(tmp_path / "clips", 7)
    want = buckets.local(folder, tmp_path / "local")
    dice, kills = random.Random(SEED), 0
    while kills < KILLS:
        server.reset()
        server.put("speech", {})
        past: list[object] = []
        while True:
            process = start(server, tmp_path, folder)
            if dice.random() < 0.5:
                past.append(dice.randrange(30))
                assert process.pid is not None
                server.kill(process.pid, past[-1])
                process.join(60)
            else:
                past.append(dice.uniform(0, 1.5))
                process.join(past[-1])
                process.kill()
                process.join(60)
            server.forget()
            assert process.exitcode in (0, -signal.SIGKILL), past
            if process.exitcode == 0:
                break
            kills += 1
            check_nothing_torn(left(server), f"after {past}", want)
        assert left(server) == want, f"killed after {past}"
