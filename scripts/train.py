"""Train a configuration's extractor with a small classifier, then extract features with what it has learnt.

    python scripts/train.py FOLDER --out run
    torchrun --nproc-per-node 2 scripts/train.py FOLDER --out run      # DistributedDataParallel

FOLDER has one folder a class. It ends in run/config.yaml, run/weights.safetensors (the extractor's, without the
classifier) and run/features. All clips are held in memory, 230 MB an hour at 16 kHz.

Clips of one speaker on both sides of the split would flatter the result. So a group is held out as a whole: the folders
below a class, and the speakers of names such as 84-121123-0001.flac (LibriSpeech's speaker-chapter-utterance), are
groups, wherever they occur; any other clip is a group of its own.

Exit status: 0 done; 2 usage or configuration, or a folder that nothing can be learnt from; otherwise that of
`hlfeat extract`, which is 3 where some clips could not be used.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.distributed as dist
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hlfeat
from hlfeat import Clip, ClipError, UsageError

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
BATCH_SECONDS = 64  # of audio, in a batch of whole clips


def say(message: str) -> None:
    """Print a message on one line, whatever the names of files and folders in it."""
    if RANK == 0:
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        print(f"train: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Example:
    """A clip's samples [T], its class, and what must not be on both sides of the split."""

    wave: Tensor
    label: int
    group: str


