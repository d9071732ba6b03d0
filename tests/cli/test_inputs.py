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
    for name in ("notes.txt", "d/scan.jpg", "new\nline"):
        (tmp_path / "clips" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clips" / name).touch()
    told = [line for line in extract("clips", "-o", "out", "-v").stderr.splitlines() if "skipped clips/" in line]
    assert told == [
        "hlfeat: skipped clips/.trash (a hidden folder)",
        "hlfeat: skipped clips/d/scan.jpg (not an audio extension)",
        "hlfeat: skipped clips/new\\nline (not an audio extension)",
        "hlfeat: skipped clips/notes.txt (not an audio extension)",
    ]
    assert "skipped clips/" not in extract("clips", "-o", "out").stderr
