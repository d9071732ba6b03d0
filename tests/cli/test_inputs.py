"""Inputs as a user gives them to the command: tables and lists, names of any script, and what becomes of failures."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests import helpers

SMALL = ["-c", "log-mel", "--set", "frontend.n_filters=8", "--device", "cpu", "--workers", "1"]


def write_tones(folder: Path, *names: str, seconds: float = 0.2) -> None:
    """A clip of each name below the folder."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(os.fsencode(folder / name), helpers.tone(seconds, 16000, 200 + 50 * i), 16000, format="WAV")


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def extract(hlfeat, tmp_path):
    """Run `hlfeat extract` in the test's folder: extract("clips", "-o", "out") -> CompletedProcess."""

    def run(*args: object, code: int = 0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        ran = hlfeat("extract", *args, *SMALL, cwd=tmp_path, **kwargs)
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran

    return run


# --- names ---------------------------------------------------------------------------------------------------------


def test_grep_finds_names_of_any_script(extract, tmp_path):
    no_text = os.fsdecode(b"caf\xe9.wav")
    write_tones(tmp_path, "clips/Müritz/1.wav", "clips/тест.wav", f"clips/{no_text}")
    (tmp_path / "clips/Müritz/leer.wav").touch()
    extract("clips", "-o", "out", code=3)
    for word, file in (
        ("Müritz/1.wav", "shard-00000.jsonl"),
        ("тест", "shard-00000.jsonl"),
        ("Müritz/leer", "failures.jsonl"),
    ):
        assert subprocess.run(["grep", "-qF", word, tmp_path / "out" / file], check=False).returncode == 0, word
    ids = [line["id"] for line in lines(tmp_path / "out/shard-00000.jsonl")]
    assert ids == ["Müritz/1.wav", no_text, "тест.wav"]
    again = extract("clips", "-o", "out", code=3)
    assert "4 of 4 clips are done already" in again.stderr


def test_a_folder_of_an_earlier_version_goes_on(extract, tmp_path):
    """Whose index has escapes for all letters beyond ASCII."""
    write_tones(tmp_path, "clips/Müritz.wav")
    (tmp_path / "clips/ö.wav").touch()
    extract("clips", "-o", "out", code=3)
    for name in ("shard-00000.jsonl", "failures.jsonl"):
        file = tmp_path / "out" / name
        file.write_text("".join(json.dumps(line) + "\n" for line in lines(file)), encoding="ascii")
    write_tones(tmp_path, "clips/a.wav")
    assert "2 of 3 clips are done already" in extract("clips", "-o", "out", code=3).stderr
    assert [line["id"] for line in lines(tmp_path / "out/failures.jsonl")] == ["ö.wav"]
    assert "ö.wav".encode() in (tmp_path / "out/failures.jsonl").read_bytes()


def test_names_that_differ_in_unicode_form_only(extract, tmp_path):
    write_tones(tmp_path, "clips/Mu\u0308ritz.wav", "clips/M\u00fcritz.wav", "clips/e\u0301.wav")
    ran = extract("clips", "-o", "out")
    (line,) = [line for line in ran.stderr.splitlines() if "Unicode" in line]
    assert line == (
        "hlfeat: 1 name differs from another one in its Unicode form only, and stands for another clip: "
        "M\\xfcritz.wav and Mu\\u0308ritz.wav"
    )
    assert len(lines(tmp_path / "out/shard-00000.jsonl")) == 3


def test_v_names_every_file_that_is_skipped(extract, tmp_path):
    write_tones(tmp_path, "clips/a.wav", "clips/.trash/b.wav")
    for name in ("notes.txt", "d/scan.jpg", "new\nline", "._a.wav"):
        (tmp_path / "clips" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clips" / name).touch()
    told = [line for line in extract("clips", "-o", "out", "-v").stderr.splitlines() if "skipped clips/" in line]
    assert told == [
        "hlfeat: skipped clips/._a.wav (a resource fork of macOS)",
        "hlfeat: skipped clips/.trash (a hidden folder)",
        "hlfeat: skipped clips/d/scan.jpg (not an audio extension)",
        "hlfeat: skipped clips/new\\nline (not an audio extension)",
        "hlfeat: skipped clips/notes.txt (not an audio extension)",
    ]
    assert "skipped clips/" not in extract("clips", "-o", "out").stderr


# --- inputs that do not exist --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["-n"]])
def test_an_input_that_does_not_exist_is_a_usage_error(extract, tmp_path, more):
    write_tones(tmp_path, "clips/a.wav")
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    ran = extract("clip", "-o", "out", *more, code=2)
    assert ran.stderr == "hlfeat: error: clip: no such file or folder; did you mean clips?\n"
    ran = extract("clips", "link.wav", "-o", "out", *more, code=2)
    assert ran.stderr == "hlfeat: error: link.wav: a link to nowhere.wav, which does not exist\n"
    assert not (tmp_path / "out").exists()


def test_an_input_that_does_not_exist_from_python(tmp_path):
    import hlfeat

    for missing in ("nosuch", "nosuch.wav", "nosuch.tar"):
        with pytest.raises(hlfeat.UsageError, match=f"{missing}: no such file or folder"):
            hlfeat.extract(hlfeat.load_config("log-mel"), [tmp_path / missing], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["-n"]])
def test_a_list_of_which_no_path_exists(extract, hlfeat, tmp_path, more):
    """It is in one folder, the command is run in another one, and the paths are relative to a third one."""
    write_tones(tmp_path, "disk/clips/a.wav", "disk/clips/b.wav")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.txt").write_text("a.wav\nb.wav\n")
    ran = extract("lists/list.txt", "-o", "out", *more, code=2)
    assert ran.stderr == (
        "hlfeat: error: lists/list.txt: none of its 2 paths exists, such as a.wav; "
        f"looked in {tmp_path} and in {tmp_path}/lists; --root FOLDER says where they are\n"
    )
    ran = extract("-", "-o", "out", *more, code=2, input="a.wav\nb.wav\n")
    assert f"hlfeat: error: -: none of its 2 paths exists, such as a.wav; looked in {tmp_path};" in ran.stderr
    (tmp_path / "disk/clips/list.lst").write_text("a.wav\nb.wav\n")
    ran = extract("disk/clips/list.lst", "-o", "out", *more, code=2)
    assert f"looked in {tmp_path}; they are in {tmp_path}/disk/clips; --root FOLDER says where they are" in ran.stderr
    ran = hlfeat("stats", "lists/list.txt", "-o", "stats.json", "-c", "log-mel", cwd=tmp_path)
    assert (ran.returncode, "none of its 2 paths exists" in ran.stderr) == (2, True)
    assert not (tmp_path / "out").exists()
    extract("lists/list.txt", "--root", "disk/clips", "-o", "out", *more)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path,label\nx/a.wav,cat\nx/b.wav,dog\n"),
        ("m.jsonl", '{"path": "x/a.wav"}\n{"path": "x/b.wav"}\n'),
        ("wav.scp", "u1 x/a.wav\nu2 x/b.wav\n"),
    ],
)
def test_a_manifest_of_which_no_path_exists(extract, tmp_path, name, text):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(text)
    given = "data" if name == "wav.scp" else f"data/{name}"
    for manifest in ([given], ["--manifest", given]):
        ran = extract(*manifest, "-o", "out", code=2)
        words = "none of its 2 paths exists, such as x/a.wav; looked in"
        assert f"{given}: {words} {tmp_path} and in {tmp_path}/data; --root FOLDER says where they are" in ran.stderr
        ran = extract(*manifest, "-o", "out", "--root", "data", code=2)
        assert "none of its 2 paths exists, such as data/x/a.wav\n" in ran.stderr
    assert not (tmp_path / "out").exists()
    write_tones(tmp_path, "data/x/a.wav")
    assert "1 clip failed (missing 1)" in extract(given, "-o", "out", code=3).stderr


