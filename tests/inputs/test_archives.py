"""Archives: members are clips like the same files unpacked, and what is damaged is not lost in silence."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.audio import byte_source, formats, reader
from hlfeat.audio.clip import Clip, Span
from hlfeat.audio.reader import decode
from hlfeat.config.loading import load_config
from hlfeat.errors import ClipError, InterruptedRunError, UsageError
from hlfeat.extraction import clip_loader
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.inputs.archives import archive_clips
from hlfeat.inputs.collect import Inputs, collect_inputs
from tests import helpers

CHEAP = ["frontend.n_filters=8", "frontend.num_groups=4"]
QUIET = Options(quiet=True, batch_seconds=2.0)
Member = tuple[str, bytes] | tarfile.TarInfo


def tar(path: Path, *content: Member, form: int = tarfile.PAX_FORMAT) -> Path:
    """An archive of files (name, bytes) and of other members."""
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for item in content:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
            else:
                info = tarfile.TarInfo(item[0])
                info.size = len(item[1])
                archive.addfile(info, io.BytesIO(item[1]))
    return path


def other(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def pack(folder: Path, path: Path) -> Path:
    """A folder's files as an archive, in the order of their names; broken links are left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return tar(path, *((str(p.relative_to(folder)), p.read_bytes()) for p in files))


def collect(*paths: object, stdin: bytes = b"", manifests: tuple[str, ...] = ()) -> Inputs:
    return collect_inputs([str(p) for p in paths], io.BytesIO(stdin), manifests=manifests)


def ids(*paths: object, stdin: bytes = b"", manifests: tuple[str, ...] = ()) -> list[str]:
    return [c.id for c in collect(*paths, stdin=stdin, manifests=manifests).clips]


def run(inputs: Inputs, out: Path, *overrides: str, **kw):
    return extract(load_config("eleaf-8g-opt", [*CHEAP, *overrides]), inputs, out, QUIET, **kw)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def bytes_of(clip: Clip) -> bytes:
    assert clip.span is not None
    return Path(clip.path).read_bytes()[clip.span.offset :][: clip.span.size]


# --- listing -------------------------------------------------------------------------------------------------------


def test_webdatasets_layout_in_the_order_of_the_members(tmp_path):
    a = tar(tmp_path / "a.tar", ("k/2.wav", b"two"), ("k/2.json", b"{}"), ("k/1.FLAC", b"one"), ("k/1.cls", b"3"))
    b = tar(tmp_path / "b.tar", ("./k/3.ogg", b"three"), ("k/3.txt", b""), ("__key__", b""), ("k/4.m4a", b"4"))
    inputs = collect(a, b)
    assert [c.id for c in inputs.clips] == ["k/2.wav", "k/1.FLAC", "k/3.ogg", "k/4.m4a"]
    assert inputs.ignored == 4
    assert [bytes_of(c) for c in inputs.clips] == [b"two", b"one", b"three", b"4"]
    assert inputs.clips[2].span.member == "./k/3.ogg"
    assert str(inputs.clips[0]) == f"{a}: k/2.wav"


def test_archives_in_folders_lists_and_as_manifests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    tar(Path("in/sub/a.TAR"), ("x.wav", b"x"), ("x.json", b"x"))
    tar(Path("in/z.tar"), ("x.wav", b"x"))
    Path("in/m.wav").write_bytes(b"x")
    inputs = collect("in")
    assert [c.id for c in inputs.clips] == ["m.wav", "sub/a.TAR/x.wav", "z.tar/x.wav"]
    assert inputs.ignored == 1
    Path("list.txt").write_text("in/m.wav\nin/z.tar\n")
    assert ids("list.txt") == ids("-", stdin=b"in/m.wav\nin/z.tar\n") == ["in/m.wav", "x.wav"]
    assert ids(manifests=("in/z.tar",)) == ["x.wav"]
    with pytest.raises(UsageError, match=r"no\.tar: the archive cannot be read"):
        ids(manifests=("no.tar",))
    with pytest.raises(UsageError, match=r"no\.tar: no such file or folder$"):
        collect("no.tar")
    assert collect("-", stdin=b"no.tar").clips == [Clip("no.tar", "no.tar")]
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tar/a.wav").write_bytes(b"x")
    assert ids("folder.tar") == ["a.wav"]


