"""hlfeat config ..., and import-weights: configurations and what goes with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.errors import HlfeatError
from hlfeat.options import DEFAULT, ConfigArgument, SetOption, VerboseOption, epilog, set_up_logging

config_app = typer.Typer(
    no_args_is_help=True,
    help="Named and own configurations.",
    rich_markup_mode=None,
    epilog=epilog(
        examples="""
            hlfeat config list
            hlfeat config show eleaf-harmonic > mine.yaml
            hlfeat config check mine.yaml
        """
    ),
)


@config_app.command("list", epilog=epilog(examples="hlfeat config list\nhlfeat config list | grep harmonic"))
def config_list() -> None:
    """The shipped configurations."""
    from hlfeat.configfile import config_names, load_config

    names = config_names()
    for name in names:
        print(f"{name:{max(map(len, names))}}  {load_config(name).description}")


@config_app.command(
    "show",
    epilog=epilog(
        examples="""
            hlfeat config show eleaf-pcen
            hlfeat config show eleaf-harmonic --set frontend.n_filters=64 > mine.yaml
        """
    ),
)
def config_show(name: ConfigArgument = DEFAULT, settings: SetOption = None) -> None:
    """A configuration with every default written out and explained, as YAML."""
    from hlfeat.configfile import load_config
    from hlfeat.configshow import commented

    print(commented(load_config(name, settings or [])), end="")


@config_app.command("schema", epilog=epilog(examples="hlfeat config schema > hlfeat.schema.json"))
def config_schema() -> None:
    """The JSON Schema of configurations, for editors that complete and check YAML."""
    from hlfeat.configschema import schema_text

    print(schema_text(), end="")


@config_app.command(
    "check",
    epilog=epilog(
        examples="""
            hlfeat config check mine.yaml
            hlfeat config check mine.yaml --weights w.safetensors
            hlfeat config check eleaf-harmonic --set stack.0.anchor=4
        """
    ),
)
def config_check(
    name: ConfigArgument,
    settings: SetOption = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Look at trained weights too: whether they fit, and the filters."),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Read a configuration, build its modules, say what comes out of every layer.

    What looks wrong, but is possible, is a warning on standard error.
    """
    set_up_logging(verbose, quiet=False)
    from hlfeat.configfile import explained, load_config
    from hlfeat.describe import describe, doubts, table
    from hlfeat.preparing import prepare

    cfg = load_config(name, settings or [])
    with explained(name, settings or []):
        extractor, finish, _ = prepare(cfg, weights, None)
    rate = extractor.sample_rate / extractor.hop
    parameters = sum(p.numel() for p in extractor.parameters())
    print(f"{name}: features [frames, {extractor.n_channels}, {extractor.n_bands}], {rate:g} frames a second, "
          f"{parameters} parameters\n")  # fmt: skip
    print(table(describe(cfg, extractor)), end="")
    print("(multiply-adds are estimates, for one second of audio)")
    if cfg.output.pool is not None:
        print(f"\npooled over time by {cfg.output.pool}: [vectors, {finish.shape[0]}]")
    for doubt in doubts(extractor):
        logging.getLogger("hlfeat").warning("warning: %s: %s", name, doubt)


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
    from hlfeat import checkpoint as importing

    configuration = importing.beside(out, checkpoint, overwrite)
    told = {"window_len": window_len, "window_stride": window_stride, "min_freq": min_freq, "max_freq": max_freq}
    asked = [f"audio.sample_rate={sample_rate}", *(f"frontend.{k}={v!r}" for k, v in told.items())]
    found = importing.import_weights(checkpoint, args, [*asked, *(settings or [])])
    log = logging.getLogger("hlfeat")
    for note in found.notes:
        log.info("%s", note)
    difference = importing.parity(found, checkpoint)
    if not difference <= importing.PARITY:
        raise HlfeatError(f"{checkpoint}: features differ by {difference:.1e} from the formulas; nothing was written")
    importing.write(found, checkpoint, out, configuration)
    log.info("features differ by %.1e from the formulas in float64", difference)
    log.info("hlfeat extract ... -c %s --weights %s", configuration, out)
