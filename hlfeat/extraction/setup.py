"""Builds what a run needs from its configuration: modules, post-processing, engine, shard plan, description."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hlfeat.audio.clip import Clip
from hlfeat.audio.edges import Edges
from hlfeat.audio.resample import Resampler
from hlfeat.config.config import Config
from hlfeat.config.output import shard_bytes
from hlfeat.errors import ConfigError
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.clip_loader import ClipLoader
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.options import Limits
from hlfeat.extraction.postprocess import PostProcessor, make_postprocessor
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.margins import margin_of
from hlfeat.nn.weights import load_weights
from hlfeat.partition import WHOLE, Part
from hlfeat.storage.description import FeatureShape, HashedFile, HashedInputs, RunDescription
from hlfeat.storage.shard_writer import ShardPlan
from hlfeat.versions import versions


class Pipeline(NamedTuple):
    """From waveforms to what is written: the modules, what is done to their features, and the contents of
    hlfeat.yaml."""

    extractor: Extractor
    postprocessor: PostProcessor
    description: RunDescription


# The arguments are those of `make_engine`.
EngineMaker = Callable[
    [Extractor, PostProcessor, ClipLoader, torch.device, "np.dtype[Any]", "int | None", Limits], Engine
]


def make_engine(
    extractor: Extractor,
    postprocessor: PostProcessor,
    loader: ClipLoader,
    device: torch.device,
    dtype: np.dtype[Any],
    batch_samples: int | None,
    limits: Limits,
) -> Engine:
    """The engine for the device that the modules are on."""
    if device.type == "cpu":
        return CpuEngine(extractor, postprocessor, loader, dtype, limits)
    return BatchEngine(extractor, postprocessor, loader, device, dtype, batch_samples, limits)


def make_loader(config: Config, extractor: Extractor, limits: Limits, keep_truncated: bool = False) -> ClipLoader:
    """What reads clips for these modules."""
    resampler = Resampler(extractor.sample_rate)
    edges = Edges(resampler, config.audio.edges, *margin_of(extractor))
    return ClipLoader(resampler, config.audio.channels, limits, keep_truncated, edges)


def prepare(config: Config, weights: Path | None, stats: Path | None) -> Pipeline:
    """Build what a configuration describes, with these files of weights and statistics.

    Raises ConfigError for what cannot be built, and for weights or statistics that do not fit.
    """
    extractor = build(config)
    digest = load_weights(extractor, weights) if weights else None
    try:
        extractor.follow_centre_freqs()
    except ValueError as e:
        raise ConfigError(f"{weights}: {e}") from e
    postprocessor, stats_digest = make_postprocessor(config, extractor, digest, stats)
    description = RunDescription(
        fingerprint=config.fingerprint(digest, stats_digest),
        features=FeatureShape(
            channels=extractor.n_channels,
            bands=extractor.n_bands,
            frames_per_second=extractor.sample_rate / extractor.hop,
            hop_samples=extractor.hop,
            pool=config.output.pool,
            dims=None if config.output.pool is None else postprocessor.shape[0],
            freqs=_band_freqs(extractor) if config.output.pool is None else None,
            sample_rate=extractor.sample_rate,
            first_centre_samples=extractor.first_centre,
        ),
        weights=None if digest is None else HashedFile(str(weights), digest),
        stats=None if stats_digest is None else HashedFile(str(stats), stats_digest),
        versions=versions(),
        config=config.model_dump(mode="json"),
    )
    return Pipeline(extractor, postprocessor, description)


def _band_freqs(extractor: Extractor) -> tuple[float, ...] | None:
    """Hertz of the bands, to six digits: the last ones of float32 differ from machine to machine."""
    freqs = extractor.output_freqs()
    return None if freqs is None else tuple(float(f"{f:.6g}") for f in freqs)


def describe_run(pipeline: Pipeline, clips: Sequence[Clip], part: Part) -> RunDescription:
    """What a run of `part` writes into hlfeat.yaml, with the clips of all parts unless it is the whole."""
    if part == WHOLE:
        return pipeline.description
    return replace(pipeline.description, inputs=describe_inputs(clips))


def describe_inputs(clips: Sequence[Clip]) -> HashedInputs:
    """Identifies a list of clips: all parts of a run must be parts of the same list."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.id.encode(errors="surrogatepass") + b"\0")
    return HashedInputs(len(clips), digest.hexdigest())


def make_shard_plan(config: Config, postprocessor: PostProcessor) -> ShardPlan:
    """Where shards end, as the configuration says."""
    size = config.output.shard_size
    return ShardPlan(
        size if isinstance(size, int) else None,
        shard_bytes(size) if isinstance(size, str) else None,
        math.prod(postprocessor.shape) * np.dtype(config.output.dtype).itemsize,
    )
