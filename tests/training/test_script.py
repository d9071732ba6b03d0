"""scripts/train.py: from folders or a table to features; a run that is killed goes on to the same weights."""

from __future__ import annotations

import importlib
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hlfeat
from hlfeat.errors import UsageError
from tests import helpers
from tests.training.running import ENVIRONMENT, command_of, metrics, table, train


def classes(folder: Path, names: str) -> Path:
    """Six clips of half a second a class; a class is a pitch."""
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            soundfile.write(folder / name / f"{i}.wav", helpers.tone(0.5, 16000, 300 * (c + 1) + 5 * i, i), 16000)
    return folder


def test_the_script_ends_in_features(tmp_path):
    folder, out = classes(tmp_path / "clips", "ab"), tmp_path / "run"
    result = train(folder, "--out", out, "--epochs", 2, "--seconds", 0.3, "--batch", 4)
    assert result.returncode == 0, result.stderr
    assert "held out 4 of 12 clips (by file" in result.stderr
    assert result.stderr.count("(chance 50.0%)") == 2
    store = hlfeat.FeatureStore(out / "features")
    assert len(store) == 12
    model = hlfeat.build(out / "config.yaml", weights=out / "weights.safetensors").eval()
    assert not torch.equal(model.frontend.filterbank.center_freqs, hlfeat.EfficientLeaf(80).filterbank.center_freqs)
    x = torch.from_numpy(soundfile.read(folder / "a/0.wav", dtype="float32")[0])
    with torch.no_grad():
        want = model(x[None])[0].permute(2, 0, 1).numpy()
    assert np.abs(store["a/0.wav"] - want).max() <= 1e-5 * np.abs(want).max()


def test_the_script_says_which_clips_it_cannot_use(tmp_path):
    folder, out = classes(tmp_path / "clips", "ab"), tmp_path / "run"
    (folder / "a/broken.wav").write_bytes(b"this is text")
    soundfile.write(folder / "beside.wav", helpers.tone(0.2, 16000), 16000)
    result = train(folder, "--out", out, "--epochs", 1, "--config", "log-mel")
    assert result.returncode == 3, result.stderr  # that of the extraction
    assert "a/broken.wav: not-audio" in result.stderr
    assert "beside.wav: no-class" in result.stderr
    assert "2 of 14 clips cannot be used" in result.stderr
    assert [json.loads(line)["id"] for line in (out / "features/failures.jsonl").open()] == ["a/broken.wav"]


def test_the_script_needs_two_classes(tmp_path):
    result = train(classes(tmp_path / "clips", "a"), "--out", tmp_path / "run")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "expected the folders of two classes or more, got 1" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_script_says_what_it_takes(tmp_path, capsys, train_data):
    """A folder without classes, paths relative to something else, other names of columns: one line each."""
    train = importlib.import_module("train")
    folder = classes(tmp_path / "clips", "a")
    flat, config = folder / "a", hlfeat.load_config("log-mel")
    with pytest.raises(UsageError, match="expected a folder for each class in it, or --labels with a table"):
        train_data.read(flat, config)
    paths = table(tmp_path / "t.csv", [("path", "word"), ("clips/a/0.wav", "a"), ("clips/a/1.wav", "a")])
    columns = dict.fromkeys(["--path-column", "--label-column", "--group-by", "--split-by"])
    with pytest.raises(UsageError, match=r"no column label; there are path, word; --label-column NAME names another$"):
        train.read_table(paths, {**columns, "--path-column": "path", "--label-column": "label"})
    labels = train.read_table(paths, {**columns, "--path-column": "path", "--label-column": "word"})
    with pytest.raises(UsageError, match=r"such as clips/a/0.wav, got others, such as a/0.wav; paths are relative"):
        train_data.read(folder, config, labels)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["{c}/s{speaker}/{i}.wav", "{c}/{speaker}-7-{i}.flac"])
