"""Compile the Triton kernels for a GPU that need not be there, and print what came of it as JSON.

    python -m tests.compile_kernels 90

The machine code is read with the tools that Triton brings along. Counts are of one thread; those of a loop are of the
innermost that multiplies.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hlfeat.nn.harmonic import triton_kernels
from hlfeat.nn.harmonic.blocks import Blocks, Problem, default

POINTERS = {"start": "i32", "harmonic": "i32", "out_row": "i32", "row": "i32", "row_weight": "fp32", "partial": "fp32"}
WHOLE = {"frames_in", "frames_out", *(f"{v}_{d}" for v in ("x", "y", "gy") for d in ("item", "channel", "row"))}
TENSORS = {"x", "gy", "weight", "bias", "y"}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
REGISTERS, SHARED = 65536, {80: 163 * 1024, 90: 227 * 1024}  # of a multiprocessor
MULTIPLIES = ("HMMA", "HGMMA", "FFMA")

Call = tuple[str, int, int, int, int, int, dict[str, object]]
# kernel, channels, out, taps, dilation, shift, and arguments of its own: at sizes of the bench and of EfficientLEAF
CALLS: list[Call] = [
    ("columns", 16, 32, 7, 1, -3, {}),
    ("convolve", 2, 16, 5, 1, -2, {}),
    ("correlate", 16, 32, 7, 1, -3, {}),
    ("columns", 16, 32, 3, 1, -1, {}),
    ("columns", 32, 16, 7, -1, 3, {"HAS_BIAS": False}),  # the gradient of the input
    ("convolve", 32, 16, 7, -2, 3, {"DIVISOR": 2, "HAS_BIAS": False, "PAIRED": False}),
    ("correlate", 2, 16, 5, 1, -2, {}),
    ("columns", 16, 32, 7, 1, -3, {"whole": False}),  # as most clips have it: frames that are not whole sixteens
]
TYPES = {("fp32", "tf32"): CALLS, ("fp32", "tf32x3"): CALLS, ("fp16", "ieee"): CALLS, ("bf16", "ieee"): CALLS[:3]}


def operations(cubin: bytes) -> tuple[list[str], list[tuple[int, int]], str]:
    """The machine code's operations, its loops as ranges of them, and what resources it takes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code, used = (
            subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "-res-usage"))
        )
    labels: dict[str, int] = {}
    found: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(found)
        elif operation := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ +)?(.*?) *;", line):
            found.append(operation[1])
    jumps = ((i, re.search(r"BRA.*`\((\.L_x_\d+)\)", o)) for i, o in enumerate(found))
    loops = [(labels[to[1]], i + 1) for i, to in jumps if to and labels[to[1]] <= i]
    return found, loops, used


def bytes_of(operation: str) -> int:
    """That a load brings: LDG.E.128 is 16."""
    sizes = {".128": 16, ".64": 8, ".U16": 2, ".S16": 2, ".U8": 1, ".S8": 1}
    return next((n for name, n in sizes.items() if name in operation.split()[0]), 4)


def products(operation: str) -> int:
    """Multiply-adds of a warp in one instruction of tensor cores: HMMA.1688 is 16 x 8 x 8; HGMMA.64x32x8 of 4 warps."""
    if size := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", operation):
        return math.prod(map(int, size.groups())) // 4
    return {"HMMA.1688": 16 * 8 * 8, "HMMA.16816": 16 * 8 * 16}.get(".".join(operation.split()[0].split(".")[:2]), 0)


def counted(found: list[str]) -> dict[str, int]:
    names = Counter(o.split()[0].split(".")[0] for o in found)
    loads = [o for o in found if o.startswith(("LDG", "LDGSTS"))]
    return {
        "operations": len(found),
        "loads": len(loads),
        "bytes": sum(map(bytes_of, loads)),
        "tensor_products": sum(map(products, found)),
        **{name: names[name] for name in (*MULTIPLIES, "LDS", "LDSM", "STS", "BAR", "LDL", "STL")},
    }


def facts(cubin: bytes, threads: int, shared: int, capability: int) -> dict[str, object]:
    found, loops, used = operations(cubin)
    multiplying = [r for r in loops if any(o.startswith(MULTIPLIES) for o in found[slice(*r)])]
    inner = [r for r in multiplying if not any(o != r and r[0] <= o[0] and o[1] <= r[1] for o in multiplying)]
    whole = counted(found)
    registers = int(re.search(r"REG:(\d+)", used)[1])  # type: ignore[index]
    by_registers = REGISTERS // (-(-registers // 8) * 8 * threads)  # registers are given out by eights
    return {
        "registers": registers,
        "spills": whole["LDL"] + whole["STL"],
        "shared": shared,
        "programs": min(by_registers, SHARED[capability] // (shared + 1024), 2048 // threads),
        "operations": whole["operations"],
        "loop": counted(found[slice(*inner[0])]),
    }


def compiled(
    name: str, dtype: str, precision: str, capability: int, blocks: Blocks, constants: dict[str, object]
) -> dict[str, object]:
    kernel = getattr(triton_kernels, name)
    known = {"groups": 1, "x_frame": 1, "y_frame": 1, "gy_frame": 1, "PRECISION": precision, "PAIRED": True}
    known |= {"HAS_BIAS": True, "STEP": 1, "DIVISOR": 1, **constants, **blocks.arguments()}
    whole = known.pop("whole", True)
    options = {o: known.pop(o) for o in ("num_warps", "num_stages")}
    signature, constexprs, hints = {}, {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in known:
            signature[argument] = "constexpr"
            constexprs[(i,)] = known[argument]
        else:
            is_pointer = argument in POINTERS or argument in TENSORS
            signature[argument] = f"*{POINTERS.get(argument, dtype)}" if is_pointer else "i32"
            if is_pointer or (whole and argument in WHOLE):  # as the launcher finds for whole sixteens
                hints[(i,)] = [["tt.divisibility", 16]]
    made = triton.compile(
        ASTSource(kernel, signature, constexprs, hints), target=GPUTarget("cuda", capability, 32), options=options
    )
    return {
        "kernel": name,
        "dtype": dtype,
        "precision": precision,
        "constants": constants,
        "blocks": blocks._asdict(),
        **facts(made.asm["cubin"], 32 * blocks.warps, made.metadata.shared, capability),
    }


def calls(dtype: str, precision: str, capability: int) -> Iterator[tuple[str, Blocks, dict[str, object]]]:
    """The kernels to compile, with their default blocks."""
    for name, channels, out, taps, dilation, shift, others in TYPES[dtype, precision]:
        problem = Problem(16, 256, 256, channels, out, taps, dilation, shift, DTYPES[dtype], precision, capability)
        blocks = default(name, problem)
        constants = {"CHANNELS": channels, "OUT": out, "TAPS": taps, "DILATION": dilation, "SHIFT": shift, **others}
        if name == "columns":
            constants |= {"FIRST": problem.first, "FRAMES": problem.tile(blocks), "EARLY": problem.early()}
        if name == "correlate":
            constants["TOGETHER"] = max(1, min(7, blocks.k // channels))
        yield name, blocks, constants


if __name__ == "__main__":
    for dtype, precision in TYPES:
        for name, blocks, constants in calls(dtype, precision, int(sys.argv[1])):
            print(json.dumps(compiled(name, dtype, precision, int(sys.argv[1]), blocks, constants)), flush=True)
