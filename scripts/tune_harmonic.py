#!/usr/bin/env python3
"""Decide between the two backends of harmonic convolution on this machine's GPU, and between block sizes.

    python scripts/tune_harmonic.py --json tune.jsonl --limit 480

First, for each setting of `hlfeat bench harmonic`, in TF32 and in float32: nn.Conv2d, torch operations ("torch"), and
the Triton kernels with one stage and with three ("fused 1", "fused 3"), forward and with backward. Then, as long as
time is left, what each kernel takes with each of its choices of blocks. A line of JSON is written after each, so that
a limit or an error loses nothing. Most of the time goes into compiling.

What is chosen belongs into `default` in hlfeat/nn/harmonic/blocks.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hlfeat.bench.harmonic import SETTINGS, Setting, tensors
from hlfeat.bench.results import environment
from hlfeat.bench.tables import markdown
from hlfeat.bench.timing import time_interleaved, without_gradient
from hlfeat.nn.harmonic import triton_backend
from hlfeat.nn.harmonic.blocks import Blocks, Problem, choices, default
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import Time, plan_for
from hlfeat.precision import float32_precision

Choose = Callable[[str, Problem], Blocks]
Row = dict[str, Any]
CANDIDATES = {"torch": None, "fused 1": 1, "fused 3": 3}  # and the stages of the kernels
COLUMNS = {
    "setting": "setting",
    "precision": "precision",
    "forward Conv2d": "forward: Conv2d, ms|.3f",
    **{f"forward {name}": f"{name}|.2f" for name in CANDIDATES},
    "training Conv2d": "with backward: Conv2d, ms|.3f",
    **{f"training {name}": f"{name}|.2f" for name in CANDIDATES},
    "fastest": "fastest",
}
KERNEL_COLUMNS = {"kernel": "kernel", "blocks": "t, k, o, warps, stages", "ms": "ms|.3f", "ratio": "/ default|.2f"}


@contextmanager
def blocks_from(choose: Choose) -> Iterator[None]:
    """Let the kernels take these blocks."""
    before = triton_backend.chosen
    triton_backend.chosen = lambda kernel, problem, device, call: choose(kernel, problem)
    try:
        yield
    finally:
        triton_backend.chosen = before


def within(choose: Choose, call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with blocks_from(choose):
            return call()

    return run


def compare(setting: Setting, batch: int, device: torch.device, seconds: float) -> Row:
    """Times of Conv2d in ms, and of the candidates as multiples of them."""
    x, weight, bias = tensors(setting, batch, device)
    half = setting.kernel // 2
    plan = plan_for(setting.axes()["centre"].positions(setting.rows, setting.kernel, setting.anchor), setting.rows)
    calls: dict[str, Callable[[], Tensor]] = {"Conv2d": lambda: F.conv2d(x, weight, bias, padding=half)}
    for name, stages in CANDIDATES.items():

        def call(stages: int | None = stages) -> Tensor:
            if stages is None:
                return harmonic_conv2d(x, weight, bias, plan, padding=half, fused=False)
            with blocks_from(lambda kernel, problem: default(kernel, problem)._replace(stages=stages)):
                return harmonic_conv2d(x, weight, bias, plan, padding=half, fused=True)

        calls[name] = call
    cotangent = torch.randn_like(calls["Conv2d"]().detach())

    def training(name: str) -> Callable[[], object]:
        stages = CANDIDATES.get(name) or 1  # the backward pass is a call of its own
        return within(
            lambda kernel, problem: default(kernel, problem)._replace(stages=stages),
            lambda: torch.autograd.grad(calls[name](), (x, weight, bias), cotangent),
        )

    row: Row = {}
    least = 3 if seconds else 1
    for what, timed in (
        ("forward", {n: without_gradient(c) for n, c in calls.items()}),
        ("training", {n: training(n) for n in calls}),
    ):
        taken = {n: r.typical for n, r in time_interleaved(timed, device, seconds, least, patience=30.0).items()}
        row[f"{what} Conv2d"] = taken["Conv2d"] * 1e3
        row |= {f"{what} {name}": taken[name] / taken["Conv2d"] for name in CANDIDATES}
    row["fastest"] = min(CANDIDATES, key=lambda name: row[f"training {name}"])
    return row


def kernel_calls(setting: Setting, batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Each kernel alone."""
    x, weight, bias = (v.detach() for v in tensors(setting, batch, device))
    plan = plan_for(setting.axes()["centre"].positions(setting.rows, setting.kernel, setting.anchor), setting.rows)
    time_ = Time(1, setting.kernel // 2, 1, 1)
    gy = torch.randn_like(triton_backend.convolve(x, weight, bias, plan, time_))
    gradients = triton_backend.gradients
    return {
        "forward": lambda: triton_backend.convolve(x, weight, bias, plan, time_),
        "gradient of the input": lambda: gradients(x, weight, gy, plan, time_, True, False),
        "gradient of the weight": lambda: gradients(x, weight, gy, plan, time_, False, True),
    }


def tune(setting: Setting, batch: int, device: torch.device, seconds: float) -> Iterator[Row]:
    """What each kernel takes with each choice of blocks, fastest first."""
    for name, call in kernel_calls(setting, batch, device).items():
        asked: list[tuple[str, Problem]] = []

        def ask(kernel: str, problem: Problem, asked: list[tuple[str, Problem]] = asked) -> Blocks:
            asked.append((kernel, problem))
            return default(kernel, problem)

        within(ask, call)()
        usual, fits = default(*asked[0]), {}
        for blocks in dict.fromkeys([*choices(*asked[0]), usual._replace(stages=3)]):
            run = within(lambda kernel, problem, blocks=blocks: blocks, call)
            try:
                run()
            except Exception as e:  # Triton has several errors for what does not fit
                yield {"kernel": name, "blocks": ", ".join(map(str, blocks)), "error": type(e).__name__}
            else:
                fits[blocks] = run
        taken = time_interleaved(fits, device, seconds, least=3 if seconds else 1)  # type: ignore[type-var]
        for blocks, runs in sorted(taken.items(), key=lambda item: item[1].typical):
            ratio = runs.typical / taken[usual].typical
            yield {"kernel": name, "blocks": ", ".join(map(str, blocks)), "ms": runs.typical * 1e3, "ratio": ratio}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [s.name for s in SETTINGS]
    parser.add_argument("--setting", action="append", choices=names, help="all if not given; may be repeated")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring; 0: each call once")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds after which nothing new is begun")
    parser.add_argument("--json", type=Path, help="lines of JSON are appended to this file")
    asked = parser.parse_args(arguments)
    begin = time.monotonic()
    settings = [s for s in SETTINGS if asked.setting is None or s.name in asked.setting]

    def write(row: Row) -> None:
        if asked.json:
            with asked.json.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def rows_of(what: str, measure: Callable[[Setting], list[Row]]) -> Iterator[list[Row]]:
        for setting in settings:
            for precision in ("tf32", "float32"):
                if time.monotonic() - begin > asked.limit:
                    print(f"{what}: {setting.name}, {precision} is left out: {asked.limit:.0f} s are over", flush=True)
                    continue
                about = {"what": what, "setting": setting.name, "precision": precision, "batch": asked.batch}
                try:
                    with float32_precision(tf32=precision == "tf32"):
                        rows = [{**about, **row} for row in measure(setting)]
                except Exception as e:  # the next setting may fit; this one's error is a result
                    rows = [{**about, "error": f"{type(e).__name__}: {e}"}]
                for row in rows:
                    write(row)
                yield rows

    write({"what": "environment", **environment(asked.device)})
    print("Forward and with backward: nn.Conv2d in ms, the others as multiples of it.\n")
    first = True
    for rows in rows_of("backends", lambda s: [compare(s, asked.batch, asked.device, asked.seconds)]):
        table = markdown(rows, COLUMNS).rstrip()
        print(rows[0].get("error") or (table if first else table.split("\n", 2)[2]), flush=True)
        first = first and "error" in rows[0]
    for rows in rows_of("blocks", lambda s: list(tune(s, asked.batch, asked.device, asked.seconds))):
        print(f"\n## Setting {rows[0]['setting']}, {rows[0]['precision']}, batch {asked.batch}\n")
        print(rows[0]["error"] if "kernel" not in rows[0] else markdown(rows, KERNEL_COLUMNS), flush=True)


if __name__ == "__main__":
    main()
