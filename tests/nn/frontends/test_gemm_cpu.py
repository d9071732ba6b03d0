"""The filterbank's own path on a CPU: the bits, gradients, and waits of the general one, or fewer."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hlfeat
from hlfeat.nn import threads
from hlfeat.nn.frontends import compression, gabor, gemm_cpu, gemm_gradient, gemm_pieces

BANKS = [(24, 8, 6.0, 16.0), (20, 1, 4.77, 1.0), (40, 2, 4.77, 4.0), (9, 3, 6.0, 16.0)]


def bank_of(which: int) -> gabor.GaborFilterbank:
    filters, groups, window, stride = BANKS[which]
    return hlfeat.EfficientLeaf(filters, groups, conv_win_factor=window, stride_factor=stride).filterbank


def general(bank: gabor.GaborFilterbank, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Energies as they are computed where somebody sees each operation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gabor, "plain_cpu", lambda *_: False)
        return bank(x, lengths)


@given(
    which=st.integers(0, len(BANKS) - 1),
    lengths=st.lists(st.integers(1, 30_000), min_size=1, max_size=3),
    padded=st.booleans(),
    chunk=st.sampled_from([1, 40_000, gemm_pieces.CHUNK]),
)
def test_bits_and_gradients_are_those_of_the_general_path(which, lengths, padded, chunk):
    torch.manual_seed(sum(lengths))
    bank = bank_of(which)
    x, ends = torch.randn(len(lengths), max(lengths)), torch.tensor(lengths) if padded else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm_pieces, "CHUNK", chunk)
        patch.setattr(gemm_pieces, "PIECE_CHUNKS", 1)
        got = bank(x, ends)
        weight = torch.randn_like(got)
        gradients = torch.autograd.grad((got * weight).sum(), bank.parameters())
    expected = general(bank, x, ends)
    assert torch.equal(got, expected)
    for gradient, exact in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), bank.parameters()), strict=True
    ):
        # sums of up to 10,000 outputs, in another order
        assert float((gradient - exact).norm()) <= 1e-5 * float(exact.norm()) + 1e-6


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("which", range(len(BANKS)))
def test_gradients_pass_gradcheck(which, padded):
    """Against differences, in float64; and those of the gradients, which another path computes."""
    torch.manual_seed(which)
    bank = bank_of(which).double()
    x, lengths = torch.randn(2, 700, dtype=torch.float64), torch.tensor([700, 333]) if padded else None
    with torch.no_grad():
        groups = bank.groups()

    def energies(*parameters: Tensor) -> Tensor:
        names = ("center_freqs", "bandwidths", "pooling_widths")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gabor.GaborFilterbank, "clamped", lambda self: parameters)
            patch.setattr(gabor.GaborFilterbank, "groups", lambda self: groups)
            assert len(names) == len(parameters)
            return bank(x, lengths)

    parameters = [p.detach().clone().requires_grad_() for p in bank.clamped()]
    assert torch.autograd.gradcheck(energies, parameters, fast_mode=True)
    assert torch.autograd.gradgradcheck(energies, parameters, fast_mode=True)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_bits_and_gradients_do_not_depend_on_threads(two_threads):
    bank, x = bank_of(0), torch.randn(3, 40_000)

    def results() -> list[Tensor]:
        y = bank(x)
        return [y, *torch.autograd.grad(y.square().sum(), bank.parameters())]

    several = results()
    torch.set_num_threads(1)
    for a, b in zip(several, results(), strict=True):
        assert torch.equal(a, b)


def test_a_call_waits_for_threads_twice_and_computes_in_none_that_shares_operations(two_threads, monkeypatch):
    """Each operation that torch divides among its threads is one more wait: here all are whole, in threads of ours."""
    calls, seen = [], set()
    original, products = threads.parallel_map, gemm_cpu.make_outputs

    def counted(work, parts):
        calls.append(len(parts))
        return original(work, parts)

    def watched(*args):
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return products(*args)

    for module in (gemm_pieces, gemm_cpu, gemm_gradient):
        monkeypatch.setattr(module, "parallel_map", counted)
    monkeypatch.setattr(gemm_cpu, "make_outputs", watched)
    bank, x = bank_of(0).eval(), torch.randn(1, 100_000)
    with torch.no_grad():
        bank(x)
    assert len(calls) == 2  # zeros around the clips, and everything else
    assert seen == {(False, 1)}
    assert torch.get_num_threads() == 2
    other = []
    thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert other == [2]  # what a new thread of the user's has


class Operations(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_short_clip_takes_few_operations(monkeypatch):
    """Each costs the interpreter about two microseconds, of the three milliseconds that such a clip takes."""
    monkeypatch.setattr(gemm_gradient, "operations_watched", lambda: False)
    bank = hlfeat.EfficientLeaf(80, 8, conv_win_factor=6, stride_factor=16).filterbank.eval()
    with torch.no_grad():
        bank(torch.randn(1, 16_000))
        with Operations() as seen:
            bank(torch.randn(1, 16_000))
    assert 100 < seen.count <= 530  # 660 before


def test_a_mode_that_watches_operations_sees_them():
    bank = bank_of(0).eval()
    with torch.no_grad(), Operations() as seen:
        bank(torch.randn(1, 2000))
    assert seen.count > 100


def test_transforms_of_functions_give_the_same_gradients():
    bank, x = bank_of(3), torch.randn(2, 2000)
    parameters = {k: p.detach() for k, p in bank.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(bank.train(), parameters, (x,)).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    loss(dict(bank.named_parameters())).backward()
    for name, p in bank.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-5)


def test_an_error_in_a_thread_reaches_the_caller(two_threads):
    def work(part: int) -> int:
        if part == 3:
            raise MemoryError(str(part))
        return part

    assert threads.parallel_map(work, range(3)) == [0, 1, 2]
    with pytest.raises(MemoryError, match="3"):
        threads.parallel_map(work, range(8))


@given(frames=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_gradient_of_the_median_goes_to_one_frame_that_has_it(frames, seed):
    torch.manual_seed(seed)
    x = torch.randint(0, 5, (2, 3, frames)).float().requires_grad_()
    median = compression.median_over_time(x, None)
    assert torch.equal(median, x.detach().median(-1, keepdim=True).values)
    (gradient,) = torch.autograd.grad(median.sum(), x)
    assert torch.equal(gradient.sum(-1), torch.ones(2, 3))
    assert torch.equal(x[gradient == 1], median.flatten())


def test_a_forked_process_has_threads_of_its_own(two_threads):
    """Those of its parent are not there, and a call that waited for them would never end."""
    assert threads.parallel_map(abs, [-1, -2, -3]) == [1, 2, 3]
    pid = os.fork()
    if pid == 0:
        os._exit(0 if threads.parallel_map(abs, [-1, -2, -3]) == [1, 2, 3] else 1)
    end = time.monotonic() + 30
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert ended == (pid, 0)
