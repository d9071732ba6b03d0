"""hlfeat convert: features of a finished folder in another format, dtype or shard size."""

from __future__ import annotations

import logging
from typing import Annotated, Any, get_args

import typer

from hlfeat.cli.checks import local_folder
from hlfeat.cli.errors import EXIT_STATUS_OF_CLIPS, Exit, naming_options, quoted
from hlfeat.cli.extract import Dtype
from hlfeat.cli.options import QuietOption, VerboseOption, epilog
from hlfeat.cli.process import StopRequest, print_path, set_up_logging
from hlfeat.config.choices import ConversionFormat
from hlfeat.errors import InterruptedRunError, UsageError
from hlfeat.text import count, duration, nearest

log = logging.getLogger("hlfeat")

FORMATS = get_args(ConversionFormat)
CONVERT_EPILOG = epilog(
    exit_status={
        **EXIT_STATUS_OF_CLIPS,
        Exit.SOME_CLIPS_FAILED: "done, but float16 cannot hold the features of some clips",
        Exit.INTERRUPTED: "interrupted; the same command goes on",
    },
    examples="""
        hlfeat convert features -o small --dtype float16
        hlfeat convert embeddings -o table --format parquet
        hlfeat convert features -o frames --format csv --frames
        hlfeat convert features -o tars --format webdataset --shard-size 1GB
    """,
)


def parse_format(text: str) -> Any:
    """The name of a format."""
    if text in FORMATS:
        return text
    raise typer.BadParameter(f"expected {', '.join(FORMATS)}, got {text!r}{nearest(text, FORMATS)}")


def convert(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of features, which is complete.")],
    *,
    out: Annotated[str, typer.Option("--output", "-o", metavar="NEW", help="Where the converted features go.")],
    format: Annotated[
        Any,
        typer.Option(
            "--format",
            metavar="NAME",
            parser=parse_format,
            autocompletion=lambda: list(FORMATS),
            help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}; default: that of FOLDER.",
        ),
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of features; default: that of FOLDER.")] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(metavar="CLIPS|SIZE", help="Clips in a file, or its size, such as 256MB; default: as in FOLDER."),
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="In a table, write a row for each frame.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Convert features to another format.

    Nothing is computed again. npy and pt make a folder of features, as extract would have written it. parquet and csv
    are tables; kaldi, lhotse and webdataset are for these programs. Checksums are compared on the way. Standard output
    has the path of each finished file. The same command continues a conversion that was stopped.
    """
    set_up_logging(verbose, quiet)
    stop = StopRequest()
    if not out:
        raise UsageError("-o: expected a folder for the output, got an empty name")
    source, target = local_folder(folder), local_folder(out, "-o")
    from hlfeat.config.loading import config_from_dict
    from hlfeat.conversion.convert import Hooks, Request
    from hlfeat.conversion.convert import convert as convert_folder
    from hlfeat.extraction.progress import Progress

    typed = {} if shard_size is None else {f"output.shard_size={quoted(shard_size)}": f"--shard-size {shard_size}"}
    with naming_options(typed):
        size = config_from_dict({}, typed).output.shard_size if typed else None
    request = Request(format, None if dtype is None else dtype.value, size, frames)
    stop.working = True
    hooks = Hooks(lambda: stop.asked, print_path, lambda total: Progress(total, 0, quiet))
    try:
        done = convert_folder(source, target, request, hooks)
    except InterruptedRunError:
        log.warning("interrupted; what is finished is in %s, and the same command goes on from there", out)
        raise typer.Exit(Exit.INTERRUPTED) from None
    if not done.new:
        log.info("%s: is complete already", out)
    else:
        log.info("%s, %s of audio -> %s (%s)", count(done.clips, "clip"), duration(done.seconds), out, done.format)
    if done.failed:
        log.warning("%s failed: float16 cannot hold their features; they are in %s", count(done.failed, "clip"), out)
        raise typer.Exit(Exit.SOME_CLIPS_FAILED)
