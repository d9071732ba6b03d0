"""The filterbank against float64 loops in the words of the paper, and the life of its cached filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.nn.frontends import gabor, gemm, gemm_pieces, scales, taps


def plain_energies(bank: gabor.GaborFilterbank, x: torch.Tensor) -> torch.Tensor:
    """One filter after the other, whole signal, float64, straight from the formulas: [B, T] -> [B, F, N]."""
    z, p = math.sqrt(2 * math.log(2)) / math.pi, bank.pool_size
    centers = bank.center_freqs.detach().clamp(0, math.pi).float()
    sigmas = bank.bandwidths.detach().clamp(2 * z, p * z).float()
    widths = bank.pooling_widths.detach().clamp(2 / p, 0.5).double()
    n, hop = len(centers), bank.hop
    rows = []
    grouping = bank.grouping
    for g in range(grouping.num_groups):
        lo, hi = g * n // grouping.num_groups, (g + 1) * n // grouping.num_groups
        limit = max(1.0, math.pi / float(centers[lo:hi].max()) * grouping.stride_factor)
        s = max(d for d in range(1, hop + 1) if hop % d == 0 and d <= limit)
        k = int(np.float32(sigmas[lo:hi].max()) * np.float32(grouping.conv_win_factor))
        k += 1 - k % 2
        w = int(p / s + 0.5)
        w += 1 - w % 2
        t = torch.arange(k).double() - k // 2
        for i in range(lo, hi):
            sigma, eta = sigmas[i].double(), centers[i].double()
            envelope = torch.exp(-(t**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
            parts = [
                F.conv1d(x.double()[:, None], (envelope * f(eta * t))[None, None], stride=s, padding=k // 2)
                for f in (torch.cos, torch.sin)
            ]
            energy = parts[0] ** 2 + parts[1] ** 2
            u = torch.linspace(-1, 1, w, dtype=torch.float64)
            window = torch.exp(-0.5 * (u / (widths[i] / s * p / w)) ** 2)
            rows.append(F.conv1d(energy, window[None, None], stride=hop // s, padding=w // 2))
    return torch.cat(rows, 1)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-300))


@given(
    n=st.integers(1, 24),
    groups=st.integers(1, 8),
    rate=st.sampled_from([8000, 16000, 22050, 44100]),
    stride_ms=st.sampled_from([1.0, 7.51, 10.0, 20.0]),
    factor=st.sampled_from([1.0, 4.0, 16.0]),
    length=st.integers(1, 9000),
    seed=st.integers(0, 2**31),
    products=st.booleans(),
)
def test_energies_equal_the_plain_loop(n, groups, rate, stride_ms, factor, length, seed, products):
    torch.manual_seed(seed)
    leaf = hlfeat.EfficientLeaf(
        n, min(groups, n), 60.0, 0.45 * rate, rate, window_stride=stride_ms, stride_factor=factor
    )
    bank = leaf.filterbank
    with torch.no_grad():  # some parameters leave their ranges
        bank.center_freqs *= 0.5 + torch.rand(n)
        bank.bandwidths *= 0.3 + 2 * torch.rand(n)
        bank.pooling_widths.copy_(torch.rand(n))
    x = torch.randn(2, length)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gabor, "products_pay", lambda device: products)
        got = bank.eval()(x)
    want = plain_energies(bank, x)
    assert got.shape == want.shape == (2, n, (length - 1) // bank.hop + 1)
    # float32 against float64: sums of up to 700 products, and phases of up to 1,000 rad with an error of 3e-5 each
    assert relative(got, want) < 1e-5


@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=3), chunk=st.sampled_from([1, 10_000, 40_000]))
def test_chunks_equal_the_whole(lengths, chunk):
    torch.manual_seed(sum(lengths))
    bank = hlfeat.EfficientLeaf(16, 4, stride_factor=16, conv_win_factor=6).filterbank.eval()
    x, ends = torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)
    whole = bank(x, ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm, "CPU_CHUNK", chunk)
        patch.setattr(gemm_pieces, "CHUNK", chunk)
        patch.setattr(gemm_pieces, "PIECE_CHUNKS", 1)
        kept = bank(x, ends)
        with torch.no_grad():  # in memory that the chunks share
            chunks = bank(x, ends)
    assert chunks.shape == whole.shape
    assert relative(chunks, whole.detach()) < 1e-6
    assert relative(kept.detach(), whole.detach()) < 1e-6


def test_filters_are_made_once_in_eval_mode_and_anew_when_anything_changes(monkeypatch):
    bank = hlfeat.EfficientLeaf(8, 2).filterbank.eval()
    made = []
    original = gabor.GaborFilterbank.make_filters
    monkeypatch.setattr(gabor.GaborFilterbank, "make_filters", lambda self: (made.append(1), original(self))[1])
    x = torch.randn(1, 1000)

    def energies() -> torch.Tensor:
        with torch.no_grad():
            return bank(x)

    first = energies()
    energies()
    assert len(made) == 1
    changes = [
        lambda: bank.bandwidths.data.mul_(0.5),
        lambda: bank.load_state_dict({k: v * 0.9 for k, v in bank.state_dict().items()}),
        lambda: bank.center_freqs.requires_grad_(True).data.add_(0.01),
        lambda: bank.train().eval(),
        lambda: bank.to(torch.float64),
    ]
    for n, change in enumerate(changes, 2):
        change()
        energies()
        energies()
        assert len(made) == n, n
    assert energies().dtype == torch.float64
    assert not torch.allclose(first, energies().float())


@pytest.mark.parametrize("training", [True, False])
def test_the_host_looks_at_parameters_only_when_they_have_changed(monkeypatch, training):
    """With gradients filters are made anew; how long they are, which a GPU would have to be waited for, is kept."""
    bank = hlfeat.EfficientLeaf(n_filters=8, num_groups=2).train(training).filterbank
    looked = []
    plan = taps.Grouping.plan
    monkeypatch.setattr(taps.Grouping, "plan", lambda *a: (looked.append(1), plan(*a))[1])
    x = torch.randn(1, 2000)
    optimiser = torch.optim.SGD(bank.parameters(), lr=1.0)
    for steps in range(1, 4):
        for _ in range(3):
            bank(x).square().mean().backward()
        assert len(looked) == steps
        before = [g.kernel for g in bank.groups()]
        bank.bandwidths.grad.fill_(-20.0)
        optimiser.step()
        optimiser.zero_grad()
        assert [g.kernel for g in bank.groups()] > before


def test_filters_cached_in_inference_mode_serve_a_later_training_step():
    leaf = hlfeat.EfficientLeaf(8, 2).eval()
    x = torch.randn(1, 2000)
    with torch.inference_mode():
        leaf(x)
    for p in leaf.parameters():
        p.requires_grad_(False)
    x.requires_grad_()
    leaf(x).sum().backward()
    assert x.grad is not None


def test_forward_never_writes_to_a_parameter_and_a_parameter_outside_its_range_gets_a_gradient():
    leaf = hlfeat.EfficientLeaf(8, 2)
    with torch.no_grad():
        leaf.filterbank.bandwidths[3] = 1e6
        leaf.filterbank.center_freqs[7] = 4.0
        leaf.filterbank.pooling_widths[0] = -1.0
    before = {k: v.clone() for k, v in leaf.state_dict().items() if "running" not in k and "batches" not in k}
    leaf(torch.randn(2, 4000)).square().sum().backward()
    after = leaf.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    bank = leaf.filterbank
    assert bank.bandwidths.grad[3] != 0
    assert bank.center_freqs.grad[7] != 0
    assert bank.pooling_widths.grad[0] != 0


def test_clamp_keeps_the_value_exact():
    x = torch.tensor([-3.0, 0.1, 0.3, 7.7], requires_grad=True)
    y = gabor.clamp_keep_grad(x, 0.1, 0.7)
    assert torch.equal(y.detach(), x.detach().clamp(0.1, 0.7))
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(4))


@pytest.mark.parametrize("scale", ["mel", "linear", "log", "bark", "erb"])
def test_spacings(scale):
    f = scales.spaced_frequencies(10, 100.0, 6400.0, scale)
    assert f[0] == pytest.approx(100)
    assert f[-1] == pytest.approx(6400)
    warped = {
        "mel": 2595 * np.log10(1 + f / 700),
        "linear": f,
        "log": np.log2(f),
        "bark": 26.81 * f / (1960 + f) - 0.53,
        "erb": 21.4 * np.log10(1 + 0.00437 * f),
    }[scale]
    np.testing.assert_allclose(np.diff(warped), np.diff(warped)[0])


def test_autocast_keeps_energies_in_float32():
    bank = hlfeat.EfficientLeaf(8, 2).filterbank.eval()
    x = torch.randn(1, 3000)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y = bank(x.bfloat16())
    assert y.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(y, bank(x.bfloat16().float()))


@given(seed=st.integers(0, 999), groups=st.integers(1, 4))
def test_energies_do_not_depend_on_the_batch_to_the_bit(seed, groups):
    """Alone, in a batch, and padded; lengths from one sample up, where products have very few rows."""
    generator = torch.Generator().manual_seed(seed)
    factor, stride = [(6.0, 16.0), (4.77, 1.0)][seed % 2]
    bank = hlfeat.EfficientLeaf(2 * groups + seed % 7, groups, conv_win_factor=factor, stride_factor=stride).eval()
    lengths = [1, 2, 37, *torch.randint(100, 20_000, (4,), generator=generator).tolist()]
    x = torch.zeros(len(lengths), max(lengths))
    for row, n in zip(x, lengths, strict=True):
        row[:n] = torch.randn(n, generator=generator)
    with torch.no_grad():
        together = bank.filterbank(x, torch.tensor(lengths))
        for row, n, found in zip(x, lengths, together, strict=True):
            alone = bank.filterbank(row[None, :n])[0]
            assert torch.equal(found[:, : alone.shape[1]], alone)
