"""How fast a run over clips at URLs is, beside the same clips on the disk: 5 ms before each answer, 16 clips ahead.

    python scripts/measure_remote.py [CONFIG ...]

It makes clips of 10 s, serves them on loopback by a process of its own, and runs over both in turn. S3's protocol is
measured too: the same server sends what is asked for, whoever signs. The ratios are those of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

import hlfeat

CLIPS, SECONDS, RATE, LAPS, LATENCY = 300, 10.0, 16000, 5, 0.005
DEFAULT = ["log-mel", "eleaf-8g-opt"]
ROOT = Path(__file__).parents[1]


def make_clips(folder: Path) -> None:
    """Voices, about: harmonics with a vibrato, whose loudness changes, and noise."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    for i in range(CLIPS):
        rng = np.random.default_rng(i)
        phase = 2 * np.pi * (100 + 3 * i) * (time + 0.002 * np.sin(2 * np.pi * 5 * time))
        voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * np.sin(2 * np.pi * 0.7 * time) ** 2
        soundfile.write(folder / f"{i:03d}.flac", 0.2 * voice + 0.01 * rng.normal(size=len(time)), RATE)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's files."""
    command = [sys.executable, "-m", "tests.remote.web_server", str(folder), str(LATENCY)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def speed(config: hlfeat.Config, paths: list[str], out: Path) -> float:
    """Clips a second."""
    report = hlfeat.extract(config, paths, out, hlfeat.Options(device="cpu", quiet=True, overwrite=True))
    assert report.clips == CLIPS, report.failures
    return CLIPS / report.seconds["total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="what is computed", default=DEFAULT)
    configs = parser.parse_args().configs
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "bucket"), Path(name, "out")
        folder.mkdir()
        make_clips(folder)
        files = sorted(folder.iterdir())
        size = statistics.mean(path.stat().st_size for path in files)
        print(f"{CLIPS} clips of {SECONDS:g} s, {size / 1000:.0f} kB each; {LAPS} laps")
        with served(folder.parent) as address:
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
            os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
            places = {
                "disk": [str(path) for path in files],
                "http": [f"{address}/bucket/{path.name}" for path in files],
                "s3": [f"s3://bucket/{path.name}" for path in files],
            }
            lists = {place: Path(name, f"{place}.txt") for place in places}
            for place, paths in places.items():
                lists[place].write_text("\n".join(paths))
            for config in configs:
                laps: dict[str, list[float]] = {place: [] for place in places}
                for lap in range(LAPS + 1):
                    for place in places:
                        found = speed(hlfeat.load_config(config), [str(lists[place])], out)
                        laps[place] += [found] if lap else []  # the first is to warm up
                medians = {place: statistics.median(of) for place, of in laps.items()}
                ratios = ", ".join(f"{place} {medians[place] / medians['disk']:.2f}" for place in ("http", "s3"))
                print(f"{config}: {medians['disk']:.0f} clips/s from the disk; of that: {ratios}")


if __name__ == "__main__":
    main()
