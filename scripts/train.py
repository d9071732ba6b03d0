"""Train a configuration's extractor to tell classes apart or to find the pitch, then extract features with it.

    python scripts/train.py FOLDER --out run                           # one folder a class
    python scripts/train.py FOLDER --out run --labels clips.csv        # classes, speakers, splits from a table
    python scripts/train.py FOLDER --out run --task pitch              # beside a.wav, its pitch in a.f0.csv
    python scripts/train.py FOLDER --out run --resume                  # go on after the last finished epoch
    torchrun --nproc-per-node 2 scripts/train.py FOLDER --out run      # DistributedDataParallel

It ends in run/config.yaml, run/weights.safetensors (the extractor's, without the classifier) and run/features; while it
runs, run/metrics.jsonl has a line for each epoch, and run/checkpoint.pt the state after the last. All clips are held in
memory, 230 MB an hour at 16 kHz. train_classes.py and train_pitch.py have what is particular to a task.

Clips of one speaker on both sides of the split would flatter the result. So a group is held out as a whole. A table has
a column of groups (`--group-by`), or says itself what is for training (`--split-by`). Without a table, the folders
below a class, and the speakers of names such as 84-121123-0001.flac (LibriSpeech's speaker-chapter-utterance), are
groups, wherever they occur; any other clip is a group of its own.

Exit status: 0 done; 2 usage or configuration, or a folder that nothing can be learnt from; otherwise that of
`hlfeat extract`, which is 3 where some clips could not be used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import typer
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from train_classes import Classes
from train_data import RANK, WORLD, Example, TracksOf, crops, divide, fingerprint, hold_out, read, say
from train_pitch import Pitch
from train_state import Task, Training, moved, to_device
from train_tracks import find_tracks, notes_of

import hlfeat
from hlfeat import UsageError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")


class TaskName(str, Enum):
    """What --task takes."""

    classes = "classes"
    pitch = "pitch"


def main(
    folder: Annotated[Path, typer.Argument(help="Audio, one folder a class unless --labels says otherwise.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("run"),
    config: Annotated[
        str, typer.Option("--config", "-c", help="A shipped configuration or a YAML file.")
    ] = "eleaf-8g-opt",
    task_name: Annotated[TaskName, typer.Option("--task", help="What is learnt.")] = TaskName.classes,
    labels: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="A table with a row for each clip.")] = None,
    path_column: Annotated[str, typer.Option(help="Its column of paths, relative to FOLDER.")] = "path",
    label_column: Annotated[
        str | None, typer.Option(help="Its column of classes, or of hertz; default: label, or frequency for pitch.")
    ] = None,
    tracks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of pitch over time, in hertz; default: beside the audio.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What is held out as a whole; default: speaker, if it exists."),
    ] = None,
    split_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Its values train, valid and test divide the clips.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the part of a clip in a training step.")] = 3.0,
    batch: Annotated[int, typer.Option(min=1, help="Clips a step, over all processes.")] = 16,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate; it falls to zero as a cosine.")] = 3e-3,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of each class to test with.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the first weights, and the order of clips.")] = 0,
    amp: Annotated[bool, typer.Option("--amp", help="Mixed precision: autocast to bfloat16.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT/checkpoint.pt, if it exists.")] = False,
) -> None:
    """Train CONFIG's extractor to tell classes apart, or to find the pitch; save it; extract FOLDER's features."""
    if labels is None and (group_by or split_by):
        raise UsageError(f"{'--group-by' if group_by else '--split-by'}: expected --labels with it")
    pitch = task_name is TaskName.pitch
    if tracks is not None and not pitch:
        raise UsageError("--tracks: expected --task pitch with it")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    cfg = hlfeat.load_config(config).model_copy(update={"seed": seed})
    if pitch:
        label_column = label_column or ("frequency" if tracks is None else path_column)  # tracks need no labels
    columns = {
        "--path-column": path_column, "--label-column": label_column or "label", "--group-by": group_by,
        "--split-by": split_by,
    }  # fmt: skip
    table = None if labels is None else read_table(labels, columns)
    tracks_of: TracksOf | None = None
    if pitch:
        notes = table is not None and tracks is None
        tracks_of = partial(notes_of, table, labels, label_column) if notes else partial(find_tracks, tracks or folder)
    examples = read(folder, cfg, table, tracks_of)
    parts = divide(examples) if split_by else hold_out(examples, held_out, seed)
    batch = min(batch, len(parts.train))
    if batch < WORLD:
        raise UsageError(f"--batch: expected a clip for each of {WORLD} processes, got {batch}")

    torch.manual_seed(seed)  # of a classifier
    task: Task = Pitch(cfg, parts) if pitch else Classes(cfg, parts)
    model = task.model.to(device)
    steps = len(parts.train) // batch
    settings = {
        "config": hlfeat.dump_config(task.config), **task.settings, "training clips": fingerprint(parts.train),
        "--seed": seed, "--epochs": epochs, "--seconds": seconds, "--batch": batch, "--lr": lr, "--amp": amp,
        "number of processes": WORLD,
    }  # fmt: skip
    training = Training(model, lr, steps * epochs, settings)
    out.mkdir(parents=True, exist_ok=True)
    if resume and (out / "checkpoint.pt").exists():
        training.load(out / "checkpoint.pt")
        say(f"goes on after epoch {training.epoch} of {epochs}")
    parallel: nn.Module = model
    if WORLD > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        parallel = DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    if RANK == 0:
        (out / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in training.metrics))
    while training.epoch < epochs:
        begun = time.perf_counter()
        rng = np.random.default_rng(training.seed_epoch(seed))
        cut = crops(parts.train, round(seconds * cfg.audio.sample_rate), rng)
        batches = [cut[i * batch : (i + 1) * batch][RANK::WORLD] for i in range(steps)]
        loss = train_epoch(training, parallel, task, batches, device, amp)
        result: dict[str, Any] = {"epoch": training.epoch + 1, "loss": loss}
        if RANK == 0:
            result |= task.measure(parts.valid, amp)
            if parts.test and training.epoch + 1 == epochs:
                result |= {f"test_{name}": value for name, value in task.measure(parts.test, amp).items()}
            result["filters_moved"] = moved(training.start, model.extractor)
            result["seconds"] = round(time.perf_counter() - begun, 3)
            say(line_of(result, task))
        training.metrics.append(result)
        if RANK == 0:
            training.save(out / "checkpoint.pt")
            with open(out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(result) + "\n")
    if WORLD > 1:
        dist.destroy_process_group()
    if RANK == 0:
        raise typer.Exit(save_and_extract(model.extractor, task.config, folder, out))


def read_table(labels: Path, columns: Mapping[str, Any]) -> dict[str, hlfeat.ClipLabel]:
    """The table, by the ids of clips; its columns by the options that name them."""
    try:
        return hlfeat.read_labels(labels, *columns.values())
    except UsageError as e:
        options = [option for option, name in columns.items() if f": no column {name};" in str(e)]
        raise UsageError(f"{e}; {options[0]} NAME names another" if options else str(e)) from e


def train_epoch(
    training: Training,
    parallel: nn.Module,
    task: Task,
    batches: Sequence[Sequence[Example]],
    device: torch.device,
    amp: bool,
) -> float:
    """A step for each batch of this process; the mean loss over all processes."""
    parallel.train()
    total = torch.zeros((), device=device)
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = task.loss(parallel(*to_device([e.wave for e in batch], device)), batch)
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        training.schedule.step()
        total += loss.detach() / len(batches) / WORLD
    if WORLD > 1:
        dist.all_reduce(total)
    return float(total)


def line_of(result: dict[str, Any], task: Task) -> str:
    """What an epoch has come to, for people."""
    filters = ", ".join(f"{name} {distance:.2%}" for name, distance in result["filters_moved"].items())
    return (
        f"epoch {result['epoch']:2d}: loss {result['loss']:.3f}, {task.line(result)}, "
        f"filters moved: {filters or 'fixed'}, {result['seconds']:.0f} s"
    )


def save_and_extract(extractor: hlfeat.Extractor, cfg: hlfeat.Config, folder: Path, out: Path) -> int:
    """Write what `hlfeat extract` needs and run it; its exit status."""
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
