"""hlfeat extract: features of clips into a directory."""

from __future__ import annotations

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfeat.cli.exit_codes import Exit
from hlfeat.cli.job import parse_part, part_of_job
from hlfeat.cli.log import set_up_logging
from hlfeat.cli.options import (
    DEFAULT,
    WORKERS,
    BatchSecondsOption,
    ConfigOption,
    DevicesOption,
    ManifestOption,
    MaxFailuresOption,
    NullOption,
    QuietOption,
    SetOption,
    VerboseOption,
    WeightsOption,
    WorkersOption,
    epilog,
)
from hlfeat.errors import UsageError
from hlfeat.partition import Part

if TYPE_CHECKING:
    from hlfeat.audio.clip import Clip
    from hlfeat.config.config import Config
from hlfeat.cli.stop import StopRequest
from hlfeat.cli.streams import keep_stdout_for_paths, print_path


class Format(str, Enum):
    npy = "npy"
    pt = "pt"


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"


class OnError(str, Enum):
    skip = "skip"
    stop = "stop"


EXTRACT_EPILOG = epilog(
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
    stop = StopRequest()
    from hlfeat.config.loading import explained, load_config
    from hlfeat.inputs.collect import collect_inputs
    from hlfeat.text import count

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
    found = collect_inputs(inputs or [], sys.stdin.buffer, null, manifest or [])
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
    from hlfeat.errors import InterruptedRunError
    from hlfeat.extraction.extract import extract
    from hlfeat.extraction.options import Options
    from hlfeat.nn.device import choose_device

    if why and device == "auto" and "LOCAL_RANK" in os.environ:
        device = _local_device(os.environ["LOCAL_RANK"])
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
    for name in options.devices:
        choose_device(name)
    keep_stdout_for_paths()
    stop.working = True
    try:
        with explained(config, overrides):
            report = extract(cfg, found, folder, options, stopped=lambda: stop.asked, finished_shard=print_path)
            facts = report.as_dict()
    except InterruptedRunError:
        log.warning("interrupted; finished shards are in %s, and the same command goes on from there", out)
        raise typer.Exit(Exit.INTERRUPTED) from None
    _summarise(facts, folder, mine)
    if facts["failures"]:
        raise typer.Exit(Exit.SOME_CLIPS_FAILED)


def _dry_run(cfg: Config, clips: list[Clip], weights: Path | None, stats: Path | None) -> None:
    from hlfeat.audio.clip import display_path
    from hlfeat.extraction.setup import prepare
    from hlfeat.text import count

    extractor, finish, _ = prepare(cfg, weights, stats)
    rate = extractor.sample_rate / extractor.hop
    pooled = "" if cfg.output.pool is None else f", pooled by {cfg.output.pool} to [vectors, {finish.shape[0]}]"
    print(
        f"hlfeat: {count(len(clips), 'clip')}; features [frames, {extractor.n_channels}, {extractor.n_bands}] "
        f"{cfg.output.dtype}, {rate:g} frames a second{pooled}; nothing was written",
        file=sys.stderr,
    )
    for clip in clips:
        logging.getLogger("hlfeat").debug("%s", display_path(clip))


def _local_device(rank: str) -> str:
    """The GPU that torchrun means a process to use, if there is one."""
    import torch

    return f"cuda:{rank}" if torch.cuda.is_available() and rank.isdecimal() else "auto"


def _summarise(facts: dict[str, Any], out: Path, part: Part) -> None:
    from hlfeat.storage.layout import Layout
    from hlfeat.text import count, duration

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
        whole, own = Layout(out).failures, Layout(out, part).failures
        log.warning("%s failed (%s): %s", count(facts["failures"], "clip"), codes, whole if whole.exists() else own)
