"""Clips computed together on a CPU: to the bit what each is alone, whatever their lengths; failures stay apart."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.audio.clip import Clip
from hlfeat.config.loading import config_names, load_config
from hlfeat.errors import ClipError
from hlfeat.extraction import cpu_engine
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.events import ClipInfo, ComputedClip, FailedClip, LoadedClip
from hlfeat.extraction.options import DEFAULT_LIMITS, Limits
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.compression import LogTBN
from hlfeat.nn.frontends.pcen import PCEN
from hlfeat.statistics.dataset_statistics import Statistics

POOLS = [None, "mean", "mean+std", "max", "window:0.1", "window:0.05,0.03"]


class Loaded:
    """A loader of waveforms that are there already: the ids of clips are their numbers."""

    resampler = None

    def __init__(self, waveforms: list[torch.Tensor]) -> None:
        self.waveforms = waveforms

    def load_all(self, clips, cancelled):
        return [self._load(clip, self.waveforms[int(clip.id)]) for clip in clips]

    @staticmethod
    def _load(clip, x):
        info = ClipInfo(clip, 16000, 1, len(x) / 16000, 0, 0, 1, len(x))
        return LoadedClip(info, [x], [not bool(x.any())])


@cache
def extractor_of(config: str, n_filters: int | None) -> Extractor:
    """Of a configuration, with statistics and weights unlike those of a new module."""
    few = [] if config.startswith("lin") or n_filters is None else [f"frontend.n_filters={n_filters}"]
    if n_filters is not None and config.startswith("eleaf"):
        few.append("frontend.num_groups=1")
    extractor = build(load_config(config, few)).eval()
    random = torch.Generator().manual_seed(0)
    for name, value in extractor.state_dict().items():
        if "running" in name or "TBN" in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=random))
    extractor.follow_centre_freqs()
    return extractor


def engine_of(
    extractor: Extractor, waveforms: list[torch.Tensor], pool=None, normalise=False, dtype="float32", limits=None
) -> CpuEngine:
    shape = extractor.n_channels, extractor.n_bands
    one = np.linspace(1, 2, shape[0] * shape[1]).reshape(shape)
    statistics = Statistics("", 1, 2, one, one**3, one, one) if normalise else None
    finish = PostProcessor(*shape, Fraction(extractor.sample_rate, extractor.hop), statistics, pool)
    return CpuEngine(extractor, finish, Loaded(waveforms), np.dtype(dtype), limits or DEFAULT_LIMITS)


def compute(engine: CpuEngine, numbers: list[int]) -> list[ComputedClip | FailedClip]:
    return engine.in_worker([Clip(str(i), "") for i in numbers], lambda: False)


def sounds(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=random) * 0.1 for n in lengths]


def bytes_of(event: ComputedClip) -> list[bytes]:
    (channel,) = event.channels
    ((features, moments),) = channel
    assert features.flags.c_contiguous
    assert event.nbytes == features.nbytes
    arrays = features, moments.mean, moments.m2, moments.min, moments.max
    return [str((a.shape, a.dtype)).encode() + a.tobytes() for a in arrays]


lengths_of_clips = st.lists(
    st.sampled_from([1, 160, 161, 2000, 8000, 8000, 8000]) | st.integers(1, 9000), min_size=1, max_size=9
)


@pytest.mark.parametrize("config", config_names())
@given(
    lengths=lengths_of_clips,
    pool=st.sampled_from(POOLS),
    normalise=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "float64"]),
    batch=st.sampled_from([1 << 13, 1 << 15, 1 << 18]),
    seed=st.integers(0, 9),
)
def test_clips_are_the_same_alone_and_together(config, lengths, pool, normalise, dtype, batch, seed):
    extractor, waveforms = extractor_of(config, None), sounds(lengths, seed)
    engine = engine_of(extractor, waveforms, pool, normalise, dtype, Limits(cpu_batch_samples=batch))
    together = compute(engine, list(range(len(lengths))))
    for i, event in enumerate(together):
        assert bytes_of(event) == bytes_of(*compute(engine, [i]))


@pytest.mark.parametrize("config", ["eleaf-8g-opt", "eleaf-pcen"])
@given(n_filters=st.integers(1, 9), lengths=lengths_of_clips, pool=st.sampled_from(POOLS))
def test_of_few_bands_they_are_too(config, n_filters, lengths, pool):
    """Where there is a single band, vectors of a CPU reach from one clip to the next."""
    waveforms = sounds(lengths)
    engine = engine_of(extractor_of(config, n_filters), waveforms, pool)
    for i, event in enumerate(compute(engine, list(range(len(lengths))))):
        assert bytes_of(event) == bytes_of(*compute(engine, [i]))


@pytest.mark.parametrize("pool", [None, "max"])
def test_a_clip_without_finite_features_fails_alone(pool):
    waveforms = sounds([4000] * 5)
    waveforms[2] = waveforms[2] * 1e30
    engine = engine_of(extractor_of("eleaf-8g-opt", None), waveforms, pool)
    events = compute(engine, list(range(5)))
    for i in (0, 1, 3, 4):
        assert bytes_of(events[i]) == bytes_of(*compute(engine, [i]))
    (alone,) = compute(engine, [2])
    assert isinstance(events[2], FailedClip)
    assert (events[2].error.code, str(events[2].error)) == (alone.error.code, str(alone.error))
    if pool is None:
        largest = float(waveforms[2].abs().max())
        assert str(alone.error) == f"features that float32 cannot hold: samples as large as {largest:.3g}"
    else:
        assert str(alone.error) == "features that are not finite, before they are normalised or pooled"


def test_clips_of_the_same_length_take_one_turn(monkeypatch):
    """What is called for each clip is a cost of its own, many times the work where clips are short."""
    turns = []
    of_each = cpu_engine.moments_of_each

    def noting(arrays):
        turns.append(len(arrays))
        return of_each(arrays)

    monkeypatch.setattr(cpu_engine, "moments_of_each", noting)
    waveforms = sounds([8000] * 7 + [7999] * 2 + [2000])
    compute(engine_of(extractor_of("eleaf-8g-opt", None), waveforms), list(range(10)))
    assert turns == [9, 1]  # 7,999 samples have as many frames as 8,000


def test_a_stopped_run_computes_nothing_more():
    waveforms = sounds([4000] * 3)
    engine = engine_of(extractor_of("log-mel", None), waveforms)
    events = engine.in_worker([Clip(str(i), "") for i in range(3)], lambda: True)
    assert all(isinstance(e, FailedClip) and isinstance(e.error, ClipError) for e in events)
    assert {e.error.code for e in events} == {"cancelled"}


@pytest.mark.parametrize("bands", [1, 2, 7, 80])
@pytest.mark.parametrize("kind", [PCEN, LogTBN])
def test_compressions_are_exact_where_they_say_so(kind, bands):
    compress = kind(bands).eval()
    if not compress.exact_in_batches:
        assert (kind, bands) == (PCEN, 1)
        return
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for frames in (1, 2, 31, 32, 33, 97, 100, 700):
            x = torch.rand(17, bands, frames, generator=random)
            for alone, together in zip(x, compress(x), strict=True):
                assert torch.equal(compress(alone[None].contiguous())[0], together)


@pytest.mark.parametrize(("n_filters", "turns"), [(1, [1, 1, 1]), (2, [3])])
def test_clips_are_compressed_one_by_one_where_a_batch_rounds_otherwise(n_filters, turns, monkeypatch):
    extractor, sizes = extractor_of("eleaf-pcen", n_filters), []
    compress = extractor.frontend.compress

    def noting(bands, frames):
        sizes.append(len(bands))
        return compress(bands, frames)

    monkeypatch.setattr(extractor.frontend, "compress", noting)
    compute(engine_of(extractor, sounds([4000] * 3)), [0, 1, 2])
    assert sizes == turns
