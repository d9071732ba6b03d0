"""PCEN: per-channel energy normalisation, in parallel over frames and in chunks of a long clip.

Source: Wang et al., "Trainable Frontend For Robust and Far-Field Keyword Spotting", ICASSP 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlfeat.nn._private_torch import exporting
from hlfeat.nn.device import without_autocast
from hlfeat.nn.frontends.compression import Compression, Quantity
from hlfeat.nn.frontends.gabor import clamp_keep_grad
from hlfeat.nn.frontends.spill import SpillFile
from hlfeat.nn.masking import Inside

BLOCK = 32  # frames that one triangular product covers


def smooth(x: Tensor, s: Tensor, before: Tensor | None = None) -> Tensor:
    """M_t = (1 - s) M_{t-1} + s x_t with M_0 = x_0, or from M_{-1} = `before` on, per band.

    As a recursion from rest, whose first input is x_0 / s. (Smoothing x - x_0 and adding x_0 back would do too, but
    cancels catastrophically where a loud first frame is followed by silence.)

    Shape: x [B, F, N], s [F], before [B, F, 1] or None -> [B, F, N].
    """
    first = x[..., :1]
    if before is not None:
        first = (1 - s[:, None]) * before + s[:, None] * first
    start = torch.cat([first, s[:, None] * x[..., 1:]], dim=-1)
    if exporting():
        return doubling_sum(start, 1 - s)
    return decaying_sum(start, 1 - s)


def decaying_sum(x: Tensor, a: Tensor) -> Tensor:
    """y_t = a y_{t-1} + x_t from rest, in log N steps: blocks by a product, their carries by the same recursion.

    Only powers of `a` are multiplied, so nothing grows with N where |a| <= 1.

    Shape: x [B, F, N], a [F] -> [B, F, N].
    """
    n = x.shape[-1]
    if n <= BLOCK:
        return torch.matmul(x.unsqueeze(-2), powers(a, n)).squeeze(-2)
    count = n // BLOCK + 1
    blocks = F.pad(x, (0, count * BLOCK - n)).reshape(*x.shape[:2], count, BLOCK)  # [B, F, count, BLOCK]
    inside = blocks @ powers(a, BLOCK)
    carry = decaying_sum(inside[..., -1], a**BLOCK)  # [B, F, count]
    before = F.pad(carry[..., :-1], (1, 0)).unsqueeze(-1)
    steps = torch.arange(1, BLOCK + 1, device=a.device)
    return (inside + before * (a[:, None] ** steps)[:, None]).flatten(-2)[..., :n]


DOUBLINGS = 20  # 2^20 frames: nearly three hours of 10 ms


def doubling_sum(x: Tensor, a: Tensor) -> Tensor:
    """The same for torch.export, where N is not known: sums over 1, 2, 4, ... frames, each from two of the one before.

    Frames further back than 2^DOUBLINGS are left out; their factor a^(2^DOUBLINGS) is zero in float32 where a < 0.9999.

    Shape: x [B, F, N], a [F] -> [B, F, N].
    """
    n = x.shape[-1]
    for i in range(DOUBLINGS):
        x = x + (a ** (1 << i))[:, None] * F.pad(x, (1 << i, 0))[..., :n]
    return x


def powers(a: Tensor, n: int) -> Tensor:
    """The matrix that sums up n frames, each decayed by its age: entry (j, i) is a^(i - j) for i >= j.

    Shape: a [F] -> [F, n, n].
    """
    age = torch.arange(n, device=a.device)
    age = age - age[:, None]
    return torch.where(age >= 0, a[:, None, None] ** age.clamp(min=0), 0.0)


NEAR_ZERO = 1e-6  # below it, roots have the slope that they have there


def root(x: Tensor, r: Tensor) -> Tensor:
    """x^r with finite gradients for x >= 0: the slope r x^(r - 1) is that at `NEAR_ZERO` or above.

    Training may take an offset to zero, where the slope of a root is infinite; a step of Adam would make it NaN.

    Shape: x [...], r broadcastable to it -> [...].
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or r.requires_grad)):
        return x**r
    y = clamp_keep_grad(x, NEAR_ZERO, None) ** r
    with torch.no_grad():
        rest = x**r - y  # zero where x is not below NEAR_ZERO, so that the result is x^r to the bit
    return y + rest


