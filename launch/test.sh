#!/usr/bin/env bash
# The tests, without torch: launch/test.sh [--fast] [PYTEST ARGUMENTS], for example launch/test.sh tests/model -x
# --fast leaves out the files that run whole commands, kill them, or train: what a contributor runs between two commits.
# The real weights are installed too, so that tests on them do not skip. HUMPBACK_TEST_DATA names a folder of further test data.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

targets=(tests) arguments=()
for argument in "$@"; do
  case $argument in
    --fast) arguments+=(-m "not long") ;;
    tests*) targets=() arguments+=("$argument") ;; # the caller says which
    *) arguments+=("$argument") ;;
  esac
done
cd "$ROOT"
environment .venv test "$WEIGHTS"
# Most of the time goes into compiling, on one core a test; a file stays with one process, as its fixtures are dear, and
# tests/conftest.py puts the long ones first.
"$PY" -m pytest -q -n auto --dist loadfile --no-loadscope-reorder ${targets[@]+"${targets[@]}"} ${arguments[@]+"${arguments[@]}"}
