"""Frontends: the published values, independence of the batch, where a frame is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlfeat
from hlfeat.nn.frontends import gabor
from tests import helpers

GOLDEN = sorted(helpers.GOLDEN.glob("*.npz"))
FRONTENDS = {
    "logtbn": lambda: hlfeat.EfficientLeaf(24, 8, conv_win_factor=6, stride_factor=16),
    "pcen": lambda: hlfeat.EfficientLeaf(24, 8, compression="pcen"),
    "log scale": lambda: hlfeat.EfficientLeaf(24, 4, 55, 7040, scale="log"),
    "leaf": lambda: hlfeat.Leaf(8),
    "log-mel": lambda: hlfeat.LogMel(24),
    "spectrogram": lambda: hlfeat.Spectrogram(n_bands=100),
}


def published(path: Path) -> tuple[hlfeat.EfficientLeaf | hlfeat.Leaf, np.lib.npyio.NpzFile]:
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    compression = meta["compression"]
    if isinstance(compression, dict):
        kind = {"logtbn": hlfeat.LogTBN, "pcen": hlfeat.PCEN}[compression.pop("type")]
        compression = kind(meta["kwargs"].get("n_filters", 40), **compression)
    kind = {"EfficientLeaf": hlfeat.EfficientLeaf, "Leaf": hlfeat.Leaf}[meta["cls"]]
    leaf = kind(**meta["kwargs"], **({} if compression == "default" else {"compression": compression}))
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


@pytest.fixture(params=["products", "convolutions"])
def way(request, monkeypatch):
    """How energies are computed: as on a CPU, and as on other devices."""
    monkeypatch.setattr(gabor, "products_pay", lambda device: request.param == "products")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_published_values(path, way):
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


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_published_values_among_neighbours(path, size, way):
    leaf, golden = published(path)
    clip, want = torch.from_numpy(golden["x"][-1]), golden["features"][-1]
    torch.manual_seed(size)
    longest = len(clip) + 4321 if size > 1 else len(clip)
    x, lengths = torch.randn(size, longest), torch.randint(1, longest + 1, (size,))
    x[size // 2, : len(clip)], lengths[size // 2] = clip, len(clip)
    with torch.no_grad():
        y = leaf(x, lengths)[size // 2]
    assert error(y[..., : want.shape[-1]], want) < 1e-5
    assert not y[..., want.shape[-1] :].any()


def test_ten_minutes():
    """PCEN's recursion and the pieces: the end comes out as that of a short clip, once its start has decayed."""
    torch.manual_seed(0)
    leaf = hlfeat.EfficientLeaf(12, 8, conv_win_factor=6, stride_factor=16, compression="pcen").eval()
    x = torch.randn(1, 600 * 16000) * torch.linspace(0.001, 1, 600 * 16000)
    with torch.no_grad():
        y, tail = leaf(x), leaf(x[:, -160 * 2000 :])
    assert y.shape == (1, 12, 60000)
    torch.testing.assert_close(y[..., -1000:], tail[..., -1000:], rtol=1e-4, atol=1e-4)  # 0.96^1000 is nothing


def test_there_are_published_values():
    assert len(GOLDEN) == 11


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
    if name in (
        "pcen",
        "leaf",
    ):  # its gain control answers before and after an impulse differently: look at what it follows
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
        ({"scale": "mle"}, "expected a scale of mel, linear, log, bark, erb, mel-matrix, got 'mle'"),
        ({"scale": [100.0, 90.0, 200.0, 300.0], "n_filters": 4}, "rise from min_freq = 60 to max_freq = 7800"),
        ({"scale": [100.0, 200.0], "n_filters": 4}, "expected 4 centre frequencies, one a filter, got 2"),
        ({"scale": "mel-matrix", "n_filters": 250}, "has no bin of an FFT of 512"),
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


