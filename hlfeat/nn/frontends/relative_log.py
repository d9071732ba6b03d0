"""RelativeLog: the logarithm of energies relative to their frame, which is the same at every level of a recording."""

from __future__ import annotations

import torch
from torch import Tensor

from hlfeat.nn.frontends.compression import Compression, Log1p, Quantity

SILENCE = 1e-13  # mean energy below which a frame counts as silent: a sinusoid some 115 dB below full scale


class RelativeLog(Compression):
    """log(1 + 10^a x / m), with m the mean of the frame's bands.

    Features do not change with the level of a recording, and no frame depends on another: a gain cancels in x / m, as
    long as m is well above 1e-13, that of a sinusoid some 115 dB below full scale. Digital silence gives zeros.

    Source: the logarithm is that of Schlüter & Gutenbrunner, "EfficientLEAF", EUSIPCO 2022, section 3; the division is
    hlfeat's own.

    Args:
        num_bands: bands F.
        a: exponent of the factor in front of x / m: how far below the frame's mean energies still count.
        trainable, per_band: whether a is a parameter, and whether each band has its own.

    Shape: x [B, F, N], energies, not negative -> [B, F, N].

    Example:
        >>> import hlfeat, torch
        >>> compress, x = hlfeat.RelativeLog(40), torch.rand(2, 40, 100)
        >>> torch.allclose(compress(x), compress(1e-4 * x))  # 40 dB softer
        True
    """

    name = "relative-log"

    def __init__(self, num_bands: int, a: float = 1.5, trainable: bool = False, per_band: bool = False) -> None:
        super().__init__()
        self.log1p = Log1p(num_bands, a, trainable, per_band)

    def quantities(self) -> list[Quantity]:
        return [Quantity("log energy relative to the frame", "ln(1 + 10ᵃE/mean)")]

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """Shape: x [B, F, N], frames [B] or None, as every frame stands alone -> [B, F, N]."""
        least = max(SILENCE, torch.finfo(x.dtype).tiny)  # float16 rounds the former to zero
        return self.log1p(x / x.mean(-2, keepdim=True).clamp(min=least))  # type: ignore[no-any-return]
