"""Parquet tables with audio in them: their rows are clips like the same audio in files."""

from __future__ import annotations

import datetime
import gzip
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hlfeat import FeatureStore, load_audio
from hlfeat.audio import table_rows
from hlfeat.audio.clip import Clip, TableRow
from hlfeat.audio.table_fetcher import TableFetcher
from hlfeat.errors import ClipError, InterruptedRunError, UsageError
from hlfeat.extraction.fetch_ahead import FetchAhead
from hlfeat.extraction.options import Options
from hlfeat.inputs import parquet
from hlfeat.inputs.collect import Inputs, collect_inputs
from hlfeat.storage.failure_record import read_failures
from tests.extraction.runs import QUIET, contents, run
from tests.in_process import invoke
from tests.inputs.tables_of_audio import (
    AUDIO,
    damage,
    encoded,
    features_of,
    sounds,
    write_files,
    write_table,
)

SOME = sounds(12)
NESTED = pa.struct({"when": pa.timestamp("ns"), "n": pa.list_(pa.int64())})


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ids(*paths: object, column: str | None = None) -> list[str]:
    return [clip.id for clip in clips(*paths, column=column)]


def clips(*paths: object, column: str | None = None) -> list[Clip]:
    return collect_inputs([str(path) for path in paths], audio_column=column).clips


def shards(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("*.npy"))]


def codes(out: Path) -> dict[str, str]:
    return {failure.id: failure.code for failure in read_failures(out / "failures.jsonl")}


def fetched(table: TableFetcher, clip: Clip) -> bytes:
    copy = table.fetch(clip)
    with open(copy.path, "rb") as file:
        return file.read()


# --- the same as files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group_size", [1, 5])
def test_features_are_those_of_the_same_audio_in_files(tmp_path, row_group_size):
    files = run(write_files(tmp_path / "files", SOME), tmp_path / "of-files", config="log-mel")
    write_table(tmp_path / "a.parquet", list(SOME.items()), row_group_size=row_group_size)
    report = run(tmp_path / "a.parquet", tmp_path / "of-rows", config="log-mel")
    assert (report.clips, len(report.failures)) == (files.clips, 0)
    assert shards(tmp_path / "of-rows") == shards(tmp_path / "of-files")
    store = FeatureStore(tmp_path / "of-rows")
    assert list(store.ids) == list(SOME)
    line = store.record("s007.au")
    info = os.stat("a.parquet")
    assert (line["path"], line["table_row"], line["table_column"]) == (str(tmp_path / "a.parquet"), 7, "audio")
    assert (line["size"], line["modified"]) == (info.st_size, info.st_mtime_ns)


def test_a_column_of_bytes_alone(tmp_path):
    pq.write_table(pa.table({"sound": pa.array(SOME.values(), pa.large_binary())}), "b.parquet", row_group_size=5)
    assert ids("b.parquet", column="sound") == [f"b.parquet#{i}" for i in range(12)]
    run(Inputs(clips("b.parquet", column="sound")), tmp_path / "of-rows", config="log-mel")
    run(write_files(tmp_path / "files", SOME), tmp_path / "of-files", config="log-mel")
    assert shards(tmp_path / "of-rows") == shards(tmp_path / "of-files")


def test_a_clip_of_a_row_is_read_alone_too(tmp_path):
    write_files(tmp_path / "files", SOME)
    write_table(tmp_path / "a.parquet", list(SOME.items()), row_group_size=5)
    for clip in clips("a.parquet")[::4]:
        assert torch.equal(load_audio(clip, 16000), load_audio(tmp_path / "files" / clip.id, 16000))
    assert str(clip) == "a.parquet: row 8"


def test_an_estimate_and_statistics_need_no_more_than_a_run(tmp_path):
    write_table(tmp_path / "a.parquet", list(SOME.items()), row_group_size=5)
    plan = invoke("extract", "a.parquet", "-n", "-o", "out", "-c", "log-mel", "--audio-column", "audio")
    assert plan.returncode == 0, plan.stderr
    assert "12 clips" in plan.stderr
    assert "of audio" in plan.stderr
    files = invoke("stats", write_files(tmp_path / "files", SOME), "-o", "files.json", "-c", "log-mel")
    rows = invoke("stats", "a.parquet", "--audio-column", "audio", "-o", "rows.json", "-c", "log-mel")
    assert (files.returncode, rows.returncode) == (0, 0), rows.stderr
    assert Path("rows.json").read_bytes() == Path("files.json").read_bytes()


