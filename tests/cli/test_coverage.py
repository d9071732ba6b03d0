"""Sound above the bands of a configuration: one warning a run, and what it suggests uses the sound."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hlfeat as library
from hlfeat.config.loading import config_names, load_config
from hlfeat.extraction.coverage import coverage_notes
from tests import helpers

UNUSED = " clips may have sound up to "
EMPTY = " clips have no sound above "


def record(folder: Path, rate: int, n: int, seconds: float = 0.2) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for i in range(n):
        soundfile.write(folder / f"{rate}-{i}.wav", helpers.tone(seconds, rate, 300 + 10 * i, i), rate)
    return folder


def suggestions(text: str) -> list[list[str]]:
    """The options that the warning names, each way by itself."""
    found = re.search(r" Hz: (.*) would use it$", text, re.MULTILINE)
    return (
        [] if found is None else [shlex.split(re.sub(r" \(from .* Hz\)$", "", way)) for way in found[1].split(" or ")]
    )


def test_the_warning_has_the_numbers_and_report_json_too(invoke, tmp_path):
    clips = record(record(tmp_path / "clips", 48000, 8), 16000, 3)
    done = invoke("extract", clips, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    line = (
        "hlfeat: 8 of 11 clips may have sound up to 24000 Hz, but the bands end at 7800 Hz: "
        "-c bio-48k (from 150 Hz) or --set audio.sample_rate=48000 --set frontend.max_freq=24000 would use it\n"
    )
    assert done.stderr.count(line) == 1
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["sample_rates"] == {"16000": 3, "48000": 8}
    (note,) = report["notes"]
    assert note.startswith("8 of 11 clips may have sound up to 24000 Hz, but the bands end at 7800 Hz")
    assert UNUSED not in invoke("extract", clips, "-o", tmp_path / "out", "--overwrite", "-q").stderr


@pytest.mark.parametrize("name", [name for name in config_names() if load_config(name).audio.sample_rate == 16000])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_what_is_suggested_runs_and_warns_no_more(invoke, tmp_path, name, rate):
    clips = record(tmp_path / "clips", rate, 1)
    base = ["-c", name]
    first = invoke("extract", clips, "-o", tmp_path / "first", *base)
    ways = suggestions(first.stderr)
    if name.startswith("pitch-salience"):  # its rows end where pitches do
        assert UNUSED not in first.stderr
        return
    assert ways or name == "log-harmonic", first.stderr
    for n, way in enumerate(ways):
        options = way if way[0] == "-c" else [*base, *way]
        done = invoke("extract", clips, "-o", tmp_path / str(n), *options)
        assert done.returncode == 0, done.stderr
        assert UNUSED not in done.stderr
        assert EMPTY not in done.stderr
        freqs = np.array(load_config_freqs(tmp_path / str(n)))
        assert freqs.max() > 15000
        checked = invoke("config", "check", options[1], *options[2:])
        assert float(re.search(r"bands at [\d.]+ to ([\d.]+) Hz", checked.stdout)[1]) > 15000  # type: ignore[index]


def load_config_freqs(out: Path) -> list[float]:
    import yaml

    return yaml.safe_load((out / "hlfeat.yaml").read_text())["features"]["freqs"]


def test_once_a_run(hlfeat, invoke, tmp_path):
    """With workers, with parts, with several devices, and in a run that goes on."""
    clips = record(record(tmp_path / "clips", 48000, 8), 16000, 4)
    small = ["-c", "log-mel", "--set", "frontend.n_filters=8", "--shard-size", "2"]
    run = ["extract", clips, "-o", tmp_path / "out", *small, "--workers", "2"]
    assert invoke(*run).stderr.count(f"8 of 12{UNUSED}") == 1
    again = invoke("extract", record(clips, 44100, 1), *run[2:])
    assert (again.stderr.count(f"9 of 13{UNUSED}24000 Hz"), again.stderr.count(UNUSED)) == (1, 1)
    devices = hlfeat("extract", clips, "-o", tmp_path / "two", *small, "--device", "cpu,cpu")
    assert (devices.stderr.count(f"9 of 13{UNUSED}"), devices.stderr.count(UNUSED)) == (1, 1)
    merged = json.loads((tmp_path / "two/report.json").read_text())
    assert merged["sample_rates"] == {"16000": 4, "44100": 1, "48000": 8}
    assert [note.partition(",")[0] for note in merged["notes"]] == [f"9 of 13{UNUSED}24000 Hz"]
    said = [invoke(*run[:3], tmp_path / "parts", *small, "--part", f"{i}/2").stderr for i in (1, 2)]
    assert [text.count(UNUSED) for text in said] == [1, 1]
    whole = json.loads((tmp_path / "parts/report.json").read_text())
    assert whole["notes"] == merged["notes"]


def test_bands_that_have_no_sound(invoke, tmp_path):
    clips = record(record(tmp_path / "clips", 8000, 2), 16000, 3)
    done = invoke("extract", clips, "-o", tmp_path / "out", "-c", "log-mel")
    line = "hlfeat: 2 of 5 clips have no sound above 4000 Hz, so their bands from there to 7800 Hz are empty\n"
    assert (done.stderr.count(line), done.stderr.count(UNUSED)) == (1, 0)


def test_inspect_says_the_range(invoke, tmp_path):
    clips = record(tmp_path / "clips", 16000, 1)
    assert invoke("extract", clips, "-o", tmp_path / "out").returncode == 0
    assert "; bands at 83 to 7550 Hz\n" in invoke("inspect", tmp_path / "out").stdout
    assert " bands at 83.0 to 7550.4 Hz\n" in invoke("config", "check", "eleaf-8g-opt").stdout


# --- which configurations, and which files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", config_names())
def test_files_at_the_rate_of_a_configuration_are_all_used(name):
    config = load_config(name)
    assert coverage_notes(config, {config.audio.sample_rate: 5}) == []


@pytest.mark.parametrize(
    ("overrides", "rates", "ways"),
    [
        (["audio.sample_rate=48000"], {48000: 1}, "frontend.max_freq=24000"),  # the bands still end at 7800 Hz
        (["audio.sample_rate=22050", "frontend.max_freq=11025"], {22050: 1}, None),
        (["frontend.max_freq=4000"], {16000: 1}, "audio.sample_rate=16000 frontend.max_freq=8000"),
        ([], {192000: 1, 48000: 3}, "audio.sample_rate=192000 frontend.max_freq=96000 would"),
        (
            ["frontend.scale=log", "frontend.bins_per_octave=12"],
            {48000: 1},
            "the shipped configuration bio-48k (from 150 Hz) would",
        ),
        ([], {}, None),
    ],
)
def test_what_is_suggested(overrides, rates, ways):
    notes = coverage_notes(load_config("eleaf-8g-opt", overrides), rates)
    assert len(notes) == (ways is not None)
    assert ways is None or ways in notes[0]


def test_settings_that_look_wrong_are_not_suggested():
    """With wider bands, the axis of this stack's layers would not be that of its bands."""
    (note,) = coverage_notes(load_config("log-harmonic"), {48000: 1})
    assert note.endswith("7040 Hz: the shipped configuration bio-48k (from 150 Hz) would use it")


