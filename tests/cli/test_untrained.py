"""An untrained stack: the warning says what to do, once, and what it says works."""

from __future__ import annotations

import soundfile
import torch

import hlfeat as library
from tests import helpers

WARNING = (
    "hlfeat: no weights were given: the stack's are drawn at random from seed 0, untrained; --weights loads trained "
    "ones, and stacks with init: salience (pitch-salience) need no training\n"
)
STACK = ["-c", "log-mel", "--set", "frontend.n_filters=16"]
STACK += ["--set", "stack=[{layer: harmonic, out_channels: 1, kernel: [3, 1], bias: false}]"]


def test_an_untrained_stack_says_what_to_do(invoke, tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.3, 16000), 16000)
    soundfile.write(tmp_path / "b.wav", helpers.tone(0.3, 16000), 16000)
    torch.save(library.build(library.load_config("log-mel", STACK[3::2])).state_dict(), tmp_path / "w.pt")

    def said(*args: object) -> int:
        done = invoke("extract", "a.wav", "b.wav", "--overwrite", "-o", "out", *args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr.count(WARNING)

    assert said(*STACK) == 1
    assert said(*STACK, "--device", "cpu") == 1
    assert said(*STACK, "--weights", "w.pt") == 0
    assert said("-c", "pitch-salience") == 0
    assert said("-c", "log-mel") == 0


def test_several_devices_say_it_once(hlfeat, tmp_path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.3, 16000), 16000)
    soundfile.write(tmp_path / "b.wav", helpers.tone(0.3, 16000), 16000)
    (tmp_path / "broken.wav").write_bytes(b"")
    done = hlfeat("extract", tmp_path, "-o", tmp_path / "out", *STACK, "--device", "cpu,cpu")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(WARNING) == 1
    assert f"hlfeat: cpu: {tmp_path}/broken.wav: empty: the file has 0 bytes\n" in done.stderr
