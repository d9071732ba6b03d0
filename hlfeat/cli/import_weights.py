"""hlfeat import-weights: trained weights of the published implementation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.cli.log import set_up_logging
from hlfeat.cli.options import SetOption, VerboseOption, epilog
from hlfeat.errors import HlfeatError

IMPORT_WEIGHTS_EPILOG = epilog(
    examples="""
        hlfeat import-weights net_best_model.pth -o w.safetensors
        hlfeat import-weights leaf.pth -o w.pt --sample-rate 8000 --max-freq 3900
        hlfeat extract clips -o features -c w.yaml --weights w.pt
    """
)


def import_weights(
    checkpoint: Annotated[Path, typer.Argument(help="Of the published training script, or a state_dict.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The weights, .safetensors or .pt.")],
    args: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The script's arguments; default: args.txt beside CHECKPOINT.")
    ] = None,
    sample_rate: Annotated[int, typer.Option(help="Hertz.")] = 16000,
    window_len: Annotated[float, typer.Option(help="Pooling window, milliseconds.")] = 25.0,
    window_stride: Annotated[float, typer.Option(help="Distance of frames, milliseconds.")] = 10.0,
    min_freq: Annotated[float, typer.Option(help="Where the filters began, hertz.")] = 60.0,
    max_freq: Annotated[float, typer.Option(help="Where the filters ended, hertz.")] = 7800.0,
    settings: SetOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Trained EfficientLEAF or LEAF weights for extract, and the configuration that goes with them, beside them.

    What the weights and the arguments do not tell has the published constants as defaults. Ends with a comparison of
    the imported modules with the formulas.
    """
    set_up_logging(verbose, quiet=False)
    from hlfeat.interop import leaf_checkpoint

    configuration = leaf_checkpoint.configuration_path(out, checkpoint, overwrite)
    told = {"window_len": window_len, "window_stride": window_stride, "min_freq": min_freq, "max_freq": max_freq}
    asked = [f"audio.sample_rate={sample_rate}", *(f"frontend.{k}={v!r}" for k, v in told.items())]
    found = leaf_checkpoint.import_weights(checkpoint, args, [*asked, *(settings or [])])
    log = logging.getLogger("hlfeat")
    for note in found.notes:
        log.info("%s", note)
    difference = leaf_checkpoint.parity(found, checkpoint)
    if not difference <= leaf_checkpoint.PARITY:
        raise HlfeatError(f"{checkpoint}: features differ by {difference:.1e} from the formulas; nothing was written")
    leaf_checkpoint.write(found, checkpoint, out, configuration)
    log.info("features differ by %.1e from the formulas in float64", difference)
    log.info("hlfeat extract ... -c %s --weights %s", configuration, out)
