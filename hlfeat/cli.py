"""The command line: parses, calls, translates errors into exit codes. Heavy imports happen inside the commands."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfeat import __version__
from hlfeat.cli_bench import bench_app
from hlfeat.cli_config import IMPORT_WEIGHTS_EPILOG, config_app, import_weights
from hlfeat.cli_export import EXPORT_EPILOG, export
from hlfeat.cli_inspect import INSPECT_EPILOG, inspect
from hlfeat.cli_plot import PLOT_EPILOG, plot
from hlfeat.cli_stats import STATS_EPILOG, stats
from hlfeat.errors import ConfigError, HlfeatError, UsageError
from hlfeat.options import (
    DEFAULT,
    WORKERS,
    BatchSecondsOption,
    ConfigOption,
    DevicesOption,
    Exit,
    ManifestOption,
    MaxFailuresOption,
    NullOption,
    QuietOption,
    SetOption,
    VerboseOption,
    WeightsOption,
    WorkersOption,
    epilog,
    set_up_logging,
)
from hlfeat.parts import Part, parse_part, part_of_job
from hlfeat.signals import when_stopped

if TYPE_CHECKING:
    from hlfeat.clip import Clip
    from hlfeat.config import Config


class Format(str, Enum):
    npy = "npy"
    pt = "pt"


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"


class OnError(str, Enum):
    skip = "skip"
    stop = "stop"


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


@app.command(
    epilog=epilog(
        exit_status="""
            0    all clips done
            1    the run failed
            2    usage or configuration
            3    done, but some clips failed: FOLDER/failures.jsonl says why
            130  interrupted; the same command goes on
        """,
        environment="""
            SLURM_ARRAY_TASK_ID, ...COUNT, ...MIN, ...STEP   the part, without --part
            RANK, WORLD_SIZE, LOCAL_RANK                     torchrun's part and GPU
            CUDA_VISIBLE_DEVICES                             GPUs for cuda:0, ...
        """,
        examples="""
            hlfeat extract clips -o features
            hlfeat extract --manifest segments.csv -o features -c eleaf-pcen
            hlfeat extract paths.txt -o features --part 3/16 --device cuda:0,cuda:1
            find clips -name '*.flac' -print0 | hlfeat extract -0 - -o features
        """,
    )
)
def extract(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Audio files, folders, .tar archives, lists of paths (*.txt), manifests; - is a list on stdin."
        ),
    ] = None,
    *,
    out: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the features go.")],
    manifest: ManifestOption = None,
    config: ConfigOption = DEFAULT,
    settings: SetOption = None,
    weights: WeightsOption = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Normalise every band by these statistics of the features.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="mean|mean+std|max|window:SECONDS[,HOP]", help="Vectors of clips or windows, not frames."),
    ] = None,
    null: NullOption = False,
    format: Annotated[Format | None, typer.Option(help="Of the shards; default: the configuration's.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the features; default: the configuration's.")] = None,
    shard_size: Annotated[
        str | None, typer.Option(metavar="CLIPS|SIZE", help="Clips a shard, or a size such as 256MB.")
    ] = None,
    device: DevicesOption = "auto",
    batch_seconds: BatchSecondsOption = 64.0,
    workers: WorkersOption = WORKERS,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do the I-th of N parts; tasks of SLURM arrays and torchrun know theirs."),
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="What a clip that cannot be used does to the run.")] = OnError.skip,
    max_failures: MaxFailuresOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in earlier runs.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Compute clips anew whose files have changed.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove what earlier runs wrote to the folder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, write nothing.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Features of all clips into FOLDER, as sharded arrays with an index.

    Run again, it goes on where it stopped. Standard output has the path of each finished shard, one a line.
    """
    set_up_logging(verbose, quiet)
    stop = _Stop()
    from hlfeat.configfile import explained, load_config
    from hlfeat.progress import count
    from hlfeat.sources import collect

    shortcuts = {
        "format": format and format.value,
        "dtype": dtype and dtype.value,
        "shard_size": shard_size,
        "pool": pool,
    }
    overrides = [*(settings or []), *(f'output.{k}="{v}"' for k, v in shortcuts.items() if v is not None)]
    cfg = load_config(config, overrides)
    if not out:
        raise UsageError("-o: expected a folder for the features, got an empty name")
    folder = Path(out)
    if not inputs and not manifest:
        raise UsageError("expected audio files, folders, lists or a --manifest to extract from, got none")
    found = collect(inputs or [], sys.stdin.buffer, null, manifest or [])
    log = logging.getLogger("hlfeat")
    if found.ignored:
        log.info("passed over %s, no audio by name", count(found.ignored, "file"))
    mine, why = (parse_part(part), "") if part is not None else part_of_job(os.environ)
    if why:
        log.info("part %s (%s)", mine, why)
    if dry_run:
        with explained(config, overrides):
            _dry_run(cfg, found.clips[mine.slice(len(found.clips))], weights, stats)
        return
    from hlfeat.compute import choose_device
    from hlfeat.devices import extract_on, several
    from hlfeat.pipeline import InterruptedRunError, Options, extract

    if why and device == "auto" and "LOCAL_RANK" in os.environ:
        device = _local_device(os.environ["LOCAL_RANK"])
    devices = several(device)
    for name in devices:
        choose_device(name)
    options = Options(
        device=device,
        batch_seconds=batch_seconds,
        workers=workers,
        on_error=on_error.value,
        max_failures=max_failures,
        overwrite=overwrite,
        retry_failed=retry_failed,
        update=update,
        part=mine,
        quiet=quiet,
        weights=weights,
        stats=stats,
    )
    _keep_stdout_for_paths()
    stop.working = True
    try:
        with explained(config, overrides):
            if len(devices) > 1:
                facts = extract_on(
                    devices, cfg, found, folder, options, stopped=lambda: stop.asked, finished_shard=_print_path
                )
            else:
                report = extract(cfg, found, folder, options, stopped=lambda: stop.asked, finished_shard=_print_path)
                facts = report.as_dict()
    except InterruptedRunError:
        log.warning("interrupted; finished shards are in %s, and the same command goes on from there", out)
        raise typer.Exit(Exit.INTERRUPTED) from None
    _summarise(facts, folder, mine)
    if facts["failures"]:
        raise typer.Exit(Exit.SOME_CLIPS_FAILED)


