"""Pitch tracks of clips: the fundamental frequency and a confidence for each frame of a salience, a CSV for each clip.

Workers turn a clip's salience into two numbers a frame, chunk by chunk; with Viterbi's algorithm, which looks at all of
a clip, its salience is held in memory. The process of the run writes the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hlfeat.config.config import Config
from hlfeat.config.fingerprint import pitch_fingerprint
from hlfeat.config.output import OutputConfig, shard_bytes
from hlfeat.errors import ClipError, LayerError, UsageError
from hlfeat.extraction.events import ChannelFeatures, ComputedClip, HeldFeatures
from hlfeat.extraction.options import Options
from hlfeat.extraction.postprocess import PostProcessor, check_finite
from hlfeat.extraction.setup import Pipeline, prepare
from hlfeat.extraction.silence import Silence
from hlfeat.extraction.sinks import NumberedSink, Sink, SinkPlace
from hlfeat.nn.device import out_of_memory
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.pitch import pitch
from hlfeat.storage.description import PitchSettings
from hlfeat.storage.output_place import OutputPlace
from hlfeat.storage.shard_writer import ShardPlan
from hlfeat.storage.track_shard import TrackShard
from hlfeat.storage.track_text import TrackText

LINE_BYTES = 24  # of a frame, about
MOST_CLIPS, MOST_BYTES = 256, 4_000_000  # of a shard: 28 minutes at 100 frames a second, of which a kill costs the last


class PitchRows(PostProcessor):
    """From a salience to frequency (hertz) and confidence of each frame.

    Args:
        extractor: computes the salience, in eval mode.
        freqs: of its rows in hertz, [F].
        viterbi: look for the best path through all frames of a clip.

    Raises UsageError for `viterbi` without what it needs.
    """

    def __init__(self, extractor: Extractor, freqs: np.ndarray, viterbi: bool) -> None:
        super().__init__(1, len(freqs), Fraction(extractor.sample_rate, extractor.hop))
        self.changes, self.shape = True, (2,)
        self._freqs, self._viterbi = torch.from_numpy(freqs).float(), viterbi
        self._silence = Silence(extractor)
        if viterbi:
            pitch(torch.zeros(len(freqs), 1), self._freqs, viterbi=True)  # raises an error here, and not in a worker
        first, hop = Fraction(extractor.first_centre), Fraction(extractor.hop)
        self.text = TrackText(first / extractor.sample_rate, hop / extractor.sample_rate)

    def __call__(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Raises ClipError for a salience that is not finite, or too long for Viterbi's algorithm.

        Shape: [..., n, 1, F] each, in time order -> [..., n, 2] each.
        """
        if not self._viterbi:
            yield from map(self._rows, chunks)
            return
        held = list(chunks)
        try:
            yield self._rows(torch.cat(held, -3) if len(held) > 1 else held[0])
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            raise ClipError("out-of-memory", "too long for a path through all of its frames") from e

    def _rows(self, chunk: Tensor) -> Tensor:
        """Shape: [..., n, 1, F] -> [..., n, 2]."""
        salience = chunk.cpu()[..., 0, :].float()  # [..., n, F]
        check_finite(salience.numpy(), "pitch is looked for")
        track = pitch(salience.transpose(-1, -2), self._freqs, viterbi=self._viterbi)
        rows = torch.stack([track.frequency, track.confidence], -1)
        return rows.masked_fill(self._silence(salience)[..., None], 0.0)


@dataclass(frozen=True)
class PitchTracks:
    """A CSV for each clip; a Product.

    Attributes:
        viterbi: look for the best path through all frames of a clip.
    """

    viterbi: bool = False

    def check_place(self, place: OutputPlace) -> None:
        if place.local is None:
            raise UsageError(f"{place}: pitch tracks go into a folder, not into a bucket")

    def prepare(self, config: Config, weights: Path | None, stats: Path | None) -> Pipeline:
        assert stats is None, "a salience is not normalised"
        check_output(config.output)
        extractor, _, description = prepare(config, weights, None)
        freqs = extractor.output_freqs()
        if extractor.n_channels != 1 or freqs is None:
            got = f"{extractor.n_channels} channels" if extractor.n_channels != 1 else "rows without frequencies"
            place = ("stack", len(config.stack) - 1) if config.stack else ("frontend",)
            raise LayerError(place, f"must have one channel whose rows have frequencies, for pitch, got {got}")
        settings = PitchSettings(self.viterbi)
        fingerprint = pitch_fingerprint(description.fingerprint, asdict(settings))
        description = replace(description, fingerprint=fingerprint, pitch=settings)
        return Pipeline(extractor, PitchRows(extractor.eval(), freqs, self.viterbi), description)

    def describe(self, config: Config, pipeline: Pipeline) -> str:
        extractor = pipeline.extractor
        rate = extractor.sample_rate / extractor.hop
        how = " along the best path" if self.viterbi else ""
        return f"pitch from {extractor.n_bands} rows of salience{how}, {rate:g} frames a second"

    def row_bytes(self, config: Config, pipeline: Pipeline) -> int:
        return LINE_BYTES

    def notes(self, config: Config, sample_rates: Mapping[int, int], options: Options) -> list[str]:
        return []  # the rows of a salience end where pitches do

    def shard_plan(self, config: Config, postprocessor: PostProcessor) -> ShardPlan:
        size = config.output.shard_size
        if isinstance(size, int):
            return ShardPlan(min(size, MOST_CLIPS), MOST_BYTES, LINE_BYTES)
        return ShardPlan(MOST_CLIPS, min(shard_bytes(size), MOST_BYTES), LINE_BYTES)

    def sink(self, config: Config, pipeline: Pipeline, place: SinkPlace) -> Sink:
        assert isinstance(pipeline.postprocessor, PitchRows)
        return TrackSink(place, pipeline.postprocessor.text)


def check_output(output: OutputConfig) -> None:
    """Raises ConfigError for a configuration that says how to store features, which are not stored."""
    default = OutputConfig()
    for key in ("pool", "dtype", "format"):
        value = getattr(output, key)
        if value != getattr(default, key):
            expected = getattr(default, key) or "null"
            raise LayerError(("output", key), f"must be {expected} for pitch tracks, got {value}")


class TrackSink(NumberedSink):
    """Writes a CSV for each clip, and an index of them; a Sink.

    Args:
        place: where.
        text: of a track.
    """

    def __init__(self, place: SinkPlace, text: TrackText) -> None:
        super().__init__(place)
        self._text = text
        self._shard: TrackShard | None = None

    def write(self, clip: ComputedClip) -> None:
        if self._shard is None:
            self._shard = self._open.enter_context(TrackShard(self._files))
        for n, (entry, channel) in enumerate(self._entries(clip)):
            try:
                self._shard.append(entry, self._text(self._chunks(channel)))
            except ClipError:
                self._shard.drop(n)
                raise

    def _chunks(self, channel: ChannelFeatures) -> Iterator[np.ndarray]:
        held = isinstance(channel, HeldFeatures)
        return (rows for rows, _ in (channel if held else self.place.clock.timed("compute", channel)))

    def commit(self) -> list[Path]:
        if self._shard is None or not self._shard.entries:
            return []
        self._before_publishing()
        paths = self._shard.commit()
        self._shard = None
        self._begin_next()
        return paths
