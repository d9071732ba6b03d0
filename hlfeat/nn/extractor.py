"""Frontend and stack as one module: waveforms to features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from hlfeat.nn._private_torch import compiler_imported, exporting
from hlfeat.nn.frontends import base as frontends_base
from hlfeat.nn.layers.base import Layer
from hlfeat.nn.layers.stack import Stack
from hlfeat.nn.masking import Count
from hlfeat.nn.parameter_cache import parameter_key


class Extractor(nn.Module):
    """Waveforms to features: a frontend, and the layers of a stack after it. `hlfeat.build` makes one.

    Args:
        frontend: EfficientLeaf, Leaf, LogMel or Spectrogram.
        layers: what follows, in order; harmonic layers have the axis of their input.

    Shape:
        - x: [B, T] or [B, 1, T], samples at frontend.sample_rate; lengths: [B] samples, or None
        - output: [B, C, F, N]; frames past a clip's end are zero

    Attributes:
        n_channels, n_bands: C and F.
        hop: samples from frame to frame.
        first_centre: samples from the beginning of a clip to the centre of its first frame; half samples may occur.
        sample_rate: hertz.

    Raises:
        ValueError: waveforms or lengths of another shape.
        AxisError: training has made frequencies of filters NaN, and a harmonic layer follows.

    Example:
        >>> import hlfeat, torch
        >>> extractor = hlfeat.Extractor(hlfeat.LogMel(n_filters=40)).eval()
        >>> extractor(torch.zeros(2, 16000), torch.tensor([16000, 8000])).shape
        torch.Size([2, 1, 40, 100])
        >>> extractor.num_frames(8000)
        50
    """

    def __init__(self, frontend: frontends_base.Frontend, layers: Sequence[Layer] = ()) -> None:
        super().__init__()
        self.frontend = frontend
        self.stack = Stack(layers)
        self.n_channels, self.n_bands = self.stack.output_size(frontend.n_channels, frontend.n_bands)
        self.hop = frontend.hop * self.stack.stride
        self.first_centre = frontend.hop * self.stack.shift
        self.sample_rate = frontend.sample_rate
        self._axis_of: object = None

    def num_frames(self, lengths: Count) -> Count:
        """Frames of clips of these lengths in samples, one or a tensor of them."""
        return self.stack.num_frames(self.frontend.num_frames(lengths))

    def follow_centre_freqs(self) -> None:
        """Set the axis of harmonic layers to where the frontend's filters are now.

        The frequencies have to be copied to the host, for which a GPU is waited for. So this is done only after they
        have changed: in training, in every step. An export takes them as the call before it has found them.
        """
        if not len(self.stack.layers) or not self.frontend.axis_parameters() or exporting():
            return
        if compiler_imported():
            from hlfeat.nn._untraced import untraced

            untraced(self._follow)
        else:
            self._follow()

    def _follow(self) -> None:
        parameters = self.frontend.axis_parameters()
        key = parameter_key(parameters)
        if key != self._axis_of:
            self.stack.set_axis(self.frontend.axis())
            self._axis_of = key

    def output_freqs(self) -> np.ndarray | None:
        """Frequencies of the output's rows in hertz; None if they have none, as behind a projection.

        Rows rise in frequency unless training has made filters cross.

        Shape: -> float64 [F].
        """
        return self.stack.output_freqs(self.frontend.centre_freqs().cpu().double().numpy())

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.follow_centre_freqs()
        frames = None if lengths is None or not len(self.stack) else self.frontend.num_frames(lengths)
        return self.layers(self.frontend(x, lengths), frames)

    def layers(self, y: Tensor, frames: Tensor | None = None) -> Tensor:
        """The stack alone.

        Shape: y [B, F, N] or [B, C, F, N] of the frontend, frames [B] or None -> [B, C, F, N].
        """
        if y.dim() == 3:
            y = y[:, None]  # [B, 1, F, N]
        return self.stack(y, frames)[0]  # type: ignore[no-any-return]
