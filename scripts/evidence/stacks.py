"""Learned stacks of equal cost for the pitch of notes: does it help to look at harmonics, and on which rows?

    python -m scripts.evidence FluidR3_GM.sf2 --only stacks -o results.jsonl

Training: notes of one half of the instruments; test: notes of the other half's. What is chosen is chosen on the
training half alone: the recipe (`Recipe`, once, by scripts/evidence/stack_recipe.py), and here the dilation of the
dilated stack, for each kind of rows and number of layers, by three folds of the training instruments.

Score: raw pitch accuracy, the share of frames within 50 cents of their note's frequency, averaged over a note's frames,
an instrument's notes, and instruments.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.evidence.note_frames import FOLDS, NoteFrames, accuracies, held_out, levels_of, note_frames, subset
from scripts.evidence.notes import HALVES, notes
from scripts.evidence.pitch_rows import KINDS, make_rows
from scripts.evidence.records import Record, divide
from scripts.evidence.stack_nets import STACKS, make_stack, multiply_adds
from scripts.evidence.stack_training import Recipe, predict, train, train_moving
from scripts.evidence.workers import run_jobs

Job = dict[str, Any]

RECIPE = Recipe()
MOVING = "moving mel"  # mel-spaced rows whose filters are trained too
ROWS = (*KINDS, MOVING)
LAYERS = (1, 2)
SHARES = (0.01, 0.1, 1.0)
MOVING_SHARES = (0.1, 1.0)  # of moving rows, which take four times as long
SEEDS = 10
DILATIONS = (2, 3, 4, 6, 8, 12, 16, 24)
EXPERIMENT, TUNING = "stacks", "stacks, dilation"


def run(
    font: Path,
    seeds: int = SEEDS,
    finished: Sequence[Record] = (),
    write: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Tune, train and test all stacks.

    Args:
        seeds: of each stack.
        finished: records of an earlier run; what they hold is not computed again if it was done in the same way.
        write: gets each new record.

    Raises:
        SoundFontError: the file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        halves = [{"half": half, "kind": kind} for half in HALVES for kind in KINDS]
        run_jobs(prepare, halves, str(font), folder, write=lambda record: None)
        tuned, missing = divide(tuning_jobs(), finished)
        tuned += run_jobs(work, missing, folder, write=write)
        results, missing = divide(final_jobs(best_dilations(tuned), seeds), finished)
        return tuned + results + run_jobs(work, missing, folder, write=write)


def tuning_jobs() -> list[Job]:
    """The dilated stack with every dilation, learned from two thirds of the training instruments, judged by a third."""
    return [
        job(TUNING, kind, "dilated", layers, 1.0, fold, dilation, fold=fold)
        for kind in KINDS for layers in LAYERS for dilation in DILATIONS for fold in range(FOLDS)
    ]  # fmt: skip


def best_dilations(tuned: Iterable[Record]) -> dict[tuple[str, int], int]:
    """(rows, layers) -> the dilation with the highest accuracy over folds; of moving rows, that of mel rows."""
    scores: dict[tuple[str, int], dict[int, list[float]]] = {}
    for r in tuned:
        scores.setdefault((r["rows"], r["layers"]), {}).setdefault(r["dilation"], []).append(r["accuracy"])
    best = {key: max(found, key=lambda d: float(np.mean(found[d]))) for key, found in scores.items()}
    return {**best, **{(MOVING, layers): d for (kind, layers), d in best.items() if kind == "mel"}}


def final_jobs(dilations: Mapping[tuple[str, int], int], seeds: int) -> list[Job]:
    """Every stack on every kind of rows; whole seeds one after the other."""
    jobs = []
    for seed in range(seeds):
        for kind in ROWS:
            for layers in LAYERS:
                for share in MOVING_SHARES if kind == MOVING else SHARES:
                    for stack in stacks_on(kind):
                        dilation = dilations[kind, layers] if stack == "dilated" else 1
                        jobs.append(job(EXPERIMENT, kind, stack, layers, share, seed, dilation))
    return jobs


def stacks_on(kind: str) -> Sequence[str]:
    """The stacks that are tried on a kind of rows."""
    return STACKS if kind in ("log", "mel") else [s for s in STACKS if s != "salience"]


def job(
    experiment: str, rows: str, stack: str, layers: int, share: float, seed: int, dilation: int,
    recipe: Recipe = RECIPE, **more: Any,
) -> Job:  # fmt: skip
    """What a record is found again by."""
    return {"experiment": experiment, "rows": rows, "stack": stack, "layers": layers, "share": share, "seed": seed,
            "dilation": dilation, "recipe": asdict(recipe), **more}  # fmt: skip


@dataclass
class Half:
    """Frames of a half's notes, and their levels on rows of one kind: [F, N]."""

    notes: NoteFrames
    levels: Tensor