class PCEN(Compression):
    """Per-channel energy normalisation: y = (x / (eps + M)^alpha + delta)^r - delta^r.

    M is x smoothed over time: M_t = (1 - s) M_{t-1} + s x_t, M_0 = x_0. Source: Wang et al., "Trainable Frontend For
    Robust and Far-Field Keyword Spotting", ICASSP 2017, equations 1 and 2. EfficientLeaf's "pcen" is PCEN(F, s=0.04,
    alpha=0.96, delta=2, r=0.5, eps=1e-12, learn_logs=False, clamp=1e-5).

    Args:
        num_bands: bands F; every band has its own s, alpha, delta and r.
        s: smoothing coefficient, 0 < s <= 1.
        alpha, delta, r: exponent of the gain, offset, exponent of the root.
        eps: added to M.
        learn_logs: store the parameters' logarithms. Otherwise r is stored as 1 / r, and values are clamped: alpha to
            at most 1, delta to at least 0, the stored r to at least 1. In either case s is clamped to [0, 1], as a
            smoother outside of it explodes. Gradients ignore the clamps.
        clamp: energies below it are raised to it; None: they are not.

    Shape: x [B, F, N], energies, not negative; frames [B] or None -> [B, F, N]. A frame depends on itself and earlier
        frames, so padding at the end has no influence.

    Example:
        >>> import hlfeat, torch
        >>> hlfeat.PCEN(40, s=0.04, alpha=0.96, delta=2.0, r=0.5)(torch.rand(2, 40, 100)).shape
        torch.Size([2, 40, 100])
    """

    name = "pcen"
    depends_on = "all before"

    def __init__(
        self,
        num_bands: int,
        s: float = 0.025,
        alpha: float = 1.0,
        delta: float = 1.0,
        r: float = 1.0,
        eps: float = 1e-6,
        learn_logs: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.learn_logs = learn_logs
        self.clamp = clamp
        # the powers of a single band are computed as those of one row, in vectors that reach from clip to clip, and
        # torch rounds otherwise in what is left over at the end
        self.exact_in_batches = num_bands > 1

        def parameter(value: float) -> nn.Parameter:
            stored = torch.full((num_bands,), float(value))
            return nn.Parameter(stored.log() if learn_logs else stored)

        self.s = parameter(s)
        self.alpha = parameter(alpha)
        self.delta = parameter(delta)
        self.r = parameter(r if learn_logs else 1 / r)

    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s, alpha, delta and r as the formula uses them: 4 x [F]."""
        if self.learn_logs:
            return clamp_keep_grad(self.s.exp(), None, 1.0), self.alpha.exp(), self.delta.exp(), self.r.exp()
        return (
            clamp_keep_grad(self.s, 0.0, 1.0),
            clamp_keep_grad(self.alpha, None, 1.0),
            clamp_keep_grad(self.delta, 0.0, None),
            1 / clamp_keep_grad(self.r, 1.0, None),
        )

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        return self._normalise(x, None)[0]

    def stream(
        self, chunks: Iterable[Tensor], open_spill: Callable[[], SpillFile], inside: Inside | None = None
    ) -> Iterator[Tensor]:
        smoothed = None
        for chunk in chunks:
            y, smoothed = self._normalise(chunk, smoothed)
            yield y

    def quantities(self) -> list[Quantity]:
        return [Quantity("energy, PCEN", "")]

    def _normalise(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output, and M of the last frame: [B, F, N], [B, F, 1]."""
        with without_autocast(x.device):
            s, alpha, delta, r = self.values()
            x = x.to(s.dtype)
            if self.clamp is not None:
                x = x.clamp(min=self.clamp)
            smoothed = smooth(x, s, before)
            gain = (self.eps + smoothed) ** -alpha[:, None]
            delta, r = delta[:, None], r[:, None]
            y = x * gain + delta
            above_zero = self.learn_logs or self.clamp is not None
            return (y**r if above_zero else root(y, r)) - root(delta, r), smoothed[..., -1:]
