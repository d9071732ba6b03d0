"""import-weights: the published script's checkpoint and its relatives, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

import hlfeat
from hlfeat import FeatureStore
from hlfeat.config.loading import load_config
from tests import helpers
from tests.cli.test_cli import failed

GOLDEN = helpers.GOLDEN
CHECKPOINT = GOLDEN / "checkpoint/net_best_model.pth"


def frontend_state() -> dict[str, torch.Tensor]:
    network = torch.load(CHECKPOINT, weights_only=True)["network"]
    return {k.removeprefix("_frontend."): v for k, v in network.items() if k.startswith("_frontend.")}


def test_a_checkpoint_serves_as_weights_of_its_configuration(caplog):
    caplog.set_level("INFO", "hlfeat")
    golden = np.load(helpers.GOLDEN / "eleaf-8g-opt-40-checkpoint.npz")
    sizes = {"n_filters": 40, "num_groups": 8, "conv_win_factor": 6, "stride_factor": 16}
    extractor = hlfeat.build({"frontend": sizes}, weights=CHECKPOINT).eval()
    with torch.no_grad():
        y = extractor(torch.from_numpy(golden["x"])).double().numpy()
    assert np.linalg.norm(y - golden["features"]) <= 1e-5 * np.linalg.norm(golden["features"])
    assert f"{CHECKPOINT}: weights of network: _frontend; its 4 other tensors are left out" in caplog.text


def error(config: Path, weights: Path) -> float:
    """Of the features, against the published implementation's."""
    golden = np.load(GOLDEN / "eleaf-8g-opt-40-checkpoint.npz")
    with torch.no_grad():
        y = hlfeat.build(config, weights=weights).eval()(torch.from_numpy(golden["x"]))
    return float(np.linalg.norm(y.numpy() - golden["features"]) / np.linalg.norm(golden["features"]))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_the_published_scripts_checkpoint(invoke, tmp_path, name):
    result = invoke("import-weights", CHECKPOINT, "-o", tmp_path / "new" / name)
    assert result.returncode == 0, result.stderr
    assert "4 other tensors of the checkpoint are not the frontend's" in result.stderr
    assert "from the formulas in float64" in result.stderr
    config = tmp_path / "new/w.yaml"
    assert error(config, tmp_path / "new" / name) < 1e-5
    frontend = load_config(config).frontend
    assert (frontend.num_groups, frontend.conv_win_factor, frontend.stride_factor) == (8, 6, 16)
    failed(invoke("import-weights", CHECKPOINT, "-o", tmp_path / "new" / name), 2, "already exists")
    assert invoke("import-weights", CHECKPOINT, "-o", tmp_path / "new" / name, "--overwrite").returncode == 0


GROUPS = ("--set", "frontend.num_groups=8", "--set", "frontend.conv_win_factor=6", "--set", "frontend.stride_factor=16")


