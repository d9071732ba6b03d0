"""What a run makes of clips: its modules, where shards end, and the sink for what is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hlfeat.config.config import Config
from hlfeat.extraction.coverage import coverage_notes
from hlfeat.extraction.options import Options
from hlfeat.extraction.postprocess import PostProcessor
from hlfeat.extraction.setup import Pipeline, make_shard_plan, prepare
from hlfeat.extraction.sinks import ShardSink, Sink, SinkPlace
from hlfeat.storage.output_place import OutputPlace
from hlfeat.storage.shard_writer import ShardPlan


class Product(Protocol):
    """One kind of output directory. It can be pickled: each device's process gets it."""

    def check_place(self, place: OutputPlace) -> None:
        """Raises UsageError where the output cannot be there."""

    def prepare(self, config: Config, weights: Path | None, stats: Path | None) -> Pipeline:
        """The modules, and what hlfeat.yaml says. Raises ConfigError for a configuration that does not go with it."""

    def describe(self, config: Config, pipeline: Pipeline) -> str:
        """What is made, in half a line."""

    def row_bytes(self, config: Config, pipeline: Pipeline) -> int:
        """What a row of the post-processor takes on the disk, about."""

    def notes(self, config: Config, sample_rates: Mapping[int, int], options: Options) -> list[str]:
        """A line about each thing that the user of the output should know, of so many clips of each sample rate."""

    def shard_plan(self, config: Config, postprocessor: PostProcessor) -> ShardPlan:
        """Where shards end, which are finished and taken back as a whole."""

    def sink(self, config: Config, pipeline: Pipeline, place: SinkPlace) -> Sink:
        """Writes what is computed."""


@dataclass(frozen=True)
class Features:
    """Features in sharded arrays, with their index and statistics; a Product."""

    def check_place(self, place: OutputPlace) -> None:
        pass

    def prepare(self, config: Config, weights: Path | None, stats: Path | None) -> Pipeline:
        return prepare(config, weights, stats)

    def describe(self, config: Config, pipeline: Pipeline) -> str:
        extractor, output = pipeline.extractor, config.output
        shape = f"[frames, {extractor.n_channels}, {extractor.n_bands}]"
        rate = extractor.sample_rate / extractor.hop
        size = pipeline.postprocessor.shape[0]
        pooled = "" if output.pool is None else f", pooled by {output.pool} to [vectors, {size}]"
        return f"features {shape} {output.dtype}, {rate:g} frames a second{pooled}"

    def row_bytes(self, config: Config, pipeline: Pipeline) -> int:
        return math.prod(pipeline.postprocessor.shape) * np.dtype(config.output.dtype).itemsize

    def notes(self, config: Config, sample_rates: Mapping[int, int], options: Options) -> list[str]:
        return coverage_notes(config, sample_rates, files=options.weights is not None or options.stats is not None)

    def shard_plan(self, config: Config, postprocessor: PostProcessor) -> ShardPlan:
        return make_shard_plan(config, postprocessor)

    def sink(self, config: Config, pipeline: Pipeline, place: SinkPlace) -> Sink:
        output = config.output
        return ShardSink(place, output.format, np.dtype(output.dtype), pipeline.postprocessor.shape)


FEATURES = Features()