@pytest.mark.parametrize("more", [[], ["-n"]])
def test_a_list_whose_clips_are_done_may_be_gone(extract, tmp_path, more):
    """The audio was archived elsewhere. What the folder does not know must be there."""
    write_tones(tmp_path, "a.wav", "b.wav")
    (tmp_path / "list.txt").write_text("a.wav\nb.wav\nnever.wav\n")
    extract("list.txt", "-o", "out", "--set", "audio.channels=each", code=3)
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "report.json"}
    code = 0 if more else 3
    extract("list.txt", "-o", "out", "--set", "audio.channels=each", *more, code=code)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.name != "report.json"}
    for out, names in (("new", "a.wav\n"), ("out", "a.wav\nnew.wav\n")):
        (tmp_path / "list.txt").write_text(names)
        ran = extract("list.txt", "-o", out, "--set", "audio.channels=each", *more, code=2)
        assert f"looked in {tmp_path}" in ran.stderr
        assert not (tmp_path / "new").exists()
    anew = extract("list.txt", "-o", "out", "--set", "audio.channels=each", "--overwrite", *more, code=2)
    assert "exists, such as a.wav" in anew.stderr


def test_rows_of_a_table_in_a_list(extract, tmp_path):
    (tmp_path / "list.txt").write_text("wavs/a.wav|in front of the house\nwavs/b.wav|behind it\n")
    ran = extract("list.txt", "-o", "out", code=2)
    assert "; these are rows of a table, which needs a name that ends with .csv and a header line" in ran.stderr


