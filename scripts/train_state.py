"""What scripts/train.py trains, and how it is kept: a task's model, optimizer and schedule, saved after each epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from train_data import RANK, Example

import hlfeat
from hlfeat import UsageError

BATCH_SECONDS = 64  # of audio, in a batch of whole clips


class Model(nn.Module):
    """An extractor and what a task needs after it. Shape: x [B, T], lengths [B] -> the task's outputs."""

    extractor: hlfeat.Extractor


class Task(Protocol):
    """What is learnt: classes (train_classes.py) or pitch (train_pitch.py)."""

    config: hlfeat.Config  # of model.extractor
    model: Model
    settings: dict[str, Any]  # what a checkpoint has to agree with, beside the options

    def loss(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """Of the model's outputs for a batch of examples, in their order."""
        ...

    def measure(self, examples: Sequence[Example], amp: bool) -> dict[str, float]:
        """How well whole clips are understood, by the names in metrics.jsonl."""
        ...

    def line(self, result: dict[str, Any]) -> str:
        """An epoch's measured values, for people."""
        ...


class Training:
    """A model, its optimizer (AdamW) and schedule (a cosine that falls to zero), and what each epoch has measured.

    Random numbers of an epoch follow from the seed, the epoch and the process. So a checkpoint is a complete state: a
    run that continues from it ends with the same weights as one that was never stopped, to the bit on a CPU.

    Args:
        settings: what a checkpoint has to agree with: plain values by the names of options.
    """

    def __init__(self, model: Model, lr: float, steps: int, settings: dict[str, Any]) -> None:
        self.model = model
        self.settings = settings
        self.start = filters_of(model.extractor)
        self.optimizer = torch.optim.AdamW(hlfeat.parameter_groups(model, lr, weight_decay=0.01))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda n: (1 + math.cos(math.pi * n / steps)) / 2
        )
        self.metrics: list[dict[str, Any]] = []  # one an epoch

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.metrics)

    def save(self, path: Path) -> None:
        """Write the state beside its name and rename it: whoever is killed leaves the checkpoint before."""
        state = {
            "epoch": self.epoch,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "metrics": self.metrics,
            "settings": self.settings,
        }
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Continue where a checkpoint was made. UsageError where it was made of something else."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except Exception as e:
            raise UsageError(f"--resume: {path}: not a checkpoint of this script: {str(e).splitlines()[0]}") from e
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise UsageError(f"--resume: {path} was made with another {name}: {short(settings.get(name))}, "
                                 f"not {short(value)}")  # fmt: skip
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.metrics = state["metrics"]

    def seed_epoch(self, seed: int) -> int:
        """Seed torch for the next epoch, and return a seed of the data's order, the same in every process."""
        data = (seed * 1_000_003 + self.epoch) % 2**63
        torch.manual_seed((data * 1_000_003 + RANK) % 2**63)  # dropout: other numbers in every process
        return data


def short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def filters_of(extractor: hlfeat.Extractor) -> dict[str, Tensor]:
    """A copy of the filterbank's parameters, if the frontend has one."""
    named = extractor.frontend.named_parameters()
    return {n.split(".")[-1]: p.detach().cpu().clone() for n, p in named if "filterbank." in n}


def moved(start: dict[str, Tensor], extractor: hlfeat.Extractor) -> dict[str, float]:
    """How far training has moved each of the filterbank's parameters: relative L2 distances."""
    now = filters_of(extractor)
    return {n: float((now[n] - p).norm() / p.norm()) for n, p in start.items()}


def to_device(waves: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    x, lengths = hlfeat.pad(waves)
    return x.to(device), lengths.to(device)


@torch.no_grad()
def whole_clips(model: Model, examples: Sequence[Example], amp: bool) -> Iterator[tuple[list[Example], Tensor]]:
    """Batches of whole clips, and what the model in eval mode makes of them: float32, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    for batch in hlfeat.plan_batches([len(e.wave) for e in examples], BATCH_SECONDS * model.extractor.sample_rate):
        chosen = [examples[i] for i in batch]
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            outputs = model(*to_device([e.wave for e in chosen], device))
        yield chosen, outputs.float().cpu()
