"""How often Triton compiles each kernel for batches of many sizes, as JSON. No GPU is needed, as nothing is launched.

    python -m tests.triton_variants

Triton looks up machine code by the types of the arguments, and by which numbers are one or a multiple of 16.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import hlfeat
from hlfeat.nn.frontends import _triton_energies
from hlfeat.nn.harmonic import triton_kernels

BATCHES, FRAMES = (1, 2, 3, 16, 17, 32), (1, 16, 50, 77, 100, 160, 161, 800)


class Recorder:
    """A kernel that is not launched: it notes what it would be compiled for."""

    def __init__(self, kernel: JITFunction) -> None:
        assert isinstance(kernel, JITFunction), "the kernels are interpreted: unset TRITON_INTERPRET"
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self.bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.seen: set[str] = set()

    def __getitem__(self, grid: object) -> Any:
        return lambda *args, **options: self.seen.add(str(self.bind(*args, **options)[1]))


def harmonic() -> dict[str, int]:
    """Of one layer in training, with any batch and number of frames."""
    triton.knobs.runtime.interpret = True  # so that tensors need not be on a GPU
    names = ("columns", "convolve", "correlate")
    recorders = {name: Recorder(getattr(triton_kernels, name)) for name in names}
    for name, recorder in recorders.items():
        setattr(triton_kernels, name, recorder)
    conv = hlfeat.HarmonicConv2d(16, 32, (7, 7), padding=(0, 3), centre_freqs=hlfeat.EfficientLeaf(80).centre_freqs())
    for batch in BATCHES:
        for frames in FRAMES:
            x = torch.empty(batch, 16, 80, frames, requires_grad=True)
            y = hlfeat.harmonic_conv2d(x, conv.weight, conv.bias, conv.plan(80), padding=3, fused=True)
            y.sum().backward()
    return {name: len(recorder.seen) for name, recorder in recorders.items()}


def energies() -> dict[str, int]:
    """Of all groups of filters, with any batch and number of samples."""
    recorder = Recorder(_triton_energies.squared_modulus_kernel)
    _triton_energies.squared_modulus_kernel = recorder
    bank = hlfeat.EfficientLeaf(80, 8, conv_win_factor=6, stride_factor=16).filterbank
    taps = bank.make_taps()
    packed = [_triton_energies.packed(t) for t in taps]
    for batch in BATCHES:
        for frames in FRAMES:
            x = torch.empty(batch, 160 * frames + batch)
            _triton_energies.energies(x, torch.full((batch,), x.shape[1]), taps, packed)
    return {"squared_modulus": len(recorder.seen)}


if __name__ == "__main__":
    with torch.no_grad():
        found = energies()
    print(json.dumps(found | harmonic()))
