"""What only a GPU can show. Needs torch and pytest alone, so that it runs where little else is installed."""

from __future__ import annotations

import pytest
import torch

import hlfeat

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def full_precision():
    """float32 means float32: TF32 keeps 10 bits of mantissa, which no tolerance here allows for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


CONVOLUTIONS = {
    "linear": lambda: hlfeat.HarmonicConv2d(4, 6, (5, 3), padding=(0, 1), groups=2),
    "linear, anchor 3, strides": lambda: hlfeat.HarmonicConv2d(4, 6, (5, 3), (2, 2), (0, 1), anchor=3),
    "log": lambda: hlfeat.LogHarmonicConv2d(4, 6, (5, 3), padding=(0, 1), anchor=2, out_log_scale=12, radix=2),
    "centre": lambda: hlfeat.HarmonicConv2d(
        4, 6, (5, 3), padding=(0, 1), centre_freqs=hlfeat.EfficientLeaf(n_filters=48).centre_freqs()
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_harmonic_convolution_equals_that_of_the_cpu(name):
    torch.manual_seed(0)
    conv, x = CONVOLUTIONS[name](), torch.randn(3, 4, 48, 70, requires_grad=True)
    want = conv(x)
    want.square().sum().backward()
    grads = [x.grad, *(p.grad for p in conv.parameters())]
    conv_gpu, x_gpu = CONVOLUTIONS[name]().cuda(), x.detach().cuda().requires_grad_()
    conv_gpu.load_state_dict(conv.state_dict())
    got = conv_gpu(x_gpu)
    got.square().sum().backward()
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)
    for a, b in zip([x_gpu.grad, *(p.grad for p in conv_gpu.parameters())], grads, strict=True):
        assert (a.cpu() - b).norm() <= 1e-4 * b.norm()


def test_gathering_is_the_same_to_the_bit_every_time():
    conv = CONVOLUTIONS["centre"]().cuda()
    x = torch.randn(3, 4, 48, 70, device="cuda", requires_grad=True)
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        grads = [torch.autograd.grad(conv(x).square().sum(), x)[0] for _ in range(4)]
    assert all(torch.equal(grads[0], g) for g in grads[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    conv, x = CONVOLUTIONS["centre"]().cuda(), torch.randn(2, 4, 48, 30, device="cuda")
    want = conv(x)
    with torch.autocast("cuda", dtype):
        got = conv(x)
    assert got.dtype == dtype
    assert (got.float() - want).norm() <= 0.02 * want.norm()


@pytest.mark.parametrize("name", ["eleaf-8g-opt", "eleaf-pcen", "log-mel", "eleaf-harmonic", "linear-harmonic"])
def test_configurations_equal_those_of_the_cpu_in_any_company(name):
    torch.manual_seed(0)
    extractor = hlfeat.build(name).eval()
    lengths = torch.tensor([24000, 9000, 161, 1])
    x = torch.randn(4, 24000) * 0.1
    with torch.inference_mode():
        want = extractor(x, lengths)
        extractor = extractor.cuda()
        got = extractor(x.cuda(), lengths.cuda())
        assert (got.cpu() - want).abs().max() <= 1e-4 * want.abs().max()
        for i, n in enumerate(lengths):
            alone = extractor(x[i : i + 1, :n].cuda())[0]
            assert (got[i, ..., : alone.shape[-1]] - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_eval_forward_does_not_wait_for_the_device():
    extractor = hlfeat.build("eleaf-harmonic").eval().cuda()
    x, lengths = torch.randn(2, 16000, device="cuda"), torch.tensor([16000, 500], device="cuda")
    with torch.inference_mode():
        extractor(x, lengths)
        torch.cuda.set_sync_debug_mode("error")
        try:
            extractor(x, lengths)
        finally:
            torch.cuda.set_sync_debug_mode("default")
