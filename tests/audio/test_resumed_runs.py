"""Runs over FFmpeg's formats and shared passes that are killed and resumed: the same directory, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np

from tests import helpers
from tests.audio.media import MEDIA, Media, encode
from tests.conftest import command

NAMES = ["AAC in MP4", "Opus in WebM", "WMA", "AMR-NB", "FLAC in Matroska"]


def run(inputs: Path, out: Path, workers: int, dies_after: int | None = None) -> int:
    """The command, which kills itself with SIGKILL once so many shards are finished."""
    dying = (
        "import os, signal\n"
        "from hlfeat.cli.app import main\n"
        f"before, left = os.replace, [{dies_after}]\n"
        "def replace(source, target, **more):\n"
        "    before(source, target, **more)\n"
        "    left[0] -= str(target).endswith('.jsonl') and 'shard-' in str(target)\n"
        "    if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\n"
        "main()\n"
    )
    program = [command()] if dies_after is None else [str(Path(command()).parent / "python"), "-c", dying]
    arguments = ["extract", inputs, "-o", out, "-c", "log-mel", "-q", "--device", "cpu", "--workers", workers]
    more = ["--shard-size", "4"]
    return subprocess.run([*program, *map(str, arguments), *more], capture_output=True, check=False).returncode


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"}


def test_killed_and_resumed(tmp_path):
    lines = []
    for i in range(20):
        kind = MEDIA[NAMES[i % len(NAMES)]]
        x = np.stack([helpers.tone(0.5 + i / 10, kind.rate, 200 + 20 * i)] * kind.channels, 1)
        path = encode(tmp_path / f"{i:02d}.{kind.extension}", kind, x)
        lines.append({"id": path.name, "path": str(path)})
    long = encode(tmp_path / "l.mp3", Media("mp3", "mp3", "libmp3lame", 44100, 1), helpers.tone(20, 44100)[:, None])
    lines += [{"id": f"part {i:02d}", "path": str(long), "start": i, "end": i + 1.5} for i in range(18)]
    inputs = tmp_path / "clips.jsonl"
    inputs.write_text("\n".join(map(json.dumps, lines)))
    assert run(inputs, tmp_path / "whole", 1) == 0
    shards = len(list((tmp_path / "whole").glob("shard-*.jsonl")))
    assert shards > 6
    for workers in (1, 2):
        out = tmp_path / f"resumed by {workers}"
        for _ in range(2):
            assert run(inputs, out, workers, dies_after=2) == -9
        assert run(inputs, out, workers) == 0
        assert contents(out) == contents(tmp_path / "whole")
        assert not [name for name in os.listdir(out) if "tmp" in name]
