"""Small runs into a bucket, and what they leave there."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import s3fs  # noqa: F401  for processes that are forked from one that has imported this module

from hlfeat.extraction.options import Options
from hlfeat.extraction.report import Report
from hlfeat.inputs.collect import Inputs
from tests import helpers
from tests.extraction import runs
from tests.remote.object_server import ObjectServer

URL = "s3://speech/features"
ONE = Options(quiet=True, workers=1, device="cpu")


def some_clips(folder: Path, n: int = 5) -> Path:
    """Short clips, and one that fails."""
    helpers.good_clips(folder, n, longest=0.2)
    (folder / "d0/a text.wav").write_text("no audio")
    return folder


def run(folder: Path | Inputs, out: str | Path = URL, options: Options = ONE, shard: int = 2) -> Report:
    return runs.run(folder, out, f"output.shard_size={shard}", config="log-mel", options=options)


def local(folder: Path | Inputs, out: Path, options: Options = ONE, shard: int = 2) -> dict[str, bytes]:
    """What the same run leaves in a folder."""
    run(folder, out, options, shard)
    return runs.contents(out)


def contents(objects: dict[str, bytes]) -> dict[str, bytes]:
    """What a run has left, by file name; without reports, which have times in them."""
    names = {key.removeprefix("features/"): data for key, data in objects.items()}
    return {name: data for name, data in names.items() if not name.startswith("report")}


def left(server: ObjectServer) -> dict[str, bytes]:
    """What runs have left in the bucket."""
    return contents(server.objects("speech"))


@cache
def ended_process() -> int:
    """The number of a process that does not exist any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def as_if_killed(objects: dict[str, bytes]) -> dict[str, bytes]:
    """The same objects with leases whose holders have ended."""
    return {key: of_dead(data) if key.endswith(".lock") and data else data for key, data in objects.items()}


def of_dead(lease: bytes) -> bytes:
    return json.dumps({**json.loads(lease), "pid": ended_process()}).encode()
