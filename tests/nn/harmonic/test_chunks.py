"""How the torch backend cuts its work: on the CPU by sizes, within the cache; on a device by rows alone, so that no
table is made or copied for another batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import hlfeat
from hlfeat.bench.timing import peak_bytes
from hlfeat.nn.axes import LinearAxis
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.nn.harmonic import chunks, torch_backend
from hlfeat.nn.harmonic.axis_conv import AxisHarmonicConv2d
from hlfeat.nn.harmonic.plan import Plan, Time, plan_for
from tests.fake_device import Counts, FakeDevice


def test_little_memory_beside_input_and_output(monkeypatch):
    """What is gathered at a time stays below a chunk: lowering would hold 7 times the input."""
    gathered = []
    bags = chunks.SparseGather.__call__
    monkeypatch.setattr(
        chunks.SparseGather, "__call__", lambda *a: (lambda y: (gathered.append(y.nbytes), y)[1])(bags(*a))
    )
    conv, x = hlfeat.HarmonicConv2d(16, 32, 7, padding=(0, 3), anchor=7), torch.randn(4, 16, 256, 256)
    with torch.no_grad():
        y = conv(x)
    assert max(gathered) <= chunks.CHUNK_BYTES * 1.1
    assert max(gathered) < x.nbytes + y.nbytes
    with torch.no_grad():
        peak = peak_bytes(lambda: conv(x), torch.device("cpu"))
    assert peak is None or y.nbytes <= peak <= x.nbytes + 2 * y.nbytes  # the result itself, and as much as both beside


def test_a_chunk_takes_no_more_than_12_mib():
    """Three times its gathered rows, with oneDNN's copy of them and the result, whatever the input."""
    assert 3 * chunks.CHUNK_BYTES <= 12 << 20
    plan = Plan(LinearAxis().positions(512, 7, 7), 512)
    items, blocks = chunks.chunks(torch.empty(64, 16, 512, 500), torch.empty(32, 16, 7, 7), plan, Time(1, 3, 1, 1))
    for block in blocks:
        assert items * 16 * block.n_ks * (block.last - block.first) * 500 * 4 <= chunks.CHUNK_BYTES * 1.1


@pytest.mark.parametrize("anchor", [1, 3, 7])
@pytest.mark.parametrize("batch", [1, 16])
def test_on_a_device_chunks_are_few_and_gather_no_more_than_input_and_output(anchor, batch):
    plan, size = Plan(LinearAxis().positions(256, 7, anchor), 256), 256 * (16 + 32)  # of a frame
    items, blocks = chunks.on_device(plan, batch, 16, 32, stride=1)
    assert [b.first for b in blocks] == [0, *(b.last for b in blocks[:-1])]
    assert blocks[-1].last == 256
    assert len(blocks) * -(-batch // items) <= 4
    for block in blocks:
        assert 16 * block.n_ks * (block.last - block.first) <= size
    rows = sum(block.n_ks * (block.last - block.first) for block in blocks)
    assert rows <= plan.active.sum() + 3 * chunks.DEVICE_BLOCK_ROWS  # few are computed that read nothing


def test_tables_on_a_device_are_small():
    """Whatever the batch is: then a chunk has fewer of its items."""
    plan = Plan(LinearAxis().positions(256, 7, 7), 256)
    items, blocks = chunks.on_device(plan, 10_000, 16, 32, stride=1)
    for block in blocks:
        for gather in (block.gather, block.adjoint):
            index, start, value = gather._tensors(items * 16, torch.float32, torch.device("cpu"))
            assert sum(v.untyped_storage().nbytes() for v in (index, start, value)) <= 16 << 20
    assert 1 < items < 100


def test_a_gap_between_harmonics_is_read_as_zero_on_a_device(monkeypatch):
    """A list of harmonics would be copied to the device in every call."""
    positions = torch.tensor([[0.0, 1.5], [9.0, 9.0], [2.0, 0.5]], dtype=torch.float64)  # the second lies outside
    x, weight = torch.randn(2, 3, 4, 6), torch.randn(5, 3, 3, 2)
    want = hlfeat.harmonic_conv2d(x, weight, None, Plan(positions, 4))
    monkeypatch.setattr(chunks, "sizes_decide", lambda device: False)
    plan = Plan(positions, 4)
    torch.testing.assert_close(hlfeat.harmonic_conv2d(x, weight, None, plan), want)
    (blocks,) = plan.backend_data.values()
    assert [block.ks for block in blocks] == [slice(0, 3)]


CENTRES = spaced_frequencies(80, 60.0, 7800.0)
MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: hlfeat.HarmonicConv2d(2, 16, (7, 5), padding=(0, 2)),
    "linear, anchor 3, strides": lambda: hlfeat.HarmonicConv2d(16, 32, (7, 5), (2, 2), (0, 2), anchor=3, groups=2),
    "log": lambda: hlfeat.LogHarmonicConv2d(16, 32, (7, 5), padding=(0, 2), anchor=2, out_log_scale=12, radix=2),
    "centre": lambda: hlfeat.HarmonicConv2d(16, 32, (7, 5), padding=(0, 2), anchor=4, centre_freqs=CENTRES),
    "mixed": lambda: hlfeat.MixedHarmonicConv2d(LinearAxis(), 4, 8, (3, 3), padding=(0, 1), anchors=(1, 2, 3)),
}
STACKS = {"eleaf-harmonic": 43, "eleaf-harmonic-mixed": 83, "linear-harmonic": 29, "log-harmonic": 26}  # and launches
SIZES = [(4, 100), (7, 333), (32, 801), (1, 6000)]  # batch and frames


