"""What an extractor makes of digital silence, by which frames are known that have no pitch.

A salience without biases is the same in all of its rows then. Training adds biases and norms, which prefer some rows,
and so does the edge of a clip, where layers meet their padding. So the rows of silence are computed once, with both
edges, and compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hlfeat.nn.extractor import Extractor

ROUNDING = 1e-5  # of the largest value: windows and batches of other sizes sum float32 in another order


class Silence:
    """The frames that an extractor makes of digital silence.

    A stack that looks at whole clips (instance norm) makes these of a silent clip, and others of silence in a clip.

    Args:
        extractor: of one channel, in eval mode, on the CPU.
    """

    def __init__(self, extractor: Extractor) -> None:
        y = _of_zeros(extractor)
        y = y[y.isfinite().all(1) & (y.amax(1) > y.amin(1))]  # frames of equal rows have no pitch as it is
        self._tolerance = ROUNDING * float(y.abs().amax()) if len(y) else 0.0
        frames: list[Tensor] = []
        for frame in y:
            if not any(self._same(frame, other) for other in frames):
                frames.append(frame)
        self._frames = frames  # [F] each

    def _same(self, y: Tensor, frame: Tensor) -> Tensor:
        return (y - frame).abs().amax(-1) <= self._tolerance

    def __call__(self, y: Tensor) -> Tensor:
        """Which frames are those of silence.

        Shape: [..., n, F] -> bool [..., n].
        """
        silent = torch.zeros(y.shape[:-1], dtype=torch.bool)
        for frame in self._frames:
            silent |= self._same(y, frame)
        return silent


def _of_zeros(extractor: Extractor) -> Tensor:
    """The features of silence that is long enough for frames which reach neither edge: [N, F]."""
    frontend, stack = extractor.frontend, extractor.stack
    frames = 2 * (stack.receptive_field or 0) + 4 * stack.stride
    samples = frames * frontend.hop + 2 * frontend.receptive_field()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # workers are forked later, in which threads that have begun would be missing
    try:
        with torch.no_grad():
            y: Tensor = extractor(torch.zeros(1, samples))[0, 0].T.float()
    finally:
        torch.set_num_threads(threads)
    return y
