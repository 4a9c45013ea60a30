#!/usr/bin/env bash
# The loop on pages that nobody here wrote: launch/real_pages.sh [PAGES [SEED]]
# PAGES: a folder of HTML; default (also ""): Debian's debian-reference-en, debian-faq and developers-reference, brought by apt.
# SEED: an Open Assistant export (.jsonl, .jsonl.gz) or pairs; default: the demo's. HUMPBACK_WORKDIR moves runs/real_pages.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

absolute() { if [[ $1 == /* || $1 == *:* ]]; then say "$1"; else say "$PWD/$1"; fi; } # tfds:NAME and gs:// stay as they are

case ${1:-} in
  -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
  -*) die "unknown flag $1" ;;
esac
(($# <= 2)) || die "too many arguments; usage: $0 [PAGES [SEED]]"
if [[ -n ${1:-} ]]; then
  [[ -e $1 ]] || die "$1: no such folder or file of pages"
  pages=$(absolute "$1")
else
  pages=$("$ROOT/launch/debian_pages.sh")
fi
arguments=(--config=configs/real_pages.py "--config.segments.input=$pages")
if (($# == 2)); then
  [[ $2 == *:* || -e $2 ]] || die "$2: no such file of seed pairs"
  arguments+=("--config.seed_pairs.source=$(absolute "$2")")
fi
if [[ -z ${HUMPBACK_WORKDIR:-} ]]; then need_workdir; fi
workdir=$(absolute "${HUMPBACK_WORKDIR:-$ROOT/runs/real_pages}")

cd "$ROOT"
environment .venv demo "$WEIGHTS"
say "Running configs/real_pages.py on $pages into $workdir"
"$PY" -m humpback run "${arguments[@]}" --workdir="$workdir"
