"""Tables, read by pandas, pyarrow and Python's csv."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tarfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet

from hlfeat import FeatureStore
from hlfeat.conversion import parquet
from hlfeat.conversion.convert import Request, convert
from hlfeat.files import json_lines
from hlfeat.storage.metadata import column_names
from tests.conversion.folders import add_meta, damage, index_of, rename

TEXTS = ["", "plain", "a,b", 'a "quoted" word', "two\nlines", "ünï тест 日本", " spaces ", "=1+1", "NA", "\ttab;|"]


def csv_frame(folder: Path) -> pandas.DataFrame:
    """All files of a table as pandas reads them, texts as they are."""
    paths = sorted(folder.glob("part-*.csv"))
    texts = {"id": str, "label": str, "meta.id": str}
    frames = [pandas.read_csv(p, dtype=texts, keep_default_na=False, lineterminator="\n") for p in paths]
    return pandas.concat(frames, ignore_index=True)


def test_csv_of_pooled_vectors(pooled, tmp_path, invoke):
    add_meta(pooled, lambda i, id_: {"label": TEXTS[i], "id": f"row {i}", "n": i})
    result = invoke("convert", pooled, "-o", tmp_path / "new", "--format", "csv")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / f"new/part-0000{i}.csv") for i in range(3)]
    table, store = csv_frame(tmp_path / "new"), FeatureStore(pooled)
    values = [f"{of}_c{c}_b{b}" for of in ("mean", "std") for c in (0, 1) for b in range(8)]
    assert list(table.columns) == ["id", "start_s", "end_s", "label", "meta.id", "n", *values]
    assert table["id"].tolist() == [id_ for id_, _ in store]
    assert table["label"].tolist() == TEXTS[:9]
    assert table["meta.id"].tolist() == [f"row {i}" for i in range(9)]
    assert table["n"].tolist() == list(range(9))
    assert (table[values].to_numpy(np.float32) == np.concatenate([y for _, y in store])).all()
    assert table["start_s"].tolist() == [0.0] * 9
    assert np.allclose(table["end_s"], [line["duration"] for line in index_of(pooled)], atol=1e-9)


def test_csv_of_frames_of_segments(segments, tmp_path, invoke):
    assert invoke("convert", segments, "-o", tmp_path / "new", "--format", "csv", "--frames").returncode == 0
    table, store = csv_frame(tmp_path / "new"), FeatureStore(segments)
    assert list(table.columns[:6]) == ["id", "start_s", "end_s", "speaker", "text", "fold"]
    for i, (id_, y) in enumerate(store):
        rows = table[table["id"] == id_]
        assert (rows.iloc[:, 6:].to_numpy(np.float32) == y.reshape(len(y), -1)).all()
        assert rows["start_s"].iloc[0] == i / 2
        assert rows["end_s"].iloc[-1] == i / 2 + 0.4
        assert np.allclose(rows[["start_s", "end_s"]], i / 2 + store.intervals(id_), atol=1e-9)
        assert (rows["start_s"].to_numpy()[1:] == rows["end_s"].to_numpy()[:-1]).all()
        assert set(rows["speaker"]) == {f"sp {i % 2}"}


def test_parquet_of_windows(windows, tmp_path, invoke):
    add_meta(
        windows, lambda i, id_: {"label": TEXTS[i], "n": i, "x": i / 4, "flag": i > 3, "list": [i, "a"]} if i else {}
    )
    result = invoke("convert", windows, "-o", tmp_path / "new", "--format", "parquet")
    assert result.returncode == 0, result.stderr
    table, store = pq.read_table(tmp_path / "new"), FeatureStore(windows)  # the folder, as data sets are read
    assert table.column_names == ["id", "start_s", "end_s", "label", "n", "x", "flag", "list", "features"]
    assert [str(table.schema.field(name).type) for name in table.column_names[3:8]] == [
        "string", "int64", "double", "bool", "string"
    ]  # fmt: skip
    assert table.schema.field("features").type == pa.list_(pa.float32(), 16)
    frame = pandas.read_parquet(tmp_path / "new")
    assert (np.stack(frame["features"]) == np.concatenate([y for _, y in store])).all()
    assert frame["id"].tolist() == [id_ for id_, y in store for _ in y]
    intervals = np.concatenate([store.intervals(id_) for id_, _ in store])
    assert np.allclose(frame[["start_s", "end_s"]], intervals, atol=1e-9)
    of_clips = table.to_pandas().drop_duplicates("id").reset_index()
    assert of_clips["label"].tolist()[1:] == TEXTS[1:9]
    assert table["label"][0].as_py() is None
    assert of_clips["list"].tolist()[1:] == [json.dumps([i, "a"]) for i in range(1, 9)]
    facts = json.loads(table.schema.metadata[b"hlfeat"])
    assert facts["values"] == [f"c{c}_b{b}" for c in (0, 1) for b in range(8)]
    assert facts["description"]["config"]["output"]["pool"] == "window:0.2,0.1"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_of_clips_and_of_frames(dtype, features, tmp_path, invoke):
    store = FeatureStore(features)
    for name, more in (("clips", []), ("frames", ["--frames"])):
        options = ["--format", "parquet", "--dtype", dtype, *more]
        assert invoke("convert", features, "-o", tmp_path / name, *options).returncode == 0
    clips, frames = (pandas.read_parquet(tmp_path / name) for name in ("clips", "frames"))
    assert clips["id"].tolist() == [id_ for id_, _ in store]
    assert np.allclose(clips["end_s"], [line["duration"] for line in index_of(features)], atol=1e-9)
    for (_, y), row in zip(store, clips["features"], strict=True):
        assert np.stack(row).dtype == dtype
        assert (np.stack(row) == y.reshape(len(y), -1).astype(dtype)).all()
    assert (np.stack(frames["features"]) == np.concatenate([np.stack(row) for row in clips["features"]])).all()
    assert np.allclose(frames["start_s"], np.concatenate([store.intervals(id_)[:, 0] for id_, _ in store]), atol=1e-9)


def test_row_groups_bound_the_memory(features, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1)
    convert(features, tmp_path / "new", Request("parquet", frames=True))
    files = [pq.ParquetFile(path) for path in sorted((tmp_path / "new").glob("*.parquet"))]
    assert [file.num_row_groups for file in files] == [4, 4, 1]


NAMES = st.sampled_from(["a", "id", "meta.id", "caf\udce9", "caf\\udce9"])  # few: clips have the same ones
META = st.dictionaries(
    NAMES | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.lists(st.integers(), max_size=2),
    max_size=4,
)  # fmt: skip
IDS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20)


def readable_text(text: str) -> str:
    """Text, with escapes for bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


