"""Hugging Face's audio folders: the rows of their metadata are the clips."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.inputs.collect import collect_inputs
from tests.extraction.runs import run
from tests.inputs.tables_of_audio import sounds, write_files

SOME = sounds(4)
NAMES = list(SOME)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def clips(path: str, **options: str) -> list[Clip]:
    return collect_inputs([path], **options).clips


def described(clips: list[Clip]) -> list[tuple[str, str, dict | None]]:
    return [(clip.id, clip.path, clip.meta and dict(clip.meta)) for clip in clips]


EXPECTED = [("sub/a.wav", "d/sub/a.wav", {"text": "x, y", "start": 1}), ("b.wav", "d/b.wav", {"text": "", "start": 2})]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_are_the_clips(kind, caplog):
    write_files(Path("d/sub"), {"a.wav": b"1", "more.flac": b"2"})
    write_files(Path("d"), {"b.wav": b"1", "c.wav": b"2", "notes.pdf": b"3", ".hidden": b"4"})
    write_files(Path("d/.cache"), {"e.wav": b"1"})
    write_files(Path("."), {"b.wav": b"another"})
    rows = [{"file_name": id_, **meta} for id_, _, meta in EXPECTED]
    if kind == "csv":
        Path("d/metadata.csv").write_text('text,file_name,start\n"x, y",sub/a.wav,1\n,b.wav,2\n')
    elif kind == "jsonl":
        Path("d/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), "d/metadata.parquet")
    texts = kind == "csv"
    expected = [
        (id_, path, {key: str(value) if texts else value for key, value in meta.items()})
        for id_, path, meta in EXPECTED
    ]
    listed = clips("d")
    assert [(id_, path, meta) for id_, path, meta in described(listed)] == expected
    assert not any(clip.is_segment or clip.fault for clip in listed)
    (warning,) = caplog.messages
    assert warning == f"d/metadata.{kind}: 2 audio files not in it, and left out"
    assert described(collect_inputs([], manifests=["d"]).clips) == expected


def test_splits_of_a_folder():
    for split in ("train", "test"):
        write_files(Path(f"ds/{split}"), {"a.wav": b"1"})
        Path(f"ds/{split}/metadata.csv").write_text(f"file_name,split\na.wav,{split}\n")
    write_files(Path("ds/plain"), {"b.wav": b"1"})
    write_files(Path("ds/.git"), {"c.wav": b"1"})
    Path("ds/.git/metadata.csv").write_text("file_name\nc.wav\n")
    assert described(clips("ds")) == [
        ("plain/b.wav", "ds/plain/b.wav", None),
        ("test/a.wav", "ds/test/a.wav", {"split": "test"}),
        ("train/a.wav", "ds/train/a.wav", {"split": "train"}),
    ]
    assert [clip.id for clip in clips("ds/test")] == ["a.wav"]
    assert [clip.id for clip in clips("ds/test", root=".")] == ["ds/test/a.wav"]


def test_folders_with_rows_below_one_with_rows(caplog):
    write_files(Path("d"), {"a.wav": b"1"})
    write_files(Path("d/x/sub"), {"b.wav": b"1", "c.wav": b"1", "d.wav": b"1", "lost.wav": b"1"})
    Path("d/metadata.csv").write_text("file_name,label\na.wav,upper\nx/sub/b.wav,upper\nx/sub/d.wav,upper\n")
    Path("d/x/sub/metadata.jsonl").write_text("".join(f'{{"file_name": "{n}.wav", "label": "own"}}\n' for n in "bc"))
    assert described(clips("d")) == [
        ("a.wav", "d/a.wav", {"label": "upper"}),
        ("x/sub/b.wav", "d/x/sub/b.wav", {"label": "upper"}),
        ("x/sub/d.wav", "d/x/sub/d.wav", {"label": "upper"}),
        ("x/sub/c.wav", "d/x/sub/c.wav", {"label": "own"}),
    ]
    assert caplog.messages == ["d/x/sub/metadata.jsonl: 1 audio file not in it, and left out"]
    assert [clip.id for clip in clips("d", root=".")] == [
        f"d/{name}.wav" for name in ("a", "x/sub/b", "x/sub/d", "x/sub/c")
    ]


def test_the_column_of_files_may_say_what_they_are():
    write_files(Path("d"), {"a.wav": b"1", "b.wav": b"2"})
    Path("d/metadata.csv").write_text("label,audio_file_name\nx,a.wav\n")
    assert described(clips("d")) == [("a.wav", "d/a.wav", {"label": "x"})]
    Path("d/metadata.csv").write_text("near_file_name,far_file_name\na.wav,b.wav\n")
    assert [clip.id for clip in clips("d")] == ["a.wav", "b.wav"]


def test_the_first_line_may_name_no_file():
    write_files(Path("d"), {"a.wav": b"1", "b.wav": b"2"})
    Path("d/metadata.jsonl").write_text('{"label": "none"}\n{"file_name": "b.wav"}\n')
    assert [(clip.id, clip.fault and clip.fault[0]) for clip in clips("d")] == [
        ("d/metadata.jsonl:1", "bad-row"),
        ("b.wav", None),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "LJ001-0001|Printing, in the only sense|Printing, in the only sense\n"),  # LJSpeech
        ("metadata.csv", "path,text\na.wav,x\n"),
        ("metadata.csv", ""),
        ("metadata.jsonl", '["file_name"]\n'),
        ("metadata.jsonl", "{\n"),
        ("metadata.parquet", "file_name"),
    ],
)
def test_other_metadata_makes_no_audio_folder(name, text):
    write_files(Path("d"), {"a.wav": b"1", "b.wav": b"2"})
    Path("d", name).write_text(text)
    assert described(c for c in clips("d") if c.fault is None) == [
        ("a.wav", "d/a.wav", None),
        ("b.wav", "d/b.wav", None),
    ]


def test_features_are_those_of_the_files(tmp_path):
    folder = write_files(tmp_path / "d", SOME)
    run(folder, tmp_path / "plain", config="log-mel")
    Path(folder, "metadata.csv").write_text("file_name,label\n" + "".join(f"{name},x\n" for name in NAMES))
    run(folder, tmp_path / "out", config="log-mel")
    assert (tmp_path / "out/shard-00000.npy").read_bytes() == (tmp_path / "plain/shard-00000.npy").read_bytes()


def test_rows_that_cannot_be_used(tmp_path):
    folder = write_files(tmp_path / "d", SOME)
    rows = [NAMES[0], "gone.wav", NAMES[0], NAMES[1] + ",x,y", ""]
    Path(folder, "metadata.csv").write_text("file_name,label\n" + "".join(f"{row},x\n" for row in rows))
    listed = clips("d")
    assert [clip.fault and clip.fault[0] for clip in listed] == [None, None, "bad-row", "bad-row", "bad-row"]
    assert "d/metadata.csv:4: expected an id for each clip, but s000.wav is that of line 2 too" in listed[2].fault[1]
    report = run(folder, tmp_path / "out", config="log-mel")
    codes = [failure["code"] for failure in report.failures]
    assert codes == ["missing", "bad-row", "bad-row", "bad-row"]
    for name in NAMES:
        os.unlink(folder / name)
    with pytest.raises(UsageError, match=r"^d: none of its 2 paths exists, such as d/s000\.wav$"):
        run(folder.relative_to(tmp_path), tmp_path / "other", config="log-mel")


def test_its_metadata_is_a_manifest_too():
    write_files(Path("d"), {"a.wav": b"1"})
    Path("d/metadata.csv").write_text("file_name,start,end\na.wav,0.5,1\n")
    (clip,) = clips("d/metadata.csv")
    assert (clip.id, clip.path, clip.start, clip.end) == ("a.wav#t=0.5,1", "d/a.wav", 0.5, 1.0)
