#!/usr/bin/env bash
# The one command for a machine with a GPU: the GPU tests, every bench, and a table of what was measured beside each
# target. It ends within 9 minutes: each step has a limit, and what a step has measured until then is kept.
#
#   scripts/gpu_check.sh [FOLDER]     results go to FOLDER, default scripts/results
#
# Needs a machine with a GPU, torch, torchaudio, triton, numpy and pytest, and no network. torchvision is compared with
# if it is there. The other dependencies of hlfeat are installed too, or lie as .whl files in the checkout's wheels/
# (or HLFEAT_WHEELS), from where they are unpacked into a temporary folder:
#
#   soundfile, with cffi and pycparser
#   pydantic, with pydantic-core, annotated-types, typing-inspection and typing-extensions
#   typer, with rich, markdown-it-py, mdurl, pygments, shellingham and annotated-doc
#   tqdm, PyYAML, safetensors
#
# HLFEAT_PYTHON is the Python, default python3. HLFEAT_DEVICE=cpu tries the script itself, with tiny sizes and no GPU.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
results="${1:-$root/scripts/results}"
wheels="${HLFEAT_WHEELS:-$root/wheels}"
python="${HLFEAT_PYTHON:-python3}"
device="${HLFEAT_DEVICE:-cuda}"
mkdir -p -- "$results"
results="$(CDPATH='' cd -- "$results" && pwd)"
cd -- "$root"

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT

# Each step is allowed so many seconds, and those that the steps before it have left over.
due=0
allow() { due=$((due + $1)); }
limited() {
    local left=$((due - SECONDS))
    timeout -k 1 "$((left > 1 ? left : 1))" "$@"
}

export PYTHONPATH="$root:$work/packages${PYTHONPATH:+:$PYTHONPATH}"
allow 12
if compgen -G "$wheels/*.whl" > /dev/null; then
    limited "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/packages" "$wheels"/*.whl
fi

allow 25
name="$(limited "$python" -c '
import sys, torch
device = torch.device(sys.argv[1])
if device.type == "cpu":
    print("trial-cpu")
elif torch.cuda.is_available():
    print(torch.cuda.get_device_name(device).replace(" ", "-").lower())
' "$device")"
[[ -n "$name" ]] || { echo "no CUDA device here" >&2; exit 1; }

hours=4 harmonic=(--seconds 0.3) frontend=() pipeline=(-c eleaf-8g-opt -c log-mel) profile=()
if [[ "$device" == cpu ]]; then
    hours=0.006 harmonic=(--seconds 0 --only 9 --batch 1) frontend=(--seconds 0 --only 8G-opt-80 --quick)
    pipeline=(-c eleaf-8g-opt) profile=(--audio 8)
fi

status=0
allow 180
limited "$python" -m pytest --noconftest -p no:cacheprovider -q tests/gpu 2>&1 \
    | tee -- "$results/$name-tests.txt" || status=1

allow 15
limited "$python" scripts/make_clips.py "$work/clips-10s" --hours "$hours" --seconds 10 || status=1
allow 10
limited "$python" scripts/make_clips.py "$work/clips-1s" --hours "$hours" --seconds 1 || status=1

# A bench that fails or takes too long must not take the others' results with it, and leaves no older file behind.
bench() {
    local what="$1" seconds="$2" command="$3" file="$results/$name-$1"
    shift 3
    rm -f -- "$file.json" "$file.md"
    allow "$seconds"
    if ! (cd -- "$work" && limited "$python" -m hlfeat bench "$command" "$@" --device "$device" --json "$file.json") \
        > "$work/table" 2> "$work/log"; then
        echo "bench $what failed, or took too long:" >&2
        tail -n 5 -- "$work/log" >&2
        status=1
    fi
    {
        echo "# hlfeat bench $command $*"
        echo
        sed 's/^hlfeat: //' "$work/log"
        echo "commit $(git -C "$root" rev-parse --short=12 HEAD 2> /dev/null || echo unknown), $(date -u +%F)"
        echo
        cat -- "$work/table"
    } | tee -- "$file.md"
    rm -f -- "$file.json.tmp"
}

bench harmonic 85 harmonic "${harmonic[@]}" --no-tf32
bench harmonic-tf32 45 harmonic "${harmonic[@]}" --tf32
bench frontend 50 frontend "${frontend[@]}" --no-tf32
bench pipeline-10s 35 pipeline clips-10s --laps 1 "${pipeline[@]}"
bench pipeline-1s 30 pipeline clips-1s --laps 1 "${pipeline[@]}"
bench profile 25 profile "${profile[@]}" --no-tf32

allow 5
limited "$python" scripts/gpu_targets.py "$results/$name-"*.json | tee -- "$results/$name-targets.md" || status=1
exit "$status"
