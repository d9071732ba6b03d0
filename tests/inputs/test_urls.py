"""Inputs at URLs: which clips they stand for, in which order, and under which ids."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from hlfeat import Clip, UnreachableError, UsageError, collect_inputs, load_audio
from hlfeat.inputs.objects import translated
from hlfeat.remote import systems
from tests.helpers import tone
from tests.remote.object_server import PAGE, ObjectServer
from tests.remote.web_server import serving

KEYS = [
    "clips/",  # as some programs write for a folder
    "clips/b.wav",
    "clips/a-b/x.wav",
    "clips/a/x.flac",
    "clips/a/deep/y.wav",
    "clips/a/1 [mono] #2 50%?.wav",
    "clips/ünï.wav",
    "clips/.hidden/z.wav",
    "clips/a/._x.flac",
    "clips/notes.txt",
    "clipsother/c.wav",
]


def ids(*paths: str, **kwargs: object) -> list[str]:
    return [clip.id for clip in collect_inputs(list(paths), **kwargs).clips]  # type: ignore[arg-type]


def write(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith("/"):
        (folder / name).write_bytes(b"x")


def test_a_prefix_stands_for_what_the_same_folder_does(server: ObjectServer, tmp_path: Path):
    for key in KEYS:
        write(tmp_path, key)
    server.put("speech", dict.fromkeys(KEYS, b"x"))
    here = collect_inputs([str(tmp_path / "clips")])
    for url in ("s3://speech/clips", "s3://speech/clips/", "S3://speech/clips"):
        there = collect_inputs([url])
        assert [clip.id for clip in there.clips] == [clip.id for clip in here.clips]
        assert (there.skipped, there.hidden_folders) == (here.skipped, here.hidden_folders)
        assert there.clips[0].path == "s3://speech/clips/a/1 [mono] #2 50%?.wav"
        assert {clip.listed[0] for clip in there.clips if clip.listed} == {1}
    assert ids("s3://speech") == ids(str(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("clips/*.wav", ["b.wav", "ünï.wav"]),
        ("clips/**/*.wav", ["a/1 [mono] #2 50%?.wav", "a/deep/y.wav", "a-b/x.wav", "b.wav", "ünï.wav"]),
        ("clips/a*/?.*", ["a/x.flac", "a-b/x.wav"]),
        ("clips/[!a].wav", ["b.wav"]),
        ("clips/?", ["a/1 [mono] #2 50%?.wav", "a/deep/y.wav", "a/x.flac"]),
        ("clips*/**/[bc].wav", ["clips/b.wav", "clipsother/c.wav"]),
        ("clips/.*/*", [".hidden/z.wav"]),
        ("clips/a/1 [mono] #2 50%?.wav", ["1 [mono] #2 50%?.wav"]),  # it matches no name, but is one
    ],
)
def test_patterns(server: ObjectServer, pattern: str, expected: list[str]):
    server.put("speech", dict.fromkeys(KEYS, b"x"))
    assert ids(f"s3://speech/{pattern}") == expected


def test_patterns_match_as_those_of_a_shell(tmp_path: Path):
    names = ["a.wav", "b/a.wav", "b/c/a.wav", ".a.wav", "b/.c/a.wav", "[x].wav", "x.wav"]
    for name in names:
        write(tmp_path, name)
    patterns = ["*.wav", "**/*.wav", "*/*", "b/**/a.wav", "?.wav", "[ax].wav", "[^a].wav", "[]x].wav"]
    for pattern in (*patterns, "[z-a].wav", "[&|~x].wav"):
        matching = {name for name in names if re.fullmatch(translated(pattern), name)}
        shell = {str(p.relative_to(tmp_path)) for p in tmp_path.glob(pattern.replace("[^", "[!")) if p.is_file()}
        assert matching == {name for name in shell if not any(part[0] == "." for part in name.split("/"))}, pattern


def test_more_objects_than_a_page_of_a_listing_has(server: ObjectServer):
    keys = [f"n/{i:04d}.wav" for i in range(2 * PAGE + 5)]
    server.put("many", dict.fromkeys(keys, b""))
    server.fail("busy", "continuation-token", times=2)
    assert ids("s3://many/n") == [key[2:] for key in keys]
    pages = [r for r in server.requests() if r == "GET /many 200"]
    assert len(pages) == 1 + 3  # what it is, and its pages; none of them twice


def test_urls_in_lists_and_manifests_here_and_there(server: ObjectServer, tmp_path: Path):
    server.put(
        "speech",
        {
            "lists/all.txt": b"../clips/b.wav\nsub/x.wav\ns3://speech/clips/a/\nhttps://host/c.wav?id=3\n",
            "lists/all.csv": b"path,id,start,end,word\nsub/x.wav,,,,yes\ns3://other/y.wav,why,1,2,no\n",
            "lists/all.jsonl": b'{"audio_filepath": "/data/z.wav"}\n{"audio_filepath": "s3://other/y.wav"}\n',
            "clips/a/q.wav": b"x",
        },
    )
    listed = collect_inputs(["s3://speech/lists/all.txt"]).clips
    assert [(clip.id, clip.path) for clip in listed] == [
        ("clips/b.wav", "s3://speech/clips/b.wav"),
        ("sub/x.wav", "s3://speech/lists/sub/x.wav"),
        ("q.wav", "s3://speech/clips/a/q.wav"),
        ("host/c.wav?id=3", "https://host/c.wav?id=3"),
    ]
    rows = collect_inputs(["s3://speech/lists/all.csv"]).clips
    assert rows == [
        Clip("sub/x.wav", "s3://speech/lists/sub/x.wav"),
        Clip("why", "s3://other/y.wav", start=1.0, end=2.0),
    ]
    assert dict(rows[0].meta or {}) == {"word": "yes"}
    lines = collect_inputs([], manifests=["s3://speech/lists/all.jsonl"]).clips
    assert [(clip.id, clip.path) for clip in lines] == [
        ("data/z.wav", "/data/z.wav"),
        ("other/y.wav", "s3://other/y.wav"),
    ]
    (tmp_path / "here.txt").write_text("s3://speech/clips/b.wav\nhttp://host/d.wav\n")
    assert ids(str(tmp_path / "here.txt")) == ["speech/clips/b.wav", "host/d.wav"]
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("one s3://speech/clips/b.wav\n")
    assert collect_inputs([str(kaldi)]).clips == [Clip("one", "s3://speech/clips/b.wav")]


def test_a_root_at_a_url(server: ObjectServer, tmp_path: Path):
    server.put("speech", {"clips/a/b.wav": b"x", "clips/c.wav": b"x"})
    (tmp_path / "list.txt").write_text("a/b.wav\ns3://speech/clips/c.wav\ns3://other/d.wav\n/here/e.wav\n")
    clips = collect_inputs([str(tmp_path / "list.txt")], root="s3://speech/clips/").clips
    assert [(clip.id, clip.path) for clip in clips] == [
        ("a/b.wav", "s3://speech/clips/a/b.wav"),
        ("c.wav", "s3://speech/clips/c.wav"),
        ("other/d.wav", "s3://other/d.wav"),
        ("here/e.wav", "/here/e.wav"),
    ]
    assert ids("s3://speech/clips/a", root="s3://speech/clips") == ["a/b.wav"]
    assert ids("s3://speech/clips/c.wav", root=str(tmp_path)) == ["c.wav"]
    (tmp_path / "out.txt").write_text("../x.wav\n")
    with pytest.raises(UsageError, match="leads out of the root s3://speech/clips"):
        collect_inputs([str(tmp_path / "out.txt")], root="s3://speech/clips")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://speech/none", "s3://speech/none: no such object or folder"),
        ("s3://speech/none.tar", "s3://speech/none.tar: no such object"),
        ("s3://speech/none.csv", "s3://speech/none.csv: no such object"),
        ("s3://nothing/none", "s3://nothing/none: no such bucket"),
        ("s3://speech/*.mp3", r"s3://speech/\*.mp3: no object matches"),
        ("s3://speech/refused.wav", "s3://speech/refused.wav: access is denied"),
        ("s3://speech/kaldi", "s3://speech/kaldi: a Kaldi data folder is read from a disk only"),
        ("s3://speech/texts", "no audio files in s3://speech/texts; skipped 1 file"),
        ("s3://sp*/a.wav", "expected a pattern in a bucket"),
        ("s3://", "s3://: expected a bucket or a host"),
        ("ftp://ann:secret@host/a.wav", "^ftp://host/a.wav: expected a path or a URL of s3, gs, hf, http or https"),
    ],
)
def test_an_input_that_cannot_be_read_ends_the_run(server: ObjectServer, path: str, message: str):
    server.put("speech", {"refused.wav": b"x", "kaldi/wav.scp": b"x", "texts/a.pdf": b"x"})
    server.fail("refused", "refused|prefix=refused", method="GET", times=9)
    server.fail("refused", "refused", method="HEAD", times=9)
    with pytest.raises(UsageError, match=message):
        collect_inputs([path], retries=0)


def test_a_server_that_does_not_answer_is_another_error(server: ObjectServer):
    server.put("speech", {"a.wav": b"x"})
    server.fail("busy", "", times=9)
    server.fail("busy", "", method="HEAD", times=9)
    for path in ("s3://speech/a.wav", "s3://speech/a.csv", "s3://speech/a.tar", "http://127.0.0.1:1/a.wav"):
        with pytest.raises(UnreachableError, match=r"nothing was done: run the same again"):
            collect_inputs([path], retries=0)


def test_in_a_list_what_cannot_be_read_fails_alone(server: ObjectServer, tmp_path: Path):
    server.put("speech", {"a.wav": b"x"})
    (tmp_path / "list.txt").write_text("s3://speech/none.tar\ns3://speech/none/\nftp://ann:secret@host/b.wav\n")
    clips = collect_inputs([str(tmp_path / "list.txt")]).clips
    assert [clip.fault and clip.fault[0] for clip in clips] == ["missing", "missing", "unsupported"]
    assert clips[2].path == "ftp://host/b.wav"


def test_the_web(tmp_path: Path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", tone(0.2, 16000), 16000)
    data = (tmp_path / "a.wav").read_bytes()
    with serving({"/d/a b.wav": data, "/list.txt": b"d/a b.wav\n"}) as web:
        (clip,) = collect_inputs([f"{web.address}/d/a%20b.wav"]).clips
        assert (clip.id, clip.listed and clip.listed[0]) == ("a%20b.wav", len(data))
        assert load_audio(f"{web.address}/d/a b.wav", 16000).equal(load_audio(tmp_path / "a.wav", 16000))
        assert ids(f"{web.address}/list.txt") == ["d/a b.wav"]
        with pytest.raises(UsageError, match="expected a file, got a folder; a web server cannot be listed"):
            collect_inputs([f"{web.address}/d/"])
        with pytest.raises(UsageError, match="no such file; a web server cannot be listed"):
            collect_inputs([f"{web.address}/d/*.wav"])


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket/a.wav", "s3fs", "s3"),
        ("gs://bucket/a.wav", "gcsfs", "gs"),
        ("hf://datasets/a/b/c.wav", "huggingface_hub", "hf"),
        ("https://host/a.wav", "aiohttp", "http"),
        ("s3://bucket/a.wav", "fsspec", "s3"),
    ],
)
def test_without_its_extra_a_url_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, module: str, extra: str
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(systems, "_file_systems", {})
    (tmp_path / "list.txt").write_text(f"{url}\n")
    for path in (url, str(tmp_path / "list.txt")):
        with pytest.raises(UsageError, match=rf"needs pip install 'hlfeat\[{extra}\]'"):
            collect_inputs([path])