def prepare(job: Mapping[str, str], font: str, folder: str) -> Record:
    """A half on rows of a kind, into a file."""
    found = note_frames(notes(font, job["half"]))  # type: ignore[arg-type]
    torch.save(Half(found, levels_of(make_rows(job["kind"]), found)), prepared_path(folder, job["half"], job["kind"]))
    return {}


def prepared_path(folder: str, half: str, kind: str) -> Path:
    return Path(folder) / f"{half}-{kind}.pt"


@lru_cache(maxsize=8)
def prepared(folder: str, half: str, kind: str) -> Half:
    """What `prepare` made, in this process."""
    return torch.load(prepared_path(folder, half, kind), weights_only=False)  # type: ignore[no-any-return]


def work(job: Mapping[str, Any], folder: str) -> Record:
    """Train and score one stack. A job with a fold sees nothing but the training half."""
    kind = "mel" if job["rows"] == MOVING else job["rows"]
    train_half = prepared(folder, "train", kind)
    if "fold" in job:
        fit, judged = held_out(train_half.notes.instruments, job["fold"])
        return learn_and_score(job, train_half, fit, train_half, judged)
    test_half = prepared(folder, "test", kind)
    everything = (range(len(half.notes.instruments)) for half in (train_half, test_half))
    return learn_and_score(job, train_half, next(everything), test_half, next(everything))


def learn_and_score(
    job: Mapping[str, Any], learn: Half, fit: Sequence[int], judge: Half, judged: Sequence[int]
) -> Record:  # fmt: skip
    """Learn from the notes `fit` of a half, or the job's share of them; score by the notes `judged` of a half.

    Returns:
        Accuracies of instruments and their mean; parameters and multiply-adds of a frame.
    """
    recipe, moving = Recipe(**job["recipe"]), job["rows"] == MOVING
    generator = torch.Generator().manual_seed(job["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(job["seed"])
        rows = make_rows("mel" if moving else job["rows"])
        stack = make_stack(job["stack"], rows, job["layers"], job["dilation"], recipe.channels, recipe.start)
    chosen = learn.notes.of_notes(subset(fit, job["share"], job["seed"]))
    train(stack, rows, learn.levels[:, chosen], learn.notes.hertz[chosen], recipe, generator)
    positions, before = judge.notes.of_notes(judged), rows.freqs
    if moving:
        train_moving(stack, job["stack"], rows, learn.notes, chosen, recipe, generator)
    levels = levels_of(rows, judge.notes, positions) if moving else judge.levels[:, positions]
    scores = accuracies(predict(stack, rows, levels), judge.notes, positions)
    return {
        "accuracy": float(np.mean(list(scores.values()))),
        "instruments": {name: round(score, 5) for name, score in scores.items()},
        "parameters": sum(p.numel() for p in stack.parameters()),
        "multiply_adds": multiply_adds(stack, len(rows.freqs)),
        **({"moved_hertz": float((rows.freqs - before).abs().median())} if moving else {}),
    }
