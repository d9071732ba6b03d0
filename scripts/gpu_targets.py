#!/usr/bin/env python
"""What was measured beside each target for a GPU, as Markdown.

scripts/gpu_targets.py PATH...     files of `hlfeat bench ... --json`, or folders of them
"""

from __future__ import annotations

import sys
from pathlib import Path

from hlfeat.bench.targets import read, report
from hlfeat.errors import HlfeatError


def main() -> int:
    paths = [Path(argument) for argument in sys.argv[1:]]
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(report(read(paths)), end="")
    except HlfeatError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
