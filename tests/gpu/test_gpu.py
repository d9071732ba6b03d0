"""What only a GPU can show. Needs torch and pytest alone, so that it runs where little else is installed."""

from __future__ import annotations

import pytest
import torch

import hlfeat
from hlfeat.extraction.device_queue import make_queue
from hlfeat.nn.gpu_kernels import kernels_run

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


def on_gpu(conv, x, fused):
    """What a module on the GPU gives, by either backend."""
    time = {"stride": conv.stride[1], "padding": conv.padding[1], "dilation": conv.dilation[1], "groups": conv.groups}
    return hlfeat.harmonic_conv2d(x, conv.weight, conv.bias, conv.plan(x.shape[2]), **time, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_harmonic_convolution_equals_that_of_the_cpu(name, fused):
    torch.manual_seed(0)
    conv, x = CONVOLUTIONS[name](), torch.randn(3, 4, 48, 70, requires_grad=True)
    want = conv(x)
    want.square().sum().backward()
    grads = [x.grad, *(p.grad for p in conv.parameters())]
    conv_gpu, x_gpu = CONVOLUTIONS[name]().cuda(), x.detach().cuda().requires_grad_()
    conv_gpu.load_state_dict(conv.state_dict())
    got = on_gpu(conv_gpu, x_gpu, fused)
    got.square().sum().backward()
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)
    for a, b in zip([x_gpu.grad, *(p.grad for p in conv_gpu.parameters())], grads, strict=True):
        assert (a.cpu() - b).norm() <= 1e-4 * b.norm()


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_the_same_to_the_bit_every_time(fused):
    conv = CONVOLUTIONS["centre"]().cuda()
    x = torch.randn(3, 4, 48, 70, device="cuda", requires_grad=True)
    wanted = [x, *conv.parameters()]
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        grads = [torch.autograd.grad(on_gpu(conv, x, fused).square().sum(), wanted) for _ in range(4)]
    assert all(torch.equal(a, b) for g in grads[1:] for a, b in zip(grads[0], g, strict=True))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype, fused):
    conv, x = CONVOLUTIONS["centre"]().cuda(), torch.randn(2, 4, 48, 30, device="cuda")
    want = conv(x)
    with torch.autocast("cuda", dtype):
        got = on_gpu(conv, x, fused)
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


ODD = {  # channels, rows, frames, harmonics, taps, stride, padding, dilation, groups, batch
    "one of everything": (1, 1, 1, 1, 1, 1, 0, 1, 1, 1),
    "one channel": (1, 9, 20, 3, 3, 1, 1, 1, 1, 2),
    "one row": (3, 1, 20, 2, 3, 1, 1, 1, 1, 2),
    "one frame": (16, 9, 1, 3, 3, 1, 1, 1, 1, 2),
    "one harmonic": (2, 9, 20, 1, 5, 1, 2, 1, 1, 2),
    "empty batch": (2, 9, 20, 3, 3, 1, 1, 1, 1, 0),
    "strides": (16, 9, 50, 3, 5, 3, 4, 2, 2, 3),
    "many channels": (100, 9, 70, 3, 3, 1, 1, 1, 1, 2),
    "many channels, strides": (20, 9, 150, 3, 3, 2, 1, 1, 1, 2),
    "more than one tile": (16, 9, 500, 3, 7, 1, 3, 1, 1, 2),
    "dilated": (16, 9, 300, 3, 5, 1, 4, 2, 2, 2),
    "dilated far": (16, 9, 300, 3, 5, 1, 60, 30, 1, 2),
    "more taps than columns": (16, 9, 100, 2, 20, 1, 10, 1, 1, 2),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ODD)
def test_kernels_at_odd_sizes(name, memory_format):
    torch.manual_seed(0)
    channels, rows, frames, harmonics, taps, stride, padding, dilation, groups, batch = ODD[name]
    x = torch.randn(batch, channels * groups, rows, frames, requires_grad=True)
    weight = torch.randn(5 * groups, channels, harmonics, taps, requires_grad=True)
    positions = torch.arange(rows).double() * torch.arange(1, harmonics + 1).double()[:, None] / 2
    time = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    want = hlfeat.harmonic_conv2d(x, weight, None, positions, **time)
    cotangent = torch.randn_like(want)
    there = x.detach().cuda().contiguous(memory_format=memory_format).requires_grad_()
    weight_there = weight.detach().cuda().requires_grad_()
    got = hlfeat.harmonic_conv2d(there, weight_there, None, positions, **time, fused=True)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(got, (there, weight_there), cotangent.cuda())
    for a, b in zip(found, torch.autograd.grad(want, (x, weight), cotangent), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_another_batch_needs_no_other_tables(name, fused):
    """A table that is copied to the device would be waited for."""
    conv = CONVOLUTIONS[name]().cuda()
    first, second = (
        torch.randn(*size, device="cuda", requires_grad=True) for size in ((3, 4, 48, 70), (7, 4, 48, 333))
    )
    torch.autograd.grad(on_gpu(conv, first, fused).sum(), [first, *conv.parameters()])
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(on_gpu(conv, second, fused).sum(), [second, *conv.parameters()])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_fastest_blocks_are_kept():
    """cuDNN's benchmark mode tries block sizes once; results are then the same to the bit."""
    torch.manual_seed(0)
    conv = hlfeat.HarmonicConv2d(16, 32, (5, 5), padding=(0, 2)).cuda()
    x = torch.randn(2, 16, 64, 100, device="cuda", requires_grad=True)

    def both(fused=True):
        y = on_gpu(conv, x, fused)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *conv.parameters()])]

    want = [v.double() for v in both(fused=False)]
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
        first, second = both(), both()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all((a.double() - b).norm() <= 1e-5 * b.norm() for a, b in zip(first, want, strict=True))


