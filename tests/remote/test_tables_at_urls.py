"""Parquet tables at URLs: the same clips as of the table here, and no table comes whole where it need not."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from hlfeat import FeatureStore, collect_inputs, load_audio
from hlfeat.errors import ClipError, TooManyFailuresError, UnreachableError, UsageError
from hlfeat.extraction.options import Options
from hlfeat.remote import tables
from hlfeat.remote.retries import Retries
from hlfeat.storage.failure_record import read_failures
from tests.extraction.runs import run
from tests.inputs.tables_of_audio import sounds, write_files, write_table
from tests.remote.object_server import ObjectServer

SOME = sounds(12)
TABLE = "data/train-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "_wait", lambda *_: time.sleep(0.01))


def put(server: ObjectServer, folder: Path, bucket: str) -> Path:
    table = write_table(folder / TABLE, list(SOME.items()), {"label": list(range(12))}, row_group_size=4)
    server.put(bucket, {TABLE: table.read_bytes(), "broken/b.parquet": b"PAR1", "data/notes.txt": b"x"})
    return table


def test_features_are_those_of_the_table_here(server: ObjectServer, tmp_path: Path) -> None:
    table = put(server, tmp_path, "tables")
    run(table.parent, tmp_path / "here", config="log-mel")
    server.fail("busy", "/tables/data/train", times=2)
    server.fail("hung up", "/tables/data/train", times=1)
    server.fail("cut", "/tables/data/train", times=1)
    there = collect_inputs(["s3://tables/data"])
    assert [clip.id for clip in there.clips] == [f"train-00000-of-00001.parquet/{name}" for name in SOME]
    assert there.clips[3].meta == {"label": 3}
    server.fail("hung up", "/tables/data/train", times=1)
    run(there, tmp_path / "there", config="log-mel")
    assert (tmp_path / "there/shard-00000.npy").read_bytes() == (tmp_path / "here/shard-00000.npy").read_bytes()
    assert not list(read_failures(tmp_path / "there/failures.jsonl"))
    assert [c.id for c in collect_inputs(["s3://tables/data/*.parquet"], audio_column="audio").clips] == [
        clip.id for clip in there.clips
    ]
    again = run(there, tmp_path / "there", config="log-mel", options=Options(quiet=True, update=True))
    assert again.as_dict()["clips_this_run"] == 0
    other = write_table(tmp_path / "other.parquet", list(SOME.items()), {"label": list(range(1, 13))})
    server.client().put_object(Bucket="tables", Key=TABLE, Body=other.read_bytes())
    there = collect_inputs(["s3://tables/data"])
    again = run(there, tmp_path / "there", config="log-mel", options=Options(quiet=True, update=True))
    assert again.as_dict()["clips_this_run"] == 12
    given = collect_inputs([f"s3://tables/{TABLE}"]).clips
    assert load_audio(given[5], 16000).shape == load_audio(collect_inputs([str(table)]).clips[5], 16000).shape


def test_listing_reads_no_audio(server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = {f"{i}.wav": bytes(400_000) for i in range(12)}
    table = write_table(
        tmp_path / TABLE, list(loud.items()), row_group_size=4, compression="none", use_dictionary=False
    )
    server.put("large", {TABLE: table.read_bytes()})
    came, read = [], tables.read
    monkeypatch.setattr(tables, "read", lambda *arguments: came.append(read(*arguments)) or came[-1])
    assert len(collect_inputs([f"s3://large/{TABLE}"]).clips) == 12
    assert sum(map(len, came)) < 200_000  # of 4.8 MB


def test_a_table_that_is_replaced_while_it_is_read(server: ObjectServer, tmp_path: Path) -> None:
    table = put(server, tmp_path, "tables")
    clips = collect_inputs([f"s3://tables/{TABLE}"]).clips
    with closing(tables.table_fetcher(Retries(0))) as fetcher:
        assert fetcher.fetch(clips[0]).size == len(SOME[clips[0].id])
        time.sleep(1.1)  # servers tell whole seconds
        server.put("tables", {TABLE: table.read_bytes()})
        with pytest.raises(ClipError, match="the table was changed after its rows were listed") as e:
            fetcher.fetch(clips[11])
    assert e.value.code == "unreadable"


def test_rows_that_name_files(server: ObjectServer, tmp_path: Path) -> None:
    """Beside rows that have bytes."""
    (first, data), second = list(SOME.items())[:2]
    rows = [second, (f"files/{first}", None), ("s3://named/files/far.wav", None), ("s3://named/none.wav?x", None)]
    table = write_table(tmp_path / "t.parquet", rows)
    objects = {f"files/{first}": data, "files/far.wav": data, "t.parquet": table.read_bytes()}
    server.put("named", objects)
    write_files(tmp_path / "files", {first: data})
    for source, out in ((str(table), "here"), ("s3://named/t.parquet", "there")):
        run(collect_inputs([source]), tmp_path / out, config="log-mel")
        store = FeatureStore(tmp_path / out)
        assert list(store.ids) == [second[0], f"files/{first}", "named/files/far.wav"]
        assert (store["named/files/far.wav"] == store[f"files/{first}"]).all()
        (failure,) = read_failures(tmp_path / out / "failures.jsonl")
        assert (failure.code, failure.message) == ("missing", "s3://named/none.wav?x: no such object")


@pytest.mark.parametrize("source", ["s3://silent/data", "s3://silent/clips"])
def test_a_run_that_ends_does_not_wait_for_a_silent_server(server: ObjectServer, tmp_path: Path, source: str) -> None:
    put(server, tmp_path, "silent")
    server.client().put_object(Bucket="silent", Key="clips/a.wav", Body=SOME["s000.wav"])
    (tmp_path / "bad.wav").write_bytes(bytes(8 << 20))  # a worker takes it alone
    listed = collect_inputs([str(tmp_path / "bad.wav"), source])
    server.fail("slow", "/silent/", times=100, seconds=20)
    begun = time.monotonic()
    with pytest.raises(TooManyFailuresError):
        run(listed, tmp_path / "out", config="log-mel", options=Options(quiet=True, on_error="stop"))
    assert time.monotonic() - begun < 15


def test_tables_that_cannot_be_read(server: ObjectServer, tmp_path: Path) -> None:
    put(server, tmp_path, "tables-2")
    with pytest.raises(UsageError, match=r"^s3://tables-2/data/gone\.parquet: the table cannot be read: "):
        collect_inputs(["s3://tables-2/data/gone.parquet"])
    (broken,) = collect_inputs(["s3://tables-2/broken"]).clips
    assert (broken.id, broken.fault[0]) == ("b.parquet", "corrupt")
    server.fail("hung up", "/tables-2/data/train", times=20)
    with pytest.raises(UnreachableError, match=r"^s3://tables-2/data/train-00000-of-00001\.parquet: "):
        collect_inputs(["s3://tables-2/data"], retries=1)
    server.reset()
    put(server, tmp_path, "tables-2")
    (*_, last) = collect_inputs(["s3://tables-2/data"]).clips
    server.fail("refused", "/tables-2/data/train", method="HEAD", times=9)
    with pytest.raises(ClipError, match="unreadable"):
        load_audio(last, 16000)
    server.reset()
    put(server, tmp_path, "tables-2")
    listed = collect_inputs(["s3://tables-2/data"])
    server.client().put_object(Bucket="tables-2", Key=TABLE, Body=b"PAR1 something else")
    run(listed, tmp_path / "out", config="log-mel")
    assert {failure.code for failure in read_failures(tmp_path / "out/failures.jsonl")} <= {"unreadable", "corrupt"}
    assert len(list(read_failures(tmp_path / "out/failures.jsonl"))) == 12