def test_hidden_members(tmp_path):
    """macOS puts `._a.wav` before `a.wav`."""
    path = tar(
        tmp_path / "a.tar",
        ("./._a.wav", b"AppleDouble"),
        ("./a.wav", b"a"),
        ("../b.wav", b"b"),
        ("d/.hidden.wav", b"c"),
        other("d/.Trash-0", tarfile.DIRTYPE),
        ("d/.Trash-0/c.wav", b"d"),
        ("d/.Trash-0/e/.f/c.wav", b"d"),
        (".git/notes.txt", b""),
        ("readme.txt", b""),
    )
    inputs = collect(path)
    assert [c.id for c in inputs.clips] == ["a.wav", "b.wav", "d/.hidden.wav"]
    assert inputs.skipped == {"._*": 1, ".txt": 1}
    assert inputs.hidden_folders == 2


def test_videos_in_an_archive_are_audio_if_pyav_is_installed(tmp_path, monkeypatch):
    path = tar(tmp_path / "a.tar", ("a.mkv", b"a"), ("b.wav", b"b"))
    for installed, names in ((True, ["a.mkv", "b.wav"]), (False, ["b.wav"])):
        monkeypatch.setattr(formats, "_pyav_is_installed", lambda installed=installed: installed)
        assert ids(path) == names


def test_only_headers_are_read(tmp_path):
    path = tmp_path / "a.tar"
    size = 4 << 30
    with open(path, "wb") as f:
        for name in ("1.wav", "2.wav"):
            info = tarfile.TarInfo(name)
            info.size = size
            f.write(info.tobuf(tarfile.GNU_FORMAT))
            f.seek(size, os.SEEK_CUR)  # a hole
        f.write(bytes(1024))
    assert [c.span.size for c in archive_clips(str(path), "a")] == [size, size]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names(tmp_path, form):
    long = "a" * 60 + "/" + "b" * 60 + "/" + "c" * 60 + ".wav"
    names = ["caf\udce9.wav", "тест.wav", "new\nline.wav", long]
    if form != tarfile.USTAR_FORMAT:
        names.append("d" * 300 + ".wav")
    path = tar(tmp_path / "a.tar", *((n, n.encode(errors="surrogateescape")) for n in names), form=form)
    clips = collect(path).clips
    assert [c.id for c in clips] == names
    assert [bytes_of(c).decode(errors="surrogateescape") for c in clips] == names
    assert "\n" not in str(clips[2])


def test_names_that_lead_elsewhere_stay_below(tmp_path):
    assert ids(tar(tmp_path / "a.tar", ("/abs/a.wav", b""), ("../../b.wav", b""), ("x/../c.wav", b""))) == [
        "abs/a.wav",
        "b.wav",
        "c.wav",
    ]


def test_links_in_an_archive_and_members_that_are_no_files(tmp_path):
    path = tar(
        tmp_path / "a.tar",
        other("d", tarfile.DIRTYPE),
        other("folder.wav", tarfile.DIRTYPE),
        ("d/data", b"data"),
        other("d/hard.wav", tarfile.LNKTYPE, "d/data"),
        other("d/soft.wav", tarfile.SYMTYPE, "./later.wav"),
        other("d/later.wav", tarfile.SYMTYPE, "../d/hard.wav"),
        other("out.wav", tarfile.SYMTYPE, "/etc/passwd"),
        other("loop.wav", tarfile.SYMTYPE, "loop.wav"),
        other("pipe.wav", tarfile.FIFOTYPE),
        other("disk.wav", tarfile.BLKTYPE),
        other("odd.wav", b"V"),
        other("folder of the oldest tars/", tarfile.AREGTYPE),
    )
    inputs = collect(path)
    assert inputs.ignored == 1
    clips = {c.id: c for c in inputs.clips}
    assert [bytes_of(clips[f"d/{n}.wav"]) for n in ("hard", "soft", "later")] == [b"data"] * 3
    for name, code, words in (
        ("out", "missing", "a link to /etc/passwd, which is not in the archive"),
        ("loop", "missing", "a link to loop.wav"),
        ("pipe", "not-audio", "expected a file"),
        ("disk", "not-audio", "expected a file"),
        ("odd", "not-audio", "expected a file"),
    ):
        with pytest.raises(ClipError, match=words) as caught:
            decode(clips.pop(f"{name}.wav"))
        assert caught.value.code == code
    assert len(clips) == 3


