#!/usr/bin/env python3
"""Try block sizes, warps and stages of the Triton kernels on this machine's GPU.

    python scripts/tune_harmonic.py --setting 1 --setting 3a

prints a table for each setting of `hlfeat bench harmonic`: forward, and what the two gradients take, fastest first,
beside nn.Conv2d's forward. Most of the time goes into compiling a hundred kernels for each setting. What is chosen
belongs into CONVOLVE and CORRELATE in hlfeat/nn/harmonic/triton_backend.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from hlfeat.bench.harmonic import SETTINGS, Setting, tensors
from hlfeat.bench.tables import markdown
from hlfeat.bench.timing import time_interleaved, without_gradient
from hlfeat.nn.harmonic import triton_backend
from hlfeat.nn.harmonic.functional import harmonic_conv2d
from hlfeat.nn.harmonic.plan import Time, plan_for
from hlfeat.nn.harmonic.triton_backend import Blocks

COLUMNS = {"kernel": "kernel", "blocks": "t, k, o, warps, stages", "ms": "ms|.3f", "ratio": "/ Conv2d|.2f"}


def choices(quick: bool) -> Iterator[Blocks]:
    """What is tried; kernels that do not fit the GPU are left out later."""
    if quick:
        return (Blocks(16, k, 32, 4, 2) for k in (16, 32))
    every = itertools.product((64, 128, 256), (16, 32, 64), (64,), (4, 8), (1, 3))
    return (Blocks(*choice) for choice in every if choice[0] * choice[1] <= 128 * 64)


def kernels(setting: Setting, batch: int, device: torch.device) -> dict[str, tuple[str, Callable[[], object]]]:
    """Each kernel alone, and the name of the constant that cuts its work."""
    x, weight, bias = (v.detach() for v in tensors(setting, batch, device))
    plan = plan_for(setting.axes()["centre"].positions(setting.rows, setting.kernel, setting.anchor), setting.rows)
    time = Time(1, setting.kernel // 2, 1, 1)
    kept = x.contiguous(memory_format=triton_backend.LAYOUT)  # by the forward pass, for the gradients
    gy = torch.randn_like(triton_backend.convolve(kept, weight, bias, plan, time))
    gradients = triton_backend.gradients
    return {
        "forward": ("CONVOLVE", lambda: harmonic_conv2d(x, weight, bias, plan, padding=time.padding, fused=True)),
        "gradient of the input": ("CONVOLVE", lambda: gradients(kept, weight, gy, plan, time, True, False)),
        "gradient of the weight": ("CORRELATE", lambda: gradients(kept, weight, gy, plan, time, False, True)),
    }


def tune(setting: Setting, batch: int, device: torch.device, quick: bool) -> Iterator[dict[str, object]]:
    """Rows of the table, fastest first for each kernel."""
    x, weight, bias = tensors(setting, batch, device)
    conv = without_gradient(lambda: F.conv2d(x, weight, bias, padding=setting.kernel // 2))
    for name, (constant, call) in kernels(setting, batch, device).items():

        def cut(blocks: Blocks, constant: str = constant, call: Callable[[], object] = call) -> Callable[[], object]:
            def run() -> object:
                setattr(triton_backend, constant, blocks)
                return call()

            return run

        before, fits = getattr(triton_backend, constant), {}
        for blocks in choices(quick):
            try:
                cut(blocks)()
            except Exception as e:  # Triton has several errors for what does not fit
                print(f"{name}: {tuple(blocks)}: {type(e).__name__}", file=sys.stderr)
            else:
                fits[", ".join(map(str, blocks))] = cut(blocks)
        taken = time_interleaved({"Conv2d": conv, **fits}, device, 0.0 if quick else 2.0, least=1 if quick else 3)
        setattr(triton_backend, constant, before)
        base = taken["Conv2d"].typical
        for blocks, runs in sorted(taken.items(), key=lambda item: item[1].typical):
            yield {"kernel": name, "blocks": blocks, "ms": runs.typical * 1e3, "ratio": runs.typical / base}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [s.name for s in SETTINGS]
    parser.add_argument("--setting", action="append", choices=names, help="all if not given; may be repeated")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--quick", action="store_true", help="two choices, a few runs")
    asked = parser.parse_args(arguments)
    for setting in SETTINGS:
        if asked.setting is None or setting.name in asked.setting:
            print(f"## Setting {setting.name}, batch {asked.batch}\n")
            print(markdown(list(tune(setting, asked.batch, asked.device, asked.quick)), COLUMNS), flush=True)


if __name__ == "__main__":
    main()