def convolutions(module: nn.Module) -> Iterator[AxisHarmonicConv2d]:
    return (m for m in module.modules() if isinstance(m, AxisHarmonicConv2d))


def counted(module: nn.Module, channels: int, rows: int, lengths: bool) -> list[Counts]:
    """What the module asks of a GPU, for each of SIZES, one after the other."""
    for conv in convolutions(module):  # plans are of numbers, which fake tensors have not
        conv.plan(rows)
    counts = []
    with FakeDevice() as device, torch.no_grad():
        module = device.move(module)
        for batch, frames in SIZES:
            x = device.empty(batch, channels, rows, frames)
            with device.counting() as count:
                module(x, device.lengths(batch)) if lengths else module(x)
            counts.append(count)
    return counts


def check_tables_are_kept(counts: list[Counts]) -> None:
    first, *others = counts
    assert first.to_device > 0  # or the count would show nothing
    for count in others:
        assert (count.to_device, count.to_host, count.waits) == (0, 0, 0)


@pytest.mark.parametrize("name", MODULES)
def test_another_batch_needs_no_other_tables(name):
    module = MODULES[name]()
    channels = next(convolutions(module)).in_channels
    check_tables_are_kept(counted(module, channels, 80, lengths=False))


@pytest.mark.parametrize("name", STACKS)
def test_another_batch_needs_no_other_tables_in_the_shipped_stacks(name):
    extractor = hlfeat.build(name).eval()
    with torch.no_grad():
        spectrum = extractor.frontend(torch.zeros(1, 4000))
    channels, rows = spectrum.shape[1:-1] if spectrum.dim() == 4 else (1, spectrum.shape[1])
    counts = counted(extractor.stack, channels, rows, lengths=True)
    check_tables_are_kept(counts)
    assert max(count.launches for count in counts) <= STACKS[name]


@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_another_batch_need_no_other_tables(name):
    module = MODULES[name]()
    rows, counts = 80, []
    for conv in convolutions(module):
        conv.plan(rows)
    with FakeDevice() as device:
        module = device.move(module)
        for batch, frames in SIZES:
            with device.counting() as count:
                for conv in convolutions(module):
                    time = Time(conv.stride[1], conv.padding[1], conv.dilation[1], conv.groups)
                    plan, kernel = conv.plan(rows), conv.kernel_size[1]
                    x = device.empty(batch, conv.in_channels, rows, frames)
                    gy = device.empty(batch, conv.out_channels, plan.rows_out, time.frames(frames, kernel))
                    torch_backend.gradients(x, conv.weight.detach(), gy, plan, time, True, True)
            counts.append(count)
    check_tables_are_kept(counts)


def test_ordinary_operations_keep_their_tables_too():
    """On devices that are neither CPU nor CUDA, a training step; and for second derivatives."""
    conv, counts = MODULES["centre"](), []
    conv.plan(80)
    with FakeDevice("meta") as device:
        conv = device.move(conv)
        for batch, frames in SIZES:
            x = device.empty(batch, 16, 80, frames, requires_grad=True)
            with device.counting() as count:
                (gx,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
                gx.square().sum().backward()
            counts.append(count)
    check_tables_are_kept(counts)


def test_launches_do_not_grow_with_the_frames():
    launches = [c.launches for c in counted(MODULES["linear, anchor 3, strides"](), 16, 80, lengths=False)]
    assert launches == [launches[0]] * len(SIZES)


def test_copies_have_tables_of_their_own():
    plan = plan_for(LinearAxis().positions(8, 3, 1), 8)
    chunks.on_device(plan, 1, 2, 2, 1)
    assert not copy.deepcopy(plan).backend_data
