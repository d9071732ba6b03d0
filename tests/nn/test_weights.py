"""Weights in the forms that people save them in, and what is said of those that do not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import hlfeat
from hlfeat.errors import ConfigError

CONFIG = {
    "frontend": {"n_filters": 12, "num_groups": 2},
    "stack": [{"layer": "harmonic", "out_channels": 2, "kernel": [3, 3]}, {"layer": "norm"}],
}


class Classifier(nn.Module):
    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.ext, self.head = extractor, nn.Linear(3, 2)


class Composed(nn.Module):
    """A model that has an extractor's parts under their own names."""

    def __init__(self, extractor: hlfeat.Extractor) -> None:
        super().__init__()
        self.frontend, self.stack, self.head = extractor.frontend, extractor.stack, nn.Linear(3, 2)


def trained(config: object = CONFIG) -> hlfeat.Extractor:
    extractor = hlfeat.build(config)
    with torch.no_grad():
        for n, value in enumerate(extractor.state_dict().values()):
            if value.is_floating_point():
                value.mul_(1 + 0.01 * (n + 1))
    return extractor


def under(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in module.state_dict().items()}


def checkpoint(module: nn.Module) -> dict[str, object]:
    optimizer = torch.optim.Adam(module.parameters())
    sum(p.sum() for p in module.parameters()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"epoch": 3, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "metrics": {}}


FORMS = {
    "": lambda m: m.state_dict(),
    "ext": lambda m: Classifier(m).state_dict(),
    "module.ext": lambda m: under("module.", Classifier(m)),
    "ext, compiled": lambda m: torch.compile(Classifier(m)).state_dict(),
    "ext, compiled alone": lambda m: Classifier(torch.compile(m)).state_dict(),
    "state_dict": lambda m: {**checkpoint(m), "state_dict": m.state_dict()},
    "model: module.ext": lambda m: {**checkpoint(m), "model": under("module.", Classifier(m))},
    "state_dict: model.ext": lambda m: {
        "epoch": 1, "global_step": 7, "pytorch-lightning_version": "2.5", "loops": {}, "callbacks": {},
        "lr_schedulers": [], "optimizer_states": [checkpoint(m)["optimizer"]],
        "state_dict": under("model.", Classifier(m)),
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_and_it_is_said_where(form, tmp_path, caplog):
    caplog.set_level("INFO", "hlfeat")
    extractor, path = trained(), tmp_path / "w.pt"
    wanted = {key: value.clone() for key, value in extractor.state_dict().items()}
    saved = FORMS[form](extractor)
    torch.save(saved, path)
    state = saved if isinstance(next(iter(saved.values())), torch.Tensor) else None
    wanted = extractor.state_dict() if "state_dict" in form or "model" in form else wanted  # a step has moved them
    for file in (path, tmp_path / "w.safetensors"):
        if file.suffix == ".safetensors":
            if state is None:
                continue
            save_file({k: v.clone() for k, v in state.items()}, file)
        caplog.clear()
        loaded = hlfeat.build(CONFIG, weights=file)
        assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
        place = form.split(",")[0]
        others = "; its 2 other tensors are left out" if "ext" in form else ""
        assert [r.message for r in caplog.records] == ([f"{file}: weights of {place}{others}"] if place else [])


def test_parts_of_a_model_under_their_own_names(tmp_path):
    extractor = trained()
    torch.save(Composed(extractor).state_dict(), tmp_path / "w.pt")
    loaded = hlfeat.build(CONFIG, weights=tmp_path / "w.pt").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in extractor.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "leaf.", "module.net.frontend."])
def test_a_frontend_alone(prefix, tmp_path):
    extractor = trained({"frontend": CONFIG["frontend"]})
    torch.save({**under(prefix, extractor.frontend), "head.weight": torch.ones(2)}, tmp_path / "w.pt")
    loaded = hlfeat.build({"frontend": CONFIG["frontend"]}, weights=tmp_path / "w.pt").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in extractor.state_dict().items())


def saved_badly(name: str, m: hlfeat.Extractor) -> object:
    return {
        "twice": lambda: {**under("model.", m), **under("ema.", m)},
        "two dictionaries": lambda: {"state_dict": m.state_dict(), "state_dict_ema": m.state_dict()},
        "another model": lambda: {f"encoder.{i}.weight": torch.ones(1) for i in range(20)},
        "nested, another model": lambda: {"net": {"a.b.weight": torch.ones(1)}, "epoch": 1},
        "a part": lambda: {k: v for k, v in under("ext.", m).items() if "bandwidths" not in k},
        "more": lambda: {**under("ext.", m), "ext.stack.layers.7.weight": torch.ones(1)},
        "a frontend": lambda: under("ext.", m.frontend),
        "no tensors": lambda: {"epoch": 3, "lr": 0.1},
        "nothing": dict,
    }[name]()


REFUSED = {
    "twice": "expected one set of weights, found 2: model, ema",
    "two dictionaries": "expected one set of weights, found 2: state_dict, state_dict_ema",
    "another model": "none of its keys is there; those that are begin with encoder.0, encoder.1, encoder.2, encoder.3, "
    "encoder.4, encoder.5, encoder.6, encoder.7 and 12 more",
    "nested, another model": "none of its keys is there; those that are begin with net: a.b",
    "a part": "missing frontend.filterbank.bandwidths",
    "more": "unknown stack.layers.7.weight",
    "a frontend": "missing stack.layers.0.conv.weight",
    "no tensors": "expected a state_dict of dense, real tensors, got dict with epoch, lr",
    "nothing": "none of its keys is there; it has no keys",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name, tmp_path):
    torch.save(saved_badly(name, trained()), tmp_path / "w.pt")
    with pytest.raises(ConfigError) as error:
        hlfeat.build(CONFIG, weights=tmp_path / "w.pt")
    assert REFUSED[name] in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "w.pt"))


def test_the_digest_is_that_of_the_file(tmp_path):
    """A fingerprint of features holds on to it, whatever the form."""
    from hlfeat.nn.weights import load_weights

    torch.save(FORMS["model: module.ext"](trained()), tmp_path / "w.pt")
    digest = load_weights(hlfeat.build(CONFIG), Path(tmp_path / "w.pt"))
    assert digest == hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
