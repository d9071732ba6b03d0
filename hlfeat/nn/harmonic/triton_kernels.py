"""Triton kernels for harmonic convolution: they interpolate rows in registers, while they multiply.

Both are matrix products over K = (tap, channel) whose left side, `_rows`, is read from two rows of the input and
interpolated on the way. Channels lie next to each other in memory, so that frames that are read again for the next tap
are read in whole vectors. The lists that say which rows to read are made by hlfeat/nn/harmonic/triton_backend.py.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rounded(value, PRECISION: tl.constexpr):
    """What tensor cores multiply: TF32 has 10 bits of mantissa, and they cut the others off instead of rounding."""
    if PRECISION == "tf32":
        bits = (value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        value = tl.where(value == value, bits.to(tl.float32, bitcast=True), value)  # not a number: as it is
    return value


@triton.jit
def _rows(
    plane, first, second, first_weight, second_weight, to, k, inside, frames_in, channels,
    CHANNELS: tl.constexpr, STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr, DIVISOR: tl.constexpr,
    PAIRED: tl.constexpr,
):  # fmt: skip
    """Interpolated input: at frame `to` and tap u, frame (STEP to + DILATION u + SHIFT) / DIVISOR if that is whole.

    `plane` points to the group's first channel in the first frame of the first row; `channels` are those of all groups.
    Where there is only one row to read, `second` equals `first`; everywhere, if not PAIRED.

    Shape: to [frames], k [K]; inside, which of them are real, and the result [frames, K].
    """
    at = to[:, None] * STEP + (k // CHANNELS * DILATION + SHIFT)[None, :]
    inside &= at >= 0
    if DIVISOR > 1:
        inside &= at % DIVISOR == 0
        at = at // DIVISOR
    inside &= at < frames_in
    at = at * channels + (k % CHANNELS)[None, :]
    line = frames_in * channels
    rows = tl.load(plane + first * line + at, mask=inside, other=0.0).to(tl.float32) * first_weight
    if PAIRED:
        other = tl.load(plane + second * line + at, mask=inside & (second != first), other=0.0)
        rows += other.to(tl.float32) * second_weight
    return rows


@triton.jit
def convolve(
    x, weight, bias, y, start, harmonic, row, row_weight,
    harmonics, rows_in, frames_in, rows_out, frames_out, groups, y_item, y_channel, y_row, y_frame,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr,
    STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr, DIVISOR: tl.constexpr,
    PAIRED: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T frames of one output row, BLOCK_O channels of one group of one batch item.

    Shape: x [B, rows_in, frames_in, groups, CHANNELS], weight [groups, harmonics, OUT, TAPS * CHANNELS],
        y [B, groups * OUT, rows_out, frames_out] with strides y_item, y_channel, y_row, y_frame; entry e of row f,
        start[f] <= e < start[f + 1], reads rows row[e, 0] and row[e, 1] with weights row_weight[e] for harmonic[e].
    """
    place = tl.program_id(0)
    tiles, blocks = tl.cdiv(frames_out, BLOCK_T), (OUT + BLOCK_O - 1) // BLOCK_O
    to = place % tiles * BLOCK_T + tl.arange(0, BLOCK_T)
    place //= tiles
    f = place % rows_out
    place //= rows_out
    out = place % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    place //= blocks
    group = place % groups
    item = (place // groups).to(tl.int64)
    channels = groups * CHANNELS
    plane = x + (item * rows_in * frames_in * channels + group * CHANNELS)

    total = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for e in range(tl.load(start + f), tl.load(start + f + 1)):
        first, second = tl.load(row + 2 * e), tl.load(row + 2 * e + 1)
        first_weight, second_weight = tl.load(row_weight + 2 * e), tl.load(row_weight + 2 * e + 1)
        kernel = weight + (group * harmonics + tl.load(harmonic + e)) * TAPS * CHANNELS * OUT
        for begin in range(0, TAPS * CHANNELS, BLOCK_K):
            k = begin + tl.arange(0, BLOCK_K)
            inside = (to < frames_out)[:, None] & (k < TAPS * CHANNELS)[None, :]
            left = _rows(plane, first, second, first_weight, second_weight, to, k, inside, frames_in, channels,
                         CHANNELS, STEP, DILATION, SHIFT, DIVISOR, PAIRED)  # fmt: skip
            real = (k < TAPS * CHANNELS)[:, None] & (out < OUT)[None, :]
            right = tl.load(kernel + out[None, :] * (TAPS * CHANNELS) + k[:, None], mask=real, other=0.0)
            left = _rounded(left, PRECISION).to(right.dtype)
            total = tl.dot(left, _rounded(right, PRECISION), total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + group * OUT + out, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    result = y + (item * y_item + f * y_row)
    tl.store(
        result + (group * OUT + out)[None, :] * y_channel + to[:, None] * y_frame,
        total.to(y.dtype.element_ty),
        mask=(to < frames_out)[:, None] & (out < OUT)[None, :],
    )


@triton.jit
def correlate(
    x, gy, partial, start, out_row, row, row_weight,
    batch, length, harmonics, rows_in, frames_in, frames_out, groups, gy_item, gy_channel, gy_row, gy_frame,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr,
    STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr,
    PAIRED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """The gradient of the weight. One program: BLOCK_K of K, BLOCK_O channels, one harmonic, one part of the sum.

    Shape: x as for `convolve`, gy as y there, partial [parts, groups, harmonics, TAPS * CHANNELS, OUT]; entry e of
        harmonic h, start[h] <= e < start[h + 1], is output row out_row[e], which reads row[e] with weights
        row_weight[e]. A part is `length` of the harmonic's terms, (batch item, entry), or what is left of them, which
        may be nothing.
    """
    place = tl.program_id(0)
    k_blocks, blocks = (TAPS * CHANNELS + BLOCK_K - 1) // BLOCK_K, (OUT + BLOCK_O - 1) // BLOCK_O
    k = place % k_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    place //= k_blocks
    out = place % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    place //= blocks
    harmonic = place % harmonics
    place //= harmonics
    group = place % groups
    part = place // groups
    channels = groups * CHANNELS
    begin = tl.load(start + harmonic)
    entries = tl.load(start + harmonic + 1) - begin
    last = tl.minimum((part + 1) * length, entries * batch)

    total = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    for term in range(part * length, last):
        e = begin + term % entries
        item = (term // entries).to(tl.int64)
        plane = x + (item * rows_in * frames_in * channels + group * CHANNELS)
        given = gy + (item * gy_item + tl.load(out_row + e) * gy_row)
        first, second = tl.load(row + 2 * e), tl.load(row + 2 * e + 1)
        first_weight, second_weight = tl.load(row_weight + 2 * e), tl.load(row_weight + 2 * e + 1)
        for t in range(0, frames_out, BLOCK_T):
            to = t + tl.arange(0, BLOCK_T)
            inside = (to < frames_out)[:, None] & (k < TAPS * CHANNELS)[None, :]
            left = _rows(plane, first, second, first_weight, second_weight, to, k, inside, frames_in, channels,
                         CHANNELS, STEP, DILATION, SHIFT, 1, PAIRED)  # fmt: skip
            real = (to < frames_out)[:, None] & (out < OUT)[None, :]
            at = (group * OUT + out)[None, :] * gy_channel + to[:, None] * gy_frame
            right = tl.load(given + at, mask=real, other=0.0)
            left = _rounded(left, PRECISION).to(right.dtype)
            total = tl.dot(tl.trans(left), _rounded(right, PRECISION), total, input_precision=PRECISION)
    result = partial + ((part * groups + group) * harmonics + harmonic) * TAPS * CHANNELS * OUT
    real = (k < TAPS * CHANNELS)[:, None] & (out < OUT)[None, :]
    tl.store(result + k[:, None] * OUT + out[None, :], total, mask=real)