# --- a root --------------------------------------------------------------------------------------------------------


def ids(out: Path) -> list[str]:
    return [line["id"] for line in lines(out / "shard-00000.jsonl")]


def test_ids_do_not_depend_on_where_a_disk_is_mounted(extract, tmp_path):
    """A list of absolute paths, of one mount and of another."""
    for disk in ("mnt/one", "media/two"):
        write_tones(tmp_path / disk, "speech/a.wav", "speech/b/c.wav")
        (tmp_path / "list.txt").write_text(f"{tmp_path}/{disk}/speech/a.wav\n{tmp_path}/{disk}//speech/./b\n")
        extract("list.txt", "--root", disk, "-o", disk.replace("/", "-"))
        assert ids(tmp_path / disk.replace("/", "-")) == ["speech/a.wav", "speech/b/c.wav"]
    paths = [line["path"] for line in lines(tmp_path / "media-two/shard-00000.jsonl")]
    assert paths == [f"{tmp_path}/media/two/speech/a.wav", f"{tmp_path}/media/two//speech/./b/c.wav"]


def test_relative_paths_are_those_below_the_root(extract, tmp_path):
    """Of lists, standard input and manifests; not those of the command line."""
    write_tones(tmp_path, "disk/x/a.wav", "disk/b.wav", "other/c.wav")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.txt").write_text("x/a.wav\nb.wav\n")
    (tmp_path / "lists/table.csv").write_text("path,start,end\nx/a.wav,0,0.1\n./b.wav,,\n")
    (tmp_path / "lists/wav.scp").write_text("u1 x/a.wav\n")
    root = ["--root", "disk"]
    extract("lists/list.txt", *root, "-o", "1")
    extract("-", *root, "-o", "2", input="x/a.wav\nb.wav\n")
    extract("-0", "-", *root, "-o", "3", input="x\0b.wav\0")
    extract("lists/table.csv", *root, "-o", "4")
    extract("lists", *root, "-o", "5")
    extract("disk/x", f"{tmp_path}/disk/b.wav", "other/c.wav", *root, "-o", "6")
    extract("disk", *root, "-o", "7")
    found = [ids(tmp_path / str(n)) for n in range(1, 8)]
    assert found[:3] == [["x/a.wav", "b.wav"]] * 3
    assert found[3:] == [
        ["x/a.wav#t=0,0.1", "b.wav"],
        ["u1"],
        ["x/a.wav", "b.wav", "c.wav"],
        ["b.wav", "x/a.wav"],
    ]
    assert lines(tmp_path / "1/shard-00000.jsonl")[0]["path"] == "disk/x/a.wav"


def test_a_root_that_is_a_link_and_one_that_is_none(extract, hlfeat, tmp_path):
    write_tones(tmp_path, "disk/x/a.wav")
    (tmp_path / "mounted").symlink_to("disk")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/mounted/x/a.wav\n")
    extract("list.txt", "--root", "mounted", "-o", "1")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/disk/x/a.wav\n")
    extract("list.txt", "--root", "mounted", "-o", "2")
    assert ids(tmp_path / "1") == ids(tmp_path / "2") == ["x/a.wav"]
    assert extract("disk", "--root", "dsk", "-o", "3", code=2).stderr == (
        "hlfeat: error: --root dsk: expected a folder\n"
    )
    args = ["list.txt", "--root", "mounted", "--device", "cpu"]
    for command, out in (("stats", "stats.json"), ("pitch", "pitch")):
        ran = hlfeat(command, *args, "-o", out, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
    assert ids(tmp_path / "pitch") == ["x/a.wav"]
    ran = hlfeat("stats", "1", "--root", "disk", "-o", "stats.json", cwd=tmp_path)
    assert "--root: expected with clips only, not with folders of features" in ran.stderr


def test_links_on_the_way_to_the_root(extract, tmp_path):
    """Ids are those below it, by whichever way a path leads there: through a link above it, or with `//` before it."""
    write_tones(tmp_path, "disk/r/sub/a.wav")
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "whole").symlink_to("disk/r")
    ways = [f"{tmp_path}/link/r/sub/a.wav", f"/{tmp_path}/disk/r/sub/a.wav", f"//{tmp_path}/link/r/sub/a.wav"]
    ways += [f"{tmp_path}/whole", f"{tmp_path}/whole/sub", f"{tmp_path}/disk/r/sub/../sub/a.wav", "sub/../sub/a.wav"]
    for n, way in enumerate(ways):
        (tmp_path / "list.txt").write_text(f"{way}\n")
        extract("list.txt", "--root", "disk/r", "-o", f"list-{n}")
        assert ids(tmp_path / f"list-{n}") == ["sub/a.wav"], way
    for n, way in enumerate(("link/r/sub/a.wav", "link/r", "whole", f"/{tmp_path}/disk/r/sub")):
        extract(way, "--root", f"/{tmp_path}/disk/r", "-o", f"given-{n}")
        assert ids(tmp_path / f"given-{n}") == ["sub/a.wav"], way


