"""Matrix products in Triton's kernels, in TF32 or in full float32, and a small kernel that shows whether any runs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def rounded(value, PRECISION: tl.constexpr):
    """What tensor cores multiply: TF32 has 10 bits of mantissa, and they cut the others off instead of rounding."""
    if PRECISION == "tf32":
        bits = (value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        value = tl.where(value == value, bits.to(tl.float32, bitcast=True), value)  # not a number: as it is
    return value


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr, INFINITE: tl.constexpr):
    """left @ right + total, of values that are `rounded`.

    Three products of TF32 ("tf32x3") keep the mantissa of float32, at a third of the instructions of its own: each
    value is the sum of its leading bits and of the rest, and the product of the rests is too small to count. Their sum
    is added to the total outside of them: tensor cores cut off what they add, an error that grows with each product.
    INFINITE: what an infinite value on the left gives stays infinite; else it is not a number.
    """
    if PRECISION == "tf32x3":
        high_left, high_right = rounded(left, "tf32"), rounded(right, "tf32")
        rest, high = left - high_left, high_left
        if INFINITE:
            finite = rest == rest
            rest, high = tl.where(finite, rest, 0.0), tl.where(finite, high, 0.0)
        small = tl.dot(rest, high_right, input_precision="tf32")
        small = tl.dot(high, right - high_right, small, input_precision="tf32")
        return total + tl.dot(high_left, high_right, small, input_precision="tf32")
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def probe(left, right, result, SIZE: tl.constexpr):
    """Shape: all [SIZE, SIZE]."""
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    total = product(tl.load(left + at), tl.load(right + at), tl.zeros((SIZE, SIZE), tl.float32), "tf32x3", True)
    tl.store(result + at, total)


def right_values(device: torch.device) -> bool:
    """Whether the kernel gives the product of two matrices there. Raises whatever the compiler or the driver does."""
    left = torch.arange(256.0, device=device).view(16, 16)
    right = torch.eye(16, device=device).flip(0)
    result = torch.empty_like(left)
    with torch.cuda.device_of(left):  # type: ignore[no-untyped-call]
        probe[(1,)](left, right, result, SIZE=16)
    return torch.equal(result, left.flip(1))
