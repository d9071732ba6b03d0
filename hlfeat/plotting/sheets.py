"""Contact sheets: many clips of a folder on one page, as images, or as curves where each is one vector."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hlfeat.plotting.figures import FRONTEND, STYLE, draw_features, hertz_ticks, label_pitch, limits, rows_at
from hlfeat.plotting.images import Image, Profile
from hlfeat.plotting.titles import fit_suptitle, fit_titles

LEAST_OF_SCALE = 0.2  # of a common colour scale that a clip must span to be seen in it


def sheet_figure(images: Sequence[Image], titles: Sequence[tuple[str, str]], title: str) -> Figure:
    """A contact sheet: the features of many clips with one colour scale.

    Where a clip is so quiet that it would be all black in it, each clip has a scale of its own.

    Args:
        titles: id and length of each clip.
        title: of the sheet.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels, columns = _panels(len(images), title)
        norms, shared = _norms(images)
        for i, (axes, image) in enumerate(zip(panels, images, strict=True)):
            drawn: ScalarMappable = draw_features(axes, image, norms[i], FRONTEND)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="upper"))
            _label_outer(axes, i, columns, len(images), "time, s")
        if images[0].pitch is not None:
            label_pitch(panels[0])
        label = f"{images[0].title}, {images[0].unit}".rstrip(", ")
        if shared:
            figure.colorbar(drawn, ax=panels, label=label, extend="both", aspect=40, shrink=0.8)
        else:
            drawn = ScalarMappable(Normalize(0, 1), FRONTEND)
            bar = figure.colorbar(drawn, ax=panels, label=f"{label}: each clip by itself", aspect=40, shrink=0.8)
            bar.set_ticks([0, 1], labels=["low", "high"])
        fit_titles(figure, panels, list(titles))
        return figure


def profile_figure(profiles: Sequence[Profile], titles: Sequence[tuple[str, str]], title: str) -> Figure:
    """The same for clips that are one vector each: a curve over the rows, with the deviations where there are some."""
    with matplotlib.rc_context(STYLE):
        figure, panels, columns = _panels(len(profiles), title)
        edges = [p.values + sign * (0 if p.deviation is None else p.deviation) for p in profiles for sign in (-1, 1)]
        low, high = (float(f(edges)) for f in (np.min, np.max))
        margin = 0.05 * (high - low) or 1.0
        for i, (axes, profile) in enumerate(zip(panels, profiles, strict=True)):
            rows = np.arange(len(profile.values))
            axes.plot(rows, profile.values, color="0.15", linewidth=0.9)
            if profile.deviation is not None:
                below, above = profile.values - profile.deviation, profile.values + profile.deviation
                axes.fill_between(rows, below, above, color="0.75", linewidth=0)
            axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(low - margin, high + margin))
            if profile.freqs is not None and len(rows) > 1:
                ticks = hertz_ticks(profile.freqs, 4)
                axes.set_xticks(rows_at(profile.freqs, ticks), [f"{t:g}" for t in ticks])
            else:
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_ylabel(profiles[0].unit or "value")
            _label_outer(axes, i, columns, len(profiles), "row" if profile.freqs is None else "frequency, Hz")
        spread = ", with standard deviations" if profiles[0].deviation is not None else ""
        figure.supxlabel(f"{profiles[0].title}{spread}", fontsize=8)
        fit_titles(figure, panels, list(titles))
        return figure


def _panels(n: int, title: str) -> tuple[Figure, list[Axes], int]:
    """A figure with so many panels, and the number of its columns."""
    columns = min(3, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(0.9 + 2.6 * columns, 0.7 + 1.75 * rows), layout="constrained")
    fit_suptitle(figure, title)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[n:]:
        axes.remove()
    return figure, panels[:n], columns


def _label_outer(axes: Axes, i: int, columns: int, n: int, below: str) -> None:
    if i % columns:
        axes.set_ylabel("")
        axes.tick_params(labelleft=False)
    if i + columns >= n:
        axes.set_xlabel(below)


def _norms(images: Sequence[Image]) -> tuple[list[Normalize], bool]:
    """The colour scale of each image, and whether it is the same for all."""
    low, high = limits(np.concatenate([image.values.ravel() for image in images]))
    own = [limits(image.values) for image in images]
    if all(b - a >= LEAST_OF_SCALE * (high - low) or a == b for a, b in own):
        return [Normalize(low, high)] * len(images), True
    return [Normalize(a, b) for a, b in own], False
