"""Resampling by torchaudio's windowed-sinc interpolation, with one kernel for each source rate.

torchaudio tabulates its kernel for every phase between the two rates. For rates without a large common divisor
(44,101 Hz to 16,000 Hz) that table would take gigabytes, so the same sum is evaluated tap by tap.

Filters are computed in float64, on the CPU: not every device has float64. Products are in float32 on every device,
whatever torch is set to.
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext

import torch
import torchaudio.transforms as AT
from torch import Tensor

from hlfeat.precision import float32_precision

MAX_TABLE = 1 << 22  # taps: 16 MiB
KEPT_TABLES = 1 << 24  # taps of all tables together: each clip may have another rate
WIDTH = 6  # zero crossings on either side, torchaudio's default
ROLLOFF = 0.99  # of the lower Nyquist frequency, torchaudio's default


class Resampler:
    """Resamples from any rate to `rate` (hertz). Safe to call from several threads.

    Shape: [C, T] -> [C, ceil(T * rate / source_rate)].
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._kernels: dict[tuple[int, torch.device], AT.Resample] = {}
        self._lock = threading.Lock()

    def __call__(self, x: Tensor, source_rate: int) -> Tensor:
        if source_rate == self.rate:
            return x
        old, new, width = self.ratio(source_rate)
        if new * (old + 2 * width) > MAX_TABLE:
            return resample_direct(x, old, new)
        with self._lock:
            key = source_rate, x.device
            kernel = self._kernels.get(key)
            if kernel is None:
                # in float64, rounded once: the error of a float32 kernel is 1e-4 of full scale for 11,025 Hz
                exact = AT.Resample(
                    source_rate, self.rate, lowpass_filter_width=WIDTH, rolloff=ROLLOFF, dtype=torch.float64
                )
                kernel = self._kernels[key] = exact.float().to(x.device)
                while sum(k.kernel.numel() for k in self._kernels.values()) > KEPT_TABLES:
                    del self._kernels[next(iter(self._kernels))]
        # TF32 would put noise into all bands, some 75 dB below the signal. (On a CPU the settings of the process stay
        # as they are: threads that load audio must not change what others compute on a GPU.)
        with nullcontext() if x.device.type == "cpu" else float32_precision(tf32=False):
            return kernel(x)  # type: ignore[no-any-return]

    def ratio(self, source_rate: int) -> tuple[int, int, int]:
        """(old, new, width): `old` input samples become `new`; each depends on `width` input samples on either side."""
        divisor = math.gcd(source_rate, self.rate)
        old, new = source_rate // divisor, self.rate // divisor
        return old, new, half_width(old, new)


def half_width(old: int, new: int) -> int:
    """Input samples on either side that an output sample depends on."""
    return math.ceil(WIDTH * old / (min(old, new) * ROLLOFF))


def resample_direct(x: Tensor, old: int, new: int, block: int = 1 << 20) -> Tensor:
    """Hann-windowed sinc interpolation without a table: the taps of each output sample are computed.

    y[n] = sum over k of x[k] h(n / new - k / old), h(t) = (b / old) sinc(b t) cos(pi b t / (2 w))^2 for |b t| < w,
    where b is the lower of the two rates times the rolloff, and w the number of zero crossings. This is torchaudio's
    filter.

    Shape: x [C, T], rates without a common divisor -> [C, ceil(T * new / old)].
    """
    width, cutoff = half_width(old, new), min(old, new) * ROLLOFF
    taps = torch.arange(-width, width + 2)
    step = max(1, block // (len(taps) * len(x)))  # output samples at once: bounded memory whatever the rates
    padded = torch.nn.functional.pad(x, (width, width + 2))
    out = x.new_empty(x.shape[0], -(-x.shape[1] * new // old))
    for start in range(0, out.shape[1], step):
        n = torch.arange(start, min(start + step, out.shape[1]))
        first = n * old // new  # the input sample at or before each output sample
        # n / new - k / old, exact in integers up to one division
        offset = (n * old - first * new)[:, None] - taps * new  # [n, taps], in units of 1 / (old new)
        t = (offset.double() * (cutoff / (old * new))).clamp(-WIDTH, WIDTH)
        h = torch.sinc(t) * torch.cos(t * (math.pi / (2 * WIDTH))).square() * (cutoff / old)
        at = (first[:, None] + taps + width).to(x.device)  # [n, taps], in `padded`
        out[:, start : start + step] = (padded[:, at] * h.to(x.dtype).to(x.device)).sum(-1)  # [C, n, taps] -> [C, n]
    return out
