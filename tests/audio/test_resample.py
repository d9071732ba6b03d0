"""Resampling: torchaudio's result, at any rate, in bounded memory."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torchaudio.functional as AF
import torchaudio.transforms as AT
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hlfeat.audio import resample
from hlfeat.audio.resample import Resampler, resample_direct
from hlfeat.precision import float32_precision
from tests.fake_device import FakeDevice


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
def test_is_torchaudios(rate):
    x = torch.randn(2, 3000)
    want = AT.Resample(rate, 16000, dtype=torch.float64)(x.double())
    torch.testing.assert_close(Resampler(16000)(x, rate).double(), want, rtol=0, atol=5e-6)


@given(old=st.integers(1, 60), new=st.integers(1, 60), n=st.integers(1, 500))
def test_tap_by_tap_is_the_same_sum(old, new, n):
    divisor = math.gcd(old, new)
    x = torch.randn(1, n, generator=torch.Generator().manual_seed(n))
    want = AF.resample(x, old, new) if old != new else x
    got = resample_direct(x, old // divisor, new // divisor, block=640) if old != new else x
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [44101, 15999, 16001, 7919])
def test_rates_without_a_common_divisor(rate, monkeypatch):
    called = []
    monkeypatch.setattr(resample, "resample_direct", lambda *a: (called.append(1), resample_direct(*a))[1])
    seconds = np.arange(rate) / rate
    x = torch.from_numpy(np.sin(2 * np.pi * 440 * seconds)).float()[None]
    y = Resampler(16000)(x, rate)
    assert called
    assert y.shape == (1, 16000)
    want = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(y[0, 200:-200].numpy(), want[200:-200], atol=3e-3)  # the filter's own ripple


def test_of_many_rates_few_tables_are_kept():
    """Every clip may have a rate of its own; a table made again is the same."""
    resampler, x = Resampler(16000), torch.randn(1, 500)
    first = resampler(x, 8000)
    for rate in range(44000, 44800, 20):
        resampler(x, rate)
        assert sum(k.kernel.numel() for k in resampler._kernels.values()) <= 1 << 24  # 64 MiB
    assert torch.equal(resampler(x, 8000), first)


class Watch(TorchDispatchMode):
    """Notes cuDNN's precision at each convolution."""

    def __init__(self):
        super().__init__()
        self.convolutions = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "convolution":
            self.convolutions.append(torch.backends.cudnn.conv.fp32_precision)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wrapped", [False, True])
def test_never_in_tf32(wrapped):
    """With torch's own settings, which allow cuDNN to use it, and where a run asks for it."""
    before = torch.backends.cudnn.conv.fp32_precision
    assert before == "tf32"
    with FakeDevice() as device, float32_precision(True) if wrapped else nullcontext():
        with Watch() as watch:
            assert Resampler(16000)(device.empty(2, 4410), 44100).shape == (2, 1600)
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert watch.convolutions == ["ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_on_a_cpu_settings_of_the_process_are_left_alone():
    with Watch() as watch:
        Resampler(16000)(torch.zeros(1, 4410), 44100)
    assert watch.convolutions == ["tf32"]


@pytest.mark.parametrize("rate", [8000, 44100, 44101])
def test_nothing_on_a_device_is_in_float64(rate):
    """Some devices have none."""
    with FakeDevice() as device, device.counting() as counts:
        assert Resampler(16000)(device.empty(2, rate), rate).shape == (2, 16000)
    assert counts.launches > 0
    assert not counts.float64
