"""Pictures of clips and features, without pyplot and without changing matplotlib's global state.

Rows of features are equally high, whatever their frequencies; the ticks of the axis show where round numbers of hertz
lie. Colour maps are perceptually uniform, and a quantity has the same colours all over a figure.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from hlfeat.errors import OutputError, UsageError
from hlfeat.files import write_atomically
from hlfeat.nn.frontends.responses import Responses
from hlfeat.plotting.clip_view import View
from hlfeat.plotting.columns import HIGHEST, LOWEST
from hlfeat.plotting.images import Grid, Image, PitchLine
from hlfeat.plotting.pitch_line import CONFIDENT
from hlfeat.plotting.titles import fit_suptitle, without_glyph_warnings
from hlfeat.text import count

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # TrueType, embedded: text stays text, and journals refuse matplotlib's Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # looks the same where the font is not installed
}
FORMATS = ("png", "pdf", "svg", "svgz", "eps", "ps", "jpg", "jpeg", "tif", "tiff", "webp")  # without TeX and raw bytes
FRONTEND, STACK = "magma", "viridis"
FLOOR_DB = -40.0


def clip_figure(views: Sequence[View], title: str) -> Figure:
    """Waveform, features, stack output and filters of a clip; a column for each configuration."""
    with matplotlib.rc_context(STYLE):
        fronts, stacks = (max(len(getattr(v, part)) for v in views) for part in ("frontend", "stack"))
        filters = any(v.responses for v in views)
        heights = [0.8] + fronts * [1.5] + stacks * [1.15] + filters * [1.5]
        figure = Figure(
            figsize=((7.0 if len(views) == 1 else 5.2 * len(views)), sum(heights) + 0.4 + 0.25 * len(heights)),
            layout="constrained",
        )
        fit_suptitle(figure, title)
        norms = shared_norms(image for v in views for image in [*v.frontend, *v.stack])
        grid = figure.add_gridspec(len(heights), len(views), height_ratios=heights)
        for column, v in enumerate(views):
            timed = [figure.add_subplot(grid[0, column])]
            draw_waveform(timed[0], v)
            rows = [(1 + i, image, FRONTEND) for i, image in enumerate(v.frontend)]
            rows += [(1 + fronts + i, image, STACK) for i, image in enumerate(v.stack)]
            for row, image, colours in rows:
                axes = figure.add_subplot(grid[row, column], sharex=timed[0])
                drawn = draw_features(axes, image, norms[image.scale], colours)
                axes.set_title(image.title)
                if image.pitch is not None:
                    label_pitch(axes)
                figure.colorbar(drawn, ax=axes, label=image.unit, extend="both", pad=0.01, aspect=15)
                timed.append(axes)
            for axes in timed[:-1]:
                axes.tick_params(labelbottom=False)
            timed[-1].set_xlabel("time, s")
            if rows[-1][0] < fronts + stacks:  # another column is longer, so there is room below for the label
                timed[-1].xaxis.set_in_layout(False)
            if v.responses:
                draw_filters(figure, grid[len(heights) - 1, column], v.responses)
        return figure


def shared_norms(images: Iterable[Image]) -> dict[str, Normalize]:
    """One colour scale for each quantity, which spans all values but outliers."""
    drawn: dict[str, list[np.ndarray]] = {}
    for image in images:
        drawn.setdefault(image.scale, []).append(image.values.ravel())
    return {scale: Normalize(*limits(np.concatenate(values))) for scale, values in drawn.items()}


def limits(values: np.ndarray) -> tuple[float, float]:
    """Where a colour scale begins and ends."""
    low, high = np.percentile(values, [LOWEST, HIGHEST])
    return float(low), float(high)


def draw_waveform(axes: Axes, v: View) -> None:
    """Draw the samples, or for each block of a long clip the range of its samples."""
    wave = v.waveform
    time = v.span[0] + (wave.block * np.arange(len(wave.low)) + (wave.block - 1) / 2) / v.sample_rate
    if wave.block == 1:
        axes.plot(time, wave.low, color="0.25", linewidth=0.5)
    else:
        axes.fill_between(time, wave.low, wave.high, color="0.25", linewidth=0.3)
    axes.set_title("\n".join(textwrap.wrap(v.title, 70)), fontweight="bold", parse_math=False)
    axes.set_ylabel("sample value")


def draw_features(axes: Axes, image: Image, norm: Normalize, colours: str) -> AxesImage:
    """Draw features over time: rows of equal height, and each instant in the colours of the nearest frame."""
    grid, (start, end) = image.grid, image.grid.span
    left = grid.first - grid.step / 2
    right = left + grid.step * image.values.shape[1]
    before = max(0, math.ceil((left - start) / grid.step - 1e-6))  # the middle of a window is after its beginning
    after = max(1, math.ceil((end - right) / grid.step - 1e-6))  # the last frame may end before the clip does
    values = np.pad(image.values, ((0, 0), (before, after)), "edge")
    n = len(values)
    drawn = axes.imshow(
        values,
        norm=norm,
        cmap=colours,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(left - before * grid.step, right + after * grid.step, -0.5, n - 0.5),
    )
    axes.set_xlim(image.grid.span)
    label_rows(axes, image.grid, n)
    if image.pitch is not None and image.grid.freqs is not None and n > 1:
        draw_pitch(axes, image.pitch, image.grid.freqs)
    return drawn


def draw_pitch(axes: Axes, line: PitchLine, freqs: np.ndarray) -> None:
    """Draw a pitch over the rows of features. Shape: freqs [F], rising, F >= 2."""
    axes.plot(
        line.seconds,
        rows_at(freqs, line.hertz),
        color="red",
        linewidth=0.8,
        path_effects=[withStroke(linewidth=1.8, foreground="white")],  # seen on any colour
        label=f"pitch, confidence from {CONFIDENT:g}",
    )


def label_pitch(axes: Axes) -> None:
    """Say what the line is."""
    axes.legend(loc="upper right", fontsize=6, framealpha=0.7, borderpad=0.3)


def label_rows(axes: Axes, grid: Grid, n: int) -> None:
    """Label the vertical axis with round numbers of hertz, or with row numbers if rows have no frequency."""
    axes.set_ylabel("row" if grid.freqs is None else "frequency, Hz")
    if grid.freqs is None:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    elif n == 1:
        axes.set_yticks([0], [f"{grid.freqs[0]:.0f}"])
    else:
        ticks = hertz_ticks(grid.freqs)
        axes.set_yticks(rows_at(grid.freqs, ticks), [f"{t:g}" for t in ticks])


def rows_at(freqs: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """The fractional rows of frequencies: interpolated linearly, and extrapolated from the outermost two rows.

    Shape: freqs [F], rising, F >= 2; hertz [K] -> [K].
    """
    below = np.clip(np.searchsorted(freqs, hertz) - 1, 0, len(freqs) - 2)
    rows: np.ndarray = below + (hertz - freqs[below]) / (freqs[below + 1] - freqs[below])
    return rows


def hertz_ticks(freqs: np.ndarray, most: int = 6) -> np.ndarray:
    """About `most` round frequencies for an axis of rows, far enough apart for their labels.

    They are equally spaced if the rows are. Otherwise they are 1, 5 and 2 times powers of ten, tried in this order.
    """
    n, steps = len(freqs), np.diff(freqs)
    low, high = max(0.0, freqs[0] - steps[0] / 2), freqs[-1] + steps[-1] / 2
    even: np.ndarray = np.asarray(MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high))
    even = even[(even >= low) & (even <= high)]
    if np.allclose(steps, steps[0], rtol=1e-3):
        return even
    chosen: list[float] = []
    for factor in (1, 5, 2):
        for power in range(6, -1, -1):
            hertz = float(factor * 10**power)
            places = rows_at(freqs, np.array([hertz, *chosen]))
            if low <= hertz <= high and (abs(places[1:] - places[0]) >= n / (2.5 * most)).all():
                chosen.append(hertz)
    return np.array(sorted(chosen)) if len(chosen) > 2 else even


def draw_filters(figure: Figure, place: SubplotSpec, responses: Responses) -> None:
    """Draw frequency responses, those of some filters in colour, and bandwidths over centre frequencies."""
    sides = place.subgridspec(1, 2, width_ratios=[2.2, 1])
    curves, widths = figure.add_subplot(sides[0]), figure.add_subplot(sides[1])
    n = len(responses.centres)
    freqs = responses.centres if n > 1 and (np.diff(responses.centres) > 0).all() else None
    x = responses.hertz if freqs is None else rows_at(freqs, responses.hertz)
    decibels = 10 * np.log10(np.maximum(responses.gain, 1e-12))
    widths.plot(responses.centres, responses.bandwidths, "o", color="0.6", markersize=2.5)
    strong = np.linspace(0, n - 1, min(n, 9)).round().astype(int).tolist()
    for i in [*(i for i in range(n) if i not in strong), *strong]:
        seen = np.flatnonzero(decibels[i] > FLOOR_DB)
        if len(seen) == 0:  # a mel filter that lies between two bins of the FFT
            continue
        part = slice(max(0, seen[0] - 1), seen[-1] + 2)
        if i in strong:
            colour = matplotlib.colormaps[STACK](0.9 * i / max(1, n - 1))
            curves.plot(x[part], decibels[i, part], color=colour, linewidth=1.0)
            widths.plot(responses.centres[i], responses.bandwidths[i], "o", color=colour, markersize=3.5)
        else:
            curves.plot(x[part], decibels[i, part], color="0.8", linewidth=0.4)
    if freqs is not None:
        ticks = hertz_ticks(freqs)
        curves.set_xticks(rows_at(freqs, ticks), [f"{t:g}" for t in ticks])
        curves.set_xlim(-2, n + 1)
    curves.set(
        ylim=(FLOOR_DB, 3), xlabel="frequency, Hz", ylabel="gain, dB", title=f"responses of {count(n, 'filter')}"
    )
    widths.set(xscale="log", yscale="log", xlabel="centre frequency, Hz", title="−3 dB bandwidth, Hz")
    for axis in (widths.xaxis, widths.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is widths.yaxis else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def check_format(path: Path) -> str:
    """The format that the extension of a file name stands for.

    Raises UsageError if it is not one of FORMATS.
    """
    format = path.suffix[1:].lower()
    if format not in FORMATS:
        raise UsageError(f"{path}: expected an extension of {', '.join(FORMATS)}, got {path.suffix or 'none'}")
    return format


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure atomically, in the format of the path's extension.

    Raises:
        UsageError: the extension is not one of FORMATS.
        OutputError: the file cannot be written.
    """
    format = check_format(path)
    data = io.BytesIO()
    with matplotlib.rc_context(STYLE), without_glyph_warnings():
        figure.savefig(data, format=format, dpi=dpi)
    try:
        write_atomically(path, data.getvalue())
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror or e}") from e