@given(metas=st.lists(META, min_size=9, max_size=9), ids=st.lists(IDS, min_size=9, max_size=9, unique=True))
def test_any_metadata_and_ids(metas, ids, made_features, tmp_path_factory):
    """`metas` of clips with `ids`, some of them with bytes that are no UTF-8."""
    tmp_path = tmp_path_factory.mktemp("any")
    folder = Path(shutil.copytree(made_features["pooled"], tmp_path / "pooled"))
    rename(folder, dict(zip([line["id"] for line in index_of(folder)], ids, strict=True)))
    for path in folder.glob("stats-*.json"):
        path.unlink()  # they have ids too
    add_meta(folder, lambda i, id_: metas[i])
    for form in ("parquet", "csv"):
        convert(folder, tmp_path / form, Request(form))
    readable = list(map(readable_text, ids))
    values = np.concatenate([y for _, y in FeatureStore(folder)])
    columns = list(dict.fromkeys(name for meta in metas for name in meta))
    table = pq.read_table(tmp_path / "parquet")
    assert table["id"].to_pylist() == readable
    assert (np.array(table["features"].to_pylist(), np.float32) == values).all()
    rows = []
    for path in sorted((tmp_path / "csv").glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as f:
            header, *of_file = csv.reader(f)
        rows += of_file
    assert [row[0] for row in rows] == readable
    assert (np.array([row[-32:] for row in rows], np.float32) == values).all()
    for number, name in enumerate(columns, 3):
        assert header[number].endswith(readable_text(name))
        assert header[number].removesuffix(readable_text(name)) in ("", "meta.", "meta.meta.")
        column = column_names(columns, ["id", "start_s", "end_s", "features"])[name]
        for row, got, meta in zip(rows, table[column].to_pylist(), metas, strict=True):
            value = meta.get(name)
            assert row[number] == ("" if value is None else value if isinstance(value, str) else json.dumps(value))
            if isinstance(got, str) and not isinstance(value, str):
                assert json.loads(got) == value
            else:
                assert got == value


NUMBERS = [2**53 + 1, 0.5, -(2**53) - 1, 2**63, 2**100, 2**60 + 1, None, -7, 1e300]


@pytest.mark.parametrize(
    ("values", "kind"),
    [(NUMBERS, "string"), ([2**60 + 1, 3, *[None] * 7], "int64"), ([2**53, 0.5, *[None] * 7], "double")],
)
def test_large_integers_are_exact(values, kind, pooled, tmp_path, invoke):
    add_meta(pooled, lambda i, id_: {"n": values[i], "naïve caf\udce9": i})
    result = invoke("convert", pooled, "-o", tmp_path / "new", "--format", "parquet")
    assert result.returncode == 0, result.stderr
    column = pq.read_table(tmp_path / "new")["n"]
    assert str(column.type) == kind
    assert [json.loads(v) if isinstance(v, str) else v for v in column.to_pylist()] == values
    table = FeatureStore(pooled).to_pandas()
    assert [None if pandas.isna(value) else value for value in table["n"].tolist()] == values
    assert table["naïve caf\\udce9"].tolist() == list(range(9))


def test_without_pyarrow_it_says_what_to_install(features, tmp_path, invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    result = invoke("convert", features, "-o", tmp_path / "new", "--format", "parquet")
    assert result.returncode == 2
    assert result.stderr == "hlfeat: error: Parquet needs pyarrow: pip install 'hlfeat[parquet]'\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["parquet", "csv", "lhotse", "webdataset"])
def test_a_clip_that_float16_cannot_hold_fails_alone(form, features, tmp_path, invoke):
    loud = make_loud(features, 1)
    options = ["--format", form, "--dtype", "float16", *(["--frames"] if form == "csv" else [])]
    for out in ("new", "again"):
        if out == "again":  # it goes on behind the shard with the clip
            shutil.copytree(tmp_path / "new", tmp_path / out)
            (removed,) = (tmp_path / out).glob("[ps]*-00002*")
            shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
        for command in ("first", "repeated"):
            result = invoke("convert", features, "-o", tmp_path / out, *options)
            assert result.returncode == 3, result.stderr
            assert "1 clip failed: float16 cannot hold their features" in result.stderr
            assert ("is complete already" in result.stderr) == (command == "repeated")
        failures = [json.loads(line) for line in (tmp_path / out / "_failures.jsonl").read_text().splitlines()]
        assert [f["id"] for f in failures[3:]] == [loud]
        assert failures[3]["code"] == "non-finite"
        assert failures[3]["message"] == "features that float16 cannot hold"
        record = json.loads((tmp_path / out / "_conversion.json").read_text())
        assert (record["clips"], record["failed"]) == (8, 1)
    ids = [line["id"] for line in index_of(features) if line["id"] != loud]
    frames = {line["id"]: line["frames"] for line in index_of(features)}
    assert record["rows"] == sum(frames[id_] for id_ in ids)
    assert list(dict.fromkeys(ids_of(form, tmp_path / "again"))) == ids
    if form == "lhotse":
        for cut in CutSet.from_file(tmp_path / "new/cuts.jsonl.gz"):
            assert (
                cut.features.load() == FeatureStore(features)[cut.id].reshape(frames[cut.id], -1).astype("f2")
            ).all()


def make_loud(folder: Path, number: int) -> str:
    """Give the second clip of a shard features that float16 cannot hold. Returns its id."""
    path, index = folder / f"shard-{number:05d}.npy", folder / f"shard-{number:05d}.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    y = np.load(path)
    y[lines[1]["row"] + lines[1]["frames"] - 1] = 7e4
    np.save(path, y)
    lines[1].pop("crc32")
    index.write_bytes(json_lines(lines))
    return lines[1]["id"]


def ids_of(form: str, folder: Path) -> list[str]:
    """Those that a table, tars or cuts have, in order."""
    if form == "parquet":
        return pandas.read_parquet(folder)["id"].tolist()
    if form == "csv":
        return csv_frame(folder)["id"].tolist()
    if form == "lhotse":
        return [cut.id for cut in CutSet.from_file(folder / "cuts.jsonl.gz")]
    names = [name for path in sorted(folder.glob("*.tar")) for name in tarfile.open(path).getnames()]
    return [unquote(name.removesuffix(".npy")) for name in names if name.endswith(".npy")]


def test_a_file_that_is_thrown_away_is_not_finished(features, tmp_path, hlfeat):
    """A writer of Parquet would write the end of the file when it is forgotten, and complain that it is closed."""
    damage(features)
    result = hlfeat("convert", features, "-o", tmp_path / "new", "--format", "parquet")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
