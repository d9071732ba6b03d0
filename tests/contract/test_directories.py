"""Feature directories stay what they are: what they hold, and with a reference made by another version, every byte.

tests/contract/directories.py says how to make a reference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.contract import directories

pytestmark = pytest.mark.processes

PINNED = json.loads(directories.PINNED.read_text(encoding="utf-8"))
VALUES = dict(np.load(directories.VALUES))
REFERENCE = os.environ.get("HLFEAT_CONTRACT_REFERENCE")


def test_pinned_scenarios_are_all():
    assert list(PINNED) == list(directories.SCENARIOS)


@pytest.mark.parametrize("name", directories.SCENARIOS)
def test_directory_stays(name, tmp_path):
    out = directories.write(name, tmp_path)
    assert directories.portable(out) == PINNED[name]
    values = directories.values(out)
    pinned = {key: array for key, array in VALUES.items() if key.split("/")[0].split()[0] == name}
    assert values.keys() == pinned.keys()
    # Float32 sums in another order differ by 1e-6 of an array's values; half precision rounds to 1e-3 of a value.
    tolerance = 2e-3 if name in ("float16", "parts") else 1e-4
    for key, array in pinned.items():
        np.testing.assert_allclose(values[key], array, rtol=tolerance, atol=tolerance * array.std(), err_msg=key)
    if name == "killed":
        whole = directories.write("small_shards", tmp_path / "not killed")
        assert directories.contents(out) == directories.contents(whole)
    if REFERENCE:
        actual, reference = directories.contents(out), directories.contents(Path(REFERENCE, name))
        assert actual.keys() == reference.keys()
        assert [file for file in reference if actual[file] != reference[file]] == []


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "eleaf-harmonic"])
def test_bytes_do_not_depend_on_workers(config, tmp_path):
    with directories.workplace(tmp_path):
        for i in range(4):  # small files are handed to a thread several at once: enough of them for all threads
            directories.write_clips(Path(f"clips/more {i}"))
        for workers in (1, 3):
            directories.extract(f"out-{workers}", "output.shard_size=4", config=config, workers=workers)
        assert directories.contents(Path("out-1")) == directories.contents(Path("out-3"))
