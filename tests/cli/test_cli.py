"""The installed command, run as a process: streams, exit codes, one-line errors, signals, full disks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hlfeat import FeatureStore, build
from hlfeat.config.loading import config_names
from tests import helpers
from tests.conftest import command

SMALL = ["--set", "frontend.n_filters=8", "--set", "frontend.num_groups=4"]


def tree(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name != "report.json"}


def failed(result: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """One line on standard error that says what is wrong, nothing on standard output."""
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert words in lines[0], result.stderr
    assert result.stdout == ""


def test_help_and_version(hlfeat):
    for arguments in ((), ("extract",), ("config",)):
        assert hlfeat(*arguments, "--help").returncode == 0
    assert hlfeat("--version").stdout.startswith("hlfeat 0.")


def test_a_folder_from_start_to_end(hlfeat, clips, tmp_path):
    result = hlfeat("extract", clips, "-o", tmp_path / "out", "--shard-size", 5, *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / f"out/shard-0000{i}.npy") for i in range(3)]
    assert "12 clips" in result.stderr
    assert len(FeatureStore(tmp_path / "out")) == 12


def test_segments_of_a_manifest(invoke, tmp_path):
    first, second = tmp_path / "first.wav", tmp_path / "second.flac"
    for path in (first, second):
        soundfile.write(path, helpers.tone(0.7, 16000), 16000)
    rows = [f"whole,{first},,,", f"part,{first},0.1,0.3,0", f"beyond,{second},0,1e4,", f"left,{second},,0.2,"]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["id,path,start,end,channel", *rows, ""]))
    run = ("extract", "--manifest", manifest, "-o", tmp_path / "out", *SMALL)
    result = invoke(*run)
    assert result.returncode == 3, result.stderr
    index = [json.loads(line) for line in (tmp_path / "out/shard-00000.jsonl").open()]
    assert [(r["id"], r.get("start"), r.get("end"), r.get("channel")) for r in index] == [
        ("whole", None, None, None),
        ("part", 0.1, 0.3, 0),
        ("left", None, 0.2, None),
    ]
    assert index[1]["duration"] == pytest.approx(0.2)
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").open()]
    assert [(f["id"], f["code"]) for f in failures] == [("beyond", "bad-segment")]
    manifest.write_text(manifest.read_text().replace("0.1,0.3", "0.1,0.4"))
    failed(invoke(*run), 2, "has the id part from")
    failed(invoke(*run, "--set", "audio.channels=each", "--overwrite"), 2, "a manifest names channels")


def test_bad_rows_are_failures_and_unknown_times_end_the_run(invoke, tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.7, 16000), 16000)
    (tmp_path / "m.csv").write_text("Path, Start, End\na.wav, 0.1, 0.3\na.wav, soon, 0.4\na.wav, 0.2, 0.5\n")
    run = ("extract", tmp_path / "m.csv", "-o", tmp_path / "out", *SMALL)
    result = invoke(*run)
    assert result.returncode == 3, result.stderr
    assert "1 clip failed (bad-row 1)" in result.stderr
    (failure,) = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").open()]
    assert failure["id"] == f"{tmp_path}/m.csv:3"[1:]
    assert failure["path"] == "a.wav"
    assert failure["message"] == f"{tmp_path}/m.csv:3: expected Start in seconds, from 0, got 'soon'"
    assert len(FeatureStore(tmp_path / "out")) == 2
    (tmp_path / "m.csv").write_text("path,start_frame\na.wav,100\n")
    failed(invoke(*run), 2, "m.csv:1: the column start_frame looks like a time, but it is not known which")


def test_good_and_broken_files_side_by_side(hlfeat, clips, tmp_path):
    codes = helpers.broken_clips(clips / "broken")
    result = hlfeat("extract", clips, "-o", tmp_path / "out", *SMALL)
    assert result.returncode == 3
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").open()]
    assert {f["id"] for f in failures} == {f"broken/{n}" for n in codes}
    assert len(FeatureStore(tmp_path / "out")) == 12
    assert f"{len(codes)} clips failed" in result.stderr
    assert "Traceback" not in result.stderr
    resumed = hlfeat("extract", clips, "-o", tmp_path / "out", *SMALL)
    assert (resumed.returncode, resumed.stdout) == (3, "")


def test_lists_on_standard_input(hlfeat, clips, tmp_path):
    names = subprocess.run(["find", ".", "-type", "f", "-print0"], cwd=clips, capture_output=True, check=True).stdout
    result = hlfeat("extract", "-0", "-", "-o", tmp_path / "a", *SMALL, cwd=clips, input=names.decode())
    assert result.returncode == 0, result.stderr
    whole = hlfeat("extract", clips, "-o", tmp_path / "b", *SMALL, "-q")
    assert whole.stderr == ""
    a, b = FeatureStore(tmp_path / "a"), FeatureStore(tmp_path / "b")
    assert set(a.ids) == set(b.ids)
    for id_ in a.ids:
        np.testing.assert_allclose(a[id_], b[id_], atol=1e-5)
    lines = "\n".join(n for n in names.decode().split("\0") if n and "\n" not in n)
    result = hlfeat("extract", "-", "-o", tmp_path / "c", *SMALL, cwd=clips, input=lines)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", config_names())
def test_every_named_configuration_from_another_folder(invoke, tmp_path, name):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.7, 22050), 22050)
    result = invoke("extract", "a.wav", "-o", "out", "-c", name, "--format", "pt", "--dtype", "float16", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert ("drawn at random from seed 0" in result.stderr) == ("harmonic" in name)
    shard = torch.load(tmp_path / "out/shard-00000.pt", weights_only=True)
    assert shard["a.wav"].dtype == torch.float16
    assert shard["a.wav"].shape[0] == (31 if name.startswith("music") else 70)  # a frame each 512 samples, or 10 ms


def test_weights_change_the_features(invoke, tmp_path):
    from safetensors.torch import save_file

    import hlfeat as library

    soundfile.write(tmp_path / "a.wav", helpers.tone(0.3, 16000), 16000)
    model = library.build("eleaf-harmonic")
    torch.nn.init.normal_(model.stack.layers[0].conv.weight, generator=torch.Generator().manual_seed(3))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    stores = []
    for n, weights in enumerate(([], ["--weights", "w.pt"], ["--weights", "w.safetensors"])):
        result = invoke("extract", "a.wav", "-o", str(n), "-c", "eleaf-harmonic", *weights, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        stores.append(FeatureStore(tmp_path / str(n))["a.wav"])
    assert np.abs(stores[0] - stores[1]).max() > 0.01
    np.testing.assert_array_equal(stores[1], stores[2])
    failed(invoke("extract", "a.wav", "-o", "1", "-q", "-c", "eleaf-harmonic", cwd=tmp_path), 2, "the weights differ")


def test_bad_weights_say_which_keys(invoke, tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.3, 16000), 16000)
    import hlfeat as library

    run = ["extract", "a.wav", "-o", "out", "-q", "--weights"]
    failed(invoke(*run, "none.pt", cwd=tmp_path), 2, "none.pt: weights cannot be read: No such file")
    (tmp_path / "text.pt").write_text("hello")
    failed(invoke(*run, "text.pt", cwd=tmp_path), 2, "text.pt: not weights in .pt format")
    (tmp_path / "text.safetensors").write_text("hello")
    failed(invoke(*run, "text.safetensors", cwd=tmp_path), 2, "not weights in .safetensors format")
    torch.save(library.build("eleaf-default").state_dict(), tmp_path / "small.pt")
    words = "frontend.filterbank.center_freqs has shape [40], expected [80]"
    failed(invoke(*run, "small.pt", cwd=tmp_path), 2, words)
    state = library.build().state_dict()
    state.pop("frontend.filterbank.bandwidths")
    state["frontend.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "keys.pt")
    failed(invoke(*run, "keys.pt", cwd=tmp_path), 2, "missing frontend.filterbank.bandwidths; unknown frontend.extra")
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    failed(invoke(*run, "evil.pt", cwd=tmp_path), 2, "evil.pt: not weights")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_the_call_is_one_line(invoke, clips, tmp_path):
    out = tmp_path / "out"
    failed(invoke("extract", clips, "-o", out, "--set", "frontend.n_filter=3"), 2, "did you mean n_filters?")
    failed(invoke("extract", clips, "-o", out, "-c", "eleaf-8g"), 2, "did you mean eleaf-8g-opt?")
    failed(
        invoke("extract", clips, "-o", out, "--set", "stack=[{layer: harmonic, out_channels: 2, anchor: 0}]"),
        2,
        "anchor",
    )
    failed(
        invoke("extract", clips, "-o", out, "--set", "stack=[{layer: harmonic, out_channels: 2, kernel: [3, 2]}]"),
        2,
        "odd",
    )
    failed(invoke("extract", clips, "-o", out, "--device", "cuda:9"), 2, "--device cuda:9: cannot be used")
    failed(
        invoke("extract", clips, "-o", out, "--shard-size", "much"),
        2,
        "hlfeat: error: --shard-size much: expected a number of clips, or a size such as 256MB, 8M or 1GiB, got 'much'",
    )
    (tmp_path / "empty").mkdir()
    failed(invoke("extract", tmp_path / "empty", "-o", out), 2, "no audio files in")
    failed(invoke("extract", "-", "-o", out, input=""), 2, "no audio files in -")
    (tmp_path / "file").write_text("x")
    failed(invoke("extract", clips, "-o", tmp_path / "file"), 1, "expected a folder, found a file")
    failed(invoke("extract", clips, "-o", tmp_path / "file/below"), 1, "cannot be used as output")
    failed(invoke("extract", clips, "-o", "/proc/nowhere"), 1, "cannot be used as output")
    assert not out.exists()
    failed(invoke("extract", clips), 2, "Missing option '--output'")
    failed(invoke("extract", "-o", out), 2, "expected audio files, folders, lists or a --manifest")
    failed(invoke("extract", clips, "-o", out, "--workers", "0"), 2, "workers")
    failed(invoke("extract", clips, "-o", ""), 2, "-o: expected a folder for the output")
    failed(invoke("extract", "", "-o", out), 2, "expected a file, a folder")
    for wrong in ("inf", "0", "most"):
        message = f"--batch-seconds': expected auto, or seconds from 0.01, got '{wrong}'"
        failed(invoke("extract", clips, "-o", out, "--batch-seconds", wrong), 2, message)
    failed(invoke("extract", clips, "-o", out, "--nothing"), 2, "--nothing")
    assert "Traceback" in invoke("extract", clips, "-o", out, "-v", "-c", "nothing").stderr


def test_a_missing_file_of_a_list_is_a_failed_clip(invoke, tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.2, 16000), 16000)
    result = invoke("extract", "-", "-o", "out", *SMALL, cwd=tmp_path, input="a.wav\nno.wav\n")
    assert result.returncode == 3
    record = json.loads((tmp_path / "out/failures.jsonl").read_text())
    assert (record["id"], record["code"]) == ("no.wav", "missing")


def test_another_configuration_in_the_same_folder(invoke, clips, tmp_path):
    out = tmp_path / "out"
    assert invoke("extract", clips, "-o", out, *SMALL).returncode == 0
    failed(
        invoke("extract", clips, "-o", out, *SMALL, "--set", "seed=2", "-q"),
        2,
        "holds features of another configuration (seed differ)",
    )
    assert invoke("extract", clips, "-o", out, *SMALL, "--set", "seed=2", "--overwrite").returncode == 0


def test_stopping_on_errors(invoke, clips, tmp_path):
    helpers.broken_clips(clips / "broken")
    for mp3 in (clips / "broken").glob("*.mp3"):
        mp3.unlink()  # libmpg123 has its own word on standard error about a cut file
    result = invoke("extract", clips, "-o", tmp_path / "a", *SMALL, "-q", "--on-error", "stop")
    failed(result, 1, "--on-error: stopped at ")
    failed(
        invoke("extract", clips, "-o", tmp_path / "b", *SMALL, "-q", "--max-failures", 2), 1, "more than 2 clips failed"
    )


def test_dry_run_writes_nothing(invoke, clips, tmp_path):
    result = invoke("extract", clips, "-o", tmp_path / "out", "--dry-run")
    assert result.returncode == 0
    assert "12 clips; features [frames, 2, 80] float32, 100 frames a second" in result.stderr
    assert not (tmp_path / "out").exists()
    assert "hlfeat: 4 clips; " in invoke("extract", clips, "-o", tmp_path / "out", "-n", "--part", "2/3").stderr


def test_config_commands(invoke, tmp_path):
    listed = invoke("config", "list").stdout
    assert all(name in listed for name in config_names())
    assert re.search(r"(?m)^music-cq +32\.7-3951\.1 Hz +50 M multiply-adds/s +EfficientLEAF", listed)
    shown = invoke("config", "show", "eleaf-pcen", "--set", "seed=4").stdout
    (tmp_path / "mine.yaml").write_text(shown)
    assert "seed: 4" in shown
    checked = invoke("config", "check", tmp_path / "mine.yaml")
    assert "features [frames, 1, 80]" in checked.stdout
    assert " bands at 83.0 to 7550.4 Hz\n" in checked.stdout
    # listed at the cost that check adds up
    total = re.search(r"^total +\d+ +(\S+ M)$", checked.stdout, re.MULTILINE)
    assert re.search(rf"^eleaf-pcen +\S+ Hz +{total[1]} multiply-adds/s  EfficientLEAF", listed, re.MULTILINE)
    (tmp_path / "bad.yaml").write_text("frontend:\n  n_filterz: 3\n")
    failed(invoke("config", "check", "bad.yaml", cwd=tmp_path), 2, "bad.yaml:2: frontend.n_filterz: unknown key")
    (tmp_path / "pool.yaml").write_text("stack:\n  - {layer: activation}\n  - {layer: pool, bands: 500}\n")
    words = "pool.yaml:3: stack.1 (pool): bands: expected at most the 40 there are, got 500"
    failed(invoke("config", "check", "pool.yaml", cwd=tmp_path), 2, words)
    failed(
        invoke("config", "check", "log-mel", "--set", "stack=[{layer: pool, bands: 500}]"),
        2,
        "--set stack=[{layer: pool, bands: 500}]: stack.0 (pool): bands: expected at most the 80",
    )
    assert json.loads(invoke("config", "schema").stdout)["properties"]["seed"]["minimum"] == 0


def test_config_check_says_what_looks_wrong(invoke, tmp_path):
    wrong = invoke("config", "check", "eleaf-harmonic", "--set", "stack.0.axis=linear")
    assert wrong.returncode == 0
    assert "hlfeat: warning: eleaf-harmonic: stack.0: its axis (linear) is not that of its bands" in wrong.stderr
    assert [line.split()[0] for line in wrong.stdout.splitlines()[3:]][:2] == ["frontend", "stack.0"]
    for name in ("eleaf-8g-opt", "eleaf-harmonic"):
        model = build(name)
        with torch.no_grad():
            model.frontend.filterbank.center_freqs[7] = 0.0
        torch.save(model.state_dict(), tmp_path / f"{name}.pt")
        crossed = invoke("config", "check", name, "--weights", tmp_path / f"{name}.pt")
        assert crossed.returncode == 0
        assert "frontend: bands are not in the order of their frequency: 7 not above the one before" in crossed.stderr
        model.frontend.filterbank.center_freqs.data[7] = torch.nan
        torch.save(model.state_dict(), tmp_path / f"{name}.pt")
        failed(invoke("config", "check", name, "--weights", tmp_path / f"{name}.pt"), 2, "center_freqs is not finite")


def many(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        soundfile.write(folder / f"{i:04d}.wav", helpers.tone(3, 16000, 100 + i), 16000)
    return folder


SLOW = ["-c", "eleaf-default", "--shard-size", "4", "--batch-seconds", "6", "--workers", "2"]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [command(), "extract", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(hlfeat, tmp_path, how):
    folder = many(tmp_path / "clips", 40)
    assert hlfeat("extract", folder, "-o", tmp_path / "whole", *SLOW).returncode == 0
    process = start(folder, "-o", tmp_path / "out", *SLOW)
    assert process.stdout.readline().endswith("shard-00000.npy\n")  # at work
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), errors
    if how != signal.SIGKILL:
        assert "the same command goes on from there" in errors
        assert not list((tmp_path / "out").glob("*.tmp"))
    done = len(list((tmp_path / "out").glob("*.jsonl"))) - (tmp_path / "out/failures.jsonl").exists()
    assert 1 <= done < 10
    result = hlfeat("extract", folder, "-o", tmp_path / "out", *SLOW)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 10 - done
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_the_system_refuses_is_no_bug(hlfeat, tmp_path):
    failed(hlfeat("inspect", tmp_path / ("x" * 300)), 1, "x/hlfeat.yaml: File name too long")
    with open("/dev/full", "w") as full:
        listing = [command(), "config", "list"]
        result = subprocess.run(listing, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert result.stderr == "hlfeat: error: standard output: No space left on device\n"


@pytest.mark.parametrize("form", ["npy", "pt"])
@pytest.mark.parametrize("damage", ["empty index", "first line gone", "empty data", "half the data", "no array"])
def test_a_finished_shard_that_is_damaged(invoke, clips, tmp_path, damage, form):
    out = tmp_path / "out"
    arguments = ["extract", clips, "-o", out, "-q", "--shard-size", 4, "--format", form, *SMALL]
    assert invoke(*arguments).returncode == 0
    index, data = out / "shard-00001.jsonl", out / f"shard-00001.{form}"
    if damage == "empty index":
        index.write_bytes(b"")
    elif damage == "first line gone":
        index.write_bytes(b"".join(index.read_bytes().splitlines(True)[1:]))
    else:
        whole = data.read_bytes()
        data.write_bytes({"empty data": b"", "half the data": whole[: len(whole) // 2], "no array": b"PK\3\4"}[damage])
    failed(invoke(*arguments), 1, "damaged")
    found = invoke("inspect", out)
    assert (found.returncode, found.stderr) == (1, "")
    assert "-00001." in found.stdout.partition("  damaged   1, ")[2]  # of the shard, its index or its statistics


SWALLOWS = """
import os, signal, sys
class Finder:  # as torch does with whatever goes wrong while it loads its libraries
    def find_spec(self, name, *_):
        if name == "torch":
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.HOW)
            except Exception:
                pass
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_a_signal_while_torch_is_imported(hlfeat, clips, tmp_path, how):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SWALLOWS.replace("HOW", how))
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    result = hlfeat("extract", clips, "-o", tmp_path / "out", "-q", env={**os.environ, "PYTHONPATH": path})
    failed(result, 130, "interrupted")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_a_list_can_be_interrupted(tmp_path, how):
    arguments = [command(), "extract", "-", "-o", tmp_path / "out"]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2)  # reading standard input by now
    process.send_signal(how)
    assert process.wait(timeout=20) == 130
    assert process.stderr.read() == "hlfeat: error: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_the_current_folder_may_be_the_output(invoke, clips, tmp_path):
    (tmp_path / "here").mkdir()
    assert invoke("extract", clips, "-o", ".", *SMALL, cwd=tmp_path / "here").returncode == 0
    assert len(FeatureStore(tmp_path / "here")) == 12


