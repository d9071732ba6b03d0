"""A run's hlfeat.yaml as a configuration, and runs that go on with a folder's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import hlfeat as library
from hlfeat.cli.own_configuration import Chosen, choose
from hlfeat.config.loading import config_names, load_config
from hlfeat.errors import ConfigError
from hlfeat.storage.named_place import place_of
from tests import helpers

SMALL = ["-c", "log-mel", "--set", "frontend.n_filters=16", "--set", "seed=3"]
GOES_ON = "hlfeat: going on with the configuration of out/hlfeat.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Old clips, and a new one."""
    for name in ("old/a.wav", "old/b.wav", "new/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, helpers.tone(0.4, 16000, seed=len(name)), 16000)
    return tmp_path


def description(out: Path) -> dict:
    return yaml.safe_load((out / "hlfeat.yaml").read_text())


@pytest.mark.parametrize("name", config_names())
def test_a_run_of_a_runs_configuration_has_its_fingerprint(invoke, folder, name):
    assert invoke("extract", "old/a.wav", "-o", "out", "-c", name, cwd=folder).returncode == 0
    again = invoke("extract", "old/a.wav", "-o", "two", "-c", "out/hlfeat.yaml", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert description(folder / "two") == description(folder / "out")
    assert (folder / "two/shard-00000.npy").read_bytes() == (folder / "out/shard-00000.npy").read_bytes()


def test_it_is_a_configuration_wherever_one_is(invoke, folder):
    assert invoke("extract", "old", "-o", "out", *SMALL, cwd=folder).returncode == 0
    file = "out/hlfeat.yaml"
    assert "n_filters: 16" in invoke("config", "show", file, cwd=folder).stdout
    assert "features [frames, 1, 16]" in invoke("config", "check", file, cwd=folder).stdout
    assert (
        "features [frames, 1, 12]"
        in invoke("config", "check", file, "--set", "frontend.n_filters=12", cwd=folder).stdout
    )
    stats = invoke("stats", "old", "-c", file, "-o", "stats.json", cwd=folder)
    assert stats.returncode == 0, stats.stderr
    pitch = invoke("pitch", "old", "-o", "pitch", "--set", "seed=4", cwd=folder)
    assert pitch.returncode == 0, pitch.stderr
    assert "seed: 4" in invoke("config", "show", "pitch/hlfeat.yaml", cwd=folder).stdout
    assert load_config(folder / file).seed == 3
    assert library.build(str(folder / file)).n_bands == 16


def test_errors_name_its_file_and_line(invoke, folder):
    assert invoke("extract", "old", "-o", "out", *SMALL, cwd=folder).returncode == 0
    path = folder / "out/hlfeat.yaml"
    text = path.read_text().replace("n_filters: 16", "n_filterz: 16")
    path.write_text(text)
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "n_filterz" in row)
    done = invoke("config", "check", "out/hlfeat.yaml", cwd=folder)
    assert done.returncode == 2
    assert f"out/hlfeat.yaml:{line}: frontend.n_filterz: unknown key; did you mean n_filters?" in done.stderr
    (folder / "mine.yaml").write_text("config: {seed: 1}\n")  # not what a run writes
    with pytest.raises(ConfigError, match=r"mine\.yaml:1: config: unknown key"):
        load_config(folder / "mine.yaml")


@pytest.mark.parametrize("weights", [False, True])
def test_a_folder_goes_on_without_options(invoke, folder, weights):
    """Configuration, weights, statistics and format are those of the folder; the bytes those of one run."""
    options = [*SMALL, "--dtype", "float16", "--format", "pt", "--pool", "mean"]
    if weights:
        config = ["-c", "eleaf-8g-opt", "--set", "frontend.n_filters=8"]
        torch.save(
            library.build(library.load_config("eleaf-8g-opt", ["frontend.n_filters=8"])).state_dict(), folder / "w.pt"
        )
        stats = invoke("stats", "old", *config, "--weights", "w.pt", "-o", "stats.json", cwd=folder)
        assert stats.returncode == 0, stats.stderr
        options = [*config, "--weights", "w.pt", "--stats", "stats.json"]
    for out in ("out", "want"):
        assert invoke("extract", "old", "-o", out, *options, cwd=folder).returncode == 0
    assert invoke("extract", "old", "new", "-o", "want", *options, cwd=folder).returncode == 0
    plan = invoke("extract", "old", "new", "-o", "out", "-n", cwd=folder)
    assert f"{', 8]' if weights else '16]'}" in plan.stderr
    done = invoke("extract", "old", "new", "-o", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    more = ", weights w.pt, stats stats.json" if weights else ""
    assert done.stderr.count(f"{GOES_ON}{more}\n") == 1
    assert "2 of 3 clips are done already" in done.stderr
    names = sorted(path.name for path in (folder / "want").iterdir())
    assert sorted(path.name for path in (folder / "out").iterdir()) == names
    for name in set(names) - {"report.json"}:
        assert (folder / "out" / name).read_bytes() == (folder / "want" / name).read_bytes(), name


def test_options_that_are_given_are_compared(invoke, folder):
    assert invoke("extract", "old", "-o", "out", *SMALL, cwd=folder).returncode == 0
    empty = invoke("extract", "new", "-o", "out", "-c", "", cwd=folder)
    assert (empty.returncode, "expected a name or a file, got an empty name" in empty.stderr) == (2, True)
    for options in (["-c", "eleaf-8g-opt"], ["--set", "seed=3"], ["--dtype", "float16"], ["-c", "log-mel"]):
        done = invoke("extract", "new", "-o", "out", *options, cwd=folder)
        assert (done.returncode, "of another configuration" in done.stderr) == (2, True), done.stderr
        assert GOES_ON not in done.stderr
    anew = invoke("extract", "new", "-o", "out", "--overwrite", cwd=folder)
    assert anew.returncode == 0, anew.stderr
    assert GOES_ON not in anew.stderr
    assert description(folder / "out")["config"] == load_config().model_dump(mode="json")
    same = invoke("extract", "old", "new", "-o", "out", cwd=folder)
    assert same.returncode == 0, same.stderr
    assert GOES_ON not in same.stderr  # it is the command's own default


@pytest.mark.parametrize("key", ["weights", "stats"])
def test_files_that_are_not_what_they_were(invoke, folder, key):
    config = ["-c", "eleaf-8g-opt", "--set", "frontend.n_filters=8"]
    torch.save(
        library.build(library.load_config("eleaf-8g-opt", ["frontend.n_filters=8"])).state_dict(),
        folder / "weights.file.pt",
    )
    assert invoke("stats", "old", *config, "-o", "stats.file.json", cwd=folder).returncode == 0
    file = "weights.file.pt" if key == "weights" else "stats.file.json"
    assert invoke("extract", "old", "-o", "out", *config, f"--{key}", file, cwd=folder).returncode == 0
    digest = description(folder / "out")[key]["sha256"]
    shutil.move(folder / file, folder / "elsewhere")
    run = ("extract", "old", "new", "-o", "out")
    remedy = f"-c out/hlfeat.yaml --{key} FILE says where it is now"
    gone = invoke(*run, cwd=folder)
    assert gone.returncode == 2
    assert gone.stderr == (
        f"hlfeat: error: out/hlfeat.yaml: expected its {key} in {file} (sha256 {digest[:12]}): "
        f"No such file or directory; {remedy}\n"
    )
    (folder / file).write_text("other")
    changed = invoke(*run, "-n", cwd=folder)
    assert (changed.returncode, "but the file has changed" in changed.stderr) == (2, True)
    (folder / file).unlink()
    shutil.move(folder / "elsewhere", folder / f"moved{Path(file).suffix}")
    done = invoke(*run, "-c", "out/hlfeat.yaml", f"--{key}", f"moved{Path(file).suffix}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "was used with" not in done.stderr
    assert len(library.FeatureStore(folder / "out")) == 3
    bare = invoke("extract", "old", "-o", "bare", "-c", "out/hlfeat.yaml", cwd=folder)
    assert f"hlfeat: out/hlfeat.yaml: was used with {key} {file}; --{key} names them\n" in bare.stderr


def test_it_goes_on_from_another_folder(invoke, folder):
    """Paths in it are relative to where its run began, which is a folder that it is in."""
    config = ["-c", "log-mel", "--set", "frontend.n_filters=8"]
    assert invoke("stats", "old", *config, "-o", "s.json", cwd=folder).returncode == 0
    (folder / "runs").mkdir()
    assert invoke("extract", "old", "-o", "runs/out", *config, "--stats", "s.json", cwd=folder).returncode == 0
    done = invoke("extract", "c.wav", "-o", "../runs/out", cwd=folder / "new")
    assert done.returncode == 0, done.stderr
    assert "hlfeat: going on with the configuration of ../runs/out/hlfeat.yaml, stats ../s.json\n" in done.stderr
    (folder / "new/s.json").write_text("other")  # only the content counts
    done = invoke("extract", "c.wav", "-o", "../runs/out", cwd=folder / "new")
    assert done.returncode == 0, done.stderr
    assert len(library.FeatureStore(folder / "runs/out")) == 3


def test_all_commands_say_what_a_configuration_was_used_with(invoke, folder, monkeypatch):
    config = ["-c", "eleaf-8g-opt", "--set", "frontend.n_filters=8"]
    torch.save(
        library.build(library.load_config("eleaf-8g-opt", ["frontend.n_filters=8"])).state_dict(), folder / "w.pt"
    )
    assert invoke("extract", "old", "-o", "out", *config, "--weights", "w.pt", cwd=folder).returncode == 0
    file, words = "out/hlfeat.yaml", "hlfeat: out/hlfeat.yaml: was used with weights w.pt"
    takes = {
        "check": ("config", "check", file),
        "export": ("export", file, "--seconds", "0.5", "-o", "m.pt2"),
        "stats": ("stats", "old", "-c", file, "-o", "s.json"),
        "plot": ("plot", "old/a.wav", "-c", file, "-o", "a.png"),
    }
    for name, command in takes.items():
        done = invoke(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert f"{words}; --weights names them\n" in done.stderr, name
        more = ["--overwrite"] if name == "export" else []
        assert "was used with" not in invoke(*command, *more, "--weights", "w.pt", cwd=folder).stderr, name
    other = invoke("plot", "old/a.wav", "--compare", file, "-o", "a.png", cwd=folder)
    assert f"{words}; --compare-weights names them\n" in other.stderr
    bench = invoke("bench", "pipeline", "old", "-c", file, "--laps", "1", "--workers", "1", cwd=folder)
    assert f"{words}, which this command does not use\n" in bench.stderr


def test_pitch_goes_on_too(invoke, folder, monkeypatch):
    """The way along the best path needs a library, so it is only chosen here."""
    assert invoke("pitch", "old", "-o", "out", "--set", "seed=4", cwd=folder).returncode == 0
    done = invoke("pitch", "old", "new", "-o", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(GOES_ON) == 1
    assert np.loadtxt(folder / "out/c.wav.f0.csv", delimiter=",", skiprows=1).shape == (40, 3)
    other = invoke("extract", "new", "-o", "out", cwd=folder)
    assert (other.returncode, "holds pitch tracks, not features" in other.stderr) == (2, True)
    path = folder / "out/hlfeat.yaml"
    path.write_text(path.read_text().replace("viterbi: false", "viterbi: true"))
    assert choose(Chosen(""), "pitch-salience", place_of(folder / "out"), overwrite=False, pitch=True).viterbi


def test_a_report_is_no_configuration(invoke, folder):
    (folder / "list.yaml").write_text(json.dumps({"fingerprint": "x", "features": {}, "config": [1]}))
    done = invoke("config", "check", "list.yaml", cwd=folder)
    assert (done.returncode, "unknown key" in done.stderr) == (2, True)