def test_a_size_that_leads_back_and_a_header_as_large_as_a_file(tmp_path):
    path = tar(tmp_path / "a.tar", ("a.wav", b"a"), ("b.wav", b"b"))
    content = bytearray(path.read_bytes())
    for kind, size, words in (
        (b"0", -1024, "at byte 1024 after a.wav: "),
        (b"x", 64 << 20, "a header of 67108864 bytes"),
    ):
        content[1024 + 124 : 1024 + 136] = b"%+011o\0" % size
        content[1024 + 156 : 1024 + 157] = kind
        content[1024 + 148 : 1024 + 156] = b" " * 8
        content[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(content[1024:1536])
        path.write_bytes(content)
        os.truncate(path, 65 << 20)
        clips = collect(path).clips
        assert [c.id for c in clips] == ["a.wav", "a.tar"]
        assert clips[1].fault[0] == "corrupt"
        assert words in clips[1].fault[1]


def test_sparse_members_fail(tmp_path):
    info = tarfile.TarInfo("a.wav")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4096"}
    data = b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
    info.size = len(data)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(data))
    [clip] = collect(tmp_path / "a.tar").clips
    with pytest.raises(ClipError, match="sparse") as caught:
        decode(clip)
    assert caught.value.code == "unsupported"


def test_one_name_twice_shows_both(tmp_path):
    a = tar(tmp_path / "a.tar", ("x.wav", b"1"), ("./x.wav", b"2"))
    with pytest.raises(UsageError, match=r"id x\.wav: .*a\.tar: x\.wav at byte 512 and \./x\.wav at byte 1536"):
        collect(a)
    b, c = tar(tmp_path / "b.tar", ("x.wav", b"1")), tar(tmp_path / "c.tar", ("x.wav", b"1"))
    with pytest.raises(UsageError, match=r"b\.tar: x\.wav and .*c\.tar: x\.wav; give the folder above"):
        collect(b, c)
    with pytest.raises(UsageError, match=r"b\.tar: x\.wav given twice"):
        collect(b, b)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.tar.bz2", "a.tar.xz", "a.tar.zst"])