def test_a_reader_that_goes_away_does_not_stop_the_run(tmp_path):
    folder = many(tmp_path / "clips", 12)
    process = start(folder, "-o", tmp_path / "out", *SLOW)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 0, errors
    assert len(FeatureStore(tmp_path / "out")) == 12


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", ">/dev/full", "2>/dev/full", "2>&1 | head -c 1"])
def test_streams_that_are_closed_or_full_do_not_stop_the_run(clips, tmp_path, streams):
    line = f'"$0" extract "$1" -o "$2" {" ".join(SMALL)} --shard-size 3 {streams}; exit "${{PIPESTATUS[0]}}"'
    result = subprocess.run(["bash", "-c", line, command(), clips, tmp_path / "out"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(FeatureStore(tmp_path / "out")) == 12


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small file system needs root")
@pytest.mark.parametrize("form", ["npy", "pt"])
def test_a_full_disk(hlfeat, tmp_path, form):
    folder = many(tmp_path / "clips", 30)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        result = hlfeat("extract", folder, "-o", disk / "out", *SLOW, "--format", form, "-q")
        assert result.returncode == 1
        assert "no space left on the disk" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert not list((disk / "out").glob("*.tmp"))
        store = FeatureStore(disk / "out")
        assert 4 <= len(store) < 30
        assert all(np.isfinite(y).all() for _, y in store)
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert hlfeat("extract", folder, "-o", disk / "out", *SLOW, "--format", form).returncode == 0
        assert hlfeat("extract", folder, "-o", tmp_path / "whole", *SLOW, "--format", form).returncode == 0
        assert tree(disk / "out") == tree(tmp_path / "whole")
    finally:
        subprocess.run(["umount", "-l", disk], check=False)  # lazily: the store still maps its files


def test_a_system_without_threads_or_memory_is_no_bug(clips, tmp_path):
    code = """
import resource, torch, hlfeat.extraction.extract, hlfeat.cli.app
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 20),) * 2)
hlfeat.cli.app.main()
"""
    arguments = [sys.executable, "-c", code, "extract", clips, "-o", tmp_path / "out", *SMALL, "-q"]
    failed(
        subprocess.run(arguments, capture_output=True, text=True, check=False), 1, "the system gives no more threads"
    )


def test_the_module_is_the_command():
    out = subprocess.run([sys.executable, "-m", "hlfeat", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("hlfeat ")
