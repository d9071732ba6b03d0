"""All experiments, one after the other, into a file of results and tables.

    python -m scripts.evidence FluidR3_GM.sf2 [--philharmonia FOLDER] [--digits FOLDER] -o results.jsonl

Results are appended to the file as they come: called again with it, the command does what is missing. The tables are
printed. Exit status: 0 done, 2 an argument or a file cannot be used, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hlfeat import HlfeatError
from hlfeat.errors import UsageError
from scripts.evidence.records import Record, Records, of_environment

EXPERIMENTS = ("notes", "stacks", "digits", "speed")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("font", nargs="?", type=Path, help="a General MIDI SoundFont 2 file")
    parser.add_argument("--philharmonia", type=Path, metavar="FOLDER", help="notes of the Philharmonia samples")
    parser.add_argument("--digits", type=Path, metavar="FOLDER", help="recordings of the Free Spoken Digit Dataset")
    parser.add_argument("--only", choices=EXPERIMENTS, help="one experiment")
    parser.add_argument("--seeds", type=int, help="of learned stacks; default: 10, of digits 3")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="lines of JSON; without, nothing is kept")
    return parser.parse_args()


def run(experiment: str, args: argparse.Namespace, records: Records) -> str:
    """Do what is missing of one experiment, and return its tables; nothing where its data was not given."""
    seeds = {} if args.seeds is None else {"seeds": args.seeds}
    if experiment == "notes":
        from scripts.evidence import tracker_tables, trackers

        done = trackers.run(args.font, args.philharmonia, finished=records.all, write=records.add)
        return tracker_tables.tables(done)
    if experiment == "stacks":
        from scripts.evidence import stack_tables, stacks

        return stack_tables.tables(stacks.run(args.font, finished=records.all, write=records.add, **seeds))
    if experiment == "speed":
        from scripts.evidence import speed

        return speed.tables(speed.run(args.font, finished=records.all, write=records.add))
    from scripts.evidence import digit_tables, digits

    return digit_tables.tables(digits.run(args.digits, finished=records.all, write=records.add, **seeds))


def chosen(args: argparse.Namespace) -> list[str]:
    """The experiments to be run. Raises UsageError where one's data is missing."""
    given = {"notes": args.font, "stacks": args.font, "digits": args.digits, "speed": args.font}
    asked = [args.only] if args.only else [name for name in EXPERIMENTS if given[name]]
    if not asked or given[asked[0]] is None:
        raise UsageError("expected a soundfont, for digits --digits FOLDER")
    if args.seeds is not None and args.seeds < 1:
        raise UsageError(f"--seeds: expected 1 or more, got {args.seeds}")
    return asked


def main() -> int:
    args = parse()
    try:
        names = chosen(args)
        records = Records(args.output)
        records.add(of_environment())
        for name in names:
            start = time.perf_counter()
            text = run(name, args, records)
            elapsed: Record = {"experiment": "elapsed", "of": name, "seconds": round(time.perf_counter() - start, 1)}
            records.add(elapsed)
            print(f"## {name}\n\n{text}\n{elapsed['seconds']:.0f} s\n", flush=True)
    except HlfeatError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; call it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