@pytest.mark.parametrize("name", ["list.txt", "table.csv"])
def test_a_relative_path_that_leads_out_of_the_root(extract, tmp_path, name):
    """Its id would be that of a file below the root. With an id of its own it may."""
    write_tones(tmp_path, "disk/r/a.wav", "disk/x.wav", "disk/r/x.wav")
    head = "path\n" if name == "table.csv" else ""
    (tmp_path / name).write_text(f"{head}a.wav\n../x.wav\n")
    assert extract(name, "--root", "disk/r", "-o", "out", code=2).stderr == (
        "hlfeat: error: ../x.wav: leads out of the root disk/r; a folder above both would hold it\n"
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "named.csv").write_text("path,id\n../x.wav,outside\n")
    extract("named.csv", "--root", "disk/r", "-o", "out")
    assert ids(tmp_path / "out") == ["outside"]


# --- metadata ------------------------------------------------------------------------------------------------------


def metadata(out: Path) -> dict[str, Any]:
    """The metadata of each clip that has some, by its id; they are the last key of their line."""
    found = {}
    for line in lines(out / "shard-00000.jsonl"):
        if "meta" in line:
            assert list(line)[-1] == "meta"
            found[line["id"]] = line["meta"]
    return found


def test_all_columns_of_a_table_travel(extract, tmp_path):
    write_tones(tmp_path, "a.wav", "b.wav", "c.wav")
    header = "path,label,speaker,start,end,note\n"
    (tmp_path / "m.csv").write_text(f'{header}a.wav,ja,ann,0,0.1,"a, ""b"""\nb.wav,nein,Jürgen,,,\nc.wav,ja, bob,,,x\n')
    extract("m.csv", "-o", "csv")
    assert metadata(tmp_path / "csv") == {
        "a.wav#t=0,0.1": {"label": "ja", "speaker": "ann", "note": 'a, "b"'},
        "b.wav": {"label": "nein", "speaker": "Jürgen", "note": ""},
        "c.wav": {"label": "ja", "speaker": " bob", "note": "x"},
    }
    assert "Jürgen".encode() in (tmp_path / "csv/shard-00000.jsonl").read_bytes()
    (tmp_path / "m.tsv").write_text("file name\tLabel\t\tNote\na.wav\t1\tx\t2\nb.wav\t2\nc.wav\t \t\t\n")
    extract("m.tsv", "-o", "tsv")
    assert metadata(tmp_path / "tsv") == {
        "a.wav": {"Label": "1", "Note": "2"},
        "b.wav": {"Label": "2", "Note": ""},
        "c.wav": {"Label": " ", "Note": ""},
    }
    (tmp_path / "plain.csv").write_text("path,id,start,duration,channel\na.wav,x,0,0.1,0\n")
    extract("plain.csv", "-o", "plain")
    assert metadata(tmp_path / "plain") == {}


