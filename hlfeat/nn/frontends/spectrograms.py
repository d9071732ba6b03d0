"""Frontends with fixed filters: log-mel and log power spectrograms of torchaudio."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchaudio.transforms as AT
from torch import Tensor, nn

from hlfeat.config.frontends import LogMelConfig, SpectrogramConfig
from hlfeat.nn._private_torch import exporting
from hlfeat.nn.axes import LinearAxis
from hlfeat.nn.device import without_autocast
from hlfeat.nn.frontends.base import Frontend, window_and_hop
from hlfeat.nn.frontends.compression import Quantity
from hlfeat.nn.frontends.gemm_plan import LEAST_BLOCKS
from hlfeat.nn.frontends.registry import register
from hlfeat.nn.frontends.responses import Responses, mel_responses
from hlfeat.nn.frontends.scales import spaced_frequencies


@register(LogMelConfig)
class LogMel(Frontend):
    """torchaudio's log-mel spectrogram with the interface of a frontend: ln(mel power + floor), HTK mel scale.

    A frame is the Hann window around sample n * hop of the clip with zeros around it; a band is a triangle over FFT
    bins. Nothing is learned.

    Args:
        n_filters: bands F.
        min_freq, max_freq: feet of the lowest and the highest triangle, hertz.
        sample_rate: hertz.
        window_len, window_stride: Hann window and distance of frames, milliseconds.
        n_fft: FFT size, samples; None: the next power of two that holds the window.
        floor: added to the power before the logarithm.

    Shape:
        - x: samples [B, T] or [B, 1, T]; lengths: [B] samples, or None
        - output: [B, F, N], N = (T - 1) // hop + 1; frames past a clip's end are zero

    Raises:
        ValueError: frequencies that do not rise, a window below one sample or above the FFT's size; a waveform of
            another shape.

    Example:
        >>> import hlfeat, torch
        >>> hlfeat.LogMel(n_filters=64)(torch.randn(2, 16000)).shape
        torch.Size([2, 64, 100])
    """

    n_channels = 1
    compresses_exactly = True  # nothing is left to be done
    masks_samples = False

    def __init__(
        self,
        n_filters: int = 80,
        min_freq: float = 60.0,
        max_freq: float = 7800.0,
        sample_rate: int = 16000,
        window_len: float = 25.0,
        window_stride: float = 10.0,
        n_fft: int | None = None,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        if not 0 <= min_freq < max_freq:
            raise ValueError(f"expected 0 <= min_freq < max_freq, got {min_freq} and {max_freq}")
        window, self.hop = window_and_hop(sample_rate, window_len, window_stride)
        self.sample_rate = sample_rate
        self.n_bands = n_filters
        self.floor = floor
        # no buffer, which would move along to devices that have no float64
        self._centre_freqs = torch.from_numpy(spaced_frequencies(n_filters + 2, min_freq, max_freq)[1:-1])
        self.mel = AT.MelSpectrogram(
            sample_rate,
            n_fft=fft_size(n_fft, window),
            win_length=window,
            hop_length=self.hop,
            f_min=min_freq,
            f_max=max_freq,
            n_mels=n_filters,
            center=False,  # `power` puts the zeros around the clip
            power=None,  # and squares by itself
        )

    def centre_freqs(self) -> Tensor:
        return self._centre_freqs

    def quantities(self) -> list[Quantity]:
        return [Quantity("log-mel power", "ln(power)")]

    def responses(self) -> Responses:
        scale = self.mel.mel_scale
        return mel_responses(scale.fb, scale.f_min, scale.f_max, self.sample_rate)

    def receptive_field(self) -> int:
        return int(self.mel.n_fft) // 2

    def window_samples(self) -> int:
        return int(self.mel.win_length)

    def multiply_adds(self) -> float:
        n_fft = int(self.mel.n_fft)
        return fft_multiply_adds(n_fft, self.frame_rate) + self.frame_rate * (n_fft // 2 + 1) * self.n_bands

    def compute_bands(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return torch.log(power(self.mel.spectrogram, x, self.mel.mel_scale) + self.floor)


@register(SpectrogramConfig)
class Spectrogram(Frontend):
    """Log power spectrogram of torchaudio, ln(power + floor): row f is f * sample_rate / n_fft hertz.

    Args:
        sample_rate, window_len, window_stride, n_fft, floor: as for LogMel.
        n_bands: rows F that are kept, the lowest; None: all n_fft / 2 + 1.

    Shape:
        - x: samples [B, T] or [B, 1, T]; lengths: [B] samples, or None
        - output: [B, F, N], N = (T - 1) // hop + 1; frames past a clip's end are zero

    Raises:
        ValueError: more bands than the FFT has, a window below one sample or above the FFT's size; a waveform of
            another shape.

    Example:
        >>> import hlfeat, torch
        >>> spectrogram = hlfeat.Spectrogram(n_fft=512)
        >>> spectrogram(torch.randn(2, 16000)).shape
        torch.Size([2, 257, 100])
        >>> spectrogram.centre_freqs()[:3].tolist()  # hertz
        [0.0, 31.25, 62.5]
    """

    n_channels = 1
    compresses_exactly = True  # nothing is left to be done
    masks_samples = False

    def __init__(
        self,
        sample_rate: int = 16000,
        window_len: float = 25.0,
        window_stride: float = 10.0,
        n_fft: int | None = None,
        n_bands: int | None = None,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        window, self.hop = window_and_hop(sample_rate, window_len, window_stride)
        self.n_fft = fft_size(n_fft, window)
        self.sample_rate = sample_rate
        self.n_bands = self.n_fft // 2 + 1 if n_bands is None else n_bands
        if not 1 <= self.n_bands <= self.n_fft // 2 + 1:
            raise ValueError(f"expected 1 to {self.n_fft // 2 + 1} bands of an FFT of {self.n_fft}, got {n_bands}")
        self.floor = floor
        self.stft = AT.Spectrogram(n_fft=self.n_fft, win_length=window, hop_length=self.hop, center=False, power=None)

    def centre_freqs(self) -> Tensor:
        return torch.arange(self.n_bands, dtype=torch.float64) * (self.sample_rate / self.n_fft)

    def axis(self) -> LinearAxis:
        return LinearAxis()

    def quantities(self) -> list[Quantity]:
        return [Quantity("log power", "ln(power)")]

    def receptive_field(self) -> int:
        return self.n_fft // 2

    def window_samples(self) -> int:
        return int(self.stft.win_length)

    def multiply_adds(self) -> float:
        return fft_multiply_adds(self.n_fft, self.frame_rate)

    def compute_bands(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return torch.log(power(self.stft, x)[:, : self.n_bands] + self.floor)


def fft_size(n_fft: int | None, window: int) -> int:
    """The FFT size asked for, or the next power of two from the window up."""
    if n_fft is None:
        return 1 << (window - 1).bit_length()
    if n_fft < window:
        raise ValueError(f"expected an FFT of at least the window's {window} samples, got {n_fft}")
    return n_fft


def fft_multiply_adds(n_fft: int, frame_rate: float) -> float:
    """An estimate for one second of frames, with their window."""
    return frame_rate * n_fft * (1 + math.log2(n_fft))


def power(stft: AT.Spectrogram, x: Tensor, mel: nn.Module | None = None) -> Tensor:
    """Power of the frames whose centre lies inside the clip, in mel bands if asked for, in float32 at least.

    Zeros are put around the clip, as everywhere (reflection would depend on the padding): n_fft - 1 of them, so that
    exactly those frames fit.

    Shape: x [B, T], zero past each clip's end -> [B, rows, (T - 1) // hop + 1].
    """
    with without_autocast(x.device):
        if not x.dtype.is_floating_point or x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        y: Tensor = stft(F.pad(x, (stft.n_fft // 2, (stft.n_fft - 1) // 2)))
        # without the modulus, a root that squaring would undo, which takes longer than the FFT
        y = y.real.square().addcmul_(y.imag, y.imag)
        if mel is None:
            return y
        frames = y.shape[-1]
        if x.device.type == "cpu" and not exporting() and y.shape[0] * frames < LEAST_BLOCKS:
            y = F.pad(y, (0, LEAST_BLOCKS - frames))  # a product of so few rows rounds otherwise than in a batch
        bands: Tensor = mel(y)
        return bands[..., :frames]
