"""The recipes do what they promise: all of them are run, and what they make is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hlfeat
from tests.docs.runner import run_page
from tests.docs.test_pages import RECIPES


def test_recipes(reader: Path) -> None:
    run_page(RECIPES)
    assert_same_features("features-parts", "features-slurm", "features-gpus", "features-found")
    assert all((reader / f"features-slurm/shard-p{i}of2-00000.npy").exists() for i in (1, 2))
    assert len(hlfeat.FeatureStore("features-tar")) == 3
    digest, shard = Path("sums.txt").read_text().split()
    assert (len(digest), shard) == (64, "features-found/shard-00000.npy")
    windows = hlfeat.FeatureStore("windows")
    assert windows.ids == [f"long/meeting.flac#t={start},{start + 10}" for start in (0, 5, 10)]
    assert set(windows.frames) == {1000}
    assert hlfeat.FeatureStore("features-long")[0][1].dtype == np.float16


def assert_same_features(*folders: str) -> None:
    """The folders hold the same features of the same clips."""
    stores = {folder: hlfeat.FeatureStore(folder) for folder in folders}
    names = {folder: {Path(id_).name: id_ for id_ in store.ids} for folder, store in stores.items()}
    first, *others = folders
    assert len(names[first]) == 3
    for other in others:
        for name, id_ in names[first].items():
            assert np.array_equal(stores[first][id_], stores[other][names[other][name]]), (other, name)