def test_the_kernels_run_here():
    """So the modules take them; a warning would say why they do not."""
    assert kernels_run(torch.device("cuda:0"))


def test_kernels_in_a_cuda_graph():
    conv, x = CONVOLUTIONS["centre"]().cuda(), torch.randn(3, 4, 48, 70, device="cuda")
    with torch.no_grad():
        on_gpu(conv, x, True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = on_gpu(conv, x, True)
        x.normal_()
        graph.replay()
        assert torch.equal(y, on_gpu(conv, x, True))


def test_kernels_keep_the_mantissa_that_tf32_keeps():
    """At the size of the bench's settings, where work is cut into many blocks."""
    torch.manual_seed(0)
    conv = hlfeat.HarmonicConv2d(16, 32, (7, 7), padding=(0, 3), anchor=3).cuda()
    x = torch.randn(2, 16, 128, 200, device="cuda", requires_grad=True)
    cotangent = torch.randn(2, 32, 128, 200, device="cuda")

    def both(fused):
        y = on_gpu(conv, x, fused)
        return [y, *torch.autograd.grad(y, [x, *conv.parameters()], cotangent)]

    want = both(False)
    for tolerance in (1e-5, 2e-3):
        for a, b in zip(both(True), want, strict=True):
            assert (a - b).norm() <= tolerance * b.norm()
        torch.backends.cudnn.allow_tf32 = True  # the fixture takes it back


FRONTENDS = {
    "defaults": lambda: hlfeat.EfficientLeaf(),
    "8G-opt, 80": lambda: hlfeat.EfficientLeaf(80, 8, conv_win_factor=6, stride_factor=16),
    "8G-opt, pcen": lambda: hlfeat.EfficientLeaf(40, 8, conv_win_factor=6, stride_factor=16, compression="pcen"),
    "leaf": lambda: hlfeat.Leaf(),
    "leaf, logtbn": lambda: hlfeat.Leaf(compression="logtbn"),
    "log-mel": lambda: hlfeat.LogMel(),
}


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", FRONTENDS)
def test_frontends_equal_those_of_the_cpu(name, with_lengths):
    torch.manual_seed(0)
    frontend, x = FRONTENDS[name]().eval(), 0.1 * torch.randn(4, 24000)
    lengths = torch.tensor([24000, 9000, 161, 1]) if with_lengths else None
    with torch.no_grad():
        want = frontend(x, lengths)
        got = frontend.cuda()(x.cuda(), lengths if lengths is None else lengths.cuda()).cpu()
    # sums of up to 700 float32 products, in another order
    assert (got - want).norm() <= 1e-4 * want.norm()
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", [n for n in FRONTENDS if n != "log-mel"])
def test_gradients_of_frontends_equal_those_of_the_cpu_in_float64(name, with_lengths):
    x, lengths = 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)), None
    if with_lengths:
        lengths = torch.tensor([16000, 7000, 1600])
    cotangent, grads = None, []
    for device, dtype in [("cpu", torch.float64), ("cuda", torch.float32)]:
        frontend, there = FRONTENDS[name]().to(device, dtype), x.to(device, dtype).requires_grad_()
        if isinstance(frontend.compression, hlfeat.LogTBN):
            frontend.compression.log1p.a.data.zero_()  # where it is large the norm cancels it, and so its gradient
        y = frontend(there, lengths if lengths is None else lengths.to(device))
        if cotangent is None:
            cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad(y, [there, *frontend.parameters()], cotangent.to(y))
        grads.append([g.double().cpu() for g in found])
    for want, got in zip(*grads, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()


@pytest.mark.parametrize("name", FRONTENDS)
def test_tf32_costs_at_most_its_mantissa(name):
    torch.manual_seed(0)
    frontend, x = FRONTENDS[name]().eval().cuda(), 0.1 * torch.randn(4, 24000, device="cuda")
    with torch.no_grad():
        want = frontend(x)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # the fixture takes it back
        got = frontend(x)
    assert (got - want).norm() <= 5e-3 * want.norm()  # 10 bits are 5e-4 a factor


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", [*FRONTENDS, "eleaf-harmonic"])
def test_eval_forward_does_not_wait_for_the_device(name, with_lengths):
    module = (FRONTENDS[name]() if name in FRONTENDS else hlfeat.build(name)).eval().cuda()
    x = torch.randn(2, 16000, device="cuda")
    lengths = torch.tensor([16000, 500], device="cuda") if with_lengths else None
    with torch.inference_mode():
        module(x, lengths)
        torch.cuda.set_sync_debug_mode("error")
        try:
            module(x, lengths)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_copies_beside_the_computation_arrive():
    """Many batches in flight; each is waited for alone."""
    queue = make_queue(torch.device("cuda"))
    rows = [[torch.randn(50_000 - i * j) for j in range(4)] for i in range(20)]
    hosts = []
    for batch in rows:
        x = queue.upload(batch)
        with queue.computing():
            y = torch.tanh(x @ torch.eye(x.shape[1], 64, device=x.device)).contiguous()
        hosts.append((queue.download(y), queue.done()))
    for batch, (host, wait) in zip(rows, hosts, strict=True):
        wait()
        assert host.is_pinned()
        torch.testing.assert_close(host, torch.tanh(torch.stack([row[:64] for row in batch])), rtol=1e-4, atol=1e-5)
    x = queue.upload([torch.zeros(1 << 20)])
    assert queue.peak_bytes(lambda: x + 1) >= 4 << 20
    assert queue.free_bytes() > 0
