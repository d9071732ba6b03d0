"""Finding clips: order, ids, lists, links, and what must be refused."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from hlfeat.audio import formats
from hlfeat.errors import UsageError
from hlfeat.inputs.collect import Inputs, collect_inputs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def ids(*paths: object, stdin: bytes = b"", null: bool = False) -> list[str]:
    return [c.id for c in collect_inputs([str(p) for p in paths], io.BytesIO(stdin), null).clips]


def test_a_folder_is_walked_in_the_order_of_names_and_other_files_are_counted(tmp_path):
    touch(tmp_path, "b.wav", "a/z.FLAC", "a/B/c.mp3", "._b.wav", "a/._z.FLAC", "c.m4a", "a.opus")
    inputs = collect_inputs([str(tmp_path)], io.BytesIO())
    assert [c.id for c in inputs.clips] == ["a/B/c.mp3", "a/z.FLAC", "a.opus", "b.wav", "c.m4a"]
    assert inputs.clips[0].path == f"{tmp_path}/a/B/c.mp3"
    assert inputs.ignored == 2  # what macOS puts beside files


def test_skipped_files_are_counted_by_extension(tmp_path):
    touch(tmp_path, "a.wav", "b.TXT", "d/c.txt", "e.jpg", "Makefile", ".DS_Store", "._a.wav", "._a.tar", "x.\n")
    inputs = collect_inputs([str(tmp_path)])
    assert inputs.skipped == {".txt": 2, ".jpg": 1, "no extension": 2, "._*": 2, ".\n": 1}
    assert inputs.ignored == 8
    assert inputs.describe_skipped() == (
        "skipped 8 files (not an audio extension): ._* 2, .txt 2, no extension 2, .\\n 1, .jpg 1"
    )
    touch(tmp_path, *(f"x.{i}" for i in range(20)))
    assert collect_inputs([str(tmp_path)]).describe_skipped().endswith(", .13 1, others 15")
    assert Inputs([]).describe_skipped() == ""


def test_hidden_folders_are_searched_only_where_they_are_named(tmp_path):
    touch(tmp_path, "in/a.wav", "in/.trash-0/b.wav", "in/d/.ipynb_checkpoints/d-checkpoint.wav", "in/.hidden.wav")
    touch(tmp_path, ".cache/c.wav")
    (tmp_path / "in/link").symlink_to(tmp_path / ".cache")
    inputs = collect_inputs([str(tmp_path / "in")])
    assert [c.id for c in inputs.clips] == [".hidden.wav", "a.wav", "link/c.wav"]
    assert (inputs.hidden_folders, inputs.ignored) == (2, 0)
    assert inputs.describe_skipped() == "skipped 2 hidden folders"
    assert ids(tmp_path / ".cache") == ["c.wav"]
    assert ids("-", stdin=os.fsencode(f"{tmp_path}/.cache\n")) == ["c.wav"]
    with pytest.raises(UsageError, match=r"no audio files in .*; skipped 1 hidden folder$"):
        ids(tmp_path / "in/d")


def test_videos_are_audio_if_pyav_is_installed(tmp_path, monkeypatch):
    touch(tmp_path, "a.mkv", "b.MOV", "c.wav", "d.png")
    for installed, names in ((True, ["a.mkv", "b.MOV", "c.wav"]), (False, ["c.wav"])):
        monkeypatch.setattr(formats, "_pyav_is_installed", lambda installed=installed: installed)
        assert ids(tmp_path) == names
    assert ids(tmp_path / "a.mkv") == ["a.mkv"]


def test_files_lists_and_standard_input(tmp_path):
    touch(tmp_path, "d/one.wav", "d/two.wav", "three.dat")
    assert ids(tmp_path / "d/one.wav", tmp_path / "three.dat") == ["one.wav", "three.dat"]
    lines = b"x/one.wav\n\n./y//two.wav\r\n../z/three.wav\n/abs/four.wav"
    expected = ["x/one.wav", "y/two.wav", "z/three.wav", "abs/four.wav"]
    assert ids("-", stdin=lines) == expected
    (tmp_path / "list.txt").write_bytes(lines)
    assert ids(tmp_path / "list.txt") == expected
    assert ids("-", stdin=b"new\nline.wav\0b.wav\0", null=True) == ["new\nline.wav", "b.wav"]
    assert ids("-", stdin=os.fsencode(f"{tmp_path}/d\n")) == ["one.wav", "two.wav"]


def test_names_that_are_no_text_survive(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"x")
    assert ids(tmp_path) == ["caf\udce9.wav"]


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "in/a.wav", "elsewhere/b.wav")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/gone.wav").symlink_to("nowhere")
    (tmp_path / "in/gone").symlink_to("nowhere")  # of a folder, perhaps
    assert ids(tmp_path / "in") == ["a.wav", "gone", "gone.wav", "more/b.wav"]


def test_folders_deeper_than_python_calls(tmp_path):
    folder = os.getcwd()
    os.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    touch(Path(), "a.wav")
    os.chdir(folder)
    touch(tmp_path, "b.wav")
    try:
        assert ids(tmp_path) == ["b.wav", "d/" * 1200 + "a.wav"]
    finally:  # shutil.rmtree is recursive too
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_an_input_that_does_not_exist(tmp_path):
    """It is refused where the user names it; in a list or a folder it is a clip that will fail."""
    touch(tmp_path, "clips/a.wav", "b.wav")
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    for name, message in {
        "no.dat": r"no\.dat: no such file or folder$",
        "clip": r"/clip: no such file or folder; did you mean clips\?$",
        "clips/a.wave": r"a\.wave: no such file or folder; did you mean a\.wav\?$",
        "b.wav/c.wav": r"b\.wav/c\.wav: no such file or folder$",
        "link.wav": r"link\.wav: a link to nowhere\.wav, which does not exist$",
        "loop.wav": r"loop\.wav: a link to loop\.wav, which does not exist$",
        "clips\n": r"clips\\n: no such file or folder; did you mean clips\?$",
    }.items():
        with pytest.raises(UsageError, match=message):
            ids(f"{tmp_path}/{name}")
    assert ids("-", stdin=os.fsencode(f"{tmp_path}/no.wav\n{tmp_path}/b.wav"))[0].endswith("no.wav")


def test_nearest_names_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "clips/a.wav")
    with pytest.raises(UsageError, match=r"^clisp: no such file or folder; did you mean clips\?$"):
        ids("clisp")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter any folder")
def test_a_file_in_a_folder_that_cannot_be_entered_is_a_clip(tmp_path):
    touch(tmp_path, "a/b/c.wav")
    (tmp_path / "a").chmod(0o644)
    try:
        assert ids(tmp_path) == ["a/b"]
    finally:
        (tmp_path / "a").chmod(0o755)


def test_nothing_found_is_a_usage_error(tmp_path):
    touch(tmp_path, "readme.md")
    with pytest.raises(UsageError, match=r"no audio files in .*; skipped 1 file \(not an audio extension\): \.md 1"):
        ids(tmp_path)
    with pytest.raises(UsageError, match="no audio files in -"):
        ids("-")
    with pytest.raises(UsageError, match="as if its paths were separated by NUL"):
        ids("-", stdin=b"a.wav\0b.wav\0")
    with pytest.raises(UsageError, match="list cannot be read"):
        ids(tmp_path / "no.txt")


def test_kinds_are_tried_in_order(tmp_path, monkeypatch):
    """A folder is a folder whatever its name, and Kaldi's data folders are only recognised among the inputs."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.tar/x.wav", "b.csv/y.wav", "c.txt/z.wav", "kaldi/k.wav", "kaldi/m.csv", "kaldi/list.txt")
    (tmp_path / "kaldi/wav.scp").write_text("utterance kaldi/k.wav\n")
    assert ids("a.tar", "b.csv", "c.txt", "kaldi") == ["x.wav", "y.wav", "z.wav", "utterance"]
    assert ids("-", stdin=b"kaldi\nb.csv\nkaldi/m.csv\n") == ["k.wav", "y.wav", "kaldi/m.csv"]
    inputs = collect_inputs(["."])
    assert [clip.id for clip in inputs.clips] == ["a.tar/x.wav", "b.csv/y.wav", "c.txt/z.wav", "kaldi/k.wav"]
    assert inputs.ignored == 3  # wav.scp, m.csv, list.txt


def test_two_clips_of_one_id_are_shown_both(tmp_path):
    touch(tmp_path, "a/x.wav", "b/x.wav")
    with pytest.raises(UsageError, match=r"id x\.wav: .*/a/x\.wav and .*/b/x\.wav"):
        ids(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match="given twice"):
        ids("-", stdin=b"x.wav\nx.wav\n")