def test_compressed_archives(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    for arguments in ({"paths": [str(tmp_path / name)]}, {"paths": [], "manifests": [str(tmp_path / name)]}):
        with pytest.raises(UsageError, match=r"not compressed: .*; decompress it first"):
            collect_inputs(**arguments, stdin=io.BytesIO())
    assert collect("-", stdin=b"no.tar.gz").clips == [Clip("no.tar.gz", "no.tar.gz")]  # decoding says why
    [clip] = collect(tmp_path).clips  # among others in a folder it is one clip that fails
    assert (clip.id, clip.fault[0]) == (name, "unsupported")


# --- damage --------------------------------------------------------------------------------------------------------


def three(tmp_path: Path) -> bytes:
    return tar(tmp_path / "a.tar", *((f"{i}.wav", bytes([i]) * 700) for i in range(3))).read_bytes()


DAMAGE = {
    "nothing": (lambda d: b"", 0, "empty", "0 bytes"),
    "text": (lambda d: b"this is text\n" * 100, 0, "corrupt", "expected a member of the archive at byte 0"),
    "compressed": (gzip.compress, 0, "unsupported", "compressed with gzip"),
    "short header": (lambda d: d[:300], 0, "truncated", "ends at byte 300 without its end mark; "),
    "a header overwritten": (lambda d: d[:1536] + b"?" * 50 + d[1586:], 1, "corrupt", "at byte 1536 after 0.wav"),
    "cut in the last": (lambda d: d[:4000], 3, "truncated", "ends at byte 4000 without its end mark after 2.wav"),
    "cut between two": (lambda d: d[:3072], 2, "truncated", "ends at byte 3072 without its end mark after 1.wav"),
    "cut in a header": (lambda d: d[:3100], 2, "truncated", "ends at byte 3100 without its end mark after 1.wav"),
    "cut before the end mark": (lambda d: d[:4608], 3, "truncated", "without its end mark after 2.wav"),
    "text behind": (lambda d: d + b"x" * 512, 3, "corrupt", "at byte 10240 after 2.wav"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_fails_beside_the_members_before(tmp_path, damage):
    change, n, code, words = DAMAGE[damage]
    (tmp_path / "a.tar").write_bytes(change(three(tmp_path)))
    *clips, last = collect(tmp_path / "a.tar").clips
    assert [c.id for c in clips] == [f"{i}.wav" for i in range(n)]
    assert (last.id, last.path) == ("a.tar", str(tmp_path / "a.tar"))
    with pytest.raises(ClipError) as caught:
        decode(last)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_one_archive_after_another_in_one_file(tmp_path):
    a = tar(tmp_path / "a.tar", ("a.wav", b"a")).read_bytes()
    b = tar(tmp_path / "b.tar", ("b.wav", b"b")).read_bytes()
    (tmp_path / "ab.tar").write_bytes(a + b)
    assert [bytes_of(c) for c in collect(tmp_path / "ab.tar").clips] == [b"a", b"b"]
    (tmp_path / "one.tar").write_bytes(a[: 1024 + 512])  # one block of zeros is an end mark too
    assert ids(tmp_path / "one.tar") == ["a.wav"]
    with pytest.raises(UsageError, match="no audio files"):
        collect(tar(tmp_path / "none.tar"))


@given(data=st.data())
def test_cut_anywhere_nothing_is_lost_in_silence(tmp_path_factory, data):
    tmp = tmp_path_factory.mktemp("cut")
    names = ["a.wav", "b.json", "n" * 150 + ".wav", "d.wav"]
    whole = tar(tmp / "a.tar", *((n, bytes(i * 400)) for i, n in enumerate(names)), form=tarfile.GNU_FORMAT)
    content = whole.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512 * 4  # beyond it only the end mark is cut
    size = data.draw(st.integers(0, end))
    whole.write_bytes(content[:size])
    clips = [c for c in archive_clips(str(whole), "fault") if isinstance(c, Clip)]
    assert clips[-1].id == "fault" or size >= len(content.rstrip(b"\0"))
    assert [c.id for c in clips if c.id != "fault"] == [n for n in names if n.endswith("wav")][: len(clips) - 1]


@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=4), st.data())
def test_any_header_at_all(tmp_path_factory, changes, data):
    """Headers whose fields are changed and whose checksum is right again."""
    tmp = tmp_path_factory.mktemp("header")
    info = other("l.wav", tarfile.SYMTYPE, "x" * 120)
    form = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    if form == tarfile.USTAR_FORMAT:
        info.linkname = "a.wav"
    path = tar(tmp / "a.tar", ("a.wav", b"1 path=b.wav\n" * 40), (("n/" * 60) + "b.wav", b"b"), info, form=form)
    content = bytearray(path.read_bytes())
    blocks = len(content) // 512
    block = data.draw(st.integers(0, min(blocks, 12) - 1)) * 512
    kind = data.draw(st.sampled_from([None, *b"01234567LKSVXgxN"]))
    size = data.draw(
        st.sampled_from([None, b"-0000000777\0", b"\x80" + bytes(6) + b"\x7f" * 5, b"\xff" * 12, b"7" * 12])
    )
    for offset, value in changes:
        content[block + offset] = value
    if kind is not None:
        content[block + 156] = kind
    if size is not None:
        content[block + 124 : block + 136] = size
    content[block + 148 : block + 156] = b" " * 8
    content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])
    path.write_bytes(content)
    for clip in archive_clips(str(path), "fault"):
        if isinstance(clip, Clip):
            with pytest.raises(ClipError):  # there is no audio
                decode(clip)


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["copied", "through Python"])
def way(request, monkeypatch):
    """Both ways to read a member."""
    if request.param == "through Python":
        monkeypatch.setattr(byte_source, "MAX_COPY", -1)


