"""Other ways for a GPU to compute a filterbank's energies than the one that the modules take: to be measured.

`products_pay` and `GaborFilterbank.forward` in hlfeat/nn/frontends/gabor.py are where that is decided.
"""

from __future__ import annotations

from torch import Tensor, nn

from hlfeat.nn.frontends import gemm, strided
from hlfeat.nn.frontends.gabor import GaborFilterbank
from hlfeat.nn.frontends.gemm_plan import GroupFilters, group_filters
from hlfeat.nn.frontends.taps import Taps


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


class Convolutions(nn.Module):
    """One strided convolution a group, as where Triton does not run, and in training. Shape: x [B, T] -> [B, F, N]."""

    def __init__(self, bank: GaborFilterbank) -> None:
        super().__init__()
        self.bank = bank
        self._kept: list[Taps] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return strided.energies(x, None, self.bank.make_taps(at_once=True))
        self._kept = self._kept or self.bank.make_taps(at_once=True)
        return strided.energies(x, None, self._kept)

    def train(self, mode: bool = True) -> Convolutions:
        self._kept = None
        return super().train(mode)


def others(bank: GaborFilterbank) -> dict[str, nn.Module]:
    """The ways that the modules do not take on a GPU, or in training alone."""
    return {"products, filterbank": Products(bank), "convolutions, filterbank": Convolutions(bank)}
