"""Folders of features that are converted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soundfile

from tests import helpers
from tests.conversion.folders import SHARD, add_meta
from tests.extraction.runs import run


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips with odd names, and three that fail."""
    folder = helpers.good_clips(tmp_path_factory.mktemp("convert") / "clips", 9, longest=0.6)
    (folder / "d0/a text.wav").write_text("no audio")
    (folder / "d1/empty.wav").write_bytes(b"")
    (folder / "d1/zz last.wav").write_text("no audio")
    return folder


@pytest.fixture(scope="session")
def made_features(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("made")
    run(recordings, made / "frames", SHARD)
    run(recordings, made / "pooled", SHARD, "output.pool=mean+std")
    run(recordings, made / "windows", SHARD, 'output.pool="window:0.2,0.1"')
    segments = made / "segments.csv"
    long = made / "long talk.wav"
    soundfile.write(long, helpers.tone(2.0, 8000), 8000)
    rows = [f"{long},part {i},{i / 2},{i / 2 + 0.4}\n" for i in range(4)]
    segments.write_text("path,id,start,end\n" + "".join(rows))
    run(segments, made / "segments", "output.shard_size=2")
    return {name: made / name for name in ("frames", "pooled", "windows", "segments")}


@pytest.fixture
def features(made_features: dict[str, Path], tmp_path: Path) -> Path:
    """Frames, four clips in a shard."""
    return Path(shutil.copytree(made_features["frames"], tmp_path / "features"))


@pytest.fixture
def pooled(made_features: dict[str, Path], tmp_path: Path) -> Path:
    """Means and deviations of the same clips."""
    return Path(shutil.copytree(made_features["pooled"], tmp_path / "pooled"))


@pytest.fixture
def windows(made_features: dict[str, Path], tmp_path: Path) -> Path:
    """Means over windows of the same clips."""
    return Path(shutil.copytree(made_features["windows"], tmp_path / "windows"))


@pytest.fixture
def segments(made_features: dict[str, Path], tmp_path: Path) -> Path:
    """Segments of one recording, with metadata."""
    folder = Path(shutil.copytree(made_features["segments"], tmp_path / "segments"))
    add_meta(folder, lambda i, id_: {"speaker": f"sp {i % 2}", "text": f"words, number {i}\nand more", "fold": str(i)})
    return folder
