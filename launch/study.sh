#!/usr/bin/env bash
# Does it help? launch/study.sh SEED [WORKDIR [humpback study's flags]]: nine arms of one experiment, each trained three times.
# SEED: an Open Assistant export or pairs, at least 94 of them. Pages: Debian's manuals, brought by apt, where WORKDIR/pages does not name
# a folder of your own with one called debian-faq, whose questions measure. Continues after a kill; WORKDIR: runs/study.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

absolute() { if [[ $1 == /* || $1 == *:* ]]; then say "$1"; else say "$PWD/$1"; fi; }

case ${1:-} in
  -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
  "") die "usage: $0 SEED [WORKDIR [flags]]" ;;
  -*) die "unknown flag $1; usage: $0 SEED [WORKDIR [flags]]" ;;
esac
[[ -e $1 || $1 == *:* ]] || die "$1: no such file of seed pairs"
seed=$(absolute "$1")
if [[ -z ${2:-} ]]; then need_workdir; fi
workdir=$(absolute "${2:-$ROOT/runs/study}")
shift $(($# < 2 ? $# : 2))

cd "$ROOT"
environment .venv demo "$WEIGHTS"
if [[ -d $workdir/pages ]]; then pages=$workdir/pages; else pages=$("$ROOT/launch/debian_pages.sh" all); fi
[[ -d $pages/debian-faq ]] || die "$pages has no folder debian-faq, whose questions measure"
corpus=
for folder in "$pages"/*/; do
  if [[ $folder != */debian-faq/ ]]; then corpus+=${corpus:+,}${folder%/}; fi
done
[[ $workdir == *:* ]] || mkdir -p "$workdir" # a bucket needs none
"$PY" -m humpback segment --input="$pages/debian-faq" --out="$workdir/faq" --config.segments.min_chars=250
"$PY" -m humpback study --questions="$workdir/faq" --out="$workdir/faq.jsonl"
exec "$PY" -m humpback study --config=configs/study.py --workdir="$workdir/run" --config.seed_pairs.source="$seed" \
  --config.segments.input="$corpus" --config.evaluation.sets="h2=$workdir/faq.jsonl" "$@"
