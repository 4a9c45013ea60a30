#!/usr/bin/env bash
# The tests, without torch: launch/test.sh [PYTEST ARGUMENTS], for example launch/test.sh tests/model -x
# The real weights are installed too, so that tests on them do not skip. HUMPBACK_TEST_DATA names a folder of further test data.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

targets=(tests)
for argument in "$@"; do
  if [[ $argument == tests* ]]; then targets=(); fi # the caller says which
done
cd "$ROOT"
environment .venv test "$WEIGHTS"
# Most of the time goes into compiling, on one core a test; a file stays with one process, as its fixtures are dear, and
# tests/conftest.py puts the long ones first.
"$PY" -m pytest -q -n auto --dist loadfile --no-loadscope-reorder ${targets[@]+"${targets[@]}"} "$@"
