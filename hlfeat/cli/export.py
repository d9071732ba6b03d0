"""hlfeat export: a configuration's modules as one file for other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.cli.log import set_up_logging
from hlfeat.cli.options import ConfigArgument, SetOption, VerboseOption, WeightsOption, epilog
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
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="model.pt2, or model.onnx.")],
    settings: SetOption = None,
    weights: WeightsOption = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Clips of exactly this length; default: of any length.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Frontend and stack as a torch.export program (.pt2) or an ONNX model (.onnx, needs hlfeat[onnx]).

    It takes waveforms [clips, samples] at the configuration's rate, all of one length. What was made is compared with
    the modules, on clips of other lengths, before the file gets its name.
    """
    set_up_logging(verbose, quiet=False)
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: is there already; --overwrite replaces it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    if seconds is not None and not 0 < seconds <= 86400:
        raise UsageError(f"--seconds: expected a length from 0 to 86400 s, got {seconds:g}")
    from hlfeat.config.loading import dump_config, explained, load_config
    from hlfeat.interop import export as interop_export
    from hlfeat.nn.build import build

    interop_export.check_suffix(out.suffix)
    cfg = load_config(name, settings or [])
    with explained(name, settings or []):
        extractor = build(cfg, weights=weights)
    log = logging.getLogger("hlfeat")
    if weights is None and cfg.stack:
        log.warning("no --weights: the stack's are drawn from seed %d, untrained", cfg.seed)
    if cfg.output.pool is not None:
        log.warning("output.pool (%s) is no part of the model: it gives frames", cfg.output.pool)
    found = interop_export.export(extractor, out.suffix, seconds, dump_config(cfg))
    interop_export.write(found, out)
    log.info(
        "%s: waveforms [clips, samples] at %d Hz, %s %g s -> features [clips, %d, %d, frames]; "
        "they differ by %.1e from the modules'",
        out,
        extractor.sample_rate,
        "clips of" if found.fixed else "clips from",
        found.samples / extractor.sample_rate,
        extractor.n_channels,
        extractor.n_bands,
        found.difference,
    )
