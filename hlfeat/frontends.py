"""Audio to time-frequency features, all under one interface; here those with fixed filters: LogMel, Spectrogram.

    forward(x [B, T] or [B, 1, T], lengths=None [B]) -> [B, F, N] or [B, C, F, N]
    num_frames(lengths) -> frames of each clip
    centre_freqs() -> [F], hertz

Frame n of a clip is centred on its sample n * hop. With lengths, everything past a clip's end counts as absent, and
frames past the end come back as zero: a clip's features do not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
import torchaudio.transforms as AT
from torch import Tensor, nn

from hlfeat.masking import Count, frame_mask, mask_frames
from hlfeat.spacing import spaced_frequencies
from hlfeat.spool import Spool


class Frontend(nn.Module):
    """What every frontend has in common: sizes, frame count, and the handling of shapes and lengths.

    A subclass sets the four attributes and computes `local`, what a frame's neighbourhood alone decides, and `rest`,
    what comes after and may look further.
    """

    sample_rate: int
    hop: int  # samples from frame to frame
    n_bands: int  # F
    n_channels: int  # C; one channel is left out of the output's shape

    def centre_freqs(self) -> Tensor:
        """Centre frequency of each band, hertz: [F], detached."""
        raise NotImplementedError

    def reach(self) -> int:
        """Samples on either side of a frame's centre that `local` looks at."""
        raise NotImplementedError

    def local(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Shape: x [B, T], lengths [B] or None -> [B, F, N]; frames past a clip's end may hold anything."""
        raise NotImplementedError

    def rest(self, y: Tensor, frames: Tensor | None) -> Tensor:
        """Shape: y [B, F, N] of `local`, frames [B] or None -> [B, F, N] or [B, C, F, N]."""
        return y

    def rest_of(self, pieces: Iterable[Tensor], spool: Callable[[], Spool]) -> Iterator[Tensor]:
        """The same for one clip in pieces of [1, F, n]; what needs all of them at once is kept in a spool."""
        return iter(pieces)

    def num_frames(self, lengths: Count) -> Count:
        """Frames of clips of these lengths, one or a tensor of them: floor((T - 1) / hop) + 1."""
        return (lengths - 1) // self.hop + 1

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if x.dim() == 3 and x.shape[1] == 1:
            x = x[:, 0]
        if x.dim() != 2 or x.shape[-1] == 0:
            raise ValueError(f"expected waveforms [B, T] or [B, 1, T] with T >= 1, got {list(x.shape)}")
        if lengths is not None and lengths.shape != x.shape[:1]:
            raise ValueError(f"expected lengths [{x.shape[0]}], one a clip, got {list(lengths.shape)}")
        if lengths is not None:
            check_lengths(lengths, x.shape[1])
        if x.shape[0] == 0 and not self.training:  # the FFT and the matrix products know no empty batch
            return self.rest(self.local(x.new_zeros(1, x.shape[1]), None), None)[:0]
        frames = None if lengths is None else self.num_frames(lengths)
        return mask_frames(self.rest(self.local(x, lengths), frames), frames)


def check_lengths(lengths: Tensor, longest: int) -> None:
    """Raises ValueError for lengths outside 0 to `longest`; on a GPU nothing is checked, as that would mean waiting."""
    if lengths.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not bool(((lengths >= 0) & (lengths <= longest)).all()):
        raise ValueError(f"expected lengths of 0 to {longest} samples, got {lengths.tolist()}")


def window_and_hop(sample_rate: int, window_len: float, window_stride: float) -> tuple[int, int]:
    """Window and hop in samples, from milliseconds."""
    window, hop = int(sample_rate * window_len / 1000), int(sample_rate * window_stride / 1000)
    if window < 1 or hop < 1:
        raise ValueError(
            f"expected window and stride of at least one sample, got {window_len} ms and {window_stride} ms "
            f"at {sample_rate} Hz"
        )
    return window, hop


class LogMel(Frontend):
    """torchaudio's log-mel spectrogram under the frontends' interface: log(mel + floor) of the power, HTK mel scale.

    Args:
        n_filters, min_freq, max_freq, sample_rate, window_len, window_stride: as for EfficientLeaf.
        n_fft: FFT size; None for the next power of two from the window up.
        floor: added before the logarithm.

    Shape: x [B, T] or [B, 1, T], lengths [B] or None -> [B, F, N].
    """

    n_channels = 1

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
        self.register_buffer(
            "_centre_freqs",
            torch.from_numpy(spaced_frequencies(n_filters + 2, min_freq, max_freq)[1:-1]),
            persistent=False,
        )
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
        return self.get_buffer("_centre_freqs")

    def reach(self) -> int:
        return int(self.mel.n_fft) // 2

    def local(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return torch.log(power(self.mel.spectrogram, x, lengths, self.mel.mel_scale) + self.floor)


class Spectrogram(Frontend):
    """Log power spectrogram of torchaudio: row f is f * sample_rate / n_fft hertz, the linear axis.

    Args:
        sample_rate, window_len, window_stride, n_fft, floor: as for LogMel.
        n_bands: keep the lowest rows only; None for all n_fft / 2 + 1.

    Shape: x [B, T] or [B, 1, T], lengths [B] or None -> [B, F, N].
    """

    n_channels = 1

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

    def reach(self) -> int:
        return self.n_fft // 2

    def local(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return torch.log(power(self.stft, x, lengths)[:, : self.n_bands] + self.floor)


def fft_size(n_fft: int | None, window: int) -> int:
    """The FFT size asked for, or the next power of two from the window up."""
    if n_fft is None:
        return 1 << (window - 1).bit_length()
    if n_fft < window:
        raise ValueError(f"expected an FFT of at least the window's {window} samples, got {n_fft}")
    return n_fft


def power(stft: AT.Spectrogram, x: Tensor, lengths: Tensor | None, mel: nn.Module | None = None) -> Tensor:
    """Power of the frames whose centre lies inside the clip, in mel bands if asked for, in float32 at least.

    Zeros are put around the clip, as everywhere (reflection would depend on the padding): n_fft - 1 of them, so that
    exactly those frames fit.

    Shape: x [B, T], lengths [B] or None -> [B, rows, (T - 1) // hop + 1].
    """
    with torch.autocast(x.device.type, enabled=False):
        if not x.dtype.is_floating_point or x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if lengths is not None:
            x = x.masked_fill(~frame_mask(lengths, x.shape[-1]), 0.0)
        y = stft(F.pad(x, (stft.n_fft // 2, (stft.n_fft - 1) // 2)))
        # without the modulus, a root that squaring would undo, which takes longer than the FFT
        y = y.real.square().addcmul_(y.imag, y.imag)
        return y if mel is None else mel(y)  # type: ignore[no-any-return]
