"""hlfeat plot: pictures of a clip or of a feature directory."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat.cli.checks import local_file, need_matplotlib, refuse
from hlfeat.cli.options import (
    CONFIG,
    DEFAULT,
    SetOption,
    VerboseOption,
    WeightsOption,
    epilog,
)
from hlfeat.cli.own_configuration import warn_of_files
from hlfeat.cli.process import print_path, set_up_logging
from hlfeat.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hlfeat.audio.clip import Clip
    from hlfeat.plotting.clip_view import View
    from hlfeat.storage.store import FeatureStore


MOST_ON_A_SHEET = 60
CLIPS = 12  # on a sheet, unless they are named
PLOT_EPILOG = epilog(
    examples="""
        hlfeat plot clip.wav -o clip.png
        hlfeat plot clip.wav --start 10 --end 12 --compare log-mel -o two.pdf
        hlfeat plot voice.wav -c pitch-salience -o pitch.png
        hlfeat plot features --id a/b.wav --id a/c.wav --channel 1 -o sheet.svg
    """
)


def plot(
    what: Annotated[
        str, typer.Argument(metavar="CLIP|FOLDER", help="An audio file or a folder of features, or its URL.")
    ],
    *,
    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", parser=local_file, help="The picture: .png, .pdf, .svg, ..."),
    ],
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", **{**CONFIG, "help": f"Configuration for a clip; default: {DEFAULT}."}),
    ] = None,
    settings: SetOption = None,
    weights: WeightsOption = None,
    compare: Annotated[
        str | None, typer.Option(**{**CONFIG, "help": "A second configuration, drawn beside the first."})
    ] = None,
    compare_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=local_file, help="Weights of the second configuration.")
    ] = None,
    start: Annotated[float | None, typer.Option(metavar="SECONDS", help="Where in the clip to begin.")] = None,
    end: Annotated[float | None, typer.Option(metavar="SECONDS", help="Where in the clip to end.")] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="A clip of the folder; repeatable; default: a dozen, evenly spaced."),
    ] = None,
    channel: Annotated[int | None, typer.Option(metavar="N", help="Which channel of a folder; default: 0.")] = None,
    pitch: Annotated[
        bool | None, typer.Option("--pitch/--no-pitch", help="Draw the pitch; default: if features are a salience.")
    ] = None,
    dpi: Annotated[int, typer.Option(min=30, max=1200, metavar="N", help="Dots per inch.")] = 150,
    verbose: VerboseOption = False,
) -> None:
    """Draw a clip, or the features in a folder.

    The picture of a clip has its waveform, features, stack output and filters; that of a folder is a contact sheet of
    its clips, with curves if each is one vector. A salience, such as that of pitch-salience, has the pitch drawn in.
    --set, --weights and --pitch apply to the first configuration. A part of a clip is computed as extract computes a
    segment: audio.edges says what is before and after it. Standard output has the path of the picture.
    """
    set_up_logging(verbose)
    from hlfeat.storage.place import is_folder

    folder = is_folder(what)
    of_a_clip: dict[str, object] = {"--config": config, "--set": settings, "--weights": weights, "--compare": compare}
    of_a_clip |= {"--compare-weights": compare_weights, "--start": start, "--end": end}
    if folder:
        refuse(of_a_clip, "expected with an audio file only")
    else:
        refuse({"--id": ids, "--channel": channel}, "expected with a folder of features only")
    if compare_weights is not None and compare is None:
        raise UsageError("--compare-weights: expected with --compare only")
    need_matplotlib()
    from hlfeat.plotting.figures import check_format, save

    check_format(out)
    if folder:
        figure = _draw_sheet(what, ids, channel or 0, pitch)
    else:
        chosen = [(config or DEFAULT, settings or [], weights)]
        chosen += [(compare, [], compare_weights)] if compare is not None else []
        figure = _draw_clip(what, chosen, start, end, pitch)
    save(figure, out, dpi)
    print_path(out)


def _draw_clip(
    path: str,
    chosen: list[tuple[str, list[str], Path | None]],
    start: float | None,
    end: float | None,
    pitch: bool | None,
) -> Figure:
    from hlfeat.config.loading import explained, load_config
    from hlfeat.inputs.urls import clip_at
    from hlfeat.plotting.clip_view import view
    from hlfeat.plotting.figures import clip_figure
    from hlfeat.remote.urls import name_of
    from hlfeat.text import escape_unprintable

    for option, value in (("--start", start), ("--end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{option}: expected seconds from 0, got {value}")
    if end is not None and end <= (start or 0):
        raise UsageError(f"--end: expected more than --start {start or 0:g}, got {end:g}")
    clip = _fetched(clip_at(Path(name_of(path)).name, path, start=start, end=end))
    configs = [load_config(name, overrides) for name, overrides, _ in chosen]
    for (name, _, weights), option in zip(chosen, ("--{}", "--compare-{}"), strict=False):
        warn_of_files(name, {"weights": weights}, option)
    views: list[View] = []
    for cfg, (name, overrides, weights) in zip(configs, chosen, strict=True):
        title = ", ".join([name, *overrides, *([f"weights {weights.name}"] if weights else [])])
        with explained(name, overrides):
            drawn = False if pitch is False else pitch if not views else None  # asked for in the first
            views.append(view(clip, cfg, escape_unprintable(title), weights, pitch=drawn))
    whole = start is None and end is None
    first, last = views[0].span
    part = _length(last) if whole else f"{first:g} s to {last:g} s"
    return clip_figure(views, f"{escape_unprintable(clip.id)}, {part}")


def _fetched(clip: Clip) -> Clip:
    """The clip with its bytes, if it is at a URL."""
    from hlfeat.errors import ClipError, HlfeatError
    from hlfeat.remote.fetch import with_copy
    from hlfeat.remote.retries import Retries

    try:
        return with_copy(clip, Retries())
    except ClipError as e:
        raise HlfeatError(f"{clip}: {e.code}: {e}") from e


def _draw_sheet(folder: str, ids: list[str] | None, channel: int, pitch: bool | None) -> Figure:
    from hlfeat.errors import OutputError
    from hlfeat.inspection.clip_choice import evenly_spaced
    from hlfeat.plotting.sheets import profile_figure, sheet_figure
    from hlfeat.plotting.store_view import is_one_vector, profiles, stored
    from hlfeat.storage.place import shown_folder
    from hlfeat.storage.store import FeatureStore
    from hlfeat.text import count, escape_unprintable

    store = FeatureStore(folder)
    if not len(store):
        raise OutputError(f"{shown_folder(folder)}: holds no features")
    chosen = list(dict.fromkeys(ids)) if ids else [store.ids[i] for i in evenly_spaced(len(store), CLIPS)]
    if len(chosen) > MOST_ON_A_SHEET:
        raise UsageError(f"--id: expected at most {MOST_ON_A_SHEET} clips on a sheet, got {len(chosen)}")
    logging.getLogger("hlfeat").debug("%s of %d", count(len(chosen), "clip"), len(store))
    title = f"{escape_unprintable(shown_folder(folder))}: {len(chosen)} of {count(len(store), 'clip')}"
    if is_one_vector(store):
        if pitch:
            raise UsageError("--pitch: expected features of frames, got a vector for each clip")
        curves = profiles(store, chosen, channel)
        return profile_figure(curves, _titles(store, chosen), title)
    images = stored(store, chosen, channel, pitch)
    return sheet_figure(images, _titles(store, chosen), title)


def _titles(store: FeatureStore, ids: list[str]) -> list[tuple[str, str]]:
    from hlfeat.text import escape_unprintable

    return [(escape_unprintable(id_), _length(store.record(id_)["duration"])) for id_ in ids]


def _length(seconds: float) -> str:
    from hlfeat.text import duration

    return duration(seconds) if seconds >= 1 else f"{1000 * seconds:.0f} ms"
