"""Where a clip's pitch track may lie, and what is left when publishing it fails."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.errors import ClipError
from hlfeat.storage import track_shard
from hlfeat.storage.catalog import ShardCatalog
from hlfeat.storage.index_entry import IndexEntry, read_index
from hlfeat.storage.layout import Layout, ShardFiles, track_name
from hlfeat.storage.track_shard import TrackShard

HOSTILE = [
    "",
    "/",
    "..",
    "../a.wav",
    "a/../../b.wav",
    "/etc/a.wav",
    "a//b.wav",
    "a/",
    "./a.wav",
    "nul\0.wav",
    "shard-00000.jsonl/a.wav",
    "hlfeat.yaml/a.wav",
    "hlfeat.lock/a.wav",
    "shard-00000.jsonl.tmp/a.wav",
    "a.wav.f0.csv/b.wav",
    "a.wav.f0.csv.tmp/b.wav",
    "\ud800.wav",
]


@pytest.fixture
def shard(tmp_path):
    (tmp_path / "out").mkdir()
    with TrackShard(ShardFiles(Layout(tmp_path / "out"), 0)) as shard:
        yield shard


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("id_", HOSTILE)
def test_hostile_ids_have_no_track(shard, tmp_path, id_):
    with pytest.raises(ClipError) as caught:
        shard.append(IndexEntry(id_, "x.wav"), [(b"text\n", 0)])
    assert caught.value.code == "bad-id"
    assert shard.entries == []
    shard.__exit__()
    assert names(tmp_path) == []


PIECES = ["a", "b", "/", "/", ".", "..", "#0", "\0", "\n", "é", "\udcff", ".f0.csv", ".tmp"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), min_size=2, max_size=8, unique=True))
def test_ids_lie_below_the_folder_and_never_in_one_anothers_way(ids):
    taken: dict[str, str] = {}
    for id_ in ids:
        try:
            name = track_name(id_)
        except ValueError:
            continue
        assert os.path.normpath(name) == name
        assert not name.startswith(("/", "../"))
        assert taken.setdefault(name, id_) == id_
    for name in taken:
        assert not {str(parent) for parent in Path(name).parents} & taken.keys()


def test_names_that_are_too_long_and_paths_that_lead_through_files(shard, tmp_path):
    (tmp_path / "out/file").write_text("a file of the user's")
    for id_ in ("x" * 250 + ".wav", "folder/" + "x" * 250, "y" * 300 + "/a", "/".join(["d" * 200] * 30), "file/a.wav"):
        with pytest.raises(ClipError) as caught:
            shard.append(IndexEntry(id_, "x.wav"), [(b"text\n", 0)])
        assert caught.value.code == "bad-id", id_
    shard.append(IndexEntry("x" * (255 - len(".f0.csv.tmp")), "x.wav"), [(b"text\n", 0)])
    (path,) = shard.commit()
    assert path.read_bytes() == b"text\n"
    assert (tmp_path / "out/file").read_text() == "a file of the user's"


def test_a_file_that_is_there_already_stays(shard, tmp_path):
    mine = tmp_path / "out/a.wav.f0.csv"
    mine.write_text("annotated by hand")
    with pytest.raises(ClipError, match="is there") as caught:
        shard.append(IndexEntry("a.wav", "a.wav"), [(b"text\n", 0)])
    assert caught.value.code == "exists"
    assert mine.read_text() == "annotated by hand"


def test_a_clip_that_fails_on_the_way_leaves_the_others_as_they_are(shard, tmp_path):
    def failing():
        yield b"a line\n", 1
        raise ClipError("corrupt", "no more")

    shard.append(IndexEntry("a", "a"), [(b"head\n", 0), (b"one\n", 1)])
    with pytest.raises(ClipError, match="no more"):
        shard.append(IndexEntry("b", "b"), failing())
    shard.append(IndexEntry("c", "c"), [(b"head\n", 0)])
    shard.append(IndexEntry("d", "d"), [(b"dropped\n", 0)])
    shard.drop(1)
    shard.append(IndexEntry("e/f", "f"), [(b"two\n", 1), (b"three\n", 1)])
    paths = shard.commit()
    assert [p.read_bytes() for p in paths] == [b"head\none\n", b"head\n", b"two\nthree\n"]
    out = tmp_path / "out"
    assert names(out) == ["a.f0.csv", "c.f0.csv", "e/f.f0.csv", "shard-00000.jsonl"]
    assert [(e.id, e.shard, e.frames) for e in read_index(out / "shard-00000.jsonl")] == [
        ("a", "a.f0.csv", 1), ("c", "c.f0.csv", 0), ("e/f", "e/f.f0.csv", 2)]  # fmt: skip


@pytest.mark.parametrize("at", range(12))
def test_a_disk_that_is_full_leaves_nothing(shard, tmp_path, monkeypatch, at):
    for i in range(4):
        shard.append(IndexEntry(f"d/{i}", "x"), [(b"text\n" * 100, 100)])
    calls, replace, sync = [], Path.replace, track_shard.sync

    def full(function):
        def call(*args):
            calls.append(1)
            if len(calls) > at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args)

        return call

    monkeypatch.setattr(Path, "replace", full(replace))
    monkeypatch.setattr(track_shard, "sync", full(sync))
    if at < 10:  # one sync and one rename for the index and for each of four tracks
        with pytest.raises(OSError, match="No space"):
            shard.commit()
        assert names(tmp_path / "out") == []
    else:
        assert len(shard.commit()) == 4
        assert len(names(tmp_path / "out")) == 5


def add(shard: TrackShard, id_: str, text: bytes = b"text\n") -> None:
    shard.append(IndexEntry(id_, "x.wav"), [(text, 0)])


def code_of(shard: TrackShard, id_: str) -> str:
    with pytest.raises(ClipError) as caught:
        add(shard, id_)
    return caught.value.code


def test_a_folder_that_does_not_tell_names_apart(shard, tmp_path, monkeypatch):
    """As of FAT, APFS or a folder of ext4 with casefold: what is written as `A` is there as `a`."""
    beside = track_shard.temporary_of
    monkeypatch.setattr(track_shard, "temporary_of", lambda path: beside(path.with_name(path.name.casefold())))
    add(shard, "A.wav", b"first\n")
    assert code_of(shard, "a.wav") == "exists"
    add(shard, "b.wav", b"second\n")
    assert [p.read_bytes() for p in shard.commit()] == [b"first\n", b"second\n"]
    assert names(tmp_path / "out") == ["A.wav.f0.csv", "b.wav.f0.csv", "shard-00000.jsonl"]


def test_an_ordinary_folder_tells_names_apart(shard):
    ids = ["A.wav", "a.wav", "\u00e9", "e\u0301", "d/a", "D/a", "a.", "a"]
    for id_ in ids:
        add(shard, id_, id_.encode())
    assert [p.read_bytes() for p in shard.commit()] == [id_.encode() for id_ in ids]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EILSEQ, errno.EACCES])
def test_a_name_that_the_file_system_refuses_fails_its_clip_alone(shard, tmp_path, monkeypatch, error):
    def refusing(path, mode):
        if "?" in path.name:
            raise OSError(error, os.strerror(error))
        return open(path, mode)

    monkeypatch.setattr(track_shard, "open", refusing, raising=False)
    add(shard, "a.wav")
    assert code_of(shard, "d/what?.wav") == "bad-id"
    add(shard, "b.wav")
    assert len(shard.commit()) == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.wav.f0.csv", "b.wav.f0.csv", "shard-00000.jsonl"]


def test_a_disk_that_is_full_fails_the_run(shard, monkeypatch):
    def full(path, mode):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(track_shard, "open", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        add(shard, "a.wav")


def test_leaving_without_a_commit_leaves_nothing(shard, tmp_path):
    (tmp_path / "out/mine").mkdir()
    add(shard, "d/e/a.wav")
    add(shard, "mine/a.wav")
    assert set(names(tmp_path / "out")) > {"d/e/a.wav.f0.csv.tmp", "mine/a.wav.f0.csv.tmp"}
    shard.__exit__()
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["mine"]


def test_every_file_is_listed_from_the_moment_that_it_is_there(tmp_path):
    """A run that is killed leaves no file that the next one does not know."""
    (tmp_path / "out").mkdir()
    layout = Layout(tmp_path / "out")
    left: list[list[str]] = []

    def killed(id_):
        """While a clip is written, and before: what a kill leaves, and what the next run leaves of that."""
        for text in (b"", b"text\n"):
            yield text, 0
            copy = tmp_path / f"killed {len(left)}"
            shutil.copytree(layout.folder, copy)
            ShardCatalog(Layout(copy)).clean(everything=False)
            left.append(names(copy))

    with TrackShard(ShardFiles(layout, 0)) as shard:
        for id_ in ("a.wav", "d/b.wav"):
            shard.append(IndexEntry(id_, "x.wav"), killed(id_))
    assert left == [[]] * 4


def published(folder: Path, number: int, *ids: str) -> Path:
    """The index of a shard of these clips."""
    files = ShardFiles(Layout(folder), number)
    with TrackShard(files) as shard:
        for id_ in ids:
            add(shard, id_)
        shard.commit()
    return files.index


@pytest.mark.parametrize("lost", [1, 20, 60])
@pytest.mark.parametrize("ids", [["a.wav", 'd/\u00e9 "b".wav'], ["only.wav"]])
def test_a_damaged_index_does_not_orphan_tracks(tmp_path, lost, ids):
    index = published(tmp_path, 0, *ids)
    data = index.read_bytes()
    index.write_bytes(data[:-lost])
    (tmp_path / "mine.wav.f0.csv").write_text("annotated by hand")
    ShardCatalog(Layout(tmp_path)).clean(everything=True)
    assert names(tmp_path) == ["mine.wav.f0.csv"]


def test_a_line_that_cannot_be_read_does_not_hide_those_after_it(tmp_path):
    index = published(tmp_path, 0, "a.wav", "b.wav", "c.wav")
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(lines[0] + b"\xff\0" + lines[1][2:] + lines[2])
    ShardCatalog(Layout(tmp_path)).clean(everything=True)
    assert names(tmp_path) == ["b.wav.f0.csv"]  # whose id is lost: it may be anybody's


def test_a_line_that_names_another_file_removes_none(tmp_path):
    index = published(tmp_path, 0, "a.wav")
    (tmp_path / "b.wav.f0.csv").write_text("annotated by hand")
    index.write_bytes(index.read_bytes().replace(b'"id": "a.wav"', b'"id": "b.wav"'))
    ShardCatalog(Layout(tmp_path)).clean(everything=True)
    assert "b.wav.f0.csv" in names(tmp_path)


def test_a_draft_beside_its_index_is_read_before_it_is_replaced(tmp_path):
    index = published(tmp_path, 0, "a.wav")
    draft = index.rename(tmp_path / "draft")
    published(tmp_path, 0, "b.wav")
    draft.rename(tmp_path / "shard-00000.jsonl.tmp")
    ShardCatalog(Layout(tmp_path)).clean(everything=True)
    assert names(tmp_path) == []
