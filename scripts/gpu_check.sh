#!/usr/bin/env bash
# The one command for a machine with a GPU: the GPU tests, then every bench, within 9 minutes.
#
#   scripts/gpu_check.sh [FOLDER]     results go to FOLDER, default scripts/results
#
# Needs Python with torch, torchaudio and pytest, and no network: the other dependencies may lie as .whl files in the
# checkout's wheels/ (or HLFEAT_WHEELS), from where they are unpacked into a temporary folder.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
results="${1:-$root/scripts/results}"
wheels="${HLFEAT_WHEELS:-$root/wheels}"
mkdir -p -- "$results"
cd -- "$root"

unpacked="$(mktemp -d)"
trap 'rm -rf -- "$unpacked"' EXIT
if compgen -G "$wheels/*.whl" > /dev/null; then
    python -m pip install -q --no-index --no-deps --target "$unpacked" "$wheels"/*.whl
fi
export PYTHONPATH="$root:$unpacked${PYTHONPATH:+:$PYTHONPATH}"
python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "no CUDA device here" >&2; exit 1; }

name="$(python -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower())')"
status=0
timeout 120 python -m pytest --noconftest -q tests/gpu 2>&1 | tee "$results/$name-tests.txt" || status=$?

# Recordings for the pipeline: yours (HLFEAT_CLIPS), or four hours of made-up ones.
clips="${HLFEAT_CLIPS:-}"
if [[ -z "$clips" ]]; then
    clips="$unpacked/clips"
    python "$root/scripts/make_clips.py" "$clips" --hours 4
fi

# A bench that fails or takes too long must not take the others' results with it.
bench() {
    local what="$1" command="$2" limit="$3"
    shift 3
    if ! timeout "$limit" python -m hlfeat bench "$command" "$@" --device cuda --json "$results/$name-$what.json" \
        > "$results/$name-$what.md.part" 2> "$results/$name-$what.log"; then
        echo "bench $what failed:" >&2
        tail -n 5 -- "$results/$name-$what.log" >&2
        status=1
    fi
    {
        echo "# hlfeat bench $command $*"
        echo
        sed 's/^hlfeat: //' "$results/$name-$what.log"
        echo "commit $(git -C "$root" rev-parse --short=12 HEAD 2> /dev/null || echo unknown), $(date -u +%F)"
        echo
        cat -- "$results/$name-$what.md.part"
    } > "$results/$name-$what.md"
    rm -f -- "$results/$name-$what.md.part" "$results/$name-$what.log"
    cat -- "$results/$name-$what.md"
}

bench harmonic harmonic 210
bench frontend frontend 100
bench pipeline pipeline 70 "$clips" --laps 3 -c log-mel -c eleaf-8g-opt -c eleaf-default -c eleaf-pcen
bench pipeline-1s pipeline 40 "$clips" --clip-seconds 1 --laps 2 -c log-mel -c eleaf-8g-opt
exit "$status"
