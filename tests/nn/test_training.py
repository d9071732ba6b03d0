"""Training: gradients reach every parameter and nothing else decides them, in one process and in two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

import hlfeat
from tests import helpers

ROOT = helpers.ROOT
CONFIGS = ["eleaf-8g-opt", "eleaf-pcen", "eleaf-harmonic"]
LENGTHS = torch.tensor([8000, 5000, 161, 3203])


def waves(seed: int = 0) -> torch.Tensor:
    """Noise with a tone in it, as loud as speech: [4, 8000]."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(8000) / 16000
    tones = torch.sin(2 * torch.pi * torch.tensor([[200.0], [500.0], [1300.0], [4000.0]]) * t)
    return 0.1 * tones + 0.1 * torch.randn(4, 8000, generator=generator)


def loss_of(features: torch.Tensor) -> torch.Tensor:
    """A loss that no norm makes constant: the features against fixed noise."""
    target = torch.randn(features.shape[1:3], generator=torch.Generator().manual_seed(1)).to(features.device)
    return (features.float() - target[:, :, None]).square().mean((1, 2, 3)).mean()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    assert all(p.grad is not None for p in model.parameters())
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_parameter(name):
    model = hlfeat.build(name)
    loss_of(model(waves(), LENGTHS)).backward()
    for key, gradient in gradients(model).items():
        assert torch.isfinite(gradient).all(), key
        if "stack.layers.0.conv.bias" not in key:  # the batch norm after it takes any offset away
            assert gradient.abs().max() > 1e-8, key


@pytest.mark.parametrize("name", CONFIGS)
def test_what_lies_beyond_a_clips_end_does_not_train(name):
    x, results = waves(), []
    garbage = x.clone()
    for b, n in enumerate(LENGTHS.tolist()):
        garbage[b, n:] = 1e3
    for samples in (x, garbage):
        model = hlfeat.build(name)
        loss_of(model(samples, LENGTHS)).backward()
        results.append((gradients(model), model.state_dict()))
    for one, other in zip(*results, strict=True):
        for key in one:
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(
    ("key", "outside", "wanted"),
    [("bandwidths", 0.1, 3.0), ("bandwidths", 200.0, 20.0), ("pooling_widths", 0.7, 0.3), ("pooling_widths", 0, 0.2)],
)
def test_a_parameter_outside_its_range_comes_back(key, outside, wanted):
    """The target is the energy of a filter whose parameter is inside; SGD has to find the way back in."""
    banks = [hlfeat.EfficientLeaf(4, 1, stride_factor=1e-3).filterbank for _ in range(2)]
    for bank, value in zip(banks, (outside, wanted), strict=True):
        with torch.no_grad():
            getattr(bank, key)[2] = value
    target = banks[1](waves())[:, 2].detach()
    bank, parameter = banks[0], getattr(banks[0], key)
    step = abs(outside - wanted) / 40
    for _ in range(39):
        (gradient,) = torch.autograd.grad((bank(waves())[:, 2] - target).square().mean(), parameter)
        with torch.no_grad():
            parameter -= step * gradient.sign()  # the direction alone: the scale of the loss is another matter
    now = parameter.detach()[2]
    assert abs(float(now) - wanted) <= 1.01 * step
    assert bank.clamped()[["center_freqs", "bandwidths", "pooling_widths"].index(key)].detach()[2] == now


@pytest.mark.parametrize(("outside", "wanted"), [(3.5, 3.0), (-0.3, 0.1)])
def test_a_centre_frequency_outside_its_range_comes_back(outside, wanted):
    """Asked of the frequency itself: energies are symmetric about 0 and pi, so their gradient is zero there."""
    bank = hlfeat.EfficientLeaf(4, 1).filterbank
    with torch.no_grad():
        bank.center_freqs[2] = outside
    optimizer = torch.optim.SGD([bank.center_freqs], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (bank.clamped()[0][2] - wanted).square().backward()
        optimizer.step()
    assert abs(float(bank.center_freqs.detach()[2]) - wanted) < 1e-3


DDP = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import hlfeat
from tests.nn.test_training import LENGTHS, gradients, loss_of, waves

torch.set_num_threads(1)
rank, folder, port = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
for name in ("eleaf-8g-opt", "eleaf-pcen", "eleaf-harmonic"):
    model = hlfeat.build(name)
    parallel = DistributedDataParallel(model, find_unused_parameters=False)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.eval()
    mine = slice(2 * rank, 2 * rank + 2)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    steps = []
    for step in range(3):
        optimizer.zero_grad()
        loss_of(parallel(waves(step)[mine], LENGTHS[mine])).backward()
        steps.append(gradients(model))
        optimizer.step()
    torch.save((steps, model.state_dict()), f"{folder}/{name}-{rank}.pt")
    parallel.train()  # norms on each process's own clips: parameters stay equal all the same
    loss_of(parallel(waves()[mine], LENGTHS[mine])).backward()
    optimizer.step()
    torch.save([p.detach() for p in model.parameters()], f"{folder}/{name}-{rank}-trained.pt")
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_two_processes_train_as_one(tmp_path):
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DDP, str(rank), str(tmp_path), str(port)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        errors = process.communicate(timeout=200)[1]
        assert process.returncode == 0, errors
    for name in CONFIGS:
        (steps, state), (steps_1, state_1) = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(state[k], state_1[k]) for k in state)
        trained, trained_1 = (torch.load(tmp_path / f"{name}-{rank}-trained.pt") for rank in (0, 1))
        assert all(map(torch.equal, trained, trained_1))
        model = hlfeat.build(name)
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.eval()
        loss_of(model(waves(), LENGTHS)).backward()
        for key, want in gradients(model).items():
            assert torch.equal(steps[0][key], steps_1[0][key]), key
            # float32's rounding in sums over some 1e5 numbers, taken in another order
            assert (steps[0][key] - want).norm() <= 1e-4 * want.norm() + 1e-9, key


@pytest.mark.parametrize("name", CONFIGS)
def test_mixed_precision(name):
    """Filters and compression stay in float32; the stack rounds to 8 bits, 2^-8 = 0.4 % an operation."""
    results, energies = [], []
    for enabled in (False, True):
        model = hlfeat.build(name)
        model.frontend.filterbank.register_forward_hook(lambda *a: energies.append(a[2]))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = loss_of(model(waves(), LENGTHS))
        assert torch.isfinite(loss)
        loss.backward()
        results.append(gradients(model))
    assert [e.dtype for e in energies] == [torch.float32] * 2
    assert torch.equal(*energies)
    one, other = (torch.cat([g.flatten() for g in f.values()]) for f in results)
    assert (one - other).norm() <= (0.03 if "harmonic" in name else 1e-6) * one.norm()
