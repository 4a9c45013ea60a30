#!/usr/bin/env bash
# The whole algorithm on the embedded pages with SmolLM2-135M: launch/quickstart.sh [--ci] [WORKDIR]
# Makes .venv (HUMPBACK_VENV moves it), installs the package and the weights, runs configs/demo.py into WORKDIR (HUMPBACK_WORKDIR,
# default runs/demo).
# A second call finds everything done; after an interruption it continues. --ci: a smaller config, and exit code 1 unless it learned.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

config=configs/demo.py workdir=${HUMPBACK_WORKDIR:-} check=
for argument in "$@"; do
  case $argument in
    --ci) config=configs/demo.py:ci check=1 ;;
    -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
    -*) die "unknown flag $argument; known: --ci" ;;
    *) workdir=$argument ;;
  esac
done
# A relative folder is taken from where the command was typed, the default one from the repository.
case $workdir in
  "")
    need_workdir
    if [[ $check ]]; then workdir=runs/demo-ci; else workdir=runs/demo; fi
    ;;
  /* | *://*) ;;
  *) workdir=$PWD/$workdir ;;
esac

cd "$ROOT"
environment .venv demo "$WEIGHTS"
if [[ -n ${HUMPBACK_VENV:-} ]]; then humpback=${PY%/*}/humpback; else humpback=.venv/bin/humpback; fi
cat <<EOT

Running $config into $workdir; afterwards look at
  $workdir/report.md        what happened in each stage, lengths, ratings, the best and the worst candidates
  $workdir/summary.json     the same in figures; timing.json beside it: seconds and tokens/s
  $humpback chat --model=$workdir/forward-2
  $humpback convert --source=$workdir/forward-2 --target=$workdir/huggingface --to_format=huggingface

EOT
"$PY" -m humpback run --config="$config" --workdir="$workdir"
if [[ $check ]]; then "$PY" -m humpback summary --config="$config" --workdir="$workdir" --check; fi
