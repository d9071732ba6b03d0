"""Fingerprints of configurations: feature directories of earlier versions are continued only if these stay.

`python -m tests.contract.test_fingerprints` prints them for the installed hlfeat.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hlfeat

PINNED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"))
WEIGHTS, STATS = "0123456789abcdef" * 4, "fedcba9876543210" * 4  # digests of other files

# name of a case: configuration, overrides, digest of the weights, digest of the statistics
CASES: dict[str, tuple[str, list[str], str | None, str | None]] = {
    **{name: (name, [], None, None) for name in SHIPPED},
    "pool": ("eleaf-8g-opt", ["output.pool=mean+std"], None, None),
    "pool by windows": ("eleaf-8g-opt", ["output.pool=window:0.50,0.250"], None, None),
    "float16": ("eleaf-8g-opt", ["output.dtype=float16"], None, None),
    "pt": ("eleaf-8g-opt", ["output.format=pt"], None, None),
    "shard size in clips": ("eleaf-8g-opt", ["output.shard_size=3"], None, None),
    "shard size in bytes": ("eleaf-8g-opt", ["output.shard_size=64MB"], None, None),
    "weights": ("eleaf-harmonic", [], WEIGHTS, None),
    "statistics": ("log-mel", [], None, STATS),
    "weights and statistics": ("eleaf-harmonic-mixed", [], WEIGHTS, STATS),
    "each channel": ("log-mel", ["audio.channels=each"], None, None),
    "third channel": ("log-mel", ["audio.channels=2", "audio.sample_rate=8000", "frontend.max_freq=4000"], None, None),
    "seed": ("eleaf-harmonic", ["seed=7"], None, None),
    "compression": ("eleaf-pcen", ["frontend.compression.s=0.1", "frontend.compression.clamp=null"], None, None),
    "list of frequencies": (
        "eleaf-default",
        ["frontend.n_filters=3", "frontend.num_groups=1", "frontend.scale=[100, 440, 1000.5]"],
        None,
        None,
    ),
    "filters per octave": ("eleaf-default", ["frontend.scale=log", "frontend.filters_per_octave=6"], None, None),
    "bins per octave": ("eleaf-default", ["frontend.scale=log", "frontend.bins_per_octave=6"], None, None),
    "first filter": (
        "leaf",
        ["frontend.scale=log", "frontend.bins_per_octave=6", "frontend.first_freq=55"],
        None,
        None,
    ),
    "every layer": (str(Path(__file__).parent / "every_layer.yaml"), [], None, None),
}


def fingerprints(case: str) -> dict[str, str]:
    name, overrides, weights, statistics = CASES[case]
    config = hlfeat.load_config(name, overrides)
    return {"features": config.fingerprint(weights, statistics), "frames": config.frames_fingerprint(weights)}


def test_pinned_configurations_are_shipped():
    assert len(SHIPPED) == 15
    assert list(PINNED) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_fingerprints_stay(case):
    assert fingerprints(case) == PINNED[case]


if __name__ == "__main__":
    print(json.dumps({case: fingerprints(case) for case in CASES}, indent=1))
