"""Compile the Triton kernels for a GPU that need not be there, and print what came of it as JSON.

python -m tests.compile_kernels 90
"""

from __future__ import annotations

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hlfeat.nn.harmonic import triton_backend, triton_kernels

POINTERS = {"start": "i32", "harmonic": "i32", "out_row": "i32", "row": "i32", "row_weight": "fp32", "partial": "fp32"}
WHOLE = ("frames_in", "frames_out", "y_item", "y_channel", "y_row", "gy_item", "gy_channel", "gy_row")
TENSORS = ("x", "gy", "weight", "bias", "y")
CONSTANTS = {
    "CHANNELS": 16,
    "OUT": 32,
    "TAPS": 7,
    "STEP": 1,
    "DILATION": 1,
    "SHIFT": -3,
    "DIVISOR": 1,
    "HAS_BIAS": True,
}
BLOCKS = {"convolve": triton_backend.CONVOLVE, "correlate": triton_backend.CORRELATE}
TURNED = {
    "CHANNELS": 32,
    "OUT": 16,
    "STEP": 1,
    "DILATION": -2,
    "SHIFT": 3,
    "DIVISOR": 2,
    "HAS_BIAS": False,
    "PAIRED": False,
}


def compiled(name: str, dtype: str, precision: str, capability: int, **other: object) -> dict[str, object]:
    kernel = getattr(triton_kernels, name)
    known = {**CONSTANTS, "PRECISION": precision, "groups": 1, "y_frame": 1, "gy_frame": 1, **other}
    known |= BLOCKS[name].of(256, known["TAPS"] * known["CHANNELS"], known["OUT"])
    options = {o: known.pop(o) for o in ("num_warps", "num_stages")}
    signature, constants, hints = {}, {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in known:
            signature[argument] = "constexpr"
            constants[(i,)] = known[argument]
        else:
            is_pointer = argument in POINTERS or argument in TENSORS
            signature[argument] = f"*{POINTERS.get(argument, dtype)}" if is_pointer else "i32"
            if is_pointer or argument in WHOLE:  # as the launcher finds for whole sixteens
                hints[(i,)] = [["tt.divisibility", 16]]
    made = triton.compile(
        ASTSource(kernel, signature, constants, hints), target=GPUTarget("cuda", capability, 32), options=options
    )
    ptx = made.asm["ptx"]
    return {
        "kernel": name,
        "dtype": dtype,
        "precision": precision,
        "shared": made.metadata.shared,
        "tensor_cores": "wgmma" in ptx or "mma.sync" in ptx,
        "vectors": re.search(r"cp\.async\.cg\.[^;]*0x10", ptx) is not None,
        "machine_code": len(made.asm["cubin"]),
    }


if __name__ == "__main__":
    for dtype, precision in (("fp32", "tf32"), ("fp32", "ieee"), ("fp16", "ieee"), ("bf16", "ieee")):
        for name, other in (("convolve", {}), ("convolve", TURNED), ("correlate", {})):
            print(json.dumps(compiled(name, dtype, precision, int(sys.argv[1]), **other)), flush=True)
