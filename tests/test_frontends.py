"""Frontends: the published values, independence of the batch, where a frame is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat

GOLDEN = sorted((Path(__file__).parent / "golden").glob("eleaf-*.npz"))
FRONTENDS = {
    "logtbn": lambda: hlfeat.EfficientLeaf(24, 8, conv_win_factor=6, stride_factor=16),
    "pcen": lambda: hlfeat.EfficientLeaf(24, 8, compression="pcen"),
    "log scale": lambda: hlfeat.EfficientLeaf(24, 4, 55, 7040, scale="log"),
    "log-mel": lambda: hlfeat.LogMel(24),
    "spectrogram": lambda: hlfeat.Spectrogram(n_bands=100),
}


def published(path: Path) -> tuple[hlfeat.EfficientLeaf, np.lib.npyio.NpzFile]:
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    compression = meta["compression"]
    if isinstance(compression, dict):
        kind = {"logtbn": hlfeat.LogTBN, "pcen": hlfeat.PCEN}[compression.pop("type")]
        compression = kind(meta["kwargs"].get("n_filters", 40), **compression)
    elif compression == "default":
        compression = "logtbn"
    leaf = hlfeat.EfficientLeaf(**meta["kwargs"], compression=compression)
    initial = leaf.state_dict()
    state = {k[6:]: torch.from_numpy(np.asarray(golden[k])) for k in golden if k.startswith("state/")}
    assert set(initial) == set(state)
    if "trained" not in path.name and "checkpoint" not in path.name:
        for key, value in state.items():
            torch.testing.assert_close(initial[key], value, rtol=1e-5, atol=1e-6)
    leaf.load_state_dict(state)
    return leaf.eval(), golden


def error(got: torch.Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.detach().double().numpy() - want) / np.linalg.norm(want.astype(np.float64)))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_published_values(path):
    leaf, golden = published(path)
    x = torch.from_numpy(golden["x"])
    y = leaf(x)
    assert y.shape == golden["features"].shape
    assert error(y, golden["features"]) < 1e-5
    with torch.no_grad():
        assert error(leaf(x[:, None]), golden["features"]) < 1e-5
        if "energies" in golden:
            assert error(leaf.filterbank(x), golden["energies"]) < 1e-5
            centres = torch.from_numpy(golden["centre_freqs_after"]) * leaf.sample_rate / (2 * np.pi)
            torch.testing.assert_close(leaf.centre_freqs(), centres)
    if "cotangent" in golden:
        (y * torch.from_numpy(golden["cotangent"])).sum().backward()
        for name, parameter in leaf.named_parameters():
            assert error(parameter.grad, golden[f"grad/{name}"]) < 1e-4, name


def test_there_are_published_values():
    assert len(GOLDEN) == 10


@pytest.mark.parametrize("name", FRONTENDS)
@given(lengths=st.lists(st.integers(1, 6000), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_a_clip_does_not_depend_on_its_batch(name, lengths, seed):
    torch.manual_seed(seed)
    frontend = FRONTENDS[name]().eval()
    x = torch.randn(len(lengths), max(lengths))  # noise in the padding too: it must not be looked at
    with torch.no_grad():
        together = frontend(x, torch.tensor(lengths))
        for b, n in enumerate(lengths):
            alone = frontend(x[b : b + 1, :n])[0]
            frames = frontend.num_frames(n)
            assert alone.shape[-1] == frames
            assert torch.all(together[b, ..., frames:] == 0)
            assert (together[b, ..., :frames] - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("name", FRONTENDS)
def test_frame_n_is_centred_on_sample_n_times_hop(name):
    frontend = FRONTENDS[name]().eval()
    frame = 31
    x = torch.full((1, 16000), 0.0)
    x[0, frame * frontend.hop] = 1.0
    with torch.no_grad():
        y = frontend(x)
    if name == "pcen":  # its gain control answers before and after an impulse differently: look at what it follows
        y = frontend.filterbank(x).detach()
    y = y[0] if y.dim() == 3 else y[0, 0]  # [F, N]
    around = y[:, frame - 12 : frame + 13]
    assert (around.argmax(-1) == 12).all()
    torch.testing.assert_close(around, around.flip(-1), rtol=1e-3, atol=1e-3 * float(around.abs().max()))


def test_num_frames_of_ints_and_tensors():
    leaf = hlfeat.EfficientLeaf()
    assert [leaf.num_frames(t) for t in (1, 160, 161, 16000)] == [1, 1, 2, 100]
    assert leaf.num_frames(torch.tensor([1, 160, 161])).tolist() == [1, 1, 2]


def test_training_with_lengths_counts_existing_frames_only():
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 5000), torch.tensor([5000, 900, 2300])
    a, b = hlfeat.EfficientLeaf(8, 2), hlfeat.EfficientLeaf(8, 2)
    a(x, lengths)
    longer = torch.cat([x, torch.randn(3, 4000)], 1)
    b(longer, lengths)
    torch.testing.assert_close(a.compression.TBN.bn.running_mean, b.compression.TBN.bn.running_mean)
    torch.testing.assert_close(a.compression.TBN.bn.running_var, b.compression.TBN.bn.running_var)


def test_a_module_of_ones_own_compresses():
    class Root(torch.nn.Module):
        def forward(self, x):
            return x.sqrt()

    leaf = hlfeat.EfficientLeaf(8, 2, compression=Root()).eval()
    x = torch.randn(1, 1600)
    torch.testing.assert_close(leaf(x), leaf.filterbank(x).sqrt())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_filters": 4, "num_groups": 5}, "num_groups <= n_filters, got 5 groups of 4"),
        ({"min_freq": 500, "max_freq": 100}, "min_freq < max_freq"),
        ({"window_stride": 0.01}, "at least one sample"),
        ({"compression": "pcne"}, '"logtbn", "pcen"'),
        ({"scale": "log", "min_freq": 0}, "above 0 Hz"),
    ],
)
def test_impossible_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        hlfeat.EfficientLeaf(**arguments)


def test_impossible_inputs():
    leaf = hlfeat.EfficientLeaf(8, 2)
    with pytest.raises(ValueError, match=r"\[B, T\].*got \[3, 2, 100\]"):
        leaf(torch.zeros(3, 2, 100))
    with pytest.raises(ValueError, match="T >= 1"):
        leaf(torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"lengths \[3\]"):
        leaf(torch.zeros(3, 100), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"lengths of 0 to 100 samples, got \[101, 5\]"):
        leaf(torch.zeros(2, 100), torch.tensor([101, 5]))
