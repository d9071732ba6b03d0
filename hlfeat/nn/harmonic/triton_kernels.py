"""Triton kernels for harmonic convolution: they interpolate rows in registers, while they multiply.

    columns     convolution with stride 1. The taps are columns of the product: each row is read and interpolated once
                for a harmonic, multiplied with all taps, and the sums are shifted against each other at the end.
    convolve    any convolution: a product over K = (tap, channel), which reads a row again for every tap. It is for
                strides, long dilated kernels, and few channels, which would leave a product over channels empty.
    correlate   the gradient of the weight: a product over frames. Its columns are harmonics and channels, so that each
                row is read and interpolated once for a harmonic here too.

Strides say how x, y and gy lie in memory; contiguous and channels-last tensors are both read as they are. The lists
that say which rows to read are made by hlfeat/nn/harmonic/triton_backend.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hlfeat.nn._triton_products import product, rounded

# Triton compiles anew for a number that is one, or a multiple of 16, where others were not. For strides and frames that
# makes faster code; for these it would make the same again.
ANY = ["harmonics", "rows_out"]


@triton.jit
def _interpolated(
    cells, first, second, first_weight, second_weight, inside, row_stride, to: tl.constexpr,
    PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Two rows weighted and added, as they are multiplied, of type `to`.

    `cells` points to the same place of row 0. Where there is only one row to read, `second` equals `first`;
    everywhere, if not PAIRED.

    Shape: cells, inside and the result [frames, K]; rows and weights are numbers or broadcast to it.
    """
    rows = tl.load(cells + first * row_stride, mask=inside, other=0.0).to(tl.float32) * first_weight
    if PAIRED:
        other = tl.load(cells + second * row_stride, mask=inside & (second != first), other=0.0)
        rows += other.to(tl.float32) * second_weight
    return rounded(rows, PRECISION).to(to)


