"""Titles that fit: the middle of one that is too long is left out, since the ends of ids tell them apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

GAP = 4.0  # pixels that stay free beside a title


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """The font may lack characters of an id."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def fit_suptitle(figure: Figure, title: str) -> None:
    """Set the title of a figure, no wider than it is."""
    text = figure.suptitle(title, fontsize=9, parse_math=False)
    _fit(text, title, figure.bbox.width - 2 * GAP)


def fit_titles(figure: Figure, panels: list[Axes], titles: list[tuple[str, str]]) -> None:
    """Set the titles of panels, each no wider than its panel: an id, and below it how long the clip is."""
    texts = [axes.set_title(f" \n{length}", parse_math=False) for axes, (_, length) in zip(panels, titles, strict=True)]
    with without_glyph_warnings():
        figure.draw_without_rendering()  # which decides how wide the panels are
    for axes, text, (id_, length) in zip(panels, texts, titles, strict=True):
        _fit(text, id_, axes.get_window_extent().width - GAP, f"\n{length}")


def _fit(text: Text, words: str, width: float, below: str = "") -> None:
    """Set a text to the words, without as much of their middle as makes it too wide."""
    figure = text.get_figure(root=True)
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]

    def shown(kept: int) -> str:
        return words if kept >= len(words) else f"{words[: kept // 2]}…{words[len(words) - (kept - kept // 2) :]}"

    def fits(kept: int) -> bool:
        text.set_text(shown(kept) + below)
        with without_glyph_warnings():
            return bool(text.get_window_extent(renderer).width <= width)

    least, most = 2, len(words)
    if not fits(most):
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if fits(middle) else (least, middle)
        most = least
    text.set_text(shown(most) + below)