def test_filters_start_where_they_are_told():
    wanted = [110.0, 220.0, 440.0, 880.0]
    leaf = hlfeat.EfficientLeaf(4, 2, 55, 1760, scale=wanted)
    np.testing.assert_allclose(leaf.centre_freqs(), wanted, rtol=1e-6)
    np.testing.assert_allclose(leaf.filterbank.bandwidths.detach(), [8000 / (f * 1.5) for f in wanted], rtol=1e-6)
    same = hlfeat.EfficientLeaf(4, 2, 55, 1760, scale="log")
    torch.testing.assert_close(same.state_dict(), leaf.state_dict())


def test_filters_read_off_a_mel_matrix():
    """By hand: with 257 bins of 31.25 Hz, a filter's centre is its largest bin, its width counts bins."""
    leaf = hlfeat.Leaf(40, scale="mel-matrix")
    bins = leaf.centre_freqs().double() / 31.25
    torch.testing.assert_close(bins, bins.round(), rtol=0, atol=1e-3)
    edges = 700 * np.expm1(np.linspace(np.log1p(60 / 700), np.log1p(7800 / 700), 42))
    for i in (5, 20, 39):
        f = np.arange(257) * 31.25
        triangle = np.minimum(
            (f - edges[i]) / (edges[i + 1] - edges[i]), (edges[i + 2] - f) / (edges[i + 2] - edges[i + 1])
        )
        root = np.sqrt(triangle.clip(0))
        assert bins[i] == pytest.approx(root.argmax(), abs=1e-3)
        width = (root >= root.max() / 2).sum()
        assert leaf.filterbank.bandwidths[i].item() == pytest.approx(
            np.sqrt(2 * np.log(2)) * 512 / (np.pi * width), rel=1e-5
        )
    assert torch.isfinite(leaf.eval()(torch.randn(1, 3000))).all()


SIGNALS = {
    "silence": torch.zeros(1, 4000),
    "impulse": torch.zeros(1, 4000).index_fill_(1, torch.tensor([1234]), 1.0),
    "square wave": torch.sign(torch.sin(torch.arange(4000.0) * 0.3))[None],
    "denormals": torch.full((1, 4000), 1e-40),
    "very loud": torch.full((1, 4000), 1e6),
    "one sample": torch.ones(1, 1),
}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", FRONTENDS)
def test_extreme_signals_give_finite_features_and_gradients(name, signal):
    frontend = FRONTENDS[name]().eval()
    y = frontend(SIGNALS[signal])
    assert torch.isfinite(y).all()
    if y.requires_grad:
        y.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in frontend.parameters())


