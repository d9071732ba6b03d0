"""Other ways for a GPU to compute a filterbank's energies than the one that the modules take: to be measured.

hlfeat/nn/frontends/strided.py is what they take; `products_pay` in hlfeat/nn/frontends/gabor.py is where that is
decided.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from hlfeat.nn.frontends import gemm
from hlfeat.nn.frontends.gabor import GaborFilterbank
from hlfeat.nn.frontends.gemm_plan import GroupFilters, group_filters
from hlfeat.nn.frontends.taps import Taps

log = logging.getLogger("hlfeat")


class Products(nn.Module):
    """Matrix products of folded frames, as on a CPU. Shape: x [B, T] -> [B, F, N]."""

    def __init__(self, bank: GaborFilterbank) -> None:
        super().__init__()
        self.bank = bank
        self._kept: list[GroupFilters] | None = None

    def _filters(self) -> list[GroupFilters]:
        return [group_filters(taps) for taps in self.bank.make_taps(at_once=True)]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return gemm.energies(x, None, self._filters(), self.bank.hop)
        self._kept = self._kept or self._filters()
        return gemm.energies(x, None, self._kept, self.bank.hop)

    def train(self, mode: bool = True) -> Products:
        self._kept = None
        return super().train(mode)


class TritonFilterbank(nn.Module):
    """hlfeat/bench/triton_energies.py, which has no gradient. Shape: x [B, T] -> [B, F, N]."""

    def __init__(self, bank: GaborFilterbank) -> None:
        super().__init__()
        self.bank = bank
        self._kept: tuple[list[Taps], list[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        from hlfeat.bench import triton_energies

        if self._kept is None:
            taps = self.bank.make_taps()
            self._kept = taps, [triton_energies.packed(t) for t in taps]
        return triton_energies.energies(x, None, *self._kept)


def others(bank: GaborFilterbank, device: torch.device) -> dict[str, nn.Module]:
    """The ways that the device can compute; a kernel that does not run there is logged, and left out."""
    ways: dict[str, nn.Module] = {"products, filterbank": Products(bank)}
    kernel = TritonFilterbank(bank).eval()
    try:
        with torch.no_grad():
            kernel(torch.zeros(1, 16000, device=device))
        ways["Triton, filterbank"] = kernel
    except Exception as e:  # the compiler's, the driver's or an import's: the other ways are measured all the same
        log.warning("the Triton filterbank does not run on %s: %s: %s", device, type(e).__name__, str(e)[:300])
    return ways
