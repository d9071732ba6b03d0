"""The filterbank's Triton kernel against the general way: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import hlfeat
from tests.interpreter import compiled, read_scalars

pytest.importorskip("triton")

from hlfeat.bench import filterbanks, triton_energies

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True, scope="module")
def kernels_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        if DEVICE == "cpu":
            read_scalars(patch)
        yield


@given(
    filters=st.integers(1, 20),
    groups=st.integers(1, 3),
    window=st.sampled_from([5.0, 25.0]),  # ms
    factor=st.sampled_from([1.0, 16.0]),
    lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=3),
    padded=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # the interpreter is slow
def test_energies_equal_the_general_ones(filters, groups, window, factor, lengths, padded, seed):
    torch.manual_seed(seed)
    bank = hlfeat.EfficientLeaf(
        filters, min(groups, filters), window_len=window, conv_win_factor=6, stride_factor=factor
    ).filterbank.eval()
    x, ends = torch.randn(len(lengths), max(lengths)), torch.tensor(lengths) if padded else None
    with torch.no_grad():
        expected = bank(x, ends)  # what lies past a clip's end is not looked at
        taps = bank.to(DEVICE).make_taps()
        there = x.to(DEVICE), None if ends is None else ends.to(DEVICE)
        got = triton_energies.energies(*there, taps, [triton_energies.packed(t) for t in taps]).cpu()
    frames = [x.shape[1] if ends is None else n for n in lengths]
    for one, want, n in zip(got, expected, frames, strict=True):
        n = (n - 1) // bank.hop + 1
        # sums of up to 900 products of float32
        assert (one[:, :n] - want[:, :n]).norm() <= 1e-5 * want[:, :n].norm()


def test_other_ways_are_measured_on_a_gpu_and_leave_out_what_does_not_run(monkeypatch, caplog):
    bank = hlfeat.EfficientLeaf(8, 2, window_len=5.0, stride_factor=16).filterbank.eval()
    x = torch.randn(2, 3000, device=DEVICE)
    with torch.no_grad():
        expected = bank.to(DEVICE)(x)
        ways = filterbanks.others(bank, torch.device(DEVICE))
        assert list(ways) == ["products, filterbank", "Triton, filterbank"]
        for way in ways.values():
            assert (way.eval()(x) - expected).norm() <= 1e-5 * expected.norm()
    gradients = torch.autograd.grad(ways["products, filterbank"].train()(x).sum(), bank.parameters())
    wanted = torch.autograd.grad(bank.train()(x).sum(), bank.parameters())
    for gradient, exact in zip(gradients, wanted, strict=True):
        assert (gradient - exact).norm() <= 1e-4 * exact.norm()

    def broken(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(triton_energies, "squared_modulus", broken)
    assert list(filterbanks.others(bank, torch.device(DEVICE))) == ["products, filterbank"]
    assert "does not run on" in caplog.text
    assert "RuntimeError: no such instruction" in caplog.text


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_to_tensor_cores_without_spilling(capability, tmp_path):
    kernels = compiled("tests.bench.compile_energies", capability, tmp_path)
    assert len(kernels) == 4
    for facts in kernels:
        loop, times = facts["loop"], 3 if facts["precision"] == "tf32x3" else 1
        assert facts["spills"] == 0, facts
        assert facts["programs"] >= 2, facts
        products = triton_energies.BLOCK_OUTPUTS * triton_energies.BLOCK_TAPS * 2 * facts["filters"]
        assert loop["tensor_products"] * triton_energies.WARPS == times * products, facts