@pytest.mark.parametrize("rate", [8000, 11025, 33100, 44100, 96000])  # 33100: frames every 331 samples, a prime
def test_rates_from_8_to_96_khz(rate):
    leaf = hlfeat.EfficientLeaf(12, 3, 60.0, 0.45 * rate, rate, stride_factor=4).eval()
    f = float(leaf.centre_freqs()[7])
    x = torch.sin(2 * np.pi * f / rate * torch.arange(rate // 4))[None]
    with torch.no_grad():
        y = leaf.filterbank(x)
    assert y.shape[-1] == (rate // 4 - 1) // (rate // 100) + 1
    assert y[0, :, 10].argmax() == 7


@pytest.mark.parametrize("name", ["logtbn", "leaf"])
def test_half_precision(name):
    """Weights rounded to 8 bits move the filters; energies are float32 all the same."""
    frontend, x = FRONTENDS[name]().eval(), torch.randn(2, 5000)
    with torch.no_grad():
        exact = frontend(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = frontend(x.bfloat16())
        rounded = frontend.bfloat16()(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    scale = float(exact.abs().max())
    assert float((mixed.float() - exact).abs().max()) < 0.01 * scale  # the signal has 8 bits
    assert float((rounded.float() - exact).abs().max()) < 0.1 * scale


@pytest.mark.parametrize("compression", ["logtbn", "pcen", None])
def test_torch_compile_gives_the_same(compression):
    frontend = (hlfeat.EfficientLeaf(4, 2, compression=compression) if compression else hlfeat.LogMel(6)).eval()
    x, lengths = torch.randn(2, 2000), torch.tensor([2000, 1111])
    compiled = torch.compile(frontend, backend="aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        want = frontend(x, lengths)
        torch.testing.assert_close(compiled(x, lengths), want, rtol=1e-4, atol=1e-5)
    if isinstance(frontend, hlfeat.EfficientLeaf):
        frontend.train()
        compiled(x, lengths).sum().backward()
        # it has looked at everything but how filters are made
        breaks = torch._dynamo.utils.counters["graph_break"]
        assert [why.splitlines()[0] for why in breaks] == ["Skip calling `torch.compiler.disable()`d function"]
        assert frontend.filterbank.center_freqs.grad.isfinite().all()


def test_torch_compile_knows_when_parameters_change_and_gives_gradients_in_eval_mode():
    """torch.compile says that it exports, and what is exported has filters that stay as they are."""
    leaf, x = hlfeat.EfficientLeaf(4, 2, conv_win_factor=6, stride_factor=16).eval(), torch.randn(2, 2000)
    compiled = torch.compile(leaf, backend="aot_eager")
    with torch.no_grad():
        before = leaf(x)
        torch.testing.assert_close(compiled(x), before, rtol=1e-4, atol=1e-5)
        leaf.filterbank.center_freqs.mul_(1.2)
        torch.testing.assert_close(compiled(x), leaf(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(compiled(x), before, atol=1e-2)
        leaf.load_state_dict({k: v * 0.9 if "center" in k else v for k, v in leaf.state_dict().items()})
        torch.testing.assert_close(compiled(x), leaf(x), rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(leaf(x).square().sum(), leaf.parameters())
    found = torch.autograd.grad(compiled(x).square().sum(), leaf.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_torch_export_any_number_of_clips_and_samples():
    leaf = FRONTENDS["logtbn"]().eval()
    sizes = {0: torch.export.Dim("clips", min=1, max=64), 1: torch.export.Dim("samples", min=2000, max=10**7)}
    with pytest.raises(RuntimeError, match="call the module once before, in eval mode"):
        torch.export.export(leaf, (torch.randn(2, 8000),))
    with torch.no_grad():
        leaf(torch.randn(2, 8000))
        exported = torch.export.export(leaf, (torch.randn(2, 8000),), dynamic_shapes=(sizes,), strict=True).module()
        for shape in ((2, 8000), (1, 2501), (5, 16000)):
            x = torch.randn(*shape)
            torch.testing.assert_close(exported(x), leaf(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pcen", "log-mel"])
def test_torch_export(name):
    frontend, x, lengths = FRONTENDS[name]().eval(), torch.randn(2, 8000), torch.tensor([8000, 3000])
    with torch.no_grad():
        want = frontend(x, lengths)
        exported = torch.export.export(frontend, (x, lengths)).module()
        torch.testing.assert_close(exported(x, lengths), want, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", FRONTENDS)
def test_torch_jit_trace(name, mode):
    """What other threads and numpy compute would be constants of the trace."""
    frontend = FRONTENDS[name]().eval()
    x, other = torch.randn(2, 2, 8000)
    with mode():
        traced = torch.jit.trace(frontend, (x,), check_trace=False)
        torch.testing.assert_close(traced(other), frontend(other))


@pytest.mark.parametrize("name", FRONTENDS)
def test_an_empty_batch(name):
    frontend = FRONTENDS[name]().eval()
    one = frontend(torch.randn(1, 3000))
    assert frontend(torch.zeros(0, 3000)).shape == (0, *one.shape[1:])
    assert frontend(torch.zeros(0, 3000), torch.zeros(0, dtype=torch.long)).shape == (0, *one.shape[1:])


def test_nothing_needs_triton():
    """It is there only where torch is built for a GPU."""
    code = """
import sys
sys.modules["triton"] = None
import hlfeat, torch
for name in hlfeat.config_names():
    extractor = hlfeat.build(name).eval()
    with torch.no_grad():
        extractor(torch.randn(1, 2000))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
