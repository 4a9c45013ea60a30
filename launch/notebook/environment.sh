#!/usr/bin/env bash
# Makes the environment that the notebook's commands run in, beside the image's own: launch/notebook/environment.sh EXTRAS
# The last line is its Python. HUMPBACK_VENV says where it is (default: humpback-venv in the home folder), PYTHON which Python to begin with.
set -euo pipefail
export HUMPBACK_VENV=${HUMPBACK_VENV:-$HOME/humpback-venv}
# shellcheck source=SCRIPTDIR/../common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"

tpu_here() {
  compgen -G "/dev/accel[0-9]*" || compgen -G "/dev/vfio/[0-9]*" || [[ ${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_HOSTNAMES:-}${TPU_PROCESS_ADDRESSES:-}${TPU_NAME:-}${COLAB_TPU_ADDR:-} ]]
}

extras=${1:-demo} lowest=11
if tpu_here >/dev/null; then extras+=,tpu lowest=12; fi # there is no libtpu that does for an older one
# Images have an older Python, or one that makes no environments: uv brings another, which changes nothing of the image's.
begin=${PYTHON:-python3}
if ! "$begin" -c "import sys, ensurepip, venv; sys.exit(not (3, $lowest) <= sys.version_info[:2] < (3, 14))" 2>/dev/null; then
  "$begin" -m pip install --quiet --target "$HUMPBACK_VENV-uv" uv
  uv() { PYTHONPATH=$HUMPBACK_VENV-uv "$begin" -m uv "$@"; }
  uv python install --quiet 3.13
  begin=$(uv python find --managed-python --system 3.13)
fi
export PYTHON=$begin
environment .venv "$extras"
printf '\n%s\n' "$PY" # a line of its own: pip, which a kernel tells to write in colours, leaves a line with a colour's code unended
