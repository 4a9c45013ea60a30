#!/usr/bin/env bash
# Humpback on a Cloud TPU slice of any size, from a laptop with the gcloud CLI:
#   launch/tpu_vm.sh create --name=NAME --zone=ZONE --type=v5litepod-16 [--spot] [--version=RUNTIME]
#   launch/tpu_vm.sh setup  --name=NAME --zone=ZONE         copies this folder to all workers and installs it (again after a change)
#   launch/tpu_vm.sh run    --name=NAME --zone=ZONE -- run --config=configs/llama_7b.py --workdir=gs://BUCKET/RUN
#   launch/tpu_vm.sh logs   --name=NAME --zone=ZONE [--worker=0]     state of the process and the log's last lines
#   launch/tpu_vm.sh stop   --name=NAME --zone=ZONE
#   launch/tpu_vm.sh delete --name=NAME --zone=ZONE
# Also: --project=PROJECT, --dry_run (prints the gcloud lines and runs none). `run` starts one process on every worker, detached:
# it outlives the connection. After a preemption: delete, create, setup, and the same run line, which continues the run directory.
# With several workers that directory must be on gs://, and `ssh-add ~/.ssh/google_compute_engine` must have been done.
#
# Flags are those of Google's reference pages "gcloud compute tpus tpu-vm create", "… ssh", "… scp" and "… delete", checked with
# gcloud 528.0.0; the runtime versions those of Cloud TPU's page "TPU software versions"; the way to reach all workers that of
# "Run JAX code on TPU slices".
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

name='' zone='' project='' type='' version='' worker=all spot='' dry_run='' command='' arguments=()
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --worker=*) worker=${1#*=} ;;
    --spot) spot=1 ;;
    --dry_run) dry_run=1 ;;
    -h | --help) usage && exit ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    -*) die "unknown flag $1; see $0 --help" ;;
    *)
      [[ -z $command ]] || die "two commands, $command and $1; what humpback shall do comes after --"
      command=$1
      ;;
  esac
  shift
done
[[ $command ]] || { usage && exit 2; }
[[ $name && $zone ]] || die "$command needs --name and --zone"
if [[ ! $dry_run ]]; then command -v gcloud >/dev/null || die "gcloud is not installed; it is part of the Google Cloud CLI"; fi
where=("--zone=$zone")
if [[ $project ]]; then where+=("--project=$project"); fi

# Prints a gcloud line, quoted for a shell, and runs it, unless --dry_run.
call() {
  local word
  printf '+ gcloud'
  for word in "$@"; do
    if [[ $word == *[!A-Za-z0-9_./:=,@%+-]* ]]; then word="'${word//\'/\'\\\'\'}'"; fi
    printf ' %s' "$word"
  done
  printf '\n'
  if [[ ! $dry_run ]]; then gcloud "$@"; fi
}
on() { call compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"; } # on WORKERS COMMAND

# The runtime that Google's table gives for JAX.
default_version() {
  case $1 in
    v6e-*) say v2-alpha-tpuv6e ;;
    v5p-*) say v2-alpha-tpuv5 ;;
    v5litepod-*) say v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) say tpu-ubuntu2204-base ;;
    *) die "no known runtime for --type=$1; give one with --version (gcloud compute tpus tpu-vm versions list --zone=$zone)" ;;
  esac
}

# shellcheck disable=SC2016 # expanded on the workers
alive='kill -0 "$(cat humpback.pid 2>/dev/null)" 2>/dev/null' # on a worker: does its process run?

case $command in
  create)
    [[ $type ]] || die "create needs --type, for example --type=v5litepod-16"
    version=${version:-$(default_version "$type")}
    call compute tpus tpu-vm create "$name" "${where[@]}" "--accelerator-type=$type" "--version=$version" ${spot:+--spot}
    ;;
  setup)
    archive=$(mktemp -d)/humpback.tar.gz
    trap 'rm -r "$(dirname "$archive")"' EXIT
    tar -czf "$archive" -C "$ROOT" --exclude='./.git' --exclude='./.venv*' --exclude='./runs' --exclude='__pycache__' .
    call compute tpus tpu-vm scp "$archive" "$name:humpback.tar.gz" "${where[@]}" --worker=all
    # The images' own Python may be 3.10; uv then brings one (its pages "Installing Python" and "uv python find").
    # shellcheck disable=SC2016 # expanded on the workers
    on all 'set -e; mkdir -p humpback && tar -xzf humpback.tar.gz -C humpback && cd humpback
if ! python3 -c "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
  python3 -m pip install --user --quiet uv && python3 -m uv python install --quiet 3.13 && export PYTHON="$(python3 -m uv python find --managed-python --system 3.13)"
fi
bash -c "set -euo pipefail; . launch/common.sh; environment .venv tpu,demo \"\$WEIGHTS\""'
    ;;
  run)
    ((${#arguments[@]})) || die "run needs -- and what humpback shall do, for example -- run --config=configs/llama_7b.py --workdir=gs://…"
    line=$(printf ' %q' "${arguments[@]}")
    # A worker whose process still runs refuses; nohup and setsid keep the process when the connection ends.
    on all "set -e; cd humpback; $alive && { echo 'already running; stop it first' >&2; exit 1; }
nohup setsid .venv/bin/python -m humpback$line </dev/null >>humpback.log 2>&1 & echo \$! >humpback.pid"
    ;;
  logs) on "$worker" "cd humpback && { if $alive; then echo == running; else echo == not running; fi; tail -n 40 humpback.log; }" ;;
  stop) on all "cd humpback && if $alive; then kill \$(cat humpback.pid); else echo not running; fi" ;;
  delete) call compute tpus tpu-vm delete "$name" "${where[@]}" ;; # asks before it deletes
  *) die "unknown command $command; see $0 --help" ;;
esac
