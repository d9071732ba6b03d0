#!/usr/bin/env bash
# Everything that CI runs: style, types, tests. On a bare machine with Python 3.10 or newer it installs what it needs
# into .venv first (a few minutes, once). Arguments go to pytest: scripts/test.sh tests/cli -k weights
#
#   HLFEAT_CORPUS=FOLDER    tries the command on the recordings in FOLDER too
#   HLFEAT_TESTS=thorough   many more random cases, and long training
#   HLFEAT_KILLS=N          kills that many runs at random moments instead of 20 (tests/extraction/test_kills.py)
#
# Tests that start a Ray cluster are left out: pytest -m cluster (a minute).
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/scripts/environment.sh"
environment test
cd -- "$root"

ruff check .
ruff format --check .
mypy
pytest -n 2 --durations 20 "$@"
