"""Train a stack on frames of notes, and score it on others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hlfeat import parameter_groups
from scripts.evidence.note_frames import REACH, NoteFrames
from scripts.evidence.pitch_rows import Rows, pitch, soft_labels
from scripts.evidence.stack_nets import follow


@dataclass(frozen=True)
class Recipe:
    """How all stacks are trained.

    Attributes:
        channels: between two layers.
        start: of several channels that begin as a harmonic sum, see `start_as_salience`.
        steps, batch, rate: of Adam, its learning rate falling to zero as a half cosine.
        moving_steps, moving_batch: after those, of stack and filters together, the stack's rate a quarter.
        filters_rate: relative to the filters' widths (`hlfeat.parameter_groups`).
    """

    channels: int = 8
    start: str = "copies"
    steps: int = 300
    batch: int = 64
    rate: float = 0.01
    moving_steps: int = 40
    moving_batch: int = 16
    filters_rate: float = 0.03


def train(
    stack: nn.Sequential, rows: Rows, levels: Tensor, hertz: Tensor, recipe: Recipe, generator: torch.Generator
) -> None:
    """Fit a stack: cross-entropy of its softmax over rows with soft labels. Shape: levels [F, N], hertz [N]."""
    labels = soft_labels(rows.freqs, hertz)
    optimiser = torch.optim.Adam(stack.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for _ in range(recipe.steps):
        chosen = torch.randint(levels.shape[1], (recipe.batch,), generator=generator)
        optimiser.zero_grad()
        loss(stack, levels[:, chosen], labels[:, chosen]).backward()
        optimiser.step()
        schedule.step()


def train_moving(
    stack: nn.Sequential, kind: str, rows: Rows, of: NoteFrames, positions: Tensor, recipe: Recipe,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Go on with stack and filters together, on these frames; harmonic layers follow the rows as they move."""
    filters = parameter_groups(rows.frontend, recipe.filters_rate)
    optimiser = torch.optim.Adam([*filters, *parameter_groups(stack, recipe.rate / 4)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.moving_steps)
    for _ in range(recipe.moving_steps):
        chosen = positions[torch.randint(len(positions), (recipe.moving_batch,), generator=generator)]
        optimiser.zero_grad()
        levels = rows.levels(of.crops(chosen))[..., REACH].T
        loss(stack, levels, soft_labels(rows.freqs, of.hertz[chosen])).backward()
        optimiser.step()
        schedule.step()
        rows.follow()
        follow(stack, kind, rows)


def loss(stack: nn.Sequential, levels: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over frames. Shape: [F, n] both."""
    return -(labels * stack(levels[None, None])[0, 0].log_softmax(dim=0)).sum(dim=0).mean()


@torch.no_grad()
def predict(stack: nn.Sequential, rows: Rows, levels: Tensor) -> Tensor:
    """Pitch of each frame: [F, N] -> float64 [N], hertz."""
    parts = [stack(part[None, None])[0, 0] for part in levels.split(64, dim=1)]
    return pitch(torch.cat(parts, dim=1), rows.freqs)
