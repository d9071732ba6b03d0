"""hlfeat export: the modules of a configuration as one file for other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.cli.checks import local_file
from hlfeat.cli.options import ConfigArgument, OverwriteFileOption, SetOption, VerboseOption, WeightsOption, epilog
from hlfeat.cli.own_configuration import warn_of_files
from hlfeat.cli.process import set_up_logging
from hlfeat.errors import UsageError

EXPORT_EPILOG = epilog(
    examples="""
        hlfeat export eleaf-harmonic --weights w.pt -o model.pt2
        hlfeat export w.yaml --weights w.safetensors -o model.onnx
        hlfeat export log-mel --seconds 10 -o model.onnx
    """
)


def export(
    name: ConfigArgument,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", parser=local_file, help="The model: a .pt2 or .onnx file.")
    ],
    settings: SetOption = None,
    weights: WeightsOption = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Take clips of exactly this length; default: any length.")
    ] = None,
    overwrite: OverwriteFileOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Export a model to torch.export or ONNX.

    The file holds frontend and stack, as a torch.export program (.pt2) or an ONNX model (.onnx, needs hlfeat[onnx]).
    Its input is a batch of waveforms [clips, samples] of equal length, at the configuration's rate. Before the file is
    written, its output is compared with that of the modules, for clips of several lengths.
    """
    set_up_logging(verbose)
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: already exists; --overwrite replaces it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    if seconds is not None and not 0 < seconds <= 86400:
        raise UsageError(f"--seconds: expected a length from 0 to 86400 s, got {seconds:g}")
    from hlfeat.config.loading import dump_config, explained, load_config
    from hlfeat.interop import export as interop_export
    from hlfeat.nn.build import build
    from hlfeat.nn.weights import UNTRAINED

    interop_export.check_suffix(out.suffix)
    cfg = load_config(name, settings or [])
    warn_of_files(name, {"weights": weights})
    with explained(name, settings or []):
        extractor = build(cfg, weights=weights)
    log = logging.getLogger("hlfeat")
    if weights is None and extractor.stack.is_random():
        log.warning(UNTRAINED, cfg.seed)
    if cfg.output.pool is not None:
        log.warning("output.pool (%s) is not part of the model: it returns frames", cfg.output.pool)
    model = interop_export.export(extractor, out.suffix, seconds, dump_config(cfg))
    interop_export.write(model, out)
    log.info(
        "%s: waveforms [clips, samples] at %d Hz, %s %g s -> features [clips, %d, %d, frames]; "
        "maximum relative error %.1e",
        out,
        extractor.sample_rate,
        "clips of" if model.fixed else "clips from",
        model.samples / extractor.sample_rate,
        extractor.n_channels,
        extractor.n_bands,
        model.difference,
    )
