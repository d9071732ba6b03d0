"""The command line: parses, calls, translates errors into exit codes. Heavy imports happen inside the commands."""

from __future__ import annotations

import errno
import logging
import re
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from hlfeat import __version__
from hlfeat.cli.bench import bench_app
from hlfeat.cli.config import config_app
from hlfeat.cli.exit_codes import Exit
from hlfeat.cli.export import EXPORT_EPILOG, export
from hlfeat.cli.import_weights import IMPORT_WEIGHTS_EPILOG, import_weights
from hlfeat.cli.inspect import INSPECT_EPILOG, inspect
from hlfeat.cli.options import (
    epilog,
)
from hlfeat.cli.plot import PLOT_EPILOG, plot
from hlfeat.cli.stats import STATS_EPILOG, stats
from hlfeat.errors import ConfigError, HlfeatError, UsageError

if TYPE_CHECKING:
    pass
from hlfeat.cli.extract import EXTRACT_EPILOG, extract
from hlfeat.cli.stop import InterruptedEarlyError
from hlfeat.cli.streams import open_streams

app = typer.Typer(
    name="hlfeat",
    help="Folders of audio to learnable time-frequency features, in one command that never loses a clip.",
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
app.command("import-weights", epilog=IMPORT_WEIGHTS_EPILOG)(import_weights)
app.command("plot", epilog=PLOT_EPILOG)(plot)
app.command("export", epilog=EXPORT_EPILOG)(export)
app.command("inspect", epilog=INSPECT_EPILOG)(inspect)
app.command("stats", epilog=STATS_EPILOG)(stats)
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Entry point: errors are one line on standard error, a traceback only with -v."""
    open_streams()
    try:
        raise SystemExit(app(standalone_mode=False) or 0)
    except InterruptedEarlyError as e:
        _die(str(e), Exit.INTERRUPTED)
    except HlfeatError as e:
        code = Exit.USAGE if isinstance(e, UsageError | ConfigError) else Exit.FAILED
        _die(_name_option(str(e)), code)
    except KeyboardInterrupt:
        _die("interrupted", Exit.INTERRUPTED)
    except Exception as e:
        if type(e).__name__ == "NoArgsIsHelpError":  # typer's own: the help is the message
            e.show()  # type: ignore[attr-defined]
            raise SystemExit(int(Exit.USAGE)) from None
        if hasattr(e, "format_message"):  # an option or argument that typer refuses
            _die(f"{e.format_message()} (see --help)", Exit.USAGE)
        if type(e).__name__ == "Abort":  # typer's word for Ctrl-C
            _die("interrupted", Exit.INTERRUPTED)
        if isinstance(e, OSError) and (e.filename is not None or e.errno == errno.ENOSPC):  # without: standard output
            _die(f"{'standard output' if e.filename is None else e.filename}: {e.strerror or e}", Exit.FAILED)
        if isinstance(e, MemoryError) or str(e) == "can't start new thread":
            _die(f"the system gives no more {'memory' if isinstance(e, MemoryError) else 'threads'}", Exit.FAILED)
        _die(f"{type(e).__name__}: {e} (a bug: please report it with the output of -v)", Exit.FAILED)


_FIELD = re.compile(r"(device|workers|batch_seconds|on_error|max_failures|update)(?=[: ])")


def _name_option(message: str) -> str:
    """The library's message about a field of Options, with the option that the user typed."""
    return (
        _FIELD.sub(lambda field: "--" + field[0].replace("_", "-"), message, count=1)
        if _FIELD.match(message)
        else message
    )


def _die(message: str, code: Exit) -> None:
    if logging.getLogger("hlfeat").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    from hlfeat.text import escape_unprintable

    with suppress(OSError):
        print(f"hlfeat: error: {escape_unprintable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    raise SystemExit(int(code))
