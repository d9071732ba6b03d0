"""What a configuration comes to: modules, what is done to their features, where shards end, the file hlfeat.yaml."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlfeat.audio.clip import Clip
from hlfeat.config.config import Config
from hlfeat.config.output import shard_bytes
from hlfeat.errors import ConfigError
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.engine import Engine
from hlfeat.extraction.postprocess import PostProcessor, make_postprocessor
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.weights import load_weights
from hlfeat.storage.description import FeatureShape, HashedFile, HashedInputs, RunDescription
from hlfeat.storage.shard_plan import ShardPlan
from hlfeat.versions import versions


def make_engine(
    extractor: Extractor,
    finish: PostProcessor,
    device: torch.device,
    dtype: np.dtype[Any],
    channels: str | int,
    batch_samples: int,
    stopped: Callable[[], bool],
) -> Engine:
    """What fits the device."""
    if device.type == "cpu":
        return CpuEngine(extractor, finish, device, dtype, channels)
    return BatchEngine(extractor, finish, device, dtype, channels, batch_samples, stopped)


def prepare(
    config: Config, weights: Path | None, stats: Path | None
) -> tuple[Extractor, PostProcessor, RunDescription]:
    """The modules, what is done to their features before these are written, and the contents of hlfeat.yaml.

    Raises ConfigError for what cannot be built, and for weights or statistics that do not fit.
    """
    extractor = build(config)
    digest = load_weights(extractor, weights) if weights else None
    try:
        extractor.follow_centre_freqs()
    except ValueError as e:
        raise ConfigError(f"{weights}: {e}") from e
    finish, stats_digest = make_postprocessor(config, extractor, digest, stats)
    description = RunDescription(
        fingerprint=config.fingerprint(digest, stats_digest),
        features=FeatureShape(
            channels=extractor.n_channels,
            bands=extractor.n_bands,
            frames_per_second=extractor.sample_rate / extractor.hop,
            hop_samples=extractor.hop,
            pool=config.output.pool,
            dims=None if config.output.pool is None else finish.shape[0],
        ),
        weights=None if digest is None else HashedFile(str(weights), digest),
        stats=None if stats_digest is None else HashedFile(str(stats), stats_digest),
        versions=versions(),
        config=config.model_dump(mode="json"),
    )
    return extractor, finish, description


def describe_inputs(clips: Sequence[Clip]) -> HashedInputs:
    """Which clips these are, for parts to be parts of the same."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.id.encode(errors="surrogatepass") + b"\0")
    return HashedInputs(len(clips), digest.hexdigest())


def plan_of(config: Config, finish: PostProcessor) -> ShardPlan:
    """Where the configuration wants shards to end."""
    size = config.output.shard_size
    return ShardPlan(
        size if isinstance(size, int) else None,
        shard_bytes(size) if isinstance(size, str) else None,
        math.prod(finish.shape) * np.dtype(config.output.dtype).itemsize,
    )