# --- which column --------------------------------------------------------------------------------------------------


def test_the_column_is_the_one_that_is_described_as_audio():
    table = pa.table({name: pa.array([{"bytes": b"x", "path": f"{name}.wav"}], AUDIO) for name in ("image", "speech")})
    pq.write_table(table.replace_schema_metadata(features_of(image="Image", speech="Audio")), "a.parquet")
    (clip,) = clips("a.parquet")
    assert (clip.id, clip.row.column, clip.meta) == ("speech.wav", "speech", None)
    pq.write_table(table.replace_schema_metadata(features_of(image="Image")), "b.parquet")
    assert ids("b.parquet") == ["speech.wav"]
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), "c.parquet")
    with pytest.raises(UsageError, match=r"^c\.parquet: expected one column of audio, got image and speech$"):
        clips("c.parquet")
    assert ids("c.parquet", column="image") == ["image.wav"]


def test_what_is_said_where_no_column_is_audio():
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), "t.parquet")
    refused = invoke("extract", "t.parquet", "-o", "out")
    assert refused.returncode == 2
    assert refused.stderr == (
        "hlfeat: error: t.parquet: expected a column of audio, got the columns text (string), n (int64); "
        "--audio-column NAME chooses one\n"
    )
    refused = invoke("extract", "t.parquet", "-o", "out", "--audio-column", "texts")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "hlfeat: error: --audio-column: t.parquet: expected a column texts, got the columns"
    )
    with pytest.raises(UsageError, match=r"^audio_column: t\.parquet: expected n to be bytes, paths, .* got int64$"):
        clips("t.parquet", column="n")


def test_the_option_needs_a_table(tmp_path):
    write_files(tmp_path / "files", SOME)
    refused = invoke("extract", "files", "-o", "out", "--audio-column", "audio")
    assert refused.returncode == 2
    assert refused.stderr == "hlfeat: error: --audio-column: expected a Parquet table among the inputs, got none\n"
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "files" / "t.parquet")
    for path in (tmp_path / "files").glob("s*"):
        path.unlink()
    with pytest.raises(UsageError, match=r"^audio_column: no table of the inputs has a column audio$"):
        clips("files", column="audio")


def test_tables_of_a_folder_without_audio_are_labels(tmp_path):
    write_files(tmp_path / "files", {**SOME, "._labels.parquet": b"of macOS"})
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "files" / "labels.parquet")
    inputs = collect_inputs(["files"])
    assert [clip.id for clip in inputs.clips] == list(SOME)
    assert inputs.skipped == {".parquet": 1, "._*": 1}


# --- ids -----------------------------------------------------------------------------------------------------------


def test_ids_are_paths_where_they_are_unique():
    rows = [("d/a.wav", b"1"), ("/d//b.wav", b"2"), (None, b"3"), ("same.wav", b"4"), ("same.wav", b"5"), ("", b"6")]
    write_table(Path("t.parquet"), rows)
    assert ids("t.parquet") == ["d/a.wav", "d/b.wav", "t.parquet#2", "t.parquet#3", "t.parquet#4", "t.parquet#5"]


def test_ids_have_no_secrets_of_urls():
    urls = ["https://ann:hidden@host/a.wav?v=2&token=hidden", "s3://bucket/b.wav", "ftp://ann:hidden@host/c.wav"]
    write_table(Path("t.parquet"), [(url, b"1") for url in urls])
    assert ids("t.parquet") == ["host/a.wav?v=2", "bucket/b.wav", "host/c.wav"]
    assert "hidden" not in repr(clips("t.parquet"))


