"""The picture of a long clip: that of its features in one piece, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.config.loading import load_config
from hlfeat.extraction.options import Limits
from hlfeat.plotting import clip_view
from hlfeat.plotting.clip_view import view
from hlfeat.plotting.columns import Columns
from tests import helpers
from tests.plotting.test_plot import FEW

MOST_BYTES = 1_000_000_000
PROGRAM = """
import sys
from hlfeat.cli.app import main
try:
    main()
finally:  # getrusage would count the tests' own process too, of which this one was forked
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024, file=sys.stderr)
"""


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "pitch-salience"])
def test_an_hour_takes_less_than_a_gigabyte(tmp_path: Path, config: str):
    minute = helpers.tone(60, 16000) + helpers.tone(60, 16000, 700)[::-1]
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 16000, 1) as file:
        for _ in range(60):
            file.write(minute)
    command = [sys.executable, "-c", PROGRAM, "plot", "hour.wav", "-c", config, "-o", "hour.png", "--dpi", "60"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "hour.png\n"
    assert int(done.stderr.splitlines()[-1]) < MOST_BYTES


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "eleaf-pcen", "eleaf-harmonic", "pitch-salience"])
def test_windows_make_the_picture_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str):
    overrides = [] if config == "pitch-salience" else FEW
    soundfile.write(tmp_path / "a.flac", helpers.tone(30, 44100), 44100)
    cfg = load_config(config, overrides)
    monkeypatch.setattr(clip_view, "DEFAULT_LIMITS", Limits(window_samples=16000, window_frames=64))
    drawn = view(Clip("a", str(tmp_path / "a.flac")), cfg, "")
    extractor = hlfeat.build(cfg).eval()
    samples = hlfeat.load_audio(tmp_path / "a.flac", 16000)
    with torch.no_grad():
        whole = extractor(samples)[0].numpy()
    for image, channel in zip(drawn.stack or drawn.frontend, whole, strict=False):
        columns = Columns(*channel.shape)
        columns.add(channel)
        np.testing.assert_allclose(image.values, columns.values, atol=2e-4 * np.abs(columns.values).max())
    assert drawn.waveform.samples == samples.shape[1]
    assert drawn.waveform.high.max() == pytest.approx(samples.max().item())
    if config == "pitch-salience":
        line = drawn.stack[0].pitch
        assert line is not None
        assert np.nanmedian(line.hertz) == pytest.approx(440, rel=0.01)
        assert len(line.hertz) < 2100
