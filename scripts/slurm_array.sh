#!/usr/bin/env bash
# Features of a list of clips as a SLURM array job: every task does one part of the list, all write to one folder.
#
#   find clips -name '*.flac' | sort > paths.txt
#   sbatch --array=1-16 scripts/slurm_array.sh paths.txt features [OPTIONS OF hlfeat extract]
#
# So many tasks, so many parts; any evenly spaced array will do (0-15, 10-40:10). The last task to finish writes
# report.json and failures.jsonl of the whole.
#
# To go on after an interruption, submit the same line: parts that are done take seconds. The list and the options have
# to be the same, as they say what a part is. Or submit the tasks alone that have not ended well, under their numbers:
#
#   sbatch --array=3,7 scripts/slurm_array.sh paths.txt features
#
# The reports of the parts that are done say how the tasks were numbered. Where there is none, or by hand:
#
#   hlfeat extract paths.txt -o features --part 3/16
#
# Where some clips cannot be used, a task ends with status 3, which SLURM calls FAILED: failures.jsonl says which and
# why, and the same line with --retry-failed tries them again. A job that is to follow waits with --dependency=afterany.
#
# Adapt these to your cluster, or give them to sbatch:
#
#SBATCH --job-name=hlfeat
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=hlfeat-%A_%a.log
#
# On a GPU (without the first #):
##SBATCH --gpus=1
#
# Three minutes before the time is over hlfeat is told to stop; finished shards are kept:
#SBATCH --signal=B:TERM@180
set -euo pipefail

if (($# < 2)); then
    echo "usage: sbatch --array=1-N slurm_array.sh INPUTS FOLDER [OPTIONS OF hlfeat extract]" >&2
    exit 2
fi
if [[ -z "${SLURM_ARRAY_TASK_ID-}" ]]; then
    echo "error: expected to be a task of a SLURM array: sbatch --array=1-N slurm_array.sh ..." >&2
    exit 2
fi
inputs="$1" features="$2"
shift 2

# sbatch keeps the environment that it was called in. Where yours does not, activate it here:
# source /path/to/venv/bin/activate

# exec: the signal goes to the process that this is, so let it be hlfeat. --part auto: the part of this task.
exec hlfeat extract "$inputs" -o "$features" --part auto ${SLURM_CPUS_PER_TASK:+--workers "$SLURM_CPUS_PER_TASK"} "$@"
