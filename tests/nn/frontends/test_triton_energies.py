"""The filterbank's Triton kernel against the general way: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import hlfeat
from tests.interpreter import compiled, read_scalars

pytest.importorskip("triton")

from hlfeat.bench import filterbanks
from hlfeat.nn.frontends import _triton_energies as triton_energies
from hlfeat.nn.frontends import gabor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True, scope="module")
def kernels_interpreted():
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


def test_other_ways_give_the_same():
    bank = hlfeat.EfficientLeaf(8, 2, window_len=5.0, stride_factor=16).filterbank.eval().to(DEVICE)
    x = torch.randn(2, 3000, device=DEVICE)
    expected, wanted = bank(x), torch.autograd.grad(bank.train()(x).sum(), bank.parameters())
    for way in filterbanks.others(bank).values():
        with torch.no_grad():
            assert (way.eval()(x) - expected).norm() <= 1e-5 * expected.norm()
        gradients = torch.autograd.grad(way.train()(x).sum(), bank.parameters())
        for gradient, exact in zip(gradients, wanted, strict=True):
            assert (gradient - exact).norm() <= 1e-4 * exact.norm()


@pytest.fixture
def by_kernel(monkeypatch):
    """How often the kernel was taken, on a device where it runs and products do not pay."""
    calls = []
    original = triton_energies.energies
    monkeypatch.setattr(triton_energies, "energies", lambda *given: (calls.append(1), original(*given))[1])
    monkeypatch.setattr(gabor, "kernels_run", lambda device: True)
    monkeypatch.setattr(gabor, "products_pay", lambda device: False)
    return calls


def small():
    return hlfeat.EfficientLeaf(6, 2, window_len=5.0, stride_factor=16).filterbank.eval().to(DEVICE)


def test_lengths_may_lie_anywhere_in_memory(by_kernel):
    """As a column of a table, or one number for all clips."""
    bank, x = small(), torch.randn(3, 900, device=DEVICE)
    column = torch.tensor([[900, 7], [333, 7], [500, 7]], device=DEVICE)[:, 0]
    with torch.no_grad():
        assert torch.equal(bank(x, column), bank(x, column.clone()))
        same = torch.tensor([333], device=DEVICE).expand(3)
        assert torch.equal(bank(x, same), bank(x, same.clone()))
    assert len(by_kernel) == 4


def test_inference_takes_the_kernel_and_follows_its_parameters(by_kernel):
    bank, x, ends = small(), torch.randn(2, 900, device=DEVICE), torch.tensor([900, 333], device=DEVICE)
    for _ in range(2):
        expected = bank(x, ends).detach()  # gradients are wanted, so this is not the kernel's
        with torch.no_grad():
            got = bank(x, ends)
        assert (got - expected).norm() <= 1e-5 * expected.norm()
        assert not got[1, :, (333 - 1) // bank.hop + 1 :].any()
        with torch.no_grad():
            bank.center_freqs.mul_(0.8)
    assert len(by_kernel) == 2
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        assert bank(x.half()).dtype == torch.float32
    assert len(by_kernel) == 3


@pytest.mark.parametrize("case", ["training", "gradient of the input", "float64", "jvp", "export"])
def test_whatever_the_kernel_cannot_do_is_computed_without_it(by_kernel, case):
    bank, x = small(), torch.randn(1, 900, device=DEVICE)
    if case == "training":
        with torch.no_grad():
            bank.train()(x)
    elif case == "gradient of the input":
        bank.requires_grad_(False)(x.requires_grad_()).sum().backward()
        assert x.grad.norm() > 0
    elif case == "float64":
        with torch.no_grad():
            assert bank.double()(x.double()).dtype == torch.float64
    elif case == "jvp":
        with torch.no_grad():
            assert torch.func.jvp(bank, (x,), (x,))[1].norm() > 0
    else:
        with torch.no_grad():
            bank(x)  # keeps what an export needs
            by_kernel.clear()
            torch.export.export(bank, (x,))
    assert not by_kernel


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_to_tensor_cores_without_spilling(capability, tmp_path):
    kernels = compiled("tests.nn.frontends.compile_energies", capability, tmp_path)
    assert len(kernels) == 4
    for facts in kernels:
        loop, times = facts["loop"], 3 if facts["precision"] == "tf32x3" else 1
        assert facts["spills"] == 0, facts
        assert facts["programs"] >= 2, facts
        products = triton_energies.BLOCK_OUTPUTS * triton_energies.BLOCK_TAPS * 2 * facts["filters"]
        assert loop["tensor_products"] * triton_energies.WARPS == times * products, facts