def test_samples_are_those_of_the_file(tmp_path, way):
    folder = helpers.good_clips(tmp_path / "clips", 2 * len(helpers.KINDS))
    clips = collect(pack(folder, tmp_path / "a.tar")).clips
    assert len(clips) == 2 * len(helpers.KINDS)
    for clip in clips:
        a, b = decode(clip, "each"), decode(Clip("x", str(folder / clip.id)), "each")
        assert (a.sample_rate, a.file_channels) == (b.sample_rate, b.file_channels)
        np.testing.assert_array_equal(a.samples, b.samples)
    first = clips[0]
    part = decode(Clip("x", first.path, 0.01, 0.03, span=first.span), "each").samples
    whole = decode(first, "each")
    np.testing.assert_array_equal(part, whole.samples[:, whole.sample_rate // 100 :][:, : part.shape[1]])


def test_broken_members_have_the_codes_of_broken_files(tmp_path, way):
    codes = helpers.broken_clips(tmp_path / "broken")
    nist = tmp_path / "broken/nist.sph"
    soundfile.write(nist, helpers.tone(1, 8000), 8000, format="NIST", subtype="PCM_16")
    nist.write_bytes(nist.read_bytes()[:9000])
    (tmp_path / "broken/after").write_bytes(bytes(1 << 20))  # what follows a member is not its own
    clips = collect(pack(tmp_path / "broken", tmp_path / "a.tar")).clips
    assert len(clips) == len(codes)  # the broken link is not in the archive, nist.sph is
    for clip in clips:
        if clip.id != "loud.wav":
            messages = []
            for c in (clip, Clip("x", str(tmp_path / "broken" / clip.id))):
                with pytest.raises(ClipError) as caught:
                    decode(c)
                messages.append((caught.value.code, str(caught.value)))
            assert messages[0] == messages[1]


def test_an_archive_that_changes_after_it_was_listed(tmp_path):
    [clip] = collect(tar(tmp_path / "a.tar", ("a.wav", b"x" * 100))).clips
    tar(tmp_path / "a.tar", ("b.wav", b"y" * 100))
    with pytest.raises(ClipError, match="changed after its members were listed") as caught:
        decode(clip)
    assert caught.value.code == "unreadable"
    Path(clip.path).unlink()
    with pytest.raises(ClipError) as caught:
        decode(clip)
    assert caught.value.code == "missing"


def test_a_member_that_reaches_beyond_the_archive(tmp_path, way, monkeypatch):
    folder = helpers.good_clips(tmp_path / "clips", 1)
    path = pack(folder, tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:1000])
    clip, last = collect(path).clips
    for c, words in ((clip, "ends after 488 of the member's"), (last, "ends at byte 1000 without its end mark")):
        with pytest.raises(ClipError, match=words) as caught:
            decode(c)
        assert caught.value.code == "truncated"
    monkeypatch.setattr(reader, "check_span", lambda *a: None)  # cut while it is read
    with pytest.raises(ClipError) as caught:
        decode(clip)
    assert caught.value.code == "truncated"


def test_an_error_of_the_disk_is_the_disks(tmp_path, way, monkeypatch, capfd):
    folder = helpers.good_clips(tmp_path / "clips", 1)
    [clip] = collect(pack(folder, tmp_path / "a.tar")).clips

    def broken(*args):
        raise OSError(5, "Input/output error")

    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, broken)
    with pytest.raises(ClipError, match="Input/output error") as caught:
        decode(clip)
    assert caught.value.code == "unreadable"
    assert capfd.readouterr().err == ""


@given(
    size=st.integers(0, 50),
    steps=st.lists(
        st.one_of(st.tuples(st.just("read"), st.integers(0, 60)), st.tuples(st.just("seek"), st.integers(0, 60)))
    ),
)
def test_a_range_is_a_file_of_its_own(tmp_path_factory, size, steps):
    path = tmp_path_factory.mktemp("range") / "x"
    content = bytes(range(100))
    path.write_bytes(content)
    model = io.BytesIO(content[30 : 30 + size])
    with byte_source.open_bytes(Clip("x", str(path), span=Span("x", 30, size, (0, 0)))) as f:
        for step, n in steps:
            assert getattr(f, step)(n) == getattr(model, step)(n)
        assert f.seek(-size, os.SEEK_END) == 0
        assert f.read() == model.getvalue()


# --- the run -------------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_files_unpacked_to_the_bit(tmp_path):
    folder = helpers.good_clips(tmp_path / "clips", 12)
    helpers.broken_clips(folder / "e-broken")
    (folder / "e-broken/dangling.wav").unlink()
    run(collect(folder), tmp_path / "files", "output.shard_size=5")
    (tmp_path / "in").mkdir()
    names = [c.id for c in collect(folder).clips]
    archive = tar(tmp_path / "in/a.tar", *((n, (folder / n).read_bytes()) for n in names))
    run(collect(archive), tmp_path / "members", "output.shard_size=5")
    for shard in sorted((tmp_path / "files").glob("shard-*.npy")):
        assert shard.read_bytes() == (tmp_path / "members" / shard.name).read_bytes()
        index = records((tmp_path / "members" / shard.name).with_suffix(".jsonl"))
        assert [r.pop("member") for r in index] == [r["id"] for r in index]
        assert {r["path"] for r in index} == {str(archive)}
        assert {(r["size"], r["modified"]) for r in index} == {(archive.stat().st_size, archive.stat().st_mtime_ns)}
        where = {"path": "", "size": 0, "modified": 0}
        assert [{**r, **where} for r in index] == [{**r, **where} for r in records(shard.with_suffix(".jsonl"))]
    failures = records(tmp_path / "members/failures.jsonl")
    assert [f.pop("member") for f in failures] == [f["id"] for f in failures]
    want = records(tmp_path / "files/failures.jsonl")
    assert [{**f, "path": ""} for f in failures] == [{**f, "path": ""} for f in want]
    run(collect(tmp_path / "in"), tmp_path / "folder")
    assert records(tmp_path / "folder/shard-00000.jsonl")[0]["id"] == f"a.tar/{names[0]}"


