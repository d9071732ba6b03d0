"""The command `hlfeat`: its subcommands and its entry point. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hlfeat import __version__
from hlfeat.cli.bench import bench_app
from hlfeat.cli.config import config_app
from hlfeat.cli.convert import CONVERT_EPILOG, convert
from hlfeat.cli.errors import Exit, InterruptedEarlyError, report
from hlfeat.cli.export import EXPORT_EPILOG, export
from hlfeat.cli.extract import EXTRACT_EPILOG, extract
from hlfeat.cli.import_weights import IMPORT_WEIGHTS_EPILOG, import_weights
from hlfeat.cli.inspect import INSPECT_EPILOG, inspect
from hlfeat.cli.options import epilog
from hlfeat.cli.pitch import PITCH_EPILOG, pitch
from hlfeat.cli.plot import PLOT_EPILOG, plot
from hlfeat.cli.process import abandon_full_streams, open_streams, print_error
from hlfeat.cli.repair import REPAIR_EPILOG, repair
from hlfeat.cli.stats import STATS_EPILOG, stats
from hlfeat.text import escape_unprintable

app = typer.Typer(
    name="hlfeat",
    help="Turn folders of audio into learnable features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=epilog(
        examples="""
            hlfeat extract clips -o features
            hlfeat config show eleaf-harmonic > mine.yaml
            hlfeat plot clip.wav -o clip.png
            hlfeat extract --help
        """
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        print(f"hlfeat {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("extract", epilog=EXTRACT_EPILOG)(extract)
app.command("pitch", epilog=PITCH_EPILOG)(pitch)
app.command("inspect", epilog=INSPECT_EPILOG)(inspect)
app.command("repair", epilog=REPAIR_EPILOG)(repair)
app.command("plot", epilog=PLOT_EPILOG)(plot)
app.command("convert", epilog=CONVERT_EPILOG)(convert)
app.command("stats", epilog=STATS_EPILOG)(stats)
app.command("import-weights", epilog=IMPORT_WEIGHTS_EPILOG)(import_weights)
app.command("export", epilog=EXPORT_EPILOG)(export)
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Entry point. An error is printed as one line on standard error, and with -v as a traceback too."""
    open_streams()
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()  # an output that cannot be written is this command's error, not the interpreter's
        raise SystemExit(code)
    except BrokenPipeError:  # whoever reads the output has ended (| head), and wants no more
        raise SystemExit(int(Exit.FAILED)) from None
    except (Exception, KeyboardInterrupt, InterruptedEarlyError) as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer prints the help instead of a message
            error.show()  # type: ignore[union-attr]
            raise SystemExit(int(Exit.USAGE)) from None
        message, code = report(error)
        print_error(error, escape_unprintable(" ".join(message.split())))
        raise SystemExit(int(code)) from None
    finally:
        abandon_full_streams()
