"""hlfeat import-weights: conversion of checkpoints of the published implementation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.cli.checks import local_file
from hlfeat.cli.errors import naming_options
from hlfeat.cli.options import OverwriteFileOption, SetOption, VerboseOption, epilog
from hlfeat.cli.process import set_up_logging
from hlfeat.errors import HlfeatError

IMPORT_WEIGHTS_EPILOG = epilog(
    examples="""
        hlfeat import-weights net_best_model.pth -o w.safetensors
        hlfeat import-weights leaf.pth -o w.pt --sample-rate 8000 --max-freq 3900
        hlfeat extract clips -o features -c w.yaml --weights w.pt
    """
)


def import_weights(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Of the published training script, or a state_dict.")
    ],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", parser=local_file, help="The weights: .safetensors or .pt."),
    ],
    args: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=local_file, help="The script's arguments; default: args.txt beside CHECKPOINT."
        ),
    ] = None,
    sample_rate: Annotated[int, typer.Option(metavar="HERTZ", help="Sample rate.")] = 16000,
    window_len: Annotated[float, typer.Option(metavar="MS", help="Pooling window, milliseconds.")] = 25.0,
    window_stride: Annotated[float, typer.Option(metavar="MS", help="Hop between frames, milliseconds.")] = 10.0,
    min_freq: Annotated[float, typer.Option(metavar="HERTZ", help="Lowest initial frequency.")] = 60.0,
    max_freq: Annotated[float, typer.Option(metavar="HERTZ", help="Highest initial frequency.")] = 7800.0,
    settings: SetOption = None,
    overwrite: OverwriteFileOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Import published EfficientLEAF or LEAF weights.

    Writes the weights for extract, and beside them their configuration (.yaml). Settings that neither the weights nor
    the arguments determine get the published defaults. Before anything is written, the features of the imported
    modules are compared with the published formulas.
    """
    set_up_logging(verbose)
    from hlfeat.interop import leaf_checkpoint

    configuration = leaf_checkpoint.configuration_path(out, checkpoint, overwrite)
    scale = {"window_len": window_len, "window_stride": window_stride, "min_freq": min_freq, "max_freq": max_freq}
    typed = {f"frontend.{k}={v!r}": f"--{k.replace('_', '-')} {v:g}" for k, v in scale.items()}
    typed = {f"audio.sample_rate={sample_rate}": f"--sample-rate {sample_rate}", **typed}
    with naming_options(typed):
        imported = leaf_checkpoint.import_weights(checkpoint, args, [*typed, *(settings or [])])
    log = logging.getLogger("hlfeat")
    for note in imported.notes:
        log.info("%s", note)
    difference = leaf_checkpoint.parity(imported, checkpoint)
    if not difference <= leaf_checkpoint.PARITY:
        raise HlfeatError(f"{checkpoint}: features differ by {difference:.1e} from the formulas; nothing was written")
    leaf_checkpoint.write(imported, checkpoint, out, configuration)
    log.info("features differ by %.1e from the formulas in float64", difference)
    log.info("hlfeat extract ... -c %s --weights %s", configuration, out)
