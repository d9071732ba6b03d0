"""Parquet tables as programs write them, and some that they should not have written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hlfeat import FeatureStore
from hlfeat.audio import copies
from hlfeat.audio.clip import Clip
from hlfeat.audio.table_fetcher import read_row
from hlfeat.errors import ClipError, UsageError
from hlfeat.inputs import table_values
from hlfeat.inputs.collect import collect_inputs
from hlfeat.inputs.table_values import json_values
from tests.extraction.runs import run
from tests.inputs.tables_of_audio import sounds, write_files, write_table

SOME = sounds(4)
BAD = "caf\udce9.wav"  # in Latin-1


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def clips(*paths: str, **options: str) -> list[Clip]:
    return collect_inputs(paths, **options).clips


def any_text(values: Sequence[str]) -> pa.Array:
    """Texts of Arrow, which does not look at whether they are UTF-8."""
    array = pa.array([os.fsencode(value) for value in values])
    return pa.Array.from_buffers(pa.string(), len(values), array.buffers())


# --- rows that name files instead of having bytes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("pipe", "not-audio", "pipe: expected a file, found a device or a pipe"),
        ("/dev/zero", "not-audio", "/dev/zero: expected a file, found a device or a pipe"),
        (".", "unreadable", ".: expected a file, found a folder"),
        ("gone.wav", "missing", "gone.wav: no such file"),
    ],
)
def test_what_is_no_file_is_not_opened(name, code, message):
    os.mkfifo("pipe")
    table = write_table(Path("t.parquet"), [("a.wav", b"x"), (name, None)])
    with pytest.raises(ClipError) as e:
        read_row(clips(str(table))[1])
    assert (e.value.code, str(e.value)) == (code, message)


def test_a_file_that_a_row_names_is_read_where_it_is(tmp_path, monkeypatch):
    write_files(tmp_path / "beside", SOME)
    rows = [(name, None if i else data) for i, (name, data) in enumerate(SOME.items())]
    table = write_table(tmp_path / "beside" / "t.parquet", rows)
    run(tmp_path / "beside" / "t.parquet", tmp_path / "of-rows", config="log-mel")
    line = FeatureStore(tmp_path / "of-rows").record(rows[1][0])
    assert (line["size"], line["modified"]) == (os.stat(table).st_size, os.stat(table).st_mtime_ns)
    clip = read_row(clips(str(table))[1])
    assert os.path.samefile(clip.file, tmp_path / "beside" / rows[1][0])  # no copy: it may be longer than the memory
    assert clip.copy.size == 0
    monkeypatch.setattr(copies._UnnamedFile, "write", None)
    read_row(clips(str(table))[2])


# --- texts that are no UTF-8 ---------------------------------------------------------------------------------------


def test_a_path_that_is_no_utf8_costs_no_row(tmp_path):
    names, data = [BAD, *list(SOME)[1:]], list(SOME.values())
    audio = pa.StructArray.from_arrays([pa.array(data), any_text(names)], ["bytes", "path"])
    pq.write_table(pa.table({"audio": audio}), "t.parquet")
    report = run(tmp_path / "t.parquet", tmp_path / "out", config="log-mel")
    assert (report.clips, report.failures) == (4, [])
    assert list(FeatureStore(tmp_path / "out").ids) == names
    null = pa.StructArray.from_arrays([pa.array([data[0], None]), any_text(["a.wav", BAD])], ["bytes", "path"])
    pq.write_table(pa.table({"audio": null}), "n.parquet")
    write_files(tmp_path, {BAD: data[1]})
    assert read_row(clips("n.parquet")[1]).file == BAD


def test_a_column_of_paths_that_are_no_utf8(tmp_path):
    pq.write_table(pa.table({"file": any_text(["a.wav", BAD])}), "t.parquet")
    assert [clip.path for clip in clips("t.parquet", audio_column="file")] == ["a.wav", BAD]


# --- values --------------------------------------------------------------------------------------------------------


def test_times_in_maps_and_of_zones_that_python_does_not_know(monkeypatch):
    kind = pa.map_(pa.string(), pa.timestamp("ns"))
    assert json_values(pa.array([[("a", 1001)], [], None], kind)) == [{"a": "1970-01-01T00:00:00.000001"}, {}, None]
    assert json_values(pa.array([0], pa.timestamp("us", "Mars/Olympus"))) == ["1970-01-01T00:00:00+00:00"]
    assert json_values(pa.array([0], pa.timestamp("ns", "+02:00"))) == ["1970-01-01T02:00:00+02:00"]
    assert table_values._known_zone(None) is None


# --- folders, and tables without rows ------------------------------------------------------------------------------


def test_paths_of_tables_in_folders_and_lists_are_below_the_root(tmp_path):
    write_files(tmp_path / "audio", SOME)
    name = next(iter(SOME))
    Path("data").mkdir()
    pq.write_table(pa.table({"file": [f"audio/{name}"]}), "data/t.parquet")
    Path("list.txt").write_text("data\n")
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    for given in ("../data", "../list.txt", "../data/t.parquet"):
        (clip,) = clips(given, root="..", audio_column="file")
        assert os.path.samefile(clip.path, tmp_path / "audio" / name), given


def test_a_table_without_rows_has_its_columns():
    write_table(Path("t.parquet"), [])
    for options in ({}, {"audio_column": "audio"}):
        with pytest.raises(UsageError, match=r"^no audio files in t\.parquet$"):
            clips("t.parquet", **options)


def test_what_is_said_of_data_sets_in_arrow():
    files = {"data-00000-of-00001.arrow": b"1", "state.json": b"{}"}  # as save_to_disk writes them
    write_files(Path("disk"), files)
    advice = "Arrow files are not read: Dataset.to_parquet of the package datasets writes Parquet tables"
    skipped = "skipped 2 files (not an audio extension): .arrow 1, .json 1"
    for given, options, message in (
        ("disk", {}, f"no audio files in disk; {skipped}; {advice}"),
        ("disk", {"audio_column": "a"}, f"audio_column: expected a Parquet table among the inputs, got none; {advice}"),
        ("disk/data-00000-of-00001.arrow", {}, f"disk/data-00000-of-00001.arrow: {advice}"),
    ):
        with pytest.raises(UsageError) as e:
            clips(given, **options)
        assert str(e.value) == message
    write_files(Path("disk"), {"a.wav": b"1"})
    assert [clip.id for clip in clips("disk")] == ["a.wav"]
