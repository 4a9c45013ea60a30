#!/usr/bin/env bash
# Long runs with faults at random moments: launch/soak.sh [KIND] [--seed=N] [--schedules=N]
# KIND is a file tests/soak/test_KIND.py, all of them without it. The seed is printed; the same seed gives the same faults.
# `faults` plants three faults a schedule; it alone takes --schedules=all.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

cd "$ROOT"
kinds=()
for file in tests/soak/test_*.py; do
  if [[ -f $file ]]; then
    file=${file##*/test_}
    kinds+=("${file%.py}")
  fi
done
((${#kinds[@]})) || die "there is no tests/soak/test_*.py"

seed=$((RANDOM * 32768 + RANDOM)) chosen=()
for argument in "$@"; do
  case $argument in
    --seed=*) seed=${argument#*=} ;;
    --schedules=*) export HUMPBACK_SOAK_SCHEDULES=${argument#*=} ;;
    -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
    -*) die "unknown flag $argument; known: --seed=N --schedules=N" ;;
    *)
      [[ " ${kinds[*]} " == *" $argument "* ]] || die "unknown kind $argument; there are: ${kinds[*]}"
      chosen+=("tests/soak/test_$argument.py")
      ;;
  esac
done
[[ $seed =~ ^[0-9]+$ ]] || die "--seed=$seed is not a whole number"
if [[ ${HUMPBACK_SOAK_SCHEDULES:-1} == all ]]; then
  [[ ${chosen[*]-} == tests/soak/test_faults.py ]] || die "--schedules=all is for the kind faults alone; the others have no end"
elif [[ ! ${HUMPBACK_SOAK_SCHEDULES:-1} =~ ^[1-9][0-9]*$ ]]; then
  die "--schedules=$HUMPBACK_SOAK_SCHEDULES is not a positive whole number"
fi
if ((${#chosen[@]} == 0)); then
  for kind in "${kinds[@]}"; do chosen+=("tests/soak/test_$kind.py"); done
fi

environment .venv test "$WEIGHTS"
say "soak: ${chosen[*]##*/test_} with --seed=$seed"
HUMPBACK_SOAK_SEED=$seed "$PY" -m pytest -q -s "${chosen[@]}"
