#!/usr/bin/env bash
# Features of the files that find finds, and a command for every shard as soon as it is complete.
#
#   scripts/find_extract.sh FOLDER FEATURES [COMMAND...]     COMMAND is given the path of a shard; default: sha256sum
#   scripts/find_extract.sh clips features sh -c 'cp "$1" "${1%.*}.jsonl" /backup' sh      # with its index
#
# An example to start your own from: what is found, and what becomes of it, are the two ends of one pipeline.
set -euo pipefail

if (($# < 2)); then
    echo "usage: $0 FOLDER FEATURES [COMMAND...]" >&2
    exit 2
fi
folder="$1" features="$2"
shift 2
(($# > 0)) || set -- sha256sum

# Sorted, because find's order is the file system's, and the order of the list decides which clips share a shard.
# NUL-separated, because names may hold anything; a shard's path holds what FEATURES holds, and ends with its line.
#
# A shard is named once, by the run that completes it: if COMMAND has to see all of them, have it look at those that an
# interrupted run has left, too.
status=0
find "$folder" -type f \( -iname '*.wav' -o -iname '*.flac' -o -iname '*.mp3' \) -print0 | sort -z |
    hlfeat extract -0 - -o "$features" |
    tr '\n' '\0' | xargs -0 -r -n 1 "$@" || status=$?

# The last of the pipeline to fail has its say: hlfeat's 3 is "done, but some clips cannot be used", 123 is xargs'.
if ((status == 3)); then
    echo "some clips cannot be used: $features/failures.jsonl says why" >&2
fi
exit "$status"
