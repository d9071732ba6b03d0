"""The statistics file: reads back as written, and what is no such file is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hlfeat.errors import ConfigError
from hlfeat.statistics.dataset_statistics import ARRAYS, Statistics, read_statistics

KEYS = ["hlfeat", "fingerprint", "clips", "frames", "mean", "variance", "min", "max"]


def some(rng: np.random.Generator) -> Statistics:
    mean = rng.normal(size=(2, 5)) * 1e6
    return Statistics("abc", 3, 1000, mean, rng.exponential(size=(2, 5)) * 1e-9, mean - 1, mean + 1)


def test_reads_back_to_the_bit(tmp_path: Path, rng: np.random.Generator):
    written = some(rng)
    written.write(tmp_path / "s.json")
    read = read_statistics(tmp_path / "s.json")
    assert (read.fingerprint, read.clips, read.frames) == ("abc", 3, 1000)
    for name in ARRAYS:
        assert getattr(read, name).dtype == np.float64
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    told = json.loads((tmp_path / "s.json").read_text())
    assert list(told) == KEYS
    assert told["hlfeat"] == "statistics"
    assert told["mean"][1][4] == written.mean[1, 4]
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
        ({"mean": [[]]}, "mean"),
        ({"mean": [[1.0, 2.0], [3.0]]}, "mean"),
        ({"mean": [["1"] * 5] * 2}, "mean"),
        ({"max": [[1e400] * 5] * 2}, "max: expected finite"),
        ({"max": [[10**400] * 5] * 2}, "max: expected finite"),
        ({"variance": [[-1.0] * 5] * 2}, "variance: expected numbers from 0"),
        ({"variance": [[1.0] * 5]}, "variance: expected channels x bands"),
        ({"min": [[1e9] * 5] * 2}, "min: expected at most max"),
        ({"max": None}, "max"),
    ],
)
def test_what_is_not_one_is_refused(tmp_path: Path, rng: np.random.Generator, change: dict, message: str):
    path = tmp_path / "s.json"
    some(rng).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message) as e:
        read_statistics(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff", "[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str):
    (tmp_path / "s.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match="not a statistics file"):
        read_statistics(tmp_path / "s.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_statistics(tmp_path / "missing.json")