def test_stopped_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch):
    archive = pack(helpers.good_clips(tmp_path / "clips", 9), tmp_path / "a.tar")
    archive.write_bytes(archive.read_bytes().rstrip(b"\0"))  # the archive itself fails, at the end
    whole, out, stops = tmp_path / "whole", tmp_path / "out", 0
    assert [f["id"] for f in run(collect(archive), whole, "output.shard_size=2").failures] == ["a.tar"]
    for patience in range(1, 200, 9):
        asked: list[int] = []
        try:
            stopped = lambda a=asked, n=patience: (a.append(1), len(a) > n)[1]  # noqa: E731
            run(collect(archive), out, "output.shard_size=2", stopped=stopped)
            break
        except InterruptedRunError:
            stops += 1
    assert stops >= 2
    for path in whole.iterdir():
        assert path.name == "report.json" or path.read_bytes() == (out / path.name).read_bytes()
    monkeypatch.setattr(clip_loader, "Reader", lambda *a: pytest.fail("opened audio"))
    again = run(collect(archive), out, "output.shard_size=2")
    assert (again.clips, again.clips_before, len(again.failures)) == (0, 9, 1)


def test_an_archive_that_was_mended_fails_no_more(tmp_path, caplog):
    archive = pack(helpers.good_clips(tmp_path / "clips", 5), tmp_path / "a.tar")
    content = archive.read_bytes()
    archive.write_bytes(content[: collect(archive).clips[3].span.offset - 512])
    assert run(collect(archive), tmp_path / "out").clips == 3
    archive.write_bytes(content)
    report = run(collect(archive), tmp_path / "out")
    assert (report.clips, report.clips_before, report.failures) == (2, 3, [])
    assert "3 finished clips changed since" in caplog.text


def test_another_member_or_archive_under_the_id_of_a_finished_clip(tmp_path):
    wave = io.BytesIO()
    soundfile.write(wave, helpers.tone(0.3, 16000), 16000, format="WAV")
    (tmp_path / "x.wav").write_bytes(wave.getvalue())
    a = tar(tmp_path / "a.tar", ("x.wav", wave.getvalue()))
    b = tar(tmp_path / "b.tar", ("x.wav", wave.getvalue()), ("y.wav", wave.getvalue()))
    run(collect(a), tmp_path / "out")
    with pytest.raises(UsageError, match=r"has the id x\.wav from .*a\.tar, not from .*b\.tar"):
        run(collect(b), tmp_path / "out")
    with pytest.raises(UsageError, match=r"has the id x\.wav from \{'member': 'x\.wav'\}, not from the whole file"):
        run(collect(tmp_path / "x.wav"), tmp_path / "out")


def test_the_command(invoke, tmp_path):
    folder = helpers.good_clips(tmp_path / "clips", 2)
    for i, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        tar(tmp_path / f"{i}.tar", (f"{i}/{path.name}", path.read_bytes()), (f"{i}/x.json", b"{}"))
    tar(tmp_path / "2.tar", ("2.wav", b"text"))
    small = ["--set", "frontend.n_filters=8", "--set", "frontend.num_groups=4"]
    shards = [tmp_path / f"{i}.tar" for i in range(3)]
    result = invoke("extract", *shards[:2], "--manifest", shards[2], "-o", tmp_path / "out", *small)
    assert result.returncode == 3, result.stderr
    assert "skipped 2 files" in result.stderr
    assert f"{shards[2]}: 2.wav: not-audio: " in result.stderr
    assert len(records(tmp_path / "out/shard-00000.jsonl")) == 2
