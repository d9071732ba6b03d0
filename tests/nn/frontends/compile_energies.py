"""Compile the filterbank's Triton kernel for a GPU that need not be there, and print what came of it as JSON.

python -m tests.nn.frontends.compile_energies 90
"""

from __future__ import annotations

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hlfeat.nn.frontends import _triton_energies as triton_energies
from tests.compile_kernels import facts

POINTERS = {"x": "*fp32", "lengths": "*i64", "kernels": "*fp32", "energy": "*fp32"}


def compiled(precision: str, filters: int, capability: int) -> dict[str, object]:
    kernel, warps = triton_energies.squared_modulus_kernel, triton_energies.WARPS
    known = {
        "HAS_LENGTHS": True,
        "PRECISION": precision,
        "BLOCK_M": triton_energies.BLOCK_OUTPUTS,
        "BLOCK_K": triton_energies.BLOCK_TAPS,
        "BLOCK_N": filters,
    }
    names = kernel.arg_names
    signature = {name: "constexpr" if name in known else POINTERS.get(name, "i32") for name in names}
    constexprs = {(names.index(name),): value for name, value in known.items()}
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in POINTERS}
    made = triton.compile(
        ASTSource(kernel, signature, constexprs, hints),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": 1},
    )
    counted = facts(made.asm["cubin"], 32 * warps, made.metadata.shared, capability)
    return {"precision": precision, "filters": filters, **counted}


if __name__ == "__main__":
    for precision in ("tf32x3", "tf32"):
        for filters in (16, 32):
            print(json.dumps(compiled(precision, filters, int(sys.argv[1]))), flush=True)