def test_bands_that_begin_higher_are_said():
    """Whoever follows the suggestion loses what is below; no word where nothing is lost."""
    (note,) = coverage_notes(load_config("log-mel"), {48000: 1})
    assert ": the shipped configuration log-mel-48k (from 150 Hz) or the settings " in note
    (note,) = coverage_notes(load_config("eleaf-8g-opt"), {48000: 1})
    assert ": the shipped configuration bio-48k (from 150 Hz) or the settings " in note
    (note,) = coverage_notes(load_config("eleaf-8g-opt", ["frontend.min_freq=200"]), {48000: 1})
    assert ": the shipped configuration bio-48k or the settings " in note


def test_nothing_uses_it():
    (note,) = coverage_notes(load_config("log-harmonic"), {96000: 1})
    assert note.endswith("Hz; no shipped configuration of this kind of frontend would use it")
    (note,) = coverage_notes(load_config("log-harmonic"), {96000: 1}, files=True)
    assert note.endswith("Hz")


def test_bands_of_weights_cannot_be_changed(invoke, tmp_path):
    import torch

    torch.save(library.build("eleaf-8g-opt").state_dict(), tmp_path / "w.pt")
    clips = record(tmp_path / "clips", 48000, 1)
    done = invoke("extract", clips, "-o", tmp_path / "out", "--weights", tmp_path / "w.pt")
    assert "hlfeat: 1 of 1 clips may have sound up to 24000 Hz, but the bands end at 7800 Hz\n" in done.stderr