def test_metadata_of_every_channel_and_of_pitch_tracks(extract, hlfeat, tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.4, 16000).reshape(-1, 2), 16000)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.wav,duet\n")  # of a Hugging Face data set
    extract("metadata.csv", "--set", "audio.channels=each", "-o", "out")
    assert metadata(tmp_path / "out") == {"a.wav#0": {"label": "duet"}, "a.wav#1": {"label": "duet"}}
    ran = hlfeat("pitch", "metadata.csv", "-o", "pitch", "--device", "cpu", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert metadata(tmp_path / "pitch") == {"a.wav": {"label": "duet"}}


def test_json_lines_keep_their_values(extract, tmp_path):
    write_tones(tmp_path, "a.wav", "b.wav", "c.wav")
    rows = [
        '{"audio_filepath": "a.wav", "duration": 0.2, "text": "ja", "n": 1, "x": 1.0, "tags": ["é", null], "no": null}',
        '{"audio_filepath": "b.wav", "offset": 0, "duration": 0.1, "n": true, "score": NaN, "d": {"e": [Infinity]}}',
        '{"audio_filepath": "c.wav"}',
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    extract("m.jsonl", "-o", "out")
    found = metadata(tmp_path / "out")
    assert json.dumps(found, ensure_ascii=False) == (
        '{"a.wav": {"text": "ja", "n": 1, "x": 1.0, "tags": ["é", null], "no": null}, '
        '"b.wav#t=0,0.1": {"n": true, "score": null, "d": {"e": [null]}}}'
    )


@pytest.mark.parametrize("deep", ["[" * 900 + "]" * 900, '{"a":' * 33 + "1" + "}" * 33, "[" * 20000 + "]" * 20000])
def test_values_nested_deep_make_a_bad_row(extract, tmp_path, deep):
    write_tones(tmp_path, "a.wav")
    cut = {"id": "c", "start": 0, "duration": 0.1, "channel": 0}
    recording = '"recording": {"sources": [{"type": "file", "source": "a.wav"}]}'
    rows = ['{"path": "a.wav", "id": "x", "m": ' + "[" * 32 + "]" * 32 + "}"]
    rows += [f'{{"path": "a.wav", "id": "y", "m": {deep}}}']
    rows += [json.dumps(cut)[:-1] + f', {recording}, "supervisions": [{{"custom": {{"m": {deep}}}}}]}}']
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    told = extract("m.jsonl", "-o", "out", code=3).stderr
    assert "a bug" not in told
    assert list(metadata(tmp_path / "out")) == ["x"]
    failures = lines(tmp_path / "out/failures.jsonl")
    assert [line["code"] for line in failures] == ["bad-row", "bad-row"]
    if len(deep) < 20000:
        assert [line["id"] for line in failures] == ["y", "c"]
        assert "m.jsonl:2: expected values nested at most 32 deep" in told


def test_columns_of_one_name_keep_their_values(extract, tmp_path):
    write_tones(tmp_path, "a.wav")
    (tmp_path / "m.csv").write_text("path,label,label_2,label, label,x\na.wav,1,2,3,4,5\n")
    extract("m.csv", "-o", "out")
    want = {"label": "1", "label_2": "2", "label_3": "3", "label_4": "4", "x": "5"}
    assert metadata(tmp_path / "out") == {"a.wav": want}


def test_lhotse_and_kaldi(extract, tmp_path):
    write_tones(tmp_path, "a.wav", "b.wav")
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16000}
    one = {
        "id": "s1",
        "recording_id": "r",
        "start": 0,
        "duration": 0.1,
        "text": "ja",
        "speaker": "ann",
        "language": "de",
    }
    two = {**one, "id": "s2", "text": "nein", "custom": {"snr": 3.5}, "gender": None}
    cut = {"id": "c1", "start": 0.0, "duration": 0.1, "channel": 0, "recording": recording, "supervisions": [one]}
    both = {**cut, "id": "c2", "supervisions": [one, two], "custom": {"fold": 3}}
    none = {**cut, "id": "c3", "supervisions": []}
    (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, [recording, cut, both, none])))
    extract("cuts.jsonl", "-o", "lhotse")
    assert metadata(tmp_path / "lhotse") == {
        "c1": {"text": "ja", "speaker": "ann", "language": "de"},
        "c2": {"text": ["ja", "nein"], "speaker": "ann", "language": "de", "snr": [None, 3.5], "fold": 3},
    }
    files = {
        "wav.scp": "r1 a.wav\nr2 b.wav\n",
        "segments": "u1 r1 0 0.1\nu2 r2 0 -1\nu3 r2 0 0.1\n",
        "text": "u1 ja  ja\nu2\n",
        "utt2spk": "u1 ann\nu2 bob\n",
        "spk2gender": "ann f\n",
        "utt2lang": "u2 de\n",
        "utt2dur": "u1 0.1\n",
    }
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).write_text(text)
    extract("data", "-o", "kaldi")
    assert metadata(tmp_path / "kaldi") == {
        "u1": {"text": "ja  ja", "speaker": "ann", "gender": "f"},
        "u2": {"text": "", "speaker": "bob", "language": "de"},
    }
    (tmp_path / "data/segments").unlink()
    (tmp_path / "data/utt2spk").write_text("r1 ann\n")
    extract("data", "-o", "recordings")
    assert metadata(tmp_path / "recordings") == {"r1": {"speaker": "ann", "gender": "f"}}