def test_the_script_holds_out_whole_speakers(train_data, name, capsys):
    ids = [name.format(c=c, speaker=speaker, i=i) for c in "ab" for speaker in range(5) for i in range(2)]
    examples = [train_data.Example(torch.zeros(1), id_[0], train_data.group_of(id_)) for id_ in ids]
    parts = train_data.hold_out(examples, 0.2, seed=3)
    assert parts == train_data.hold_out(examples, 0.2, seed=3)
    assert [sum(e.label == label for e in parts.valid) for label in "ab"] == [2, 2]
    assert not {e.group for e in parts.valid} & {e.group for e in parts.train}
    assert "held out 4 of 20 clips (1 of 5 groups" in capsys.readouterr().err
    with pytest.raises(UsageError, match="class b"):
        train_data.hold_out(examples[:11], 0.2, seed=3)


def test_a_table_says_classes_and_parts(tmp_path):
    folder, out = classes(tmp_path / "clips", "ab"), tmp_path / "run"
    parts = ["train", "train", "train", "Train", "dev", "test"]
    rows = [("file", "word", "part"), ("gone.wav", "no", "train")]
    rows += [(f"{c}/{i}.wav", word, parts[i]) for c, word in (("a", "no"), ("b", "yes")) for i in range(6)]
    labels = table(tmp_path / "clips.csv", rows)
    soundfile.write(folder / "beside.wav", helpers.tone(0.2, 16000), 16000)
    columns = ["--labels", labels, "--path-column", "file", "--label-column", "word", "--split-by", "part"]
    result = train(folder, "--out", out, "--epochs", 2, "--seconds", 0.3, "--batch", 4, "--config", "log-mel", *columns)
    assert result.returncode == 0, result.stderr
    assert "train: 1 of 13 rows have no file, such as gone.wav" in result.stderr
    assert "train: 1 of 13 clips have no row and are not used, such as beside.wav" in result.stderr
    assert "train: 12 clips, 0.00 h: no 6, yes 6" in result.stderr
    assert "train: train 8, valid 2, test 2 clips, as the table divides" in result.stderr
    first, last = metrics(out)
    assert [first["epoch"], last["epoch"]] == [1, 2]
    assert set(first) == {"epoch", "loss", "accuracy", "filters_moved"}
    assert set(last) == {*first, "test_accuracy"}
    assert f"test accuracy {last['test_accuracy']:.1%}" in result.stderr
    assert len(hlfeat.FeatureStore(out / "features")) == 13


def test_a_table_says_speakers(tmp_path, train_data, capsys):
    folder = classes(tmp_path / "clips", "ab")
    rows = [("path", "label", "speaker", "room")]
    rows += [(f"{c}/{i}.wav", c, f"s{i % 3}", f"r{i % 2}") for c in "ab" for i in range(6)]
    labels = table(tmp_path / "clips.csv", rows)
    for column, groups in ((None, 3), ("room", 2)):
        examples = train_data.read(folder, hlfeat.load_config("log-mel"), hlfeat.read_labels(labels, group=column))
        parts = train_data.hold_out(examples, 0.2, seed=0)
        assert not {e.group for e in parts.train} & {e.group for e in parts.valid}
        assert f"(1 of {groups} groups; seed 0)" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classes", "pitch"] if helpers.THOROUGH else ["classes"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, task):
    folder = classes(tmp_path / "clips", "ab")
    options = ["--epochs", 6, "--seconds", 0.3, "--batch", 2, "--config", "eleaf-harmonic", "--task", task]
    if task == "pitch":
        pitches = [(f"{c}/{i}.wav", 300 * k + 5 * i) for k, c in ((1, "a"), (2, "b")) for i in range(6)]
        options += ["--labels", table(tmp_path / "notes.csv", [("path", "frequency"), *pitches])]
    whole = train(folder, "--out", tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr

    out = tmp_path / "run"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command_of(folder, "--out", out, *options), env=ENVIRONMENT, stderr=log)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9, "it ended before it was killed"
    assert not (out / "weights.safetensors").exists()

    resumed = train(folder, "--out", out, *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    done = next(n for n in range(1, 6) if f"train: goes on after epoch {n} of 6" in resumed.stderr)
    assert resumed.stderr.count("train: epoch ") == 6 - done
    weights = [(path / "weights.safetensors").read_bytes() for path in (tmp_path / "whole", out)]
    assert weights[0] == weights[1]
    assert metrics(out) == metrics(tmp_path / "whole")
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (tmp_path / "whole", out)]
    for key, value in states[0]["state_dict"].items():  # the classifier's too
        assert torch.equal(value, states[1]["state_dict"][key]), key

    other = train(folder, "--out", out, *options, "--resume", "--lr", 0.1)
    assert other.returncode == 2
    assert "checkpoint.pt was made with another --lr: 0.003, not 0.1" in other.stderr


