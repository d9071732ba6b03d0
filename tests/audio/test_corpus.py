"""The command on real recordings, where they are at hand: HLFEAT_CORPUS names their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hlfeat import FeatureStore

CORPUS = Path(os.environ.get("HLFEAT_CORPUS", "nowhere"))
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="HLFEAT_CORPUS names no folder of recordings"),
]


def test_mixed_formats_rates_channels_and_names(hlfeat, tmp_path):
    result = hlfeat("extract", CORPUS / "mixed", "-o", tmp_path / "out", "-c", "log-mel")
    assert result.returncode == 0, result.stderr
    store = FeatureStore(tmp_path / "out")
    assert len(store) == 180
    assert (tmp_path / "out/failures.jsonl").read_text() == ""
    assert all(np.isfinite(y).all() for _, y in store)


def test_broken_files_beside_good_ones(hlfeat, tmp_path):
    good = sorted((CORPUS / "speech16k").glob("*/utt0000*.flac"))
    result = hlfeat("extract", CORPUS / "broken", *good, "-o", tmp_path / "out", "-c", "log-mel")
    assert result.returncode == 3
    expected = {json.loads(line)["path"] for line in (CORPUS / "broken/expected.jsonl").open()}
    failures = {f["id"]: f for f in map(json.loads, (tmp_path / "out/failures.jsonl").open())}
    assert set(failures) == expected
    assert all(f["code"] and f["message"] for f in failures.values())
    assert set(FeatureStore(tmp_path / "out").ids) == {"good.wav", *(p.name for p in good)}


def test_alone_and_among_fifty_others(hlfeat, tmp_path):
    paths = sorted((CORPUS / "speech16k").glob("*/*.flac"))[:51]
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    for batch in ("5", "100"):
        out = tmp_path / batch
        assert hlfeat("extract", tmp_path / "list.txt", "-o", out, "--batch-seconds", batch).returncode == 0
    hlfeat("extract", paths[17], "-o", tmp_path / "alone")
    (id_, alone) = FeatureStore(tmp_path / "alone")[0]
    for batch in ("5", "100"):
        store = FeatureStore(tmp_path / batch)
        among = next(y for other, y in store if other.endswith(id_))
        assert np.abs(among - alone).max() <= 1e-5 * np.abs(alone).max()
