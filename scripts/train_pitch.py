"""scripts/train.py --task pitch: the rows of an extractor's output say how likely each pitch is.

An extractor of several channels gets one more layer, a 1 x 1 convolution to one channel, as a part of its
configuration. So what is saved is what was trained, and its features are a salience for `hlfeat.pitch`. One of a single
channel stays as it is; where its last layer is no convolution, whose weights find the scale of logits, a factor is
trained beside it, which only the confidence depends on.

The loss is the cross-entropy over rows, frame by frame. A frequency between two rows is divided between them, linearly
in log frequency.

Centre frequencies of filters are not trained: they are the scale that pitch is read from. If they moved, the place of
each pitch among the rows would move too, which the loss's gradient knows nothing of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from train_data import Example, Parts, say
from train_state import Model, whole_clips

import hlfeat
from hlfeat import UsageError

TOLERANCE = 50.0  # cents: a quarter tone
FARTHEST = 12_000.0  # cents: what a frame counts as in which no pitch is found, so that the median is a number


@dataclass(frozen=True)
class Rows:
    """The rows of an extractor's output that have a frequency above zero, from low to high.

    Attributes:
        order: where they are in the output. Shape: int64 [R].
        freqs: hertz. Shape: float64 [R].
    """

    order: Tensor
    freqs: np.ndarray

    @classmethod
    def of(cls, extractor: hlfeat.Extractor) -> Rows:
        """Those of its output. UsageError for fewer than three."""
        freqs = extractor.output_freqs()
        if freqs is None:
            raise UsageError("--config: expected rows with frequencies, to find a pitch in; a projection's have none")
        order = np.argsort(freqs, kind="stable")
        order = order[freqs[order] > 0]
        if len(order) < 3:
            raise UsageError(f"--config: expected three rows or more, to find a pitch between, got {len(order)}")
        return cls(torch.from_numpy(order), freqs[order])

    def inside(self, hertz: np.ndarray) -> np.ndarray:
        """Which of these pitches the rows can show. Shape: [...] -> bool [...]."""
        return (hertz >= self.freqs[0]) & (hertz <= self.freqs[-1])

    def positions(self, hertz: np.ndarray) -> np.ndarray:
        """Where pitches inside lie, in rows, linear in log frequency between two. Shape: [...] -> [...]."""
        ranks = np.arange(len(self.freqs))
        position: np.ndarray = np.interp(np.log(hertz), np.log(self.freqs), ranks)
        return position


class Salience(Model):
    """An extractor of one channel, as logits.

    Args:
        scaled: whether a factor is trained too. It is above zero, so that the strongest row is the same without it.

    Shape: x [B, T], lengths [B] -> [B, F, N].
    """

    def __init__(self, extractor: hlfeat.Extractor, scaled: bool) -> None:
        super().__init__()
        self.extractor = extractor
        self.log_scale = nn.Parameter(torch.zeros(())) if scaled else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        logits = self.extractor(x, lengths)[:, 0].float()
        return logits if self.log_scale is None else logits * self.log_scale.exp()


class Pitch:
    """Find the frequency of each frame that has one. (A Task: see train_state.py.)"""

    def __init__(self, config: hlfeat.Config, parts: Parts) -> None:
        self.config = config if hlfeat.build(config).n_channels == 1 else with_one_channel(config)
        stack = self.config.stack
        scaled = not stack or stack[-1].layer not in ("conv", "harmonic")
        self.model = Salience(hlfeat.build(self.config), scaled)
        self.settings: dict[str, Any] = {"--task": "pitch"}
        self.rows = Rows.of(self.model.extractor)
        for parameter in self.model.extractor.frontend.axis_parameters():
            parameter.requires_grad_(False)
        for what_for, part in (("train", parts.train), ("validate", parts.valid), ("test", parts.test)):
            if part:
                self.count(what_for, part)

    def count(self, what_for: str, examples: Sequence[Example]) -> None:
        """Say how many frames of a part have a pitch to be learnt. UsageError where none has."""
        hertz = np.concatenate([self.hertz(e) for e in examples])
        known = ~np.isnan(hertz)
        voiced = known & (hertz > 0)
        usable = voiced & self.rows.inside(hertz)
        low, high = self.rows.freqs[[0, -1]]
        counts = [
            (known & ~voiced, "without pitch"),
            (~known, "beyond their tracks"),
            (voiced & ~usable, f"with a pitch outside the rows ({low:.0f} to {high:.0f} Hz)"),
        ]
        left_out = ", ".join(f"{n} {why}" for frames, why in counts if (n := int(frames.sum())))
        text = f"frames to {what_for} with: {usable.sum()}" + (f"; left out: {left_out}" if left_out else "")
        if not usable.any():
            raise UsageError(text)
        say(text)

    def hertz(self, example: Example) -> np.ndarray:
        """The pitch of each frame; 0: none, NaN: not known. Shape: -> float64 [N]."""
        assert example.track is not None
        extractor = self.model.extractor
        first = example.start + extractor.stack.shift * extractor.frontend.hop  # samples
        frames = int(extractor.num_frames(len(example.wave)))
        return example.track.at((first + extractor.hop * np.arange(frames)) / extractor.sample_rate)

    def wanted(self, examples: Sequence[Example], frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The pitch of each frame, and whether it is one that the rows can show. Shape: two of [B, frames]."""
        hertz = np.full((len(examples), frames), np.nan)
        for i, example in enumerate(examples):
            known = self.hertz(example)
            hertz[i, : len(known)] = known
        usable = self.rows.inside(hertz)
        return np.where(usable, hertz, self.rows.freqs[0]), usable

    def loss(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """Shape: outputs [B, F, N]."""
        rows, device = self.rows, outputs.device
        hertz, usable = self.wanted(examples, outputs.shape[-1])
        position = rows.positions(hertz)  # [B, N]
        below = np.minimum(position.astype(np.int64), len(rows.freqs) - 2)
        above = torch.from_numpy(position - below).float().to(device)  # the share of the row above
        row = torch.from_numpy(below).to(device)[:, None]  # [B, 1, N]
        likelihood = outputs[:, rows.order.to(device)].log_softmax(1)
        pair = likelihood.gather(1, torch.cat([row, row + 1], 1))  # [B, 2, N]
        each = -(pair[:, 0] * (1 - above) + pair[:, 1] * above)
        mask = torch.from_numpy(usable).to(device)
        return (each * mask).sum() / mask.sum().clamp(min=1)  # a batch of clips without any pitch is possible

    def measure(self, examples: Sequence[Example], amp: bool) -> dict[str, float]:
        """Raw pitch accuracy, and the median of the distances in cents, over all frames that can be right."""
        distances = []
        for batch, logits in whole_clips(self.model, examples, amp):
            hertz, usable = self.wanted(batch, logits.shape[-1])
            track = hlfeat.pitch(logits[:, self.rows.order], torch.from_numpy(self.rows.freqs))
            with np.errstate(divide="ignore"):
                cents = 1200 * np.abs(np.log2(track.frequency.double().numpy() / hertz))
            distances.append(np.minimum(cents, FARTHEST)[usable])
        cents = np.concatenate(distances)
        return {"rpa": float((cents <= TOLERANCE).mean()), "cents": float(np.median(cents))}

    def line(self, result: dict[str, Any]) -> str:
        parts = {"held-out": "", "test": "test_"}
        return ", ".join(
            f"{name} raw pitch accuracy {result[f'{key}rpa']:.1%} (median distance {result[f'{key}cents']:.1f} cents)"
            for name, key in parts.items()
            if f"{key}rpa" in result
        )


def with_one_channel(config: hlfeat.Config) -> hlfeat.Config:
    """The configuration with one more layer, which mixes the channels to one."""
    data = config.model_dump(mode="json")
    mix = {"layer": "conv", "out_channels": 1, "kernel": [1, 1], "bias": False}  # an offset changes no softmax
    return hlfeat.Config.model_validate({**data, "stack": [*data["stack"], mix]})