@pytest.mark.parametrize("prefix", ["", "module.", "module._frontend.", "frontend."])
@pytest.mark.parametrize("form", ["pt", "safetensors", "nested"])
def test_other_layouts(invoke, tmp_path, prefix, form):
    state = {prefix + k: v for k, v in frontend_state().items()}
    path = tmp_path / ("c.safetensors" if form == "safetensors" else "c.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "nested" else state, path)
    result = invoke("import-weights", path, "-o", tmp_path / "w.safetensors", *GROUPS)
    assert result.returncode == 0, result.stderr
    assert error(tmp_path / "w.yaml", tmp_path / "w.safetensors") < 1e-5


KINDS = {
    "pcen": lambda: hlfeat.EfficientLeaf(8, 4, compression="pcen"),
    "pcen as logarithms": lambda: hlfeat.EfficientLeaf(8, 4, compression=hlfeat.PCEN(8, eps=1e-12, clamp=1e-5)),
    "plain logarithm": lambda: hlfeat.EfficientLeaf(8, 4, compression=hlfeat.LogTBN(8, a=5, trainable=True)),
    "no affine": lambda: hlfeat.EfficientLeaf(8, 4, compression=hlfeat.LogTBN(8, affine=False, a=5)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_compression_follows_from_the_weights(tmp_path, kind):
    from hlfeat.interop import leaf_checkpoint

    torch.manual_seed(0)
    leaf = KINDS[kind]()
    leaf(torch.randn(3, 5000))  # running statistics that are none of the initial ones
    torch.save(leaf.state_dict(), tmp_path / "c.pt")
    imported = leaf_checkpoint.import_weights(tmp_path / "c.pt", None, [])
    x = torch.randn(2, 4000)
    with torch.no_grad():
        torch.testing.assert_close(leaf_checkpoint.build_with(imported, tmp_path).frontend(x), leaf.eval()(x))
    assert leaf_checkpoint.parity(imported, tmp_path) < 1e-5


SCRIPT = {  # what the published script writes to args.txt for these
    "eleaf-4g40-pcen": "frontend=EfficientLeaf compression=PCEN pcen_learn_logs=False",
    "eleaf-4g40-pcen-log-trained": "frontend=EfficientLeaf compression=PCEN pcen_learn_logs=True",
    "eleaf-logtbn-inplace-median": "frontend=EfficientLeaf compression=TBN log1p_initial_a=5.0 tbn_median_filter=True",
    "leaf-default": "frontend=Leaf compression=PCEN pcen_learn_logs=False num_groups=4",
}


@pytest.mark.parametrize("name", SCRIPT)
def test_published_values_of_every_kind(tmp_path, name):
    """The script's constants (PCEN's eps and clamp) are no part of the weights: only the features show them."""
    from hlfeat.interop import leaf_checkpoint

    golden = np.load(GOLDEN / f"{name}.npz")
    state = {f"_frontend.{k[6:]}": torch.from_numpy(golden[k]) for k in golden if k.startswith("state/")}
    torch.save({"network": state}, tmp_path / "c.pth")
    (tmp_path / "args.txt").write_text(SCRIPT[name].replace(" ", "\n"))
    imported = leaf_checkpoint.import_weights(tmp_path / "c.pth", None, [])
    with torch.no_grad():
        y = leaf_checkpoint.build_with(imported, tmp_path).frontend(torch.from_numpy(golden["x"])).numpy()
    assert np.linalg.norm(y - golden["features"]) / np.linalg.norm(golden["features"]) < 1e-5


def test_extract_takes_what_was_imported(invoke, tmp_path):
    golden = np.load(GOLDEN / "eleaf-8g-opt-40-checkpoint.npz")
    for i, x in enumerate(golden["x"]):
        soundfile.write(tmp_path / f"{i}.wav", x, 16000, subtype="FLOAT")
    assert invoke("import-weights", CHECKPOINT, "-o", tmp_path / "w.safetensors").returncode == 0
    run = ("extract", "0.wav", "1.wav", "-o", "out", "-c", "w.yaml", "--weights", "w.safetensors")
    result = invoke(*run, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    store = FeatureStore(tmp_path / "out")
    y = np.stack([store["0.wav"], store["1.wav"]]).transpose(0, 2, 3, 1)  # [B, C, F, N]
    assert np.linalg.norm(y - golden["features"]) / np.linalg.norm(golden["features"]) < 1e-5


def test_a_name_that_is_no_text_stays_out_of_the_yaml(tmp_path):
    from hlfeat.interop import leaf_checkpoint

    imported = leaf_checkpoint.import_weights(CHECKPOINT, None, [])
    for weights in (tmp_path / "new\nline: [.pt", tmp_path / os.fsdecode(b"\xff.pt")):
        configuration = leaf_checkpoint.configuration_path(weights, CHECKPOINT, False)
        leaf_checkpoint.write(imported, CHECKPOINT, weights, configuration)
        assert load_config(configuration) == imported.config


def test_the_original_leaf_by_its_arguments(invoke, tmp_path):
    torch.save({"network": {f"_frontend.{k}": v for k, v in hlfeat_leaf().state_dict().items()}}, tmp_path / "c.pth")
    (tmp_path / "a.txt").write_text("frontend=Leaf\ncompression=PCEN\n")
    result = invoke("import-weights", tmp_path / "c.pth", "--args", tmp_path / "a.txt", "-o", tmp_path / "w.pt")
    assert result.returncode == 0, result.stderr
    assert load_config(tmp_path / "w.yaml").frontend.kind == "leaf"


def hlfeat_leaf() -> hlfeat.Leaf:
    return hlfeat.Leaf(6)


def test_notes_on_what_looks_wrong(invoke, tmp_path):
    state = frontend_state()
    state["filterbank.center_freqs"] = state["filterbank.center_freqs"].flip(0)
    state["filterbank.bandwidths"][2] = -1.0
    torch.save(state, tmp_path / "c.pt")
    result = invoke("import-weights", tmp_path / "c.pt", "-o", tmp_path / "w.pt")
    assert result.returncode == 0, result.stderr
    assert "bandwidths lie outside their range and are used as clamped" in result.stderr
    assert "39 filters are not above their lower neighbour" in result.stderr
    assert "num_groups = 4, conv_win_factor = 4.77, stride_factor = 1.0" in result.stderr
    assert "EfficientLEAF is assumed" in result.stderr


def test_notes_on_smoothing_that_explodes(invoke, tmp_path):
    frontend = hlfeat.EfficientLeaf(6, 2, compression="pcen")
    with torch.no_grad():
        frontend.compression.s[1:3] = torch.tensor([-0.01, 1.2])
    torch.save(frontend.state_dict(), tmp_path / "c.pt")
    result = invoke("import-weights", tmp_path / "c.pt", "-o", tmp_path / "w.pt")
    assert result.returncode == 0, result.stderr
    assert "2 of 6 smoothing coefficients lie outside their range and are used as clamped" in result.stderr


def test_parity_sees_a_difference(tmp_path, monkeypatch):
    from hlfeat.interop import leaf_checkpoint
    from hlfeat.nn.frontends import gabor

    imported = leaf_checkpoint.import_weights(CHECKPOINT, None, [])
    assert leaf_checkpoint.parity(imported, CHECKPOINT) < 1e-5
    energies = gabor.cpu_energies
    monkeypatch.setattr(gabor, "cpu_energies", lambda *a: energies(*a) * 1.01)
    assert leaf_checkpoint.parity(imported, CHECKPOINT) > 1e-4


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def broken(name: str) -> object:
    state = frontend_state()
    if name == "no frontend":
        return {"_encoder.weight": torch.zeros(3)}
    if name == "stack":
        return {**{f"m.frontend.{k}": v for k, v in state.items()}, "m.stack.layers.0.weight": torch.ones(3)}
    if name == "two frontends":
        return {**state, **{f"b.{k}": v for k, v in state.items()}}
    if name == "missing":
        del state["filterbank.bandwidths"]
    if name == "shape":
        state["filterbank.bandwidths"] = torch.ones(3)
    if name == "unknown":
        state["compression.w"] = torch.ones(3)
    if name == "no compression":
        return {k: v for k, v in state.items() if not k.startswith("compression")}
    if name == "not finite":
        state["filterbank.bandwidths"][3] = torch.nan
    return state


REFUSED = {
    "stack": "expected the weights of a frontend alone, found those of a stack too (m.stack.layers.0.weight, ...)",
    "no frontend": "expected the weights of a frontend (filterbank.center_freqs), found the keys _encoder.weight",
    "two frontends": "expected one frontend, found several",
    "missing": "missing frontend.filterbank.bandwidths",
    "shape": "frontend.filterbank.bandwidths has shape [3], expected [40]",
    "unknown": "unknown frontend.compression.w",
    "no compression": "expected the weights of LogTBN or PCEN, found the keys none",
    "not finite": "frontend.filterbank.bandwidths is not finite",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(invoke, tmp_path, name):
    torch.save(broken(name), tmp_path / "c.pt")
    failed(invoke("import-weights", tmp_path / "c.pt", "-o", tmp_path / "w.pt"), 2, REFUSED[name])
    assert not (tmp_path / "w.pt").exists()


def test_code_is_never_unpickled(invoke, tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"network": Evil()}))
    failed(
        invoke("import-weights", "evil.pth", "-o", "w.pt", cwd=tmp_path), 2, "more than tensors, which is not loaded"
    )
    assert not (tmp_path / "ran").exists()


def test_bad_calls(invoke, tmp_path):
    (tmp_path / "cut.pth").write_bytes(CHECKPOINT.read_bytes()[:3000])
    out = ("-o", tmp_path / "w.pt")
    failed(invoke("import-weights", tmp_path / "cut.pth", *out), 2, "cut.pth: not weights in .pth format")
    failed(invoke("import-weights", tmp_path / "none.pth", *out), 2, "weights cannot be read: No such file")
    failed(invoke("import-weights", CHECKPOINT, "-o", tmp_path / "w.npy"), 2, "ends in .safetensors or .pt")
    (tmp_path / "own.pth").write_bytes(CHECKPOINT.read_bytes())
    own = ("import-weights", tmp_path / "own.pth", "-o", tmp_path / "own.pth", "--overwrite")
    failed(invoke(*own), 2, "expected another name than the checkpoint's")
    assert (tmp_path / "own.pth").read_bytes() == CHECKPOINT.read_bytes()
    failed(
        invoke("import-weights", CHECKPOINT, *out, "--set", "frontend.groups=2"),
        2,
        "unknown key; did you mean num_groups",
    )
    failed(invoke("import-weights", CHECKPOINT, *out, "--max-freq", "9000"), 2, "at most half of audio.sample_rate")
    (tmp_path / "a.txt").write_text("num_groups=many\n")
    failed(
        invoke("import-weights", CHECKPOINT, *out, "--args", tmp_path / "a.txt"),
        2,
        "num_groups: expected int, got 'many'",
    )
    (tmp_path / "a.txt").write_text("frontend=EfficientLeaf\ncompression=PCEN\n")
    words = "the weights are those of compression=TBN, but the arguments say PCEN"
    failed(invoke("import-weights", CHECKPOINT, *out, "--args", tmp_path / "a.txt"), 2, words)
    (tmp_path / "a.txt").write_text("num_groups\n")
    failed(invoke("import-weights", CHECKPOINT, *out, "--args", tmp_path / "a.txt"), 2, "a.txt:1: expected name=value")