def state_of(train_state, epochs: int = 0, lr: float = 1e-3):
    torch.manual_seed(0)
    classifier = importlib.import_module("train_classes").Classifier(hlfeat.build("log-mel"), 2)
    training = train_state.Training(classifier, lr, 10, {"--lr": lr})
    training.metrics = [{"epoch": n + 1} for n in range(epochs)]
    return training


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, train_state, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    state_of(train_state, epochs=1).save(path)

    def half(state, file):
        file.write(path.read_bytes()[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        state_of(train_state, epochs=2).save(path)
    training = state_of(train_state)
    training.load(path)
    assert training.epoch == 1


def test_what_is_no_checkpoint_is_refused(tmp_path, train_state):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"this is text")
    with pytest.raises(UsageError, match=r"^--resume: .*checkpoint.pt: not a checkpoint") as caught:
        state_of(train_state).load(path)
    assert "\n" not in str(caught.value)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UsageError, match="not a checkpoint of this script"):
        state_of(train_state).load(path)
    state_of(train_state, lr=0.5).save(path)
    with pytest.raises(UsageError, match=r"made with another --lr: 0.5, not 0.001"):
        state_of(train_state).load(path)


def test_random_numbers_depend_on_seed_epoch_and_process(train_state, monkeypatch):
    seen = []
    for seed, epoch, rank in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0)]:
        monkeypatch.setattr(train_state, "RANK", rank)
        data = state_of(train_state, epoch).seed_epoch(seed)
        seen.append((data, torch.rand(()).item()))
    assert seen[0][0] == seen[1][0]  # all processes take their clips of one order
    assert len({data for data, _ in seen}) == 4
    assert len({number for _, number in seen}) == 5


def labelled(train_data, *parts: str | None):
    """Two classes in each of these parts, each example of another speaker."""
    return [train_data.Example(torch.zeros(1), c, f"{c}{i}", part) for i, part in enumerate(parts) for c in "ab"]


def test_parts_of_a_table(train_data, capsys):
    examples = labelled(train_data, "train", "valid", "test")
    parts = train_data.divide(examples)
    assert (parts.train, parts.valid, parts.test) == (examples[:2], examples[2:4], examples[4:])
    assert "warning" not in capsys.readouterr().err
    parts = train_data.divide(examples[:2] + examples[4:])
    assert (parts.valid, parts.test) == (examples[4:], [])
    both = train_data.Example(torch.zeros(1), "a", "a0", "test")
    train_data.divide([*examples, both])
    assert "warning: in train and in test, which flatters the result: 1 groups, such as a0" in capsys.readouterr().err
    for wrong, message in [
        (examples[:2], "and of valid or test, got 2 of train, 0 of valid, 0 of test"),
        (examples[2:], "expected clips of the split train"),
        (examples[1:], "class a: expected clips of the split train, got none"),
    ]:
        with pytest.raises(UsageError, match=message):
            train_data.divide(wrong)


def test_options_of_a_table_need_one(tmp_path):
    result = train(classes(tmp_path / "clips", "ab"), "--out", tmp_path / "run", "--split-by", "part")
    assert result.returncode == 2
    assert result.stderr == "train: error: --split-by: expected --labels with it\n"