def test_selections_of_raven_and_other_paths(extract, tmp_path):
    write_tones(tmp_path, "a.wav")
    header = [
        "Selection",
        "View",
        "Begin Time (s)",
        "End Time (s)",
        "Low Freq (Hz)",
        "Begin Path",
        "Begin File",
        "Species",
    ]
    rows = [["1", "Spectrogram 1", "0", "0.1", "50.5", "Z:\\a.wav", "a.wav", "Star"]]
    table = "".join("\t".join(row) + "\n" for row in [header, *rows])
    (tmp_path / "a.selections.txt").write_text(table)
    extract("a.selections.txt", "-o", "out")
    (found,) = metadata(tmp_path / "out").values()
    values = dict(zip(header, rows[0], strict=True))
    assert found == {key: values[key] for key in header if key not in ("Begin Time (s)", "End Time (s)", "Begin File")}


# --- how tables are written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        *(
            "path",
            "filepath",
            "file_path",
            "filename",
            "file_name",
            "FileName",
            "fname",
            "file",
            "audio",
            "wav",
            "relpath",
        ),
        *(
            "rel_path",
            "relative_path",
            "wav_path",
            "wavfile",
            "sound_file",
            "sound_filename",
            "audio_path",
            "audio_file",
        ),
        *("audio_filepath", "audio_filename", "clip_path", "mp3_path", "PATH", "full_path", "abs_path", "track_path"),
        *("song_path", "music_file", "sample_path", "utterance_path", "voice_file", "mixture_path", "recording_path"),
        *("segment_file", "Begin File", "Begin Path", "speech_path", "slice_file_name", "Audio File", "audioFile"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_names_of_the_column_of_paths(tmp_path, column, separator):
    import hlfeat

    write_tones(tmp_path, "a.wav")
    (tmp_path / "m.csv").write_text(f"{column}{separator}label{separator}fold\na.wav{separator}dog{separator}5\n")
    (clip,) = hlfeat.collect_inputs([str(tmp_path / "m.csv")]).clips
    assert (clip.id, clip.path, dict(clip.meta or {})) == ("a.wav", f"{tmp_path}/a.wav", {"label": "dog", "fold": "5"})


DATA_SETS = {  # the header of a table of a known data set, a row, and what is read of it
    "ESC-50": (
        "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n",
        ("1-100032-A-0.wav", None, None),
        "fold target category esc10 src_file take",
    ),
    "UrbanSound8K": (  # start and end are those of the slice in the recording that it was cut from
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n",
        ("100032-3-0-0.wav", None, None),
        "fsID start end salience fold classID class",
    ),
    "FSDKaggle2019": (
        "fname,labels\n0006ae4e.wav,Bark\n",
        ("0006ae4e.wav", None, None),
        "labels",
    ),
    "GTZAN": (  # its length is in samples
        "filename,length,chroma_stft_mean,label\nblues.00000.wav,661794,0.35,blues\n",
        ("blues.00000.wav", None, None),
        "length chroma_stft_mean label",
    ),
    "MTG-Jamendo": (
        "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\ntrack_1\tartist_1\talbum_1\t00/1.mp3\t212.7\tmood---dark\n",
        ("00/1.mp3", None, None),
        "TRACK_ID ARTIST_ID ALBUM_ID TAGS",
    ),
    "Common Voice": (
        'client_id\tpath\tsentence\tup_votes\tage\tgender\na1\tcommon_voice_de_1.mp3\tEr sagte: "ja"\t2\t\tfemale\n',
        ("common_voice_de_1.mp3", None, None),
        "client_id sentence up_votes age gender",
    ),
    "DCASE": (
        "filename\tonset\toffset\tevent_label\nY0.wav\t1.5\t2.5\tSpeech\n",
        ("Y0.wav", 1.5, 2.5),
        "event_label",
    ),
    "SpeechBrain": (
        "ID,duration,wav,spk_id,wrd\n19-198-0,14.085,a/19-198-0.flac,19-198,NORTHANGER\n",
        ("a/19-198-0.flac", None, None),
        "spk_id wrd",
    ),
    "BirdNET": (
        "Start (s),End (s),Scientific name,Common name,Confidence,File\n0.0,3.0,Turdus merula,Blackbird,0.9,a.wav\n",
        ("a.wav", 0.0, 3.0),
        "Scientific name|Common name|Confidence",
    ),
    "LibriMix": (
        "mixture_ID,mixture_path,source_1_path,noise_path,length\nm1,wav8k/mix.wav,wav8k/s1.wav,wav8k/n.wav,8000\n",
        ("wav8k/mix.wav", None, None),
        "mixture_ID source_1_path noise_path length",
    ),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_tables_of_known_data_sets(tmp_path, name):
    import hlfeat

    table, (path, start, end), columns = DATA_SETS[name]
    (tmp_path / "m.tsv").write_text(table)
    (clip,) = hlfeat.collect_inputs([str(tmp_path / "m.tsv")]).clips
    assert (clip.path, clip.start, clip.end) == (path, start, end)
    assert list(clip.meta or {}) == (columns.split("|") if "|" in columns else columns.split())


def test_a_table_with_semicolons(extract, tmp_path):
    write_tones(tmp_path, "a.wav")
    (tmp_path / "m.csv").write_text("path;start;end;label\na.wav;0,05;0,1;Hund, laut\n")
    extract("m.csv", "-o", "out")
    assert metadata(tmp_path / "out") == {"a.wav#t=0.05,0.1": {"label": "Hund, laut"}}
    (tmp_path / "m.csv").write_text("name;label\na;dog\n")
    assert extract("m.csv", "-o", "out", code=2).stderr == (
        "hlfeat: error: m.csv:1: expected a path (or audio_filepath), got name, label: call the column of paths path, "
        "and separate columns by commas, semicolons, tabs or bars\n"
    )


@pytest.mark.parametrize("row", ["a.wav,dog", "x/a.wav;dog;1", "1\ta.WAV\t0.5", '"a.flac"|"in the house"', "a.wav"])
def test_a_table_without_a_header(extract, tmp_path, row):
    write_tones(tmp_path, "a.wav")
    (tmp_path / "m.csv").write_text(f"{row}\nb.wav,cat\n")
    shown = row.replace("\t", "\\t")
    assert extract("m.csv", "-o", "out", code=2).stderr == (
        f"hlfeat: error: m.csv:1: expected a path (or audio_filepath), got {shown}: this is a row, and there is no "
        "header line above it: add one with the names of the columns, such as path,label\n"
    )


# --- runs that follow ----------------------------------------------------------------------------------------------


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "report.json"}


def test_a_broken_file_that_was_removed_is_forgotten(extract, tmp_path):
    write_tones(tmp_path, "clips/a.wav", "clips/b.wav")
    (tmp_path / "clips/broken.wav").write_text("no audio")
    extract("clips", "-o", "out", code=3)
    (tmp_path / "clips/broken.wav").unlink()
    extract("clips", "-o", "out")
    assert (tmp_path / "out/failures.jsonl").read_bytes() == b""


def test_a_broken_file_that_was_taken_from_the_list_is_forgotten(extract, tmp_path):
    """It exists still. A list of new clips alone says nothing of it."""
    write_tones(tmp_path, "a.wav", "new.wav")
    (tmp_path / "broken.wav").write_text("no audio")
    extract("-", "-o", "out", code=3, input="a.wav\nbroken.wav\n")
    extract("-", "-o", "out", code=3, input="new.wav\n")
    assert [line["id"] for line in lines(tmp_path / "out/failures.jsonl")] == ["broken.wav"]
    extract("-", "-o", "out", input="a.wav\nnew.wav\n")
    assert lines(tmp_path / "out/failures.jsonl") == []


def test_failures_of_others_stand_wherever_the_run_is_started(extract, hlfeat, tmp_path):
    """Their relative paths lead nowhere from another folder. That says nothing about the files."""
    write_tones(tmp_path, "a/a.wav", "new/b.wav", "elsewhere/c.wav")
    (tmp_path / "a/broken.wav").write_text("no audio")
    (tmp_path / "table.csv").write_text("path,start\na/a.wav,0\na/a.wav,never\n")
    extract("a", "table.csv", "-o", "out", code=3)
    before = (tmp_path / "out/failures.jsonl").read_bytes()
    assert [line["code"] for line in lines(tmp_path / "out/failures.jsonl")] == ["not-audio", "bad-row"]
    ran = hlfeat("extract", "../new", "-o", "../out", *SMALL, cwd=tmp_path / "elsewhere")
    assert ran.returncode == 3, ran.stderr
    assert (tmp_path / "out/failures.jsonl").read_bytes() == before
    (tmp_path / "a/broken.wav").unlink()
    extract("new", "-o", "out", code=3)
    assert (tmp_path / "out/failures.jsonl").read_bytes() == before
    extract("new", "-o", "out", "--retry-failed", code=3)
    assert [line["code"] for line in lines(tmp_path / "out/failures.jsonl")] == ["bad-row"]


def test_missing_files_are_tried_again(extract, tmp_path):
    """Other failures are not, until that is asked for. Where a file is missing still, the folder stays as it is."""
    write_tones(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "list.txt").write_text("a.wav\nlate.wav\nbroken.wav\nb.wav\nnever.wav\nc.wav\n")
    (tmp_path / "broken.wav").write_text("no audio")
    run = ["list.txt", "-o", "out", "--shard-size", 1]
    extract(*run, code=3)
    before = contents(tmp_path / "out")
    extract(*run, code=3)
    assert contents(tmp_path / "out") == before
    write_tones(tmp_path, "late.wav", "broken.wav")
    assert "2 clips failed (missing 1, not-audio 1)" in extract(*run, code=3).stderr
    now = contents(tmp_path / "out")
    assert {name: now[name] for name in before if name != "failures.jsonl"} == {
        name: data for name, data in before.items() if name != "failures.jsonl"
    }
    (line,) = lines(tmp_path / "out/shard-00003.jsonl")
    assert line["id"] == "late.wav"
    failures = before["failures.jsonl"].splitlines(keepends=True)
    assert now["failures.jsonl"] == b"".join(failures[1:])
    assert "1 clip failed (missing 1)" in extract(*run, "--retry-failed", code=3).stderr


@pytest.mark.parametrize("command", ["extract", "pitch"])
def test_metadata_that_has_changed_is_taken_over_by_an_update(hlfeat, tmp_path, command):
    """Without it, a warning says so. Nothing is computed again, and the folder is that of a run from nothing."""
    write_tones(tmp_path, "a.wav", "b.wav", "ü.wav", seconds=0.3)

    def run(out: str, *more: object) -> subprocess.CompletedProcess[str]:
        size = ["--shard-size", "2"] if command == "extract" else []
        ran = hlfeat(command, "m.csv", "-o", out, "--device", "cpu", *size, *more, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        return ran

    (tmp_path / "m.csv").write_text("path\na.wav\nb.wav\nü.wav\n")
    run("out")
    before = contents(tmp_path / "out")
    for label in ("first", "second"):
        (tmp_path / "m.csv").write_text(f"path,label\na.wav,same\nb.wav,{label}\nü.wav,{label}\n")
        n = 3 if label == "first" else 2
        words = f"the metadata of {n} finished clips has changed since; with --update the index takes it over"
        assert words in run("out").stderr
        assert contents(tmp_path / "out") == before
        told = run("out", "--update").stderr
        assert f"the metadata of {n} finished clips has changed since: the index has it now" in told
        assert "0 clips, 0.0 s of audio" in told
        run(f"new-{label}")
        before = contents(tmp_path / "out")
        assert before == contents(tmp_path / f"new-{label}")
        assert "has changed since" not in run("out", "--update").stderr
    (tmp_path / "m.csv").write_text("path\na.wav\nb.wav\nü.wav\n")  # says nothing of metadata
    assert "has changed since" not in run("out").stderr


def test_an_update_does_not_lose_metadata(extract, tmp_path):
    write_tones(tmp_path, "a.wav", "b.wav")
    (tmp_path / "m.csv").write_text("path,label\na.wav,x\nb.wav,y\n")
    extract("m.csv", "-o", "out")
    before = contents(tmp_path / "out")
    write_tones(tmp_path, "a.wav", seconds=0.3)
    ran = extract("a.wav", "b.wav", "-o", "out", "--update", code=2)
    assert "--update: out would lose the metadata of a.wav, which the inputs do not have" in ran.stderr
    assert contents(tmp_path / "out") == before
    extract("m.csv", "-o", "out", "--update")
    assert metadata(tmp_path / "out") == {"a.wav": {"label": "x"}, "b.wav": {"label": "y"}}