def test_ids_of_several_tables_do_not_collide():
    for split in ("test", "train"):
        write_table(Path(f"ds/data/{split}-00000-of-00001.parquet"), [("a.wav", b"1"), (f"{split}.wav", b"2")])
    train, test = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"
    assert ids("ds") == [f"{test}/a.wav", f"{test}/test.wav", f"{train}/a.wav", f"{train}/train.wav"]
    given = ids(f"ds/{train}", f"ds/{test}")
    assert given == ["train-00000-of-00001.parquet#0", "train.wav", "test-00000-of-00001.parquet#0", "test.wav"]
    with pytest.raises(UsageError, match=r"two clips with the id .*: ds/data/test-00000-of-00001.parquet: row 0 given"):
        ids(f"ds/{test}", f"ds/{test}")


# --- metadata ------------------------------------------------------------------------------------------------------


def test_other_columns_are_metadata():
    columns = {
        "text": ["grüße", None],
        "label": pa.array([3, 4], pa.int8()),
        "score": [float("nan"), 0.5],
        "ok": [True, False],
        "words": [["a", "b"], []],
        "nested": pa.array([{"when": 10**18 + 1, "n": [1, 2]}, None], NESTED),
        "when": pa.array([0, 253402300800000], pa.timestamp("ms", "UTC")),  # the second is after the year 9999
        "day": pa.array([datetime.date(2024, 2, 29), None]),
        "took": pa.array([1500, None], pa.duration("ms")),
        "price": pa.array([Decimal("1.50"), None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "start": [0.25, 100.0],
        "id": [7, 7],
        "picture": pa.array([{"bytes": b"x", "path": "p.png"}] * 2, AUDIO),
        "vectors": pa.array([[b"x"], []], pa.list_(pa.binary())),
        "long": ["x" * 65537, "x" * 65536],
        "wide": [[0] * 1000, [0] * 999],
    }  # fmt: skip
    write_table(Path("t.parquet"), [("a.wav", b"1"), ("b.wav", b"2")], columns)
    first, second = (dict(clip.meta) for clip in clips("t.parquet"))
    assert json.loads(json.dumps(first)) == {
        "text": "grüße", "label": 3, "score": None, "ok": True, "words": ["a", "b"],
        "nested": {"when": "2001-09-09T01:46:40", "n": [1, 2]}, "when": "1970-01-01T00:00:00+00:00",
        "day": "2024-02-29", "took": 1.5, "price": "1.50", "kind": "x", "map": {"k": 1}, "start": 0.25, "id": 7,
    }  # fmt: skip
    assert second.pop("long") == "x" * 65536
    assert second.pop("wide") == [0] * 999
    assert json.loads(json.dumps(second)) == {
        "text": None, "label": 4, "score": 0.5, "ok": False, "words": [], "nested": None, "when": None, "day": None,
        "took": None, "price": None, "kind": "y", "map": {}, "start": 100.0, "id": 7,
    }  # fmt: skip
    assert all(clip.start is None and clip.fault is None for clip in clips("t.parquet"))


def test_metadata_that_has_changed_is_taken_over_by_an_update(tmp_path):
    two = list(SOME.items())[:2]
    write_table(tmp_path / "t.parquet", two, {"label": [1, 2]})
    run(tmp_path / "t.parquet", tmp_path / "out", config="log-mel")
    write_table(tmp_path / "t.parquet", two, {"label": [1, 3]})
    report = run(tmp_path / "t.parquet", tmp_path / "out", config="log-mel", options=Options(quiet=True, update=True))
    assert report.as_dict()["clips_this_run"] == 2  # as for archives: the table has changed, and so may all have
    assert FeatureStore(tmp_path / "out").record(two[1][0])["meta"] == {"label": 3}


# --- rows that are no audio, and rows that are paths ---------------------------------------------------------------


def test_bad_rows_fail_and_the_others_are_used(tmp_path):
    good = list(SOME.items())
    write_files(tmp_path / "beside", {"far.wav": good[0][1]})
    rows = [
        good[0], None, ("null.wav", None), ("text.wav", b"this is text" * 20), ("empty.wav", b""), (None, None),
        ("beside/far.wav", None), good[3],
    ]  # fmt: skip
    table = write_table(tmp_path / "t.parquet", rows, row_group_size=3)
    run(table, tmp_path / "out", config="log-mel")
    assert codes(tmp_path / "out") == {
        "t.parquet#1": "bad-row",
        "null.wav": "missing",
        "text.wav": "not-audio",
        "empty.wav": "empty",
        "t.parquet#5": "bad-row",
    }
    assert (tmp_path / "out" / "failures.jsonl").read_text().count('"table_row": 5') == 1
    store = FeatureStore(tmp_path / "out")
    assert (store["beside/far.wav"] == store[good[0][0]]).all()
    write_table(table, [*rows[:5], good[5], *rows[6:]], row_group_size=3)
    run(table, tmp_path / "out", config="log-mel", options=Options(quiet=True, retry_failed=True, update=True))
    assert "t.parquet#5" not in codes(tmp_path / "out")
    assert good[5][0] in FeatureStore(tmp_path / "out")


def test_a_struct_without_any_bytes_names_files(tmp_path):
    write_files(tmp_path / "ds" / "files", SOME)
    table = write_table(
        tmp_path / "ds" / "t.parquet", [(f"files/{name}", None) for name in SOME], {"begin_time": [0.05] * 12}
    )
    listed = clips(table)
    assert [clip.id for clip in listed] == [f"files/{name}" for name in SOME]
    assert all(clip.row is None and clip.start is None and os.path.exists(clip.path) for clip in listed)
    assert listed[0].meta == {"begin_time": 0.05}


def test_a_column_of_paths_is_a_manifest(tmp_path):
    write_files(tmp_path / "files", SOME)
    first, second = list(SOME)[:2]
    columns = {
        "file": [f"files/{first}", f"files/{second}", None],
        "start": [0.05, None, None],
        "label": ["x", "y", "z"],
    }
    pq.write_table(pa.table(columns), "m.parquet")
    segment, whole, bad = clips("m.parquet", column="file")
    assert (segment.id, segment.start, segment.meta) == (f"files/{first}#t=0.05,", 0.05, {"label": "x"})
    assert (whole.id, whole.is_segment, whole.path) == (f"files/{second}", False, f"files/{second}")
    assert bad.fault[0] == "bad-row"
    pq.write_table(pa.table({"file": ["a.wav"], "start_frame": [1]}), "n.parquet")
    with pytest.raises(UsageError, match=r"^n\.parquet: the column start_frame looks like a time"):
        clips("n.parquet", column="file")


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["tables", "tables.txt"])
def test_paths_of_a_table_in_a_folder_or_a_list_are_relative_to_the_root(given: str):
    write_files(Path("audio"), {"a.wav": b"1"})
    Path("audio/tables").mkdir()
    pq.write_table(pa.table({"audio": ["a.wav"]}), "audio/tables/t.parquet")
    Path("tables.txt").write_text("tables/t.parquet\n")
    path = "audio/tables" if given == "tables" else given
    (clip,) = collect_inputs([path], root="audio", audio_column="audio").clips
    assert (clip.path, clip.fault) == ("audio/a.wav", None)


def test_a_table_that_cannot_be_opened(tmp_path):
    table = write_table(tmp_path / "ds" / "t.parquet", list(SOME.items()))
    data = table.read_bytes()
    for broken in (data[:-100], b"", b"PAR1" + bytes(100)):
        table.write_bytes(broken)
        with pytest.raises(UsageError, match=r"^ds/t\.parquet: the table cannot be read: "):
            clips("ds/t.parquet")
        (clip,) = clips("ds")
        assert (clip.id, clip.fault[0]) == ("t.parquet", "corrupt")
    with pytest.raises(UsageError, match=r"^ds/u\.parquet: no such file or folder; did you mean t\.parquet\?$"):
        clips("ds/u.parquet")
    Path("list.txt").write_text("ds/u.parquet\nds/t.parquet\n")
    assert [clip.fault and clip.fault[0] for clip in clips("list.txt")] == [None, "corrupt"]
    table.write_bytes(data)
    assert len(clips("ds")) == 12


def test_rows_of_a_damaged_row_group_fail_and_the_others_are_used(tmp_path):
    table = write_table(
        tmp_path / "t.parquet", list(SOME.items()), row_group_size=4, write_page_checksum=True, compression="none"
    )
    damage(table, 1, "audio.bytes")
    run(table, tmp_path / "out", config="log-mel")
    assert codes(tmp_path / "out") == dict.fromkeys(list(SOME)[4:8], "corrupt")
    messages = {failure.message for failure in read_failures(tmp_path / "out" / "failures.jsonl")}
    assert len(messages) == 1
    assert messages.pop().startswith("the table cannot be read: ")
    assert len(FeatureStore(tmp_path / "out")) == 8


def test_rows_whose_other_columns_are_damaged_fail(tmp_path):
    table = write_table(
        tmp_path / "t.parquet", list(SOME.items()), {"text": [f"a sentence {i}" for i in range(12)]}, row_group_size=4,
        write_page_checksum=True, compression="none",
    )  # fmt: skip
    damage(table, 2, "text")
    run(table, tmp_path / "out", config="log-mel")
    assert codes(tmp_path / "out") == {f"t.parquet#{i}": "corrupt" for i in range(8, 12)}
    assert len(FeatureStore(tmp_path / "out")) == 8


def test_a_table_that_changes_after_it_was_listed(tmp_path):
    table = write_table(tmp_path / "t.parquet", list(SOME.items()))
    listed = Inputs(clips("t.parquet"))
    tables = TableFetcher()
    assert fetched(tables, listed.clips[0]) == SOME["s000.wav"]
    os.utime(table, ns=(0, 0))
    with pytest.raises(ClipError, match=r"^the table was changed after its rows were listed$"):
        tables.fetch(listed.clips[1])
    tables.close()
    run(listed, tmp_path / "out", config="log-mel")
    assert set(codes(tmp_path / "out").values()) == {"unreadable"}
    table.unlink()
    with pytest.raises(ClipError, match=r"^t\.parquet: row 0: missing: "):
        load_audio(listed.clips[0], 16000)


# --- without pyarrow -----------------------------------------------------------------------------------------------


def test_without_pyarrow(tmp_path, monkeypatch):
    write_table(tmp_path / "ds" / "t.parquet", list(SOME.items()))
    write_files(tmp_path / "ds", {"a.wav": SOME["s000.wav"]})
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    refused = invoke("extract", "ds/t.parquet", "-o", "out")
    assert (refused.returncode, refused.stderr) == (
        2,
        "hlfeat: error: ds/t.parquet: Parquet needs pyarrow: pip install 'hlfeat[parquet]'\n",
    )
    skipped = invoke("extract", "ds", "-n", "-o", "out", "-c", "log-mel")
    assert skipped.returncode == 0
    assert "skipped 1 table that may hold audio: Parquet needs pyarrow" in skipped.stderr


# --- how the rows are read -----------------------------------------------------------------------------------------


def write_bytes(path: Path, groups: Sequence[Sequence[bytes]], **options: object) -> list[Clip]:
    """A table with these bytes in its row groups, and a clip for each row."""
    with pq.ParquetWriter(path, pa.schema({"audio": pa.binary()}), **options) as writer:
        for values in groups:
            writer.write_table(pa.table({"audio": pa.array(values, pa.binary())}), row_group_size=max(1, len(values)))
    info = os.stat(path)
    stamp = info.st_size, info.st_mtime_ns
    n = sum(map(len, groups))
    return [Clip(str(i), str(path), row=TableRow(path.name, i, "audio", stamp)) for i in range(n)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=40), max_size=9), min_size=1, max_size=6),
    st.integers(1, 60),
    st.data(),
)
def test_any_rows_in_any_order_by_several_threads(tmp_path_factory, groups, batch_bytes, data):
    folder = tmp_path_factory.mktemp("t")
    listed = write_bytes(folder / "t.parquet", groups, data_page_size=16, use_dictionary=data.draw(st.booleans()))
    values = [value for group in groups for value in group]
    asked = data.draw(st.lists(st.sampled_from(listed), max_size=30)) if listed else []
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as threads:
        patch.setattr(table_rows, "BATCH_BYTES", batch_bytes)
        tables = TableFetcher()
        got = list(threads.map(lambda clip: fetched(tables, clip), asked))
        tables.close()
    assert got == [values[int(clip.id)] for clip in asked]


