"""LogTBN and PCEN against loops, librosa and concatenated clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import hlfeat
from hlfeat.nn.frontends.compression import LogTBN, median_over_time
from hlfeat.nn.frontends.pcen import PCEN, smooth
from tests.helpers import GOLDEN


@given(frames=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_median_is_torch_median_of_the_existing_frames(frames, seed):
    torch.manual_seed(seed)
    x = torch.randn(len(frames), 3, max(frames))
    got = median_over_time(x, torch.tensor(frames))
    for b, n in enumerate(frames):
        assert torch.equal(got[b, :, 0], x[b, :, :n].median(-1).values)
    assert torch.equal(median_over_time(x, None)[..., 0], x.median(-1).values)
    with torch.inference_mode():
        for y in (x, x.transpose(0, 1), x.masked_fill(x > 1, torch.inf), x.masked_fill(x > 1, torch.nan)):
            torch.testing.assert_close(
                median_over_time(y, None)[..., 0], y.median(-1).values, rtol=0, atol=0, equal_nan=True
            )


@given(n=st.integers(1, 400), seed=st.integers(0, 2**31))
@example(n=400, seed=17058)
def test_smoother_is_the_recursion(n, seed):
    rng = np.random.default_rng(seed)
    x, s = 10 ** rng.uniform(-8, 3, (2, 3, n)), rng.uniform(0.01, 1, 3)
    s = s.astype(np.float32).astype(np.float64)  # where s is almost 1, rounding it changes 1 - s by far more
    want = x.copy()
    for t in range(1, n):
        want[..., t] = (1 - s) * want[..., t - 1] + s * x[..., t]
    got = smooth(torch.from_numpy(x).float(), torch.from_numpy(s).float()).double().numpy()
    np.testing.assert_allclose(got, want, rtol=2e-5)  # float32 against float64


def test_smoother_after_a_loud_start_keeps_its_precision():
    x = torch.full((1, 1, 2000), 1e-5)
    x[..., 0] = 1e4
    got = smooth(x, torch.tensor([0.04]))
    assert got[0, 0, -1].item() == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize("learn_logs", [True, False])
def test_pcen_equals_librosa(learn_logs):
    """librosa's own result is stored: its first call compiles for 20 s."""
    x, want = np.load(GOLDEN / "pcen-librosa.npy")
    got = PCEN(5, 0.04, 0.96, 2.0, 0.5, 1e-6, learn_logs)(torch.from_numpy(x)[None].float())[0].detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_pcen_gradients_reach_every_parameter_and_pass_gradcheck():
    pcen = PCEN(2, 0.1, 0.9, 2.0, 0.5, 1e-6, learn_logs=False).double()
    x = torch.rand(1, 2, 6, dtype=torch.float64, requires_grad=True) + 0.1
    names = [n for n, _ in pcen.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in pcen.parameters()]
    assert names == ["s", "alpha", "delta", "r"]

    def call(x, *params):
        return torch.func.functional_call(pcen, dict(zip(names, params, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *values))


def test_pcen_clamps_parameters_without_logs():
    pcen = PCEN(1, 0.1, 5.0, -1.0, 4.0, learn_logs=False)  # r = 4 is stored as 1/4, below its range
    _, alpha, delta, r = pcen.values()
    assert (alpha.item(), delta.item(), r.item()) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(("stored", "used"), [(-0.01, 0.0), (0.3, 0.3), (1.2, 1.0)])
def test_pcen_smooths_with_what_is_a_coefficient(stored, used):
    """Training moves s out of its range; a smoother with it would explode, and roots of its energies be NaN."""
    x = torch.rand(1, 1, 300)
    logs = PCEN(1, max(stored, 1e-3), 0.96, 2.0, 0.5, learn_logs=True)
    pcen, within = (PCEN(1, s, 0.96, 2.0, 0.5, learn_logs=False) for s in (stored, used))
    assert torch.equal(pcen(x), within(x))
    assert torch.isfinite(pcen(x)).all()
    assert logs.values()[0].item() == pytest.approx(max(used, 1e-3))
    (gradient,) = torch.autograd.grad(pcen(x).mean(), pcen.s)  # so that it finds the way back
    assert torch.isfinite(gradient).all()
    assert gradient != 0


@pytest.mark.parametrize("clamp", [None, 1e-5])
@pytest.mark.parametrize("delta", [-0.1, 0.0, 1e-30, 1e-6])
def test_pcen_trains_where_its_offset_is_zero(delta, clamp):
    """The slope of a root is infinite at zero. The value is that of the formula."""
    x = torch.rand(1, 2, 40)
    x[..., 10:] = 0  # silence
    x.requires_grad_()
    pcen = PCEN(2, 0.1, 0.9, delta, 0.5, 1e-6, learn_logs=False, clamp=clamp)
    y = pcen(x)
    for gradient in torch.autograd.grad(y.sum(), [x, *pcen.parameters()]):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e6  # Adam squares it
    with torch.no_grad():
        torch.testing.assert_close(pcen(x), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("append", [False, True])
def test_training_statistics_are_those_of_the_clips_without_their_padding(append):
    torch.manual_seed(0)
    lengths = [7, 3, 1, 5]
    clips = [torch.rand(4, n) for n in lengths]
    padded = torch.zeros(4, 4, 7)
    for b, clip in enumerate(clips):
        padded[b, :, : clip.shape[1]] = clip
        padded[b, :, clip.shape[1] :] = 1e3  # whatever lies there must not matter
    comp = LogTBN(4, a=2, trainable=True, per_band=True, median_filter=append, append_filtered=append)
    y = comp(padded, torch.tensor(lengths))
    logs = [comp.log1p(c[None]) for c in clips]
    if append:
        logs = [torch.stack([c, c - c.median(-1, keepdim=True).values], 1) for c in logs]
    together = torch.cat([c.flatten(1, -2) for c in logs], -1)  # [1, C * F, all frames]
    bn = torch.nn.BatchNorm1d(together.shape[1])
    want = bn(together)[0].detach()
    got = torch.cat([y[b].flatten(0, -2)[:, :n] for b, n in enumerate(lengths)], -1).detach()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(comp.TBN.bn.running_mean, bn.running_mean)
    torch.testing.assert_close(comp.TBN.bn.running_var, bn.running_var)
    assert comp.TBN.bn.num_batches_tracked == 1


def test_relative_log_is_the_formula_in_float64(rng):
    x = rng.random((2, 5, 7)) ** 4
    expected = np.empty_like(x)
    for b, f, n in np.ndindex(x.shape):
        expected[b, f, n] = np.log1p(10**1.5 * x[b, f, n] / x[b, :, n].mean())
    got = hlfeat.RelativeLog(5)(torch.from_numpy(x))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_relative_log_of_silence_is_zero_with_finite_gradients():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.zeros(1, 5, 3, dtype=dtype, requires_grad=True)
        y = hlfeat.RelativeLog(5).to(dtype)(x)
        assert not y.any()
    x = torch.zeros(1, 5, 3, requires_grad=True)
    hlfeat.RelativeLog(5)(x).sum().backward()
    assert x.grad.isfinite().all()


def test_relative_log_can_be_trained():
    compress = hlfeat.RelativeLog(5, a=1.0, trainable=True, per_band=True)
    assert [list(p.shape) for p in compress.parameters()] == [[5]]
    assert not list(hlfeat.RelativeLog(5).state_dict())
    leaf = hlfeat.EfficientLeaf(n_filters=8, compression="relative-log")
    assert leaf(torch.randn(2, 1600)).shape == (2, 8, 10)