@triton.jit(do_not_specialize=ANY)
def columns(
    x, weight, bias, y, start, harmonic, row, row_weight, harmonics, frames_in, rows_out, frames_out, groups,
    x_item, x_channel, x_row, x_frame, y_item, y_channel, y_row, y_frame,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr,
    FRAMES: tl.constexpr, FIRST: tl.constexpr, EARLY: tl.constexpr,
    PAIRED: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: FRAMES frames of one output row, BLOCK_O channels of one group of one batch item.

    It reads BLOCK_T frames of the input, from FIRST before its first frame: tap u of frame t reads frame
    t + DILATION u + SHIFT, for stride 1. EARLY: the weights of all taps are loaded before the first product, so that
    no product waits for another's.

    Shape: x [B, groups * CHANNELS, rows_in, frames_in], weight [groups, harmonics, TAPS, OUT, CHANNELS], y [B, groups *
        OUT, rows_out, frames_out]; entry e of row f, start[f] <= e < start[f + 1], reads rows row[e, 0] and row[e, 1]
        with weights row_weight[e] for harmonic[e].
    """
    place = tl.program_id(0)
    tiles, blocks = tl.cdiv(frames_out, FRAMES), (OUT + BLOCK_O - 1) // BLOCK_O
    begin = place % tiles * FRAMES
    place //= tiles
    f = place % rows_out
    place //= rows_out
    out = place % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    place //= blocks
    group = place % groups
    item = (place // groups).to(tl.int64)
    at = begin + FIRST + tl.arange(0, BLOCK_T)
    read = (at >= 0) & (at < frames_in)
    plane = x + (item * x_item + group * CHANNELS * x_channel)

    totals = ()  # of each tap, at the frames of the input
    for _ in tl.static_range(TAPS):
        totals = totals + (tl.zeros((BLOCK_T, BLOCK_O), tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    for e in range(tl.load(start + f), tl.load(start + f + 1)):
        first, second = tl.load(row + 2 * e), tl.load(row + 2 * e + 1)
        first_weight, second_weight = tl.load(row_weight + 2 * e), tl.load(row_weight + 2 * e + 1)
        kernel = weight + (group * harmonics + tl.load(harmonic + e)) * TAPS * OUT * CHANNELS
        for k in range(0, CHANNELS, BLOCK_K):
            c = k + tl.arange(0, BLOCK_K)
            cells = plane + (at[:, None] * x_frame + c[None, :] * x_channel)
            inside = read[:, None] & (c < CHANNELS)[None, :]
            left = _interpolated(cells, first, second, first_weight, second_weight, inside, x_row,
                                 weight.dtype.element_ty, PAIRED, PRECISION)  # fmt: skip
            real = (c < CHANNELS)[:, None] & (out < OUT)[None, :]
            cell = kernel + out[None, :] * CHANNELS + c[:, None]
            rights, sums = (), ()
            if EARLY:
                for u in tl.static_range(TAPS):
                    right = tl.load(cell + u * OUT * CHANNELS, mask=real, other=0.0)
                    rights = rights + (rounded(right, PRECISION),)  # type: ignore[assignment]  # noqa: RUF005
            for u in tl.static_range(TAPS):
                if EARLY:
                    right = rights[u]
                else:
                    right = rounded(tl.load(cell + u * OUT * CHANNELS, mask=real, other=0.0), PRECISION)
                total = product(left, right, totals[u], PRECISION, True)
                sums = sums + (total,)  # type: ignore[assignment]  # noqa: RUF005
            totals = sums

    here = tl.arange(0, BLOCK_T)
    result = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for u in tl.static_range(TAPS):
        source = tl.minimum(here + (DILATION * u + SHIFT - FIRST), BLOCK_T - 1)  # beyond it no frame is stored
        result += tl.gather(totals[u], tl.broadcast_to(source[:, None], (BLOCK_T, BLOCK_O)), 0)
    if HAS_BIAS:
        result += tl.load(bias + group * OUT + out, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    to = begin + here
    cells = y + (item * y_item + f * y_row) + (group * OUT + out)[None, :] * y_channel + to[:, None] * y_frame
    stored = ((here < FRAMES) & (to < frames_out))[:, None] & (out < OUT)[None, :]
    tl.store(cells, result.to(y.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=ANY)
def convolve(
    x, weight, bias, y, start, harmonic, row, row_weight, harmonics, frames_in, rows_out, frames_out, groups,
    x_item, x_channel, x_row, x_frame, y_item, y_channel, y_row, y_frame,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr,
    STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr, DIVISOR: tl.constexpr,
    PAIRED: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T frames of one output row, BLOCK_O channels of one group of one batch item.

    Tap u of frame t reads frame (STEP t + DILATION u + SHIFT) / DIVISOR, if that is whole.

    Shape: as for `columns`, but weight [groups, harmonics, OUT, TAPS * CHANNELS].
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
    plane = x + (item * x_item + group * CHANNELS * x_channel)

    total = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for e in range(tl.load(start + f), tl.load(start + f + 1)):
        first, second = tl.load(row + 2 * e), tl.load(row + 2 * e + 1)
        first_weight, second_weight = tl.load(row_weight + 2 * e), tl.load(row_weight + 2 * e + 1)
        kernel = weight + (group * harmonics + tl.load(harmonic + e)) * TAPS * CHANNELS * OUT
        for begin in range(0, TAPS * CHANNELS, BLOCK_K):
            k = begin + tl.arange(0, BLOCK_K)
            at = to[:, None] * STEP + (k // CHANNELS * DILATION + SHIFT)[None, :]
            inside = (to < frames_out)[:, None] & (k < TAPS * CHANNELS)[None, :] & (at >= 0)
            if DIVISOR > 1:
                inside &= at % DIVISOR == 0
                at = at // DIVISOR
            inside &= at < frames_in
            cells = plane + (at * x_frame + (k % CHANNELS)[None, :] * x_channel)
            left = _interpolated(cells, first, second, first_weight, second_weight, inside, x_row,
                                 weight.dtype.element_ty, PAIRED, PRECISION)  # fmt: skip
            real = (k < TAPS * CHANNELS)[:, None] & (out < OUT)[None, :]
            right = tl.load(kernel + out[None, :] * (TAPS * CHANNELS) + k[:, None], mask=real, other=0.0)
            total = product(left, rounded(right, PRECISION), total, PRECISION, True)
    if HAS_BIAS:
        total += tl.load(bias + group * OUT + out, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    cells = y + (item * y_item + f * y_row) + (group * OUT + out)[None, :] * y_channel + to[:, None] * y_frame
    tl.store(cells, total.to(y.dtype.element_ty), mask=(to < frames_out)[:, None] & (out < OUT)[None, :])


@triton.jit(do_not_specialize=[*ANY, "batch", "length"])
def correlate(
    x, gy, partial, start, out_row, row, row_weight,
    batch, length, harmonics, frames_in, rows_out, frames_out, groups,
    x_item, x_channel, x_row, x_frame, gy_item, gy_channel, gy_row, gy_frame,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr, TOGETHER: tl.constexpr,
    STEP: tl.constexpr, DILATION: tl.constexpr, SHIFT: tl.constexpr,
    PAIRED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """The gradient of the weight. One program: BLOCK_O of (tap, output channel), BLOCK_K of the channels of TOGETHER
    harmonics, one part of the sum.

    Shape: x and gy as x and y of `convolve`, partial [parts, groups, harmonics, CHANNELS, TAPS * OUT]; entry e of the
        harmonics from TOGETHER i, start[i] <= e < start[i + 1], is an output row out_row[e] in which one of them reads
        something: harmonic h reads rows row[h, out_row[e]] with weights row_weight[h, out_row[e]]. A part is `length`
        of the terms, (batch item, entry), or what is left of them, which may be nothing.
    """
    place = tl.program_id(0)
    m_blocks = (TAPS * OUT + BLOCK_O - 1) // BLOCK_O
    k_blocks = (TOGETHER * CHANNELS + BLOCK_K - 1) // BLOCK_K
    m = place % m_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    place //= m_blocks
    k = place % k_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    place //= k_blocks
    several = tl.cdiv(harmonics, TOGETHER)
    which = place % several
    place //= several
    group = place % groups
    part = place // groups
    h, c = which * TOGETHER + k // CHANNELS, k % CHANNELS
    known = (k < TOGETHER * CHANNELS) & (h < harmonics)
    begin = tl.load(start + which)
    entries = tl.load(start + which + 1) - begin
    last = tl.minimum((part + 1) * length, entries * batch)

    total = tl.zeros((BLOCK_O, BLOCK_K), tl.float32)
    for term in range(part * length, last):
        f = tl.load(out_row + begin + term % entries)
        item = (term // entries).to(tl.int64)
        plane = x + (item * x_item + group * CHANNELS * x_channel)
        given = gy + (item * gy_item + group * OUT * gy_channel + f * gy_row)
        e = 2 * (h * rows_out + f)
        first, second = tl.load(row + e, mask=known, other=0), tl.load(row + e + 1, mask=known, other=0)
        first_weight = tl.load(row_weight + e, mask=known, other=0.0)
        second_weight = tl.load(row_weight + e + 1, mask=known, other=0.0)
        reads = known & (first_weight != 0)
        for t in range(0, frames_in, BLOCK_T):
            at = t + tl.arange(0, BLOCK_T)
            cells = plane + (at[:, None] * x_frame + c[None, :] * x_channel)
            inside = (at < frames_in)[:, None] & reads[None, :]
            right = _interpolated(cells, first[None, :], second[None, :], first_weight[None, :],
                                  second_weight[None, :], inside, x_row, gy.dtype.element_ty,
                                  PAIRED, PRECISION)  # fmt: skip
            to = at[None, :] - (m // OUT * DILATION + SHIFT)[:, None]
            real = (m < TAPS * OUT)[:, None] & (to >= 0)
            if STEP > 1:
                real &= to % STEP == 0
                to = to // STEP
            real &= to < frames_out
            left = tl.load(given + (to * gy_frame + (m % OUT)[:, None] * gy_channel), mask=real, other=0.0)
            total = product(rounded(left, PRECISION), right, total, PRECISION, False)
    result = partial + ((part * groups + group) * harmonics * CHANNELS + h * CHANNELS + c)[None, :] * (TAPS * OUT)
    tl.store(result + m[:, None], total, mask=(m < TAPS * OUT)[:, None] & known[None, :])
