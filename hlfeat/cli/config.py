"""hlfeat config ...: list, show and check configurations, and print their JSON Schema."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hlfeat.cli.options import DEFAULT, ConfigArgument, SetOption, VerboseOption, epilog
from hlfeat.cli.own_configuration import warn_of_files
from hlfeat.cli.process import set_up_logging

config_app = typer.Typer(
    no_args_is_help=True,
    help="List, show and check configurations.",
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
    """List shipped configurations and their costs.

    The cost is an estimate, in multiply-adds for one second of audio. `hlfeat config check` has it layer by layer.
    """
    from hlfeat.config.loading import config_names, load_config
    from hlfeat.nn.build import build
    from hlfeat.nn.summary import short, summarise, total_cost

    lines = []
    for name in config_names():
        cfg = load_config(name)
        low, high = cfg.frontend.frequency_range(cfg.audio.sample_rate)
        cost = f"{short(total_cost(summarise(cfg, build(cfg))))} multiply-adds/s"
        lines.append((name, f"{round(low, 1):g}-{round(high, 1):g} Hz", cost, cfg.description))
    names, hertz, costs = (max(len(line[i]) for line in lines) for i in range(3))
    for name, covered, cost, description in lines:
        print(f"{name:{names}}  {covered:{hertz}}  {cost:>{costs}}  {description}")


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
    """Print a configuration with all its defaults.

    The output is YAML, with a comment for every key.
    """
    from hlfeat.config.commented_yaml import commented
    from hlfeat.config.loading import load_config

    print(commented(load_config(name, settings or [])), end="")


@config_app.command("schema", epilog=epilog(examples="hlfeat config schema > hlfeat.schema.json"))
def config_schema() -> None:
    """Print the JSON Schema of configurations.

    Editors use it to complete and check YAML.
    """
    from hlfeat.config.json_schema import schema_text

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
        typer.Option(metavar="FILE", help="Check trained weights too: their shapes, and their filters."),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Check a configuration, and list its layers.

    Builds the modules and prints the output shape of every layer. Valid settings that look like mistakes are warnings
    on standard error.
    """
    set_up_logging(verbose)
    from hlfeat.config.loading import explained, load_config
    from hlfeat.extraction.setup import prepare
    from hlfeat.nn.summary import summarise, table, warnings_of

    cfg = load_config(name, settings or [])
    warn_of_files(name, {"weights": weights})
    with explained(name, settings or []):
        extractor, postprocessor, _ = prepare(cfg, weights, None)
    rate = extractor.sample_rate / extractor.hop
    parameters = sum(p.numel() for p in extractor.parameters())
    centres = extractor.frontend.centre_freqs()  # with weights, where training has moved them
    print(f"{name}: features [frames, {extractor.n_channels}, {extractor.n_bands}], {rate:g} frames a second, "
          f"{parameters} parameters, bands at {centres.min():.1f} to {centres.max():.1f} Hz\n")  # fmt: skip
    print(table(summarise(cfg, extractor)), end="")
    print("(multiply-adds are estimates, for one second of audio)")
    if cfg.output.pool is not None:
        print(f"\npooled over time by {cfg.output.pool}: [vectors, {postprocessor.shape[0]}]")
    for warning in warnings_of(extractor):
        logging.getLogger("hlfeat").warning("warning: %s: %s", name, warning)
