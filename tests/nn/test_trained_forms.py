"""Every shipped configuration, trained on noise: nothing fails or becomes NaN, and every form of the model is the same.

The short course lets each filter go a tenth of its size a step, so that few steps make filters cross and their groups
change. HLFEAT_TESTS=thorough adds a long course: 2,000 steps of Adam(1e-3), as a loop of one's own would have them.
"""

from __future__ import annotations

import copy
import os
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import hlfeat
from hlfeat.interop import export as interop_export
from hlfeat.nn.axes import crossed_rows

THOROUGH = os.environ.get("HLFEAT_TESTS") == "thorough"
NAMES = hlfeat.config_names()
LEARNED = [name for name in NAMES if hlfeat.load_config(name).frontend.kind in ("eleaf", "leaf")]
GROUPED = [name for name in NAMES if hlfeat.load_config(name).frontend.kind == "eleaf"]
SECONDS = 0.5
TEST_NOISE = 1 << 20  # a seed beyond those of training


@dataclass(frozen=True)
class Course:
    steps: int
    lr: float
    fitting: bool  # whether filters have rates that fit their units

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        if self.fitting:
            return torch.optim.Adam(hlfeat.parameter_groups(model, self.lr))
        return torch.optim.Adam(model.parameters(), self.lr)


COURSES = {"short": Course(6, 0.1, True), **({"long": Course(2000, 1e-3, False)} if THOROUGH else {})}


def noise(model: hlfeat.Extractor, seed: int, clips: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, round(SECONDS * model.sample_rate), generator=generator)


def train(model: hlfeat.Extractor, course: Course, forward: nn.Module | None = None) -> None:
    """Train in place; `forward` is the form of the model that is called, if it is another."""
    forward = model if forward is None else forward
    model.train()
    if not any(p.requires_grad for p in model.parameters()):  # log-mel has nothing to learn
        return
    optimizer = course.optimizer(model)
    for step in range(course.steps):
        loss = (forward(noise(model, step)) - 1).square().mean()
        assert torch.isfinite(loss), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for key, parameter in model.named_parameters():
            assert torch.isfinite(parameter).all(), (step, key)


@dataclass(frozen=True)
class Trained:
    name: str
    model: hlfeat.Extractor
    x: Tensor
    y: Tensor  # the model's output in eval mode


@pytest.fixture(scope="module", params=[(name, course) for name in NAMES for course in COURSES], ids="-".join)
def trained(request: pytest.FixtureRequest) -> Trained:
    name, course = request.param
    model = hlfeat.build(name)
    train(model, COURSES[course])
    x = noise(model, TEST_NOISE, clips=3)
    with torch.no_grad():
        return Trained(name, model, x, model.eval()(x))


@pytest.fixture(autouse=True)
def no_compiled_programs() -> None:
    """The compiler makes a few programs of a function, and would run it as it is for further models."""
    torch.compiler.reset()


def test_training_leaves_filters_that_have_crossed_in_other_groups(trained):
    assert torch.isfinite(trained.y).all()
    assert all(torch.isfinite(v).all() for v in trained.model.state_dict().values())
    if trained.name in LEARNED:
        assert crossed_rows(trained.model.frontend.centre_freqs().tolist())
    if trained.name in GROUPED:
        groups = [model.frontend.filterbank.groups() for model in (trained.model, hlfeat.build(trained.name))]
        assert groups[0] != groups[1]


@torch.no_grad()
def test_copied_pickled_and_reloaded(trained, tmp_path):
    torch.save(trained.model.state_dict(), tmp_path / "w.pt")
    torch.save({"epoch": 1, "state_dict": trained.model.state_dict()}, tmp_path / "checkpoint.pt")
    fresh = hlfeat.build(trained.name).eval()
    fresh(trained.x)  # the filters that it keeps must not stay
    fresh.load_state_dict(trained.model.state_dict())
    forms = {
        "deepcopy": copy.deepcopy(trained.model),
        "pickle": pickle.loads(pickle.dumps(trained.model)),
        "state_dict": fresh,
        "from training mode": copy.deepcopy(trained.model).train(),
        **{name: hlfeat.build(trained.name, weights=tmp_path / name) for name in ("w.pt", "checkpoint.pt")},
    }
    for form, model in forms.items():
        if model.training:  # leaving it would drop the filters that a model keeps
            model.eval()
        assert torch.equal(model(trained.x), trained.y), form


@pytest.mark.parametrize("backend", ["eager", "aot_eager"] if THOROUGH else ["eager"])
@torch.no_grad()
def test_compiled(trained, backend):
    compiled = torch.compile(trained.model, backend=backend)
    torch.testing.assert_close(compiled(trained.x), trained.y, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_exported(trained):
    """Clips of one length; `hlfeat export` makes programs for any length."""
    exported = torch.export.export(trained.model, (trained.x,)).module()
    torch.testing.assert_close(exported(trained.x), trained.y, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not THOROUGH, reason="takes a minute for all configurations")
def test_exported_by_the_command(trained):
    exported = interop_export.export(trained.model, ".pt2")
    assert exported.difference <= 1e-5
    features = interop_export.run_pt2(exported.data)(trained.x)
    torch.testing.assert_close(features, trained.y, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not THOROUGH, reason="compiles for a minute")
def test_compiled_to_machine_code():
    model = hlfeat.build("eleaf-harmonic")
    train(model, COURSES["short"])
    x = noise(model.eval(), TEST_NOISE)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_compiled_training_while_filters_cross():
    """The same loss and gradients as without the compiler in each step, from the same parameters."""
    model, again = (hlfeat.build("eleaf-harmonic").train() for _ in range(2))
    compiled = torch.compile(again, backend="eager")
    optimizer, orders = COURSES["short"].optimizer(model), set()
    for step in range(3):
        again.load_state_dict(model.state_dict())
        x, losses, gradients = noise(model, step), [], []
        for form in (model, compiled):
            losses.append((form(x) - 1).square().mean())
            gradients.append(torch.autograd.grad(losses[-1], list((model if form is model else again).parameters())))
        torch.testing.assert_close(losses[1], losses[0])
        for (key, parameter), want, got in zip(model.named_parameters(), *gradients, strict=True):
            parameter.grad = want
            if key != "stack.layers.0.conv.bias":  # the batch norm after it takes any offset away: nothing but rounding
                assert (got - want).norm() <= 1e-3 * want.norm(), key
        orders.add(tuple(model.frontend.centre_freqs().argsort().tolist()))
        optimizer.step()
    assert len(orders) > 1
