"""Triton kernels for harmonic convolution: the interpolated rows are made where they are multiplied, and nowhere else.

Both are matrix products over K = (tap, channel) whose left side, `_rows`, is read from two rows of the input and
interpolated on the way. Channels lie next to each other in memory, so that frames that are read again for the next tap
are read in whole vectors. The lists that say which rows to read are made by hlfeat/harmonic_fused.py.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(
    plane, first, second, first_share, second_share, to, k, inside, frames_in, channels,
    CHANNELS: tl.constexpr, STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr, DIVISOR: tl.constexpr,
):  # fmt: skip
    """Interpolated input: at frame `to` and tap u, frame (STEP to + DILATION u + SHIFT) / DIVISOR if that is whole.

    `plane` points to the group's first channel in the first frame of the first row; `channels` are those of all groups.
    Where there is only one row to read, `second` equals `first`.

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
    low = tl.load(plane + first * line + at, mask=inside, other=0.0)
    high = tl.load(plane + second * line + at, mask=inside & (second != first), other=0.0)
    return low.to(tl.float32) * first_share + high.to(tl.float32) * second_share


@triton.jit
def convolve(
    x, weight, bias, y, start, harmonic, row, share,
    harmonics, rows_in, frames_in, rows_out, frames_out, groups, y_item, y_channel, y_row, y_frame,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr,
    STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr, DIVISOR: tl.constexpr,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T frames of one output row, BLOCK_O channels of one group of one batch item.

    Shape: x [B, rows_in, frames_in, groups, CHANNELS], weight [groups, harmonics, TAPS * CHANNELS, OUT],
        y [B, groups * OUT, rows_out, frames_out] with strides y_item, y_channel, y_row, y_frame; entry e of row f,
        start[f] <= e < start[f + 1], reads rows row[e, 0] and row[e, 1] with weights share[e] for harmonic[e].
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
        first_share, second_share = tl.load(share + 2 * e), tl.load(share + 2 * e + 1)
        kernel = weight + (group * harmonics + tl.load(harmonic + e)) * TAPS * CHANNELS * OUT
        for begin in range(0, TAPS * CHANNELS, BLOCK_K):
            k = begin + tl.arange(0, BLOCK_K)
            inside = (to < frames_out)[:, None] & (k < TAPS * CHANNELS)[None, :]
            left = _rows(plane, first, second, first_share, second_share, to, k, inside, frames_in, channels,
                         CHANNELS, STEP, DILATION, SHIFT, DIVISOR)  # fmt: skip
            real = (k < TAPS * CHANNELS)[:, None] & (out < OUT)[None, :]
            right = tl.load(kernel + k[:, None] * OUT + out[None, :], mask=real, other=0.0)
            total = tl.dot(left.to(right.dtype), right, total, input_precision=PRECISION)
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
    x, gy, partial, start, out_row, row, share,
    batch, parts, harmonics, rows_in, frames_in, rows_out, frames_out, groups,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr,
    STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """The gradient of the weight. One program: BLOCK_K of K, BLOCK_O channels, one harmonic, one part of the sum.

    Shape: x as for `convolve`, gy [B, rows_out, frames_out, groups, OUT], partial [parts, groups, harmonics,
        TAPS * CHANNELS, OUT]; entry e of harmonic h, start[h] <= e < start[h + 1], is output row out_row[e], which
        reads row[e] with weights share[e]. The terms, (batch item, entry), are shared out evenly among the parts.
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
    terms = entries * batch

    total = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    for term in range(part * terms // parts, (part + 1) * terms // parts):
        e = begin + term % entries
        item = (term // entries).to(tl.int64)
        plane = x + (item * rows_in * frames_in * channels + group * CHANNELS)
        given = gy + ((item * rows_out + tl.load(out_row + e)) * frames_out * groups + group) * OUT
        first, second = tl.load(row + 2 * e), tl.load(row + 2 * e + 1)
        first_share, second_share = tl.load(share + 2 * e), tl.load(share + 2 * e + 1)
        for t in range(0, frames_out, BLOCK_T):
            to = t + tl.arange(0, BLOCK_T)
            inside = (to < frames_out)[:, None] & (k < TAPS * CHANNELS)[None, :]
            left = _rows(plane, first, second, first_share, second_share, to, k, inside, frames_in, channels,
                         CHANNELS, STEP, DILATION, SHIFT, 1)  # fmt: skip
            real = (to < frames_out)[:, None] & (out < OUT)[None, :]
            right = tl.load(given + to[:, None] * groups * OUT + out[None, :], mask=real, other=0.0)
            total = tl.dot(tl.trans(left.to(right.dtype)), right, total, input_precision=PRECISION)
    result = partial + ((part * groups + group) * harmonics + harmonic) * TAPS * CHANNELS * OUT
    real = (k < TAPS * CHANNELS)[:, None] & (out < OUT)[None, :]
    tl.store(result + k[:, None] * OUT + out[None, :], total, mask=real)
