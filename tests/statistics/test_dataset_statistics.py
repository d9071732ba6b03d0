"""The statistics file: reads back as written; any other file is an error of one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hlfeat.errors import ConfigError
from hlfeat.statistics.dataset_statistics import ARRAYS, Statistics

KEYS = ["hlfeat", "fingerprint", "clips", "frames", "mean", "variance", "min", "max"]


def example(rng: np.random.Generator) -> Statistics:
    mean = rng.normal(size=(2, 5)) * 1e6
    return Statistics("abc", 3, 1000, mean, rng.exponential(size=(2, 5)) * 1e-9, mean - 1, mean + 1)


def test_reads_back_to_the_bit(tmp_path: Path, rng: np.random.Generator):
    written = example(rng)
    written.write(tmp_path / "s.json")
    read = Statistics.read(tmp_path / "s.json")
    assert (read.fingerprint, read.clips, read.frames) == ("abc", 3, 1000)
    for name in ARRAYS:
        assert getattr(read, name).dtype == np.float64
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    contents = json.loads((tmp_path / "s.json").read_text())
    assert list(contents) == KEYS
    assert contents["hlfeat"] == "statistics"
    assert contents["mean"][1][4] == written.mean[1, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hlfeat": "features"}, "statistics"),
        ({"fingerprint": 3}, "fingerprint"),
        ({"clips": 0}, "clips"),
        ({"frames": True}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"mean": []}, "mean"),
        ({"mean": [True]}, "mean"),
        ({key: [1.0] * 5 for key in ARRAYS}, "mean: expected a list for each channel"),
        ({"mean": [[]]}, "mean"),
        ({"mean": [[1.0, 2.0], [3.0]]}, "mean"),
        ({"mean": [["1"] * 5] * 2}, "mean"),
        ({"max": [[1e400] * 5] * 2}, "max: expected finite"),
        ({"max": [[10**400] * 5] * 2}, "max: expected finite"),
        ({"variance": [[-1.0] * 5] * 2}, "variance: expected numbers from 0"),
        ({"variance": [[1.0] * 5]}, "variance: expected the shape"),
        ({"min": [[1e9] * 5] * 2}, "min: expected at most max"),
        ({"max": None}, "max"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, rng: np.random.Generator, change: dict, message: str):
    path = tmp_path / "s.json"
    example(rng).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message) as e:
        Statistics.read(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff", "[" * 100_000])
def test_other_files_are_refused(tmp_path: Path, text: str):
    (tmp_path / "s.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match="not a statistics file"):
        Statistics.read(tmp_path / "s.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Statistics.read(tmp_path / "missing.json")
