#!/usr/bin/env bash
# From a bare machine with Python 3.10 or newer to features and a picture of them.
#
#   scripts/demo.sh            synthesises a few clips and extracts their features
#   scripts/demo.sh FOLDER     extracts the features of the audio in FOLDER instead
#
# Everything it writes lies in .venv (or HLFEAT_VENV) and demo/ of the checkout. Messages go to standard error, what
# there is to see to standard output.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
features="$root/demo/features"
source "$root/scripts/environment.sh"

say() {
    printf '%s\n' "$*" >&2
}

usage() {
    say "usage: scripts/demo.sh [FOLDER]"
    exit "$1"
}

# An absolute path, so that a name such as -x is no option to anything (and - is not cd's idea of a folder).
existing_folder() {
    local folder="$1"
    [[ "$folder" == /* ]] || folder="./$folder"
    [[ -n "$1" ]] && cd -- "$folder" 2> /dev/null && pwd
}

extract() {
    local status=0
    say "== hlfeat extract --overwrite -o $features $1"
    hlfeat extract --overwrite -o "$features" "$1" || status=$?
    case "$status" in
        0) ;;
        3) say "(exit status 3: the run is complete, but some clips cannot be used; they are listed below with the reason)" ;;
        *) say "the demo ends here: hlfeat extract ended with exit status $status"; exit "$status" ;;
    esac
}

case "${1-}" in
    -h | --help) usage 0 ;;
esac
(($# <= 1)) || usage 2
if (($# == 1)); then
    clips="$(existing_folder "$1")" || { say "error: $1: expected a folder that can be entered"; exit 2; }
fi

environment ""

if (($# == 0)); then
    clips="$root/demo/clips"
    say "== a dozen clips into $clips; one is broken on purpose"
    python "$root/scripts/demo_clips.py" "$clips"
    show=(strings/harp.ogg voice/vowels.wav bells/melody.mp3)
    extract "$clips"
    python "$root/scripts/demo_show.py" "$features" "${show[@]}"
else
    extract "$clips"
    python "$root/scripts/demo_show.py" "$features"
fi
