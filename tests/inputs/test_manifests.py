"""Manifests: what each kind means, cut to the sample; bad rows, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat.audio.clip import Clip
from hlfeat.audio.reader import decode
from hlfeat.errors import ClipError, UsageError
from hlfeat.inputs.collect import collect_inputs


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clips(path: str, text: str | bytes | None = None, manifests: bool = False) -> list[Clip]:
    if text is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return collect_inputs([] if manifests else [path], io.BytesIO(), manifests=[path] if manifests else []).clips


@pytest.mark.parametrize("manifests", [False, True])
def test_tables(in_folder, manifests):
    text = "id,path,start,end,channel,label\na,x/1.wav,0.5,2,1,cat\n,x/1.wav,,,,dog\n,x/1.wav,1,,,\nb,'q',,3,,\n"
    assert clips("m.csv", text, manifests) == [
        Clip("a", "x/1.wav", 0.5, 2.0, 1),
        Clip("x/1.wav", "x/1.wav"),
        Clip("x/1.wav#t=1,", "x/1.wav", 1.0),
        Clip("b", "'q'", None, 3.0),
    ]
    assert clips("m.tsv", "\ufeffpath\tend\r\na,b.wav\t1e1\r\n", manifests) == [
        Clip("a,b.wav#t=0,10", "a,b.wav", None, 10)
    ]


def test_nemo(in_folder):
    lines = [
        {"audio_filepath": "/d/a.wav", "duration": 3.2, "text": "whole file"},
        {"audio_filepath": "/d/a.wav", "offset": 1.5, "duration": 0.5, "text": "segment"},
        {"audio_filepath": "/d/b.wav", "offset": 0, "duration": 2},
    ]
    assert clips("m.json", "\n".join(map(json.dumps, lines))) == [
        Clip("d/a.wav", "/d/a.wav"),
        Clip("d/a.wav#t=1.5,2", "/d/a.wav", 1.5, 2.0),
        Clip("d/b.wav#t=0,2", "/d/b.wav", None, 2.0),
    ]


def test_own_lines(in_folder):
    text = (
        '{"path": "a.wav", "id": "../x", "start": "1", "duration": 9}\n\n{"path": "b.wav", "channel": 0, "frames": 3}\n'
    )
    expected = [Clip("x", "a.wav", 1.0, 10.0), Clip("b.wav", "b.wav", channel=0)]
    assert clips("m.jsonl", text) == expected
    assert clips("m.jsonl.gz", gzip.compress(text.encode())) == expected


@pytest.mark.parametrize(
    ("row", "start", "end"),
    [
        ("start,duration\na.wav,1,2", 1.0, 3.0),
        ("offset,duration\na.wav,1,2", 1.0, 3.0),
        ("offset,duration\na.wav,0,2", None, 2.0),
        ("offset,end\na.wav,1,2", 1.0, 2.0),
        ("start,end,duration\na.wav,1,3,9", 1.0, 3.0),
        ("offset\na.wav,1", 1.0, None),
        ("duration\na.wav,2", None, None),  # the file's own
    ],
)
@pytest.mark.parametrize("key", ["path", "audio_filepath"])
def test_where_a_segment_is(in_folder, row, start, end, key):
    (clip,) = clips("m.csv", f"{key},{row}\n")
    assert (clip.start, clip.end) == (start, end)


def test_a_segment_that_ends_before_it_starts_is_one_clip_that_fails(in_folder):
    bad, good = clips("m.csv", "path,start,end\na.wav,2,2\na.wav,0,1\n")
    assert bad.fault == ("bad-segment", "expected a segment that ends after its start, got 2 to 2 s")
    assert good.fault is None


def test_lhotse(in_folder):
    recording = {
        "id": "rec",
        "sources": [{"type": "file", "channels": [0], "source": "a.flac"}],
        "sampling_rate": 16000,
        "num_samples": 160000,
        "duration": 10.0,
        "channel_ids": [0],
    }
    cut = {"id": "cut-1", "start": 2.0, "duration": 1.25, "channel": 0, "recording": recording, "type": "MonoCut"}
    multi = {**cut, "id": "cut-2", "channel": [1], "type": "MultiCut"}
    text = "\n".join(map(json.dumps, [recording, cut, multi]))
    assert clips("cuts.jsonl.gz", gzip.compress(text.encode())) == [
        Clip("rec", "a.flac"),
        Clip("cut-1", "a.flac", 2.0, 3.25, 0),
        Clip("cut-2", "a.flac", 2.0, 3.25, 1),
    ]


def test_kaldi(in_folder):
    Path("data").mkdir()
    Path("data/wav.scp").write_text("r1 audio/one file.wav\n\nr2\t/abs/two.flac\n")
    assert clips("data") == [Clip("r1", "audio/one file.wav"), Clip("r2", "/abs/two.flac")]
    Path("data/segments").write_text("u1 r2 0.00 1.5\nu2 r1 3.25 -1\n")
    assert clips("data", manifests=True) == [
        Clip("u1", "/abs/two.flac", 0.0, 1.5),
        Clip("u2", "audio/one file.wav", 3.25),
    ]


def test_a_path_may_be_relative_to_the_manifest(in_folder):
    Path("sub").mkdir()
    Path("sub/a.wav").write_bytes(b"")
    assert clips("sub/m.csv", "path\na.wav\nb.wav\n") == [Clip("a.wav", "sub/a.wav"), Clip("b.wav", "b.wav")]


REFUSED = [  # as a whole
    ("m.csv", "name,label\na.wav,x\n", "m.csv:1: expected a path (or audio_filepath), got name, label"),
    ("m.csv", "a.wav\nb.wav\n", "m.csv:1: expected a path (or audio_filepath), got a.wav"),
    ("m.csv", "path,path\na.wav,b.wav\n", "m.csv:1: expected one column for the path, got path and path"),
    ("m.csv", 'path,"note\na.wav,x\n', "m.csv:1: not a row of a table: unexpected end of data"),
    ("m.csv", "path\n", "no audio files in m.csv"),
    ("m.csv", "\n\n", "no audio files in m.csv"),
    ("m.csv", b"\xff\xfep\0a\0t\0h\0\n\0a", "m.csv: the manifest cannot be read: 'utf-16"),
    ("m.jsonl", "[1]\n", "m.jsonl:1: expected a JSON object, got [1]"),
    ("m.json", '{\n"path": "a.wav"\n}\n', "m.json:1: expected one JSON object a line"),
    ("m.jsonl", '{"name": "a.wav"}\n{"name": "b.wav"}\n', "m.jsonl:1: expected a path (or audio_filepath), got name"),
    ("m.jsonl.gz", "no gzip", "m.jsonl.gz: the manifest cannot be read: Not a gzipped file"),
    ("m.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:-12], "m.jsonl.gz: the manifest cannot be read"),
]


@pytest.mark.parametrize(("name", "text", "words"), REFUSED)
def test_manifests_that_are_refused(in_folder, name, text, words):
    with pytest.raises(UsageError) as caught:
        clips(name, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_ROWS = [  # manifest, text with one bad row, id of the clip that fails and its message
    ("m.csv", "path,start\na.wav,x\n", "m.csv:2", "m.csv:2: expected start in seconds, from 0, got 'x'"),
    ("m.csv", "path,start\na.wav,-1\n", "m.csv:2", "m.csv:2: expected start in seconds, from 0, got '-1'"),
    ("m.csv", "path,start\na.wav,nan\n", "m.csv:2", "m.csv:2: expected start in seconds, from 0, got 'nan'"),
    ("m.csv", "path,end_ms\na.wav,1s\n", "m.csv:2", "m.csv:2: expected end_ms in milliseconds, from 0, got '1s'"),
    ("m.csv", "path,start,offset\na.wav,2,3\n", "m.csv:2", "m.csv:2: expected a start or an offset, got 2 and 3"),
    ("m.csv", "id,path,channel\nx,a.wav,l\n", "x", "m.csv:2: expected channel to be a number from 0, got 'l'"),
    ("m.csv", 'path\nb.wav\n"a\n', "m.csv:3", "m.csv:3: not a row of a table: unexpected end of data"),
    ("m.csv", 'path,text\n"a"b,c\n', "m.csv:2", "m.csv:2: not a row of a table: ',' expected after '\"'"),
    ("m.csv", "path\n../..\n", "m.csv:2", "m.csv:2: expected path to be a path, got '../..'"),
    ("m.csv", "path\nsox a.wav - |\n", "m.csv:2", "m.csv:2: expected a file, got a pipe, and commands are never run: "),
    (
        "m.csv",
        "path\na.wav\nb.wav\na.wav\n",
        "m.csv:4",
        "expected an id for each clip, but a.wav is that of line 2 too",
    ),
    (
        "m.csv",
        "id,path\nx,a.wav\nx,b.wav\n",
        "m.csv:3",
        "expected an id for each clip, but x is that of line 2 too",
    ),
    ("m.csv", "path,text\nb.wav,x\n,hello\n", "m.csv:3", "m.csv:3: expected a path (or audio_filepath), got text"),
    ("m.csv", "path,text,end\na.wav,Hello, you,2\n", "m.csv:2", "m.csv:2: expected 3 values, got 4"),
    ("m.csv", "path,start,end\na.wav,1\n", "m.csv:2", "m.csv:2: expected 3 values, got 2"),
    ("m.jsonl", '{"path": "a.wav"}\n{"path"\n', "m.jsonl:2", "m.jsonl:2: expected one JSON object a line"),
    ("m.jsonl", '{"path": 3}\n', "m.jsonl:1", "m.jsonl:1: expected path to be a path, got 3"),
    ("m.jsonl", '{"path": "a", "id": [1]}\n', "m.jsonl:1", "m.jsonl:1: expected id to be a name, got [1]"),
    ("m.jsonl", '{"path": "a", "start": true}\n', "m.jsonl:1", "expected start in seconds, from 0, got True"),
    ("m.json", '{"audio_filepath": "a", "duration": -1}\n', "m.json:1", "expected duration in seconds, from 0, got -1"),
    ("m.jsonl", '{"id": "r", "sources": [{"type": "command", "source": "rm"}]}', "r", "expected a source of type file"),
    ("m.jsonl", '{"id": "r", "sources": []}', "r", "m.jsonl:1: expected a recording of one source"),
    ("m.jsonl", '{"id": "r", "tracks": [], "type": "MixedCut"}', "r", "m.jsonl:1: expected recordings or cuts of one"),
    (
        "m.jsonl",
        '{"id": "c", "start": 0, "duration": 1, "channel": [0, 1], "recording": {"id": "r", "sources": '
        '[{"type": "file", "source": "a.wav", "channels": [0, 1]}]}}',
        "c",
        "m.jsonl:1: expected a cut of one channel, got [0, 1]; audio.channels says which",
    ),
    (
        "d/wav.scp",
        "a sph2pipe -f wav x.sph |\n",
        "a",
        "expected a file, got a pipe, and commands are never run",
    ),
    ("d/wav.scp", "a\n", "d/wav.scp:1", "d/wav.scp:1: expected 2 fields, got 1"),
    ("d/wav.scp", "a x.wav\na y.wav\n", "d/wav.scp:2", "d/wav.scp:2: two recordings with the name a: x.wav and y.wav"),
    ("d/wav.scp", "a foo.ark:123\n", "a", "d/wav.scp:1: expected a file, got foo.ark:123"),
]


@pytest.mark.parametrize(("name", "text", "clip_id", "words"), BAD_ROWS)
def test_a_bad_row_is_one_failure(in_folder, name, text, clip_id, words):
    if name == "d/wav.scp":
        Path("d").mkdir()
        Path(name).write_text(text)
    all_clips = clips("d") if name == "d/wav.scp" else clips(name, text)
    (bad,) = [clip for clip in all_clips if clip.fault is not None]
    code, message = bad.fault
    assert (bad.id, code) == (clip_id, "bad-row")
    assert words in message
    assert message.startswith(f"{name}:")
    assert "\n" not in message
    with pytest.raises(ClipError, match=re.escape(message)):
        decode(bad)


def test_ids_of_bad_rows_are_those_of_no_other_clip(in_folder):
    text = "id,path,start\nx,a.wav,late\nx,a.wav,1\ny,b.wav,late\ny,b.wav,later\nm.csv:2,c.wav,\n"
    bad = clips("m.csv", text)
    assert [(clip.id, clip.fault is None) for clip in bad[1:]] == [
        ("x", True),
        ("y", False),
        ("m.csv:5", False),
        ("m.csv:2", True),
    ]
    assert bad[0].id not in {clip.id for clip in bad[1:]}
    assert [clip.path for clip in bad[:1]] == ["a.wav"]


def test_a_folder_that_is_no_manifest(in_folder):
    Path("d").mkdir()
    with pytest.raises(
        UsageError, match=r"^d: expected a manifest \(\.csv, \.tsv, \.jsonl, \.parquet, or a folder of "
    ):
        clips("d", manifests=True)


def test_kaldi_segments_that_are_bad_rows(in_folder):
    Path("d").mkdir()
    Path("d/wav.scp").write_text("a x.wav\nb sox y.wav - |\n")
    Path("d/segments").write_text("u1 a 0 1\nu2 c 0 1\nu3 a 0 1 1\nu4 b 0 1\nu5 a 1 x\nu6 a\nu1 a 2 3\nu7 a 2 3\n")
    good = [clip.id for clip in clips("d") if clip.fault is None]
    assert good == ["u1", "u7"]
    assert [(clip.id, clip.fault[1]) for clip in clips("d") if clip.fault is not None] == [
        ("d/wav.scp:2", "d/wav.scp:2: expected a file, got a pipe, and commands are never run: sox y.wav - |"),
        ("u2", "d/segments:2: expected a recording of wav.scp, got c"),
        ("u3", "d/segments:3: expected 4 fields, got 5; channels are not read"),
        ("u4", "d/segments:4: its recording b cannot be used"),
        ("u5", "d/segments:5: expected end in seconds, from 0, got 'x'"),
        ("d/segments:6", "d/segments:6: expected 4 fields, got 2"),
        ("d/segments:7", "d/segments:7: expected an id for each clip, but u1 is that of line 1 too"),
    ]


FORMATS = [
    ("a.wav", "PCM_16"),
    ("a.flac", "PCM_16"),
    ("a.aiff", "PCM_16"),
    ("a.ogg", "VORBIS"),
    ("a.opus", "OPUS"),
    ("a.mp3", None),
]


@pytest.mark.parametrize(("name", "subtype"), FORMATS)
def test_segments_are_cut_to_the_sample(tmp_path, name, subtype):
    rng = np.random.default_rng(0)
    rate = 48000
    kind = "OGG" if name == "a.opus" else None
    soundfile.write(tmp_path / name, rng.uniform(-0.5, 0.5, (5 * rate, 2)), rate, subtype, format=kind)
    path = str(tmp_path / name)
    whole = decode(Clip("x", path), "each").samples
    for start, end in ((None, 0.5), (1.0, 1.00002), (1.234567, 3.7), (4.5, None), (0.1, 0.2)):
        first = round((start or 0) * rate)
        last = whole.shape[1] if end is None else round(end * rate)
        part = decode(Clip("x", path, start, end), "each")
        np.testing.assert_array_equal(part.samples, whole[:, first:last])
        assert part.duration == pytest.approx((last - first) / rate)
        np.testing.assert_array_equal(decode(Clip("x", path, start, end, channel=1)).samples[0], whole[1, first:last])


@pytest.mark.parametrize(("start", "end"), [(0.5, 2.6), (2.0, None), (1.0, 1.000001), (99.0, 100.0)])
@pytest.mark.parametrize("name", ["a.wav", "a.ogg"])
def test_segments_that_are_not_there(tmp_path, name, start, end):
    soundfile.write(tmp_path / name, np.zeros(2 * 16000) + 0.1, 16000)
    with pytest.raises(ClipError) as caught:
        decode(Clip("x", str(tmp_path / name), start, end))
    assert caught.value.code == "bad-segment"