@pytest.mark.parametrize("step", [1, 3])  # some rows may be done
def test_each_row_group_is_read_once(tmp_path, monkeypatch, step):
    groups = [[bytes([g, i]) * 500 for i in range(40)] for g in range(5)]
    listed = write_bytes(tmp_path / "t.parquet", groups)[::step]
    begun, begin = [], table_rows.TableRows._begin
    monkeypatch.setattr(table_rows.TableRows, "_begin", lambda self, group: (begun.append(group), begin(self, group)))
    monkeypatch.setattr(table_rows, "BATCH_BYTES", 3000)
    with FetchAhead(listed, [TableFetcher()], at_once=16, most_bytes=1 << 20) as ahead:
        for fetched_clip in ahead:
            clip = fetched_clip.wait()
            with open(clip.file, "rb") as file:
                assert file.read() == groups[int(clip.id) // 40][int(clip.id) % 40]
            fetched_clip.release()
    assert set(begun) == set(range(5))
    assert len(begun) <= 7  # a thread may have been a moment late, so that its row was behind the others'


def test_a_row_group_is_not_held_whole(tmp_path, monkeypatch):
    size, rows = 50_000, 400
    values = [os.urandom(size) for _ in range(rows)]
    options = {"data_page_size": 1, "write_batch_size": 4, "use_dictionary": False}  # a page has four rows
    listed = write_bytes(tmp_path / "t.parquet", [values], **options)
    monkeypatch.setattr(table_rows, "BATCH_BYTES", 16 * size)
    tables, held, before = TableFetcher(), 0, pa.total_allocated_bytes()
    for clip in listed:
        assert fetched(tables, clip) == values[int(clip.id)]
        held = max(held, pa.total_allocated_bytes() - before)
    tables.close()
    assert held < 3 * 16 * size  # of 400: a batch, the next one, and a page
    assert pa.total_allocated_bytes() == before


def test_a_run_that_was_stopped_goes_on_with_its_row_group(tmp_path, monkeypatch):
    table = write_table(tmp_path / "t.parquet", list(map(encoded, range(36))), row_group_size=6)
    shard = "output.shard_size=4"
    run(table, tmp_path / "whole", shard, config="log-mel")
    done = []
    with pytest.raises(InterruptedRunError):
        run(
            table, tmp_path / "out", shard, config="log-mel", finished_shard=done.append, stopped=lambda: len(done) >= 5
        )
    begun, begin = [], table_rows.TableRows._begin
    monkeypatch.setattr(table_rows.TableRows, "_begin", lambda self, group: (begun.append(group), begin(self, group)))
    run(table, tmp_path / "out", shard, config="log-mel")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert min(begun) >= 3
    assert max(begun) == 5


def test_another_column_is_another_clip(tmp_path):
    two = list(SOME.items())[:2]
    other = pa.array([{"bytes": data, "path": name} for name, data in two], AUDIO)
    pq.write_table(pa.table({"audio": other, "noisy": other}), "t.parquet")
    run(Inputs(clips("t.parquet", column="audio")), tmp_path / "out", config="log-mel")
    with pytest.raises(UsageError, match=r"has the id s000\.wav from .*'audio'.*, not from .*'noisy'"):
        run(Inputs(clips("t.parquet", column="noisy")), tmp_path / "out", config="log-mel", options=QUIET)


def test_what_reads_the_index_knows_that_the_audio_is_in_a_table(tmp_path):
    run(write_table(tmp_path / "t.parquet", [*list(SOME.items())[:3], None]), tmp_path / "out", config="log-mel")
    shown = invoke("inspect", "out", "--html", "page.html")
    assert shown.returncode == 0, shown.stderr
    page = Path("page.html").read_text()
    assert "t.parquet: row 2" in page
    assert "t.parquet: row 3" in page  # the failure
    assert "<audio" not in page
    converted = invoke("convert", "out", "-o", "cuts", "--format", "lhotse")
    assert converted.returncode == 0, converted.stderr
    with gzip.open("cuts/cuts.jsonl.gz", "rt") as file:
        cuts = [json.loads(line) for line in file]
    assert len(cuts) == 3
    assert not any("recording" in cut for cut in cuts)
    Path("out/stats-00000.json").write_text("{")
    repaired = invoke("repair", "out")
    assert repaired.returncode == 0, repaired.stderr
