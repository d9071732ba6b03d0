"""Frontend: the interface of everything that turns audio into bands and frames.

    forward(x [B, T] or [B, 1, T], lengths=None [B]) -> [B, F, N] or [B, C, F, N]

Frame n of a clip is centred on its sample n * hop. With lengths, everything past a clip's end counts as absent, and
frames past the end come back as zero: a clip's features do not depend on its neighbours in the batch. (The shape of
the batch can change them by the rounding of float32, as it decides which kernels a GPU runs.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hlfeat.nn.axes import Axis, centre_axis
from hlfeat.nn.frontends.compression import Quantity
from hlfeat.nn.frontends.responses import Responses
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.masking import Count, Inside, past_end, zero_where


class Frontend(nn.Module):
    """Base class of frontends: handles shapes and lengths; says what pictures, tables and streaming have to know.

    A subclass sets the four attributes and defines `centre_freqs`, `receptive_field` and `compute_bands`, and those of
    the others whose default is wrong for it. `@register(ConfigClass)` (hlfeat/nn/frontends/registry.py) lets
    configurations name it.

    The computation has two steps, so that a clip of any length fits into memory: `compute_bands` looks at a frame's
    neighbourhood alone and runs on overlapping windows; `compress` may look at all earlier frames or at the whole clip,
    and has a streaming form.
    """

    sample_rate: int
    hop: int  # samples from frame to frame
    n_bands: int  # F
    n_channels: int  # C; one channel is left out of the output's shape
    # whether `compress` gives a clip of a batch of clips of its length, in eval mode on a CPU, as it does alone, to the
    # bit; where it does not, a run compresses clips one by one
    compresses_exactly: bool = False
    # whether `compute_bands` leaves out by itself what lies past a clip's end; where it does not, `forward` sets that
    # to zero before, with the mask that it needs for frames anyway
    masks_samples: bool = True

    @classmethod
    def from_config(cls, config: Any, sample_rate: int) -> Frontend:
        """The frontend of a configuration, whose fields are arguments of the constructor. Raises ValueError."""
        return cls(sample_rate=sample_rate, **config.model_dump(exclude={"kind"}))

    def centre_freqs(self) -> Tensor:
        """Centre frequency of each band, hertz: [F], detached."""
        raise NotImplementedError

    def axis(self) -> Axis:
        """Where the bands lie, for harmonic convolution. Raises AxisError for frequencies that are not finite."""
        return centre_axis(self.centre_freqs())

    def axis_parameters(self) -> list[Tensor]:
        """Parameters that move the axis when they are trained; none where the bands are fixed."""
        return []

    def receptive_field(self) -> int:
        """Samples on either side of a frame's centre that `compute_bands` looks at."""
        raise NotImplementedError

    def compute_bands(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The bands, before compression; frames past a clip's end may hold anything.

        Shape: x [B, T], past a clip's end zero unless `masks_samples`; lengths [B] or None -> [B, F, N].
        """
        raise NotImplementedError

    def compress(self, bands: Tensor, frames: Tensor | None, inside: Inside | None = None) -> Tensor:
        """Shape: bands [B, F, N] of `compute_bands`, frames [B] or None -> [B, F, N] or [B, C, F, N].

        Args:
            inside: the frames of the clips alone, which decide what is found out about a whole clip. It is given to
                frontends that look at whole clips, as `compression_summary` says, and only where there are others.
        """
        return bands

    def compress_stream(
        self, chunks: Iterable[Tensor], open_spill: Callable[[], SpillFile], inside: Inside | None = None
    ) -> Iterator[Tensor]:
        """`compress` of one clip in chunks [1, F, n], in order. A spill file keeps what needs all of them."""
        return iter(chunks)

    def quantities(self) -> list[Quantity]:
        """What each channel is, and its unit: C of them."""
        return [Quantity("features", "")] * self.n_channels

    def responses(self) -> Responses | None:
        """What the filters let through; None where there are no filters but an FFT's own."""
        return None

    def multiply_adds(self) -> float:
        """An estimate of what `compute_bands` takes for one second of audio; the default is one convolution a band."""
        return float(self.window_samples() * self.n_bands * self.frame_rate)

    def window_samples(self) -> int:
        """Samples, from the first to the last, that have a say in one frame of `compute_bands`."""
        return 2 * self.receptive_field() + 1

    def compression_summary(self) -> tuple[str, str]:
        """The compression's name, and which frames it looks at beside its own: "", "all before" or "whole clip"."""
        return "", ""

    def said_inside(self, inside: Inside | None) -> tuple[Inside, ...]:
        """What is given to `compress` and `compress_stream` after their other arguments."""
        return () if inside is None or self.compression_summary()[1] != "whole clip" else (inside,)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop

    def num_frames(self, lengths: Count) -> Count:
        """Frames of clips of these lengths in samples, one or a tensor of them: ceil(T / hop)."""
        return (lengths + (self.hop - 1)) // self.hop

    def forward(self, x: Tensor, lengths: Tensor | None = None, inside: Inside | None = None) -> Tensor:
        if x.dim() == 3 and x.shape[1] == 1:
            x = x[:, 0]
        if x.dim() != 2 or x.shape[-1] == 0:
            raise ValueError(f"expected waveforms [B, T] or [B, 1, T] with T >= 1, got {list(x.shape)}")
        if lengths is not None and lengths.shape != x.shape[:1]:
            raise ValueError(f"expected lengths [{x.shape[0]}], one a clip, got {list(lengths.shape)}")
        if lengths is not None:
            check_lengths(lengths, x.shape[1])
        if x.shape[0] == 0 and not self.training:  # the FFT and the matrix products cannot take an empty batch
            return self.compress(self.compute_bands(x.new_zeros(1, x.shape[1]), None), None)[:0]
        if lengths is None:
            return self.compress(self.compute_bands(x, None), None, *self.said_inside(inside))
        absent = past_end(lengths, x.shape[1])  # [B, T]
        y = self.compute_bands(x if self.masks_samples else zero_where(absent, x), lengths)
        if type(self).compress is not Frontend.compress:  # which does not ask how many frames there are
            y = self.compress(y, self.num_frames(lengths), *self.said_inside(inside))
        return zero_where(absent[:, :: self.hop], y)  # a frame exists where the sample that it is centred on does


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
