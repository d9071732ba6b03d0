"""-n: what a run would make of the clips, and how much of it. Nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hlfeat.partition import WHOLE, Part

if TYPE_CHECKING:
    from hlfeat.audio.clip import Clip
    from hlfeat.config.config import Config
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.product import Product
    from hlfeat.extraction.setup import Pipeline
    from hlfeat.storage.output_place import OutputPlace

log = logging.getLogger("hlfeat")


def print_plan(config: Config, product: Product, clips: Sequence[Clip], options: Options, out: OutputPlace) -> None:
    """Log what a run would make of the clips, and how much of it; and check that it can be built, and go on there.

    Args:
        clips: of all parts.
        out: for the output.
    """
    from hlfeat.extraction.run_log import facts
    from hlfeat.extraction.setup import describe_run
    from hlfeat.storage.continuation import Continuation
    from hlfeat.text import count

    pipeline = product.prepare(config, options.weights, options.stats)
    parts = _parts_to_do(options, out)
    description = describe_run(pipeline, clips, parts[0])
    anew = options.overwrite and options.does_parts
    Continuation(out.folder(), WHOLE if anew else parts[0]).check(description, options.overwrite)
    what, some = product.describe(config, pipeline), clips[options.part.slice(len(clips))]
    plan = facts(event="plan", clips=len(some), output=str(out))
    log.info("%s; %s; nothing was written", count(len(some), "clip"), what, extra=plan)
    _print_size(config, product, pipeline, some, options, out, parts)
    for clip in some:
        log.debug("%s", clip)


def _parts_to_do(options: Options, out: OutputPlace) -> list[Part]:
    """The parts whose files a run would write; the whole where only a cluster could say how many."""
    from hlfeat.extraction.in_parts import choose_parts

    parts = choose_parts(options, out) if options.does_parts else None
    parts_of = [options.part] if parts is None else WHOLE.split(parts)
    return [smaller for part in parts_of for smaller in part.split(len(options.devices))]


def _print_size(
    config: Config,
    product: Product,
    pipeline: Pipeline,
    clips: Sequence[Clip],
    options: Options,
    out: OutputPlace,
    parts: Sequence[Part],
) -> None:
    """Log about how much a run would write, and what is free; warn where that is too little."""
    from hlfeat.extraction.estimate import estimate, free_bytes, written_bytes
    from hlfeat.extraction.run_log import facts
    from hlfeat.text import count, duration, escape_unprintable, size

    estimated = estimate(config, product, pipeline, clips)
    if clips and not estimated.asked:
        log.info("all clips at URLs are too large to look into: no estimate")
        return
    if not estimated.opened:
        log.info("none of %s can be opened", count(estimated.asked, "clip"))
        return
    if not estimated.answered:
        log.info("none of %s says how long its clip is", count(estimated.opened, "header"))
        return
    folder = out.folder()
    free = None if out.local is None else free_bytes(out.local)
    written = written_bytes(folder, parts)
    if options.overwrite:  # what is there goes before the first shard is written
        free, written = None if free is None else free + written_bytes(folder), 0
    there = f", {size(written)} of which are there" if written else ""
    of = f"; from {count(estimated.asked, 'header')}" if estimated.asked < len(clips) else ""
    room = "" if free is None else f"; {size(free)} are free"
    log.info(
        "about %s for about %s of audio%s%s%s",
        size(estimated.size),
        duration(estimated.seconds),
        there,
        room,
        of,
        extra=facts(bytes=estimated.size, hours=estimated.seconds / 3600, bytes_there=written, bytes_free=free),
    )
    if free is not None and estimated.size - written > free:
        place, missing = escape_unprintable(str(out)), size(estimated.size - written)
        log.warning("%s: about %s do not fit, %s are free", place, missing, size(free))
