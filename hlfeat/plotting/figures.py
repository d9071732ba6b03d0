"""Pictures of clips and features, without pyplot and without changing matplotlib's global state.

Rows of features are equally high, whatever their frequencies; the ticks of the axis show where round numbers of hertz
lie. Colour maps are perceptually uniform, and a quantity has the same colours all over a figure.
"""

from __future__ import annotations

import io
import textwrap
import warnings
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
from hlfeat.plotting.images import Grid, Image, PitchLine
from hlfeat.plotting.pitch_line import CONFIDENT
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
MOST_COLUMNS = 2000  # of an image: more than a page can show
FLOOR_DB = -40.0
OUTLIERS = 0.1  # percent of the values that a colour scale leaves out at either end


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
        figure.suptitle(title, fontsize=9, parse_math=False)
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


def sheet_figure(images: Sequence[Image], titles: Sequence[str], title: str) -> Figure:
    """A contact sheet: the features of many clips with one colour scale."""
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(images))
        rows = -(-len(images) // columns)
        figure = Figure(figsize=(0.9 + 2.6 * columns, 0.7 + 1.6 * rows), layout="constrained")
        figure.suptitle(title, fontsize=9, parse_math=False)
        norms = shared_norms(images)
        panels = figure.subplots(rows, columns, squeeze=False)
        for i, axes in enumerate(panels.flat):
            if i >= len(images):
                axes.remove()
                continue
            drawn = draw_features(axes, images[i], norms[images[i].scale], FRONTEND)
            axes.set_title(titles[i], parse_math=False)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="upper"))
            if i % columns:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
            if i + columns >= len(images):
                axes.set_xlabel("time, s")
        if images[0].pitch is not None:
            label_pitch(panels.flat[0])
        label = f"{images[0].title}, {images[0].unit}".rstrip(", ")
        figure.colorbar(drawn, ax=list(figure.axes), label=label, extend="both", aspect=40, shrink=0.8)
        return figure


def shared_norms(images: Iterable[Image]) -> dict[str, Normalize]:
    """One colour scale for each quantity, which spans all drawn values but OUTLIERS."""
    drawn: dict[str, list[np.ndarray]] = {}
    for image in images:
        drawn.setdefault(image.scale, []).append(reduce_columns(image.values)[0].ravel())
    norms = {}
    for scale, values in drawn.items():
        low, high = np.percentile(np.concatenate(values), [OUTLIERS, 100 - OUTLIERS])
        norms[scale] = Normalize(float(low), float(high))
    return norms


def draw_waveform(axes: Axes, v: View) -> None:
    """Draw the samples, or for each block of a long clip the range of its samples."""
    block = -(-len(v.samples) // (2 * MOST_COLUMNS))
    starts = np.arange(0, len(v.samples), block)
    time = v.span[0] + (starts + (block - 1) / 2) / v.sample_rate
    if block == 1:
        axes.plot(time, v.samples, color="0.25", linewidth=0.5)
    else:
        low, high = (f.reduceat(v.samples, starts) for f in (np.minimum, np.maximum))
        axes.fill_between(time, low, high, color="0.25", linewidth=0.3)
    axes.set_title("\n".join(textwrap.wrap(v.title, 70)), fontweight="bold", parse_math=False)
    axes.set_ylabel("sample value")


def draw_features(axes: Axes, image: Image, norm: Normalize, colours: str) -> AxesImage:
    """Draw features over time: rows of equal height, and each instant in the colours of the nearest frame."""
    values, block = reduce_columns(image.values)
    values = np.concatenate([values, values[:, -1:]], axis=1)  # the last frame may end before the clip does
    n, left, step = len(values), image.grid.first - image.grid.step / 2, image.grid.step * block
    drawn = axes.imshow(
        values,
        norm=norm,
        cmap=colours,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(left, left + step * values.shape[1], -0.5, n - 0.5),
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


def reduce_columns(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Means of blocks of frames, so that at most MOST_COLUMNS are left; and the length of a block.

    Shape: [F, N] -> [F, ceil(N / block)].
    """
    block = -(-values.shape[1] // MOST_COLUMNS)
    starts = np.arange(0, values.shape[1], block)
    counts = np.diff(np.append(starts, values.shape[1]))
    means: np.ndarray = np.add.reduceat(values, starts, axis=1) / counts
    return means, block


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
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the font may lack characters of an id
        figure.savefig(data, format=format, dpi=dpi)
    try:
        write_atomically(path, data.getvalue())
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror or e}") from e