app.command("import-weights", epilog=IMPORT_WEIGHTS_EPILOG)(import_weights)
app.command("plot", epilog=PLOT_EPILOG)(plot)
app.command("export", epilog=EXPORT_EPILOG)(export)
app.command("inspect", epilog=INSPECT_EPILOG)(inspect)
app.command("stats", epilog=STATS_EPILOG)(stats)
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")


def _dry_run(cfg: Config, clips: list[Clip], weights: Path | None, stats: Path | None) -> None:
    from hlfeat.clip import place
    from hlfeat.preparing import prepare
    from hlfeat.progress import count

    extractor, finish, _ = prepare(cfg, weights, stats)
    rate = extractor.sample_rate / extractor.hop
    pooled = "" if cfg.output.pool is None else f", pooled by {cfg.output.pool} to [vectors, {finish.shape[0]}]"
    print(
        f"hlfeat: {count(len(clips), 'clip')}; features [frames, {extractor.n_channels}, {extractor.n_bands}] "
        f"{cfg.output.dtype}, {rate:g} frames a second{pooled}; nothing was written",
        file=sys.stderr,
    )
    for clip in clips:
        logging.getLogger("hlfeat").debug("%s", place(clip))


def _local_device(rank: str) -> str:
    """The GPU that torchrun means a process to use, if there is one."""
    import torch

    return f"cuda:{rank}" if torch.cuda.is_available() and rank.isdecimal() else "auto"


def _summarise(facts: dict[str, Any], out: Path, part: Part) -> None:
    from hlfeat.progress import count, duration

    log = logging.getLogger("hlfeat")
    log.info(
        "%s, %s of audio, in %.1f s (%.0f times real time) on %s -> %s",
        count(facts["clips_this_run"], "clip"),
        duration(facts["hours_this_run"] * 3600),
        facts["seconds"]["total"],
        facts["real_time_factor"],
        facts["device"],
        out,
    )
    if facts["failures"]:
        codes = ", ".join(f"{code} {n}" for code, n in facts["failures_by_code"].items())
        whole, own = out / "failures.jsonl", out / part.file("failures.jsonl")
        log.warning("%s failed (%s): %s", count(facts["failures"], "clip"), codes, whole if whole.exists() else own)


def _keep_stdout_for_paths() -> None:
    """What a decoder in C prints there goes to standard error instead, or it would be taken for a path."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _print_path(path: Path) -> None:
    """A finished shard on standard output; a reader that has gone away (| head) does not stop the run."""
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode(file=sys.stdout):  # takes the bar away meanwhile, if both are on one terminal
            sys.stdout.buffer.write(os.fsencode(path) + b"\n")
            sys.stdout.buffer.flush()
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            logging.getLogger("hlfeat").warning("standard output cannot be written (%s); going on", e.strerror)


class _InterruptedEarlyError(BaseException):
    """Stopped before there was anything to resume."""


class _Stop:
    """SIGINT and others: before the work begins they end the program, then they ask it to stop; a second one kills."""

    def __init__(self) -> None:
        self.working = self.asked = False
        self.heard = when_stopped(self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True  # even if somebody between here and there catches everything
        if not self.working:
            raise _InterruptedEarlyError("interrupted")
        for s in self.heard:
            signal.signal(s, signal.SIG_DFL)


def main() -> None:
    """Entry point: errors are one line on standard error, a traceback only with -v."""
    _open_streams()
    try:
        raise SystemExit(app(standalone_mode=False) or 0)
    except _InterruptedEarlyError as e:
        _die(str(e), Exit.INTERRUPTED)
    except HlfeatError as e:
        code = Exit.USAGE if isinstance(e, UsageError | ConfigError) else Exit.FAILED
        _die(str(e), code)
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


def _open_streams() -> None:
    """A stream that the caller has closed becomes the null device, or the next file opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w"))


def _die(message: str, code: Exit) -> None:
    if logging.getLogger("hlfeat").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    from hlfeat.clip import printable

    with suppress(OSError):
        print(f"hlfeat: error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    raise SystemExit(int(code))
