"""Training: gradients reach every parameter and nothing else decides them, in one process and in two; the example."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import hlfeat
from hlfeat.errors import UsageError
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


def classes(folder: Path, names: str) -> Path:
    """Six clips of half a second a class; a class is a pitch."""
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            soundfile.write(folder / name / f"{i}.wav", helpers.tone(0.5, 16000, 300 * (c + 1) + 5 * i, i), 16000)
    return folder


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/train.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_the_script_ends_in_features(tmp_path):
    folder, out = classes(tmp_path / "clips", "ab"), tmp_path / "run"
    result = train(folder, "--out", out, "--epochs", 2, "--seconds", 0.3, "--batch", 4)
    assert result.returncode == 0, result.stderr
    assert "held out 4 of 12 clips (by file" in result.stderr
    assert result.stderr.count("(chance 50.0%)") == 2
    store = hlfeat.FeatureStore(out / "features")
    assert len(store) == 12
    model = hlfeat.build(out / "config.yaml", weights=out / "weights.safetensors").eval()
    assert not torch.equal(model.frontend.filterbank.center_freqs, hlfeat.EfficientLeaf(80).filterbank.center_freqs)
    x = torch.from_numpy(soundfile.read(folder / "a/0.wav", dtype="float32")[0])
    with torch.no_grad():
        want = model(x[None])[0].permute(2, 0, 1).numpy()
    assert np.abs(store["a/0.wav"] - want).max() <= 1e-5 * np.abs(want).max()


def test_the_script_says_which_clips_it_cannot_use(tmp_path):
    folder, out = classes(tmp_path / "clips", "ab"), tmp_path / "run"
    (folder / "a/broken.wav").write_bytes(b"this is text")
    soundfile.write(folder / "beside.wav", helpers.tone(0.2, 16000), 16000)
    result = train(folder, "--out", out, "--epochs", 1, "--config", "log-mel")
    assert result.returncode == 3, result.stderr  # that of the extraction
    assert "a/broken.wav: not-audio" in result.stderr
    assert "beside.wav: no-class" in result.stderr
    assert "2 of 14 clips cannot be used" in result.stderr
    assert [json.loads(line)["id"] for line in (out / "features/failures.jsonl").open()] == ["a/broken.wav"]


def test_the_script_needs_two_classes(tmp_path):
    result = train(classes(tmp_path / "clips", "a"), "--out", tmp_path / "run")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "expected the folders of two classes or more, got 1" in result.stderr
    assert not (tmp_path / "run").exists()


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "scripts/train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["{c}/s{speaker}/{i}.wav", "{c}/{speaker}-7-{i}.flac"])
def test_the_script_holds_out_whole_speakers(name, capsys):
    train_py = script()
    ids = [name.format(c=c, speaker=speaker, i=i) for c in "ab" for speaker in range(5) for i in range(2)]
    examples = [train_py.Example(torch.zeros(1), "ab".index(id_[0]), train_py.group_of(id_)) for id_ in ids]
    chosen = train_py.hold_out(examples, "ab", 0.2, seed=3)
    assert chosen == train_py.hold_out(examples, "ab", 0.2, seed=3)
    assert [sum(e.group in chosen for e in examples if e.label == label) for label in (0, 1)] == [2, 2]
    assert "held out 4 of 20 clips (1 of 5 groups" in capsys.readouterr().err
    with pytest.raises(UsageError, match="class b"):
        train_py.hold_out(examples[:11], "ab", 0.2, seed=3)
