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
from torch import Tensor, nn

from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.masking import Count, mask_frames


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

    def rest_of(self, pieces: Iterable[Tensor], spool: Callable[[], SpillFile]) -> Iterator[Tensor]:
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