class Classifier(nn.Module):
    """Mean and standard deviation of the features over a clip's frames, then a small perceptron.

    Shape: x [B, T], lengths [B] -> [B, classes].
    """

    def __init__(self, extractor: hlfeat.Extractor, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.extractor = extractor
        size = 2 * extractor.n_channels * extractor.n_bands
        self.head = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        features = self.extractor(x, lengths).float().flatten(1, 2)  # [B, C F, N], zero past a clip's end
        frames = self.extractor.num_frames(lengths)
        exists = hlfeat.frame_mask(frames, features.shape[-1])[:, None]  # [B, 1, N]
        mean = features.sum(-1, keepdim=True) / frames[:, None, None]
        variance = ((features - mean) * exists).square().sum(-1) / frames[:, None]
        return self.head(torch.cat([mean[..., 0], (variance + 1e-5).sqrt()], -1))  # type: ignore[no-any-return]


def read(folder: Path, config: hlfeat.Config) -> tuple[list[Example], list[str]]:
    """All clips and the classes' names; a clip that cannot be used is reported with the reason."""
    if not folder.is_dir():
        raise UsageError(f"expected a folder with one folder a class, got {folder}")
    clips = hlfeat.collect_inputs([str(folder)]).clips

    def load(clip: Clip) -> Tensor | ClipError:
        if "/" not in clip.id:
            return ClipError("no-class", f"{clip}: no-class: expected in the folder of a class, found beside them")
        try:
            return hlfeat.load_audio(clip, config.audio.sample_rate, config.audio.channels)
        except ClipError as e:
            return e

    usable: list[tuple[str, Tensor]] = []
    with ThreadPoolExecutor(2) as readers:
        for clip, channels in zip(clips, readers.map(load, clips), strict=True):
            if isinstance(channels, ClipError):
                say(str(channels))
            else:
                usable.append((clip.id, channels))
    classes = sorted({id_.split("/")[0] for id_, _ in usable})
    if len(classes) < 2:
        raise UsageError(f"{folder}: expected the folders of two classes or more, got {len(classes)}")
    examples = [
        Example(wave, classes.index(id_.split("/")[0]), group_of(id_)) for id_, channels in usable for wave in channels
    ]
    hours = sum(len(e.wave) for e in examples) / config.audio.sample_rate / 3600
    sizes = Counter(e.label for e in examples)
    say(f"{len(usable)} clips, {hours:.2f} h: " + ", ".join(f"{name} {sizes[i]}" for i, name in enumerate(classes)))
    if len(usable) < len(clips):
        say(f"{len(clips) - len(usable)} of {len(clips)} clips cannot be used, for the reasons above")
    return examples, classes


def group_of(id_: str) -> str:
    """The speaker, from a path below the folder; or the path itself, if it does not name one."""
    _, *folders, name = id_.split("/")
    speaker = re.match(r"(\d+)-\d+-\d+\.", name)
    if folders or speaker:
        return folders[0] if folders else speaker[1]  # type: ignore[index]
    return id_


def hold_out(examples: Sequence[Example], classes: Sequence[str], share: float, seed: int) -> set[str]:
    """Groups that together hold about `share` of every class, and at most half of it."""
    members: dict[str, Counter[int]] = defaultdict(Counter)
    for e in examples:
        members[e.group][e.label] += 1
    total, held = Counter(e.label for e in examples), Counter[int]()
    chosen = set()
    for group in np.random.default_rng(seed).permutation(sorted(members)).tolist():
        if any(held[c] < share * total[c] for c in members[group]) and all(
            held[c] + n <= total[c] / 2 for c, n in members[group].items()
        ):
            held += members[group]
            chosen.add(group)
    for label, name in enumerate(classes):
        if not held[label]:
            raise UsageError(
                f"class {name}: expected two clips or more, and no speaker with more than half of them, "
                "so that some can be held out"
            )
    alone = len(members) == len(examples)
    how = "by file, as no folder or name tells who speaks" if alone else f"{len(chosen)} of {len(members)} groups"
    say(f"held out {held.total()} of {len(examples)} clips ({how}; seed {seed})")
    return chosen


def optimizer_for(model: Classifier, lr: float, steps: int) -> torch.optim.Optimizer:
    """AdamW that suits each parameter's unit, and decays only weights.

    Adam moves a number by about its learning rate a step, whatever the number's unit. Bandwidths (samples) and pooling
    widths get a rate in proportion to the smallest. Centre frequencies get one that over all steps, with a schedule
    that adds up to (steps + 1) / 2, stays below half their smallest distance, so that neighbours hardly cross.
    """
    groups = []
    for name, p in model.named_parameters():
        rate = lr
        if name.endswith("center_freqs"):
            rate = 0.8 * float(p.detach().diff().min()) / (steps + 1) if len(p) > 1 else lr * float(p.detach())
        elif "filterbank." in name:
            rate = lr * float(p.detach().min())
        groups.append({"params": [p], "lr": rate, "weight_decay": 0.01 if p.dim() > 1 else 0.0})
    return torch.optim.AdamW(groups)


def filters_of(extractor: hlfeat.Extractor) -> dict[str, Tensor]:
    """A copy of the filterbank's parameters, if the frontend has one."""
    named = extractor.frontend.named_parameters()
    return {n.split(".")[-1]: p.detach().cpu().clone() for n, p in named if "filterbank." in n}


def moved(start: dict[str, Tensor], extractor: hlfeat.Extractor) -> str:
    """How far training has moved the filterbank's parameters: relative L2 distances."""
    now = filters_of(extractor)
    return ", ".join(f"{n} {100 * float((now[n] - p).norm() / p.norm()):.2f} %" for n, p in start.items()) or "fixed"


def to_device(waves: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    x, lengths = hlfeat.pad(waves)
    return x.to(device), lengths.to(device)


@torch.no_grad()
def count_right(model: Classifier, examples: Sequence[Example], device: torch.device, amp: bool) -> int:
    """How many whole clips get their class."""
    model.eval()
    right = 0
    for batch in hlfeat.plan_batches([len(e.wave) for e in examples], BATCH_SECONDS * model.extractor.sample_rate):
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            scores = model(*to_device([examples[i].wave for i in batch], device))
        right += int((scores.argmax(-1).cpu() == torch.tensor([examples[i].label for i in batch])).sum())
    return right


def crops(examples: Sequence[Example], samples: int, rng: np.random.Generator) -> list[tuple[Tensor, int]]:
    """All examples in random order, each cut to `samples` somewhere; shorter ones as they are."""
    cut = []
    for i in rng.permutation(len(examples)):
        start = int(rng.integers(max(1, len(examples[i].wave) - samples + 1)))
        cut.append((examples[i].wave[start : start + samples], examples[i].label))
    return cut


def main(
    folder: Annotated[Path, typer.Argument(help="Audio, one folder a class.")],
    out: Annotated[Path, typer.Option(help="Where configuration, weights and features go.")] = Path("run"),
    config: Annotated[str, typer.Option(help="A shipped configuration or a YAML file.")] = "eleaf-8g-opt",
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the part of a clip in a training step.")] = 3.0,
    batch: Annotated[int, typer.Option(min=1, help="Clips a step, over all processes.")] = 16,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate; it falls to zero as a cosine.")] = 3e-3,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of each class to test with.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    amp: Annotated[bool, typer.Option("--amp", help="Mixed precision: autocast to bfloat16.")] = False,
) -> None:
    """Train CONFIG's extractor to tell the classes of FOLDER apart; save it; extract FOLDER's features with it."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    begun = time.perf_counter()
    cfg = hlfeat.load_config(config).model_copy(update={"seed": seed})
    examples, classes = read(folder, cfg)
    chosen = hold_out(examples, classes, held_out, seed)
    training = [e for e in examples if e.group not in chosen]
    testing = [e for e in examples if e.group in chosen]
    batch = min(batch, len(training))
    if batch < WORLD:
        raise UsageError(f"--batch: expected a clip for each of {WORLD} processes, got {batch}")

    torch.manual_seed(seed)  # of the classifier
    model = Classifier(hlfeat.build(cfg), len(classes)).to(device)
    start = filters_of(model.extractor)
    steps = len(training) // batch
    optimizer = optimizer_for(model, lr, steps * epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (1 + math.cos(math.pi * n / steps / epochs)) / 2)
    parallel: nn.Module = model
    if WORLD > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        parallel = DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    rng = np.random.default_rng(seed)  # the same in every process: each takes its share of the same batches
    chance = max(Counter(e.label for e in testing).values()) / len(testing)
    for epoch in range(1, epochs + 1):
        parallel.train()
        total = torch.zeros((), device=device)
        cut = crops(training, round(seconds * cfg.audio.sample_rate), rng)
        for i in range(steps):
            waves, labels = zip(*cut[i * batch : (i + 1) * batch][RANK::WORLD], strict=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                scores = parallel(*to_device(waves, device))
                loss = nn.functional.cross_entropy(scores.float(), torch.tensor(labels, device=device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach() / steps / WORLD
        if WORLD > 1:
            dist.all_reduce(total)
        if RANK == 0:
            accuracy = count_right(model, testing, device, amp) / len(testing)
            say(
                f"epoch {epoch:2d}: loss {float(total):.3f}, held-out accuracy {accuracy:.1%} (chance {chance:.1%}), "
                f"filters moved: {moved(start, model.extractor)}, {time.perf_counter() - begun:.0f} s"
            )
    if WORLD > 1:
        dist.destroy_process_group()
    if RANK == 0:
        raise typer.Exit(save_and_extract(model.extractor, cfg, folder, out))


def save_and_extract(extractor: hlfeat.Extractor, cfg: hlfeat.Config, folder: Path, out: Path) -> int:
    """Write what `hlfeat extract` needs and run it; its exit status."""
    out.mkdir(parents=True, exist_ok=True)
    config, weights = out / "config.yaml", out / "weights.safetensors"
    config.write_text(hlfeat.dump_config(cfg), encoding="utf-8")
    save_file({name: t.cpu().contiguous() for name, t in extractor.state_dict().items()}, weights)
    arguments = ["extract", folder, "-o", out / "features", "-c", config, "--weights", weights, "--overwrite"]
    say("hlfeat " + " ".join(map(str, arguments)))
    environment = {k: v for k, v in os.environ.items() if k not in TORCHRUN}  # one process extracts everything
    command = [sys.executable, "-m", "hlfeat", *map(str, arguments)]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except UsageError as e:
        say(f"error: {e}")
        sys.exit(2)
