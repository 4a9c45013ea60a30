#!/usr/bin/env bash
# The paper, top to bottom, on Cloud TPUs, from a laptop with gcloud:
#   launch/reproduce.sh CONFIG --bucket=gs://BUCKET --weights=PATH --seed=FILE --pages=FOLDER --zone=ZONE --type=TYPE [tpu.py's flags]
#     --config.FIELD=VALUE changes a field of CONFIG, now or for what is left of a run
#   launch/reproduce.sh --rehearse [WORKDIR]     the same steps on this machine: two processes, tiny weights, a dozen pages
# CONFIG is a file of configs/: llama_7b llama_13b llama_33b llama_65b llama2_7b llama2_13b llama2_70b llama3_8b llama3_70b
# mistral_7b qwen2_5_7b qwen3_8b smollm3_3b.
# PATH: its weights as Hugging Face has them. FILE: Open Assistant's trees (2023-04-12_oasst_ready.trees.jsonl.gz). FOLDER: HTML pages.
# Each step finds done what is done, so the same line goes on after any interruption. --dry_run prints the steps and runs none.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

config='' bucket='' weights='' seed='' pages='' rehearse='' dry_run='' where=() fields=() own=()
for argument in "$@"; do
  case $argument in
    --rehearse) rehearse=1 ;;
    --dry_run) dry_run=1 ;;
    --bucket=*) bucket=${argument#*=} ;;
    --weights=*) weights=${argument#*=} ;;
    --seed=*) seed=${argument#*=} ;;
    --pages=*) pages=${argument#*=} ;;
    --config.*=*) own+=("${argument#--config.}") ;;
    --config*) die "$argument: CONFIG is named without a flag, and a field with --config.FIELD=VALUE; see $0 --help" ;;
    -h | --help) sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}" && exit ;;
    --*) where+=("$argument") ;;
    *)
      [[ -z $config ]] || die "$argument: one CONFIG is enough; see $0 --help"
      config=$argument
      ;;
  esac
done

cd "$ROOT"
if [[ $rehearse ]]; then
  ((${#where[@]} == 0)) || die "${where[0]}: --rehearse takes a folder and --dry_run only"
  bucket=${config:-runs/rehearsal} config=llama_7b
  weights=$bucket/tiny seed=humpback/demo/seed.jsonl pages=humpback/demo/pages
  # The paper's file with everything small: what the tests' own small runs have.
  fields=(base.architecture= wrapper=chatml iterations=1 seed_pairs.limit=16 seed_pairs.held_out=4 segments.min_chars=300
    segments.max_chars=800 segments.limit=12 augment.max_new_tokens=24 curate.mode=expected curate.select=top_fraction
    curate.fraction=0.25 curate.max_new_tokens=16 decoding.length=1536 decoding.slots=4 decoding.prefill_tokens=512 decoding.compute_dtype=float32)
  for task in backward forward_seed forward; do
    fields+=("$task.length=1024" "$task.batch=4" "$task.steps=2" "$task.lr=1e-3" "$task.end_lr=9e-4" "$task.compute_dtype=float32" "$task.remat=none")
  done
else
  [[ -f configs/$config.py ]] || die "CONFIG is missing, or there is no configs/$config.py; see $0 --help"
  for flag in bucket weights seed pages; do [[ ${!flag} ]] || die "--$flag is missing; see $0 --help"; done
  [[ $bucket == gs://* ]] || die "--bucket=$bucket: must be gs://BUCKET, which all workers see"
fi

number=0
# Says what comes, prints the command, and runs it.
step() {
  say
  say "$((++number)). $1"
  shift
  printf '+'
  printf ' %q' "$@"
  say
  if [[ ! $dry_run ]]; then "$@"; fi
}
if [[ ! $dry_run ]]; then environment .venv demo,gs "$WEIGHTS"; fi
PY=${PY:-${HUMPBACK_VENV:-.venv}/bin/python}
run=$bucket/$config inputs=$bucket/inputs result=runs/$config-huggingface last=forward-2
copy=(gcloud storage cp) copy_folder=(gcloud storage rsync --recursive) show=(gcloud storage cat) look=(gcloud storage ls)
pod=("$PY" launch/tpu.py supervise "--name=humpback-${config//_/-}" ${where[@]+"${where[@]}"} --)
if [[ $rehearse ]]; then
  result=$bucket/huggingface last=forward-1
  copy=(cp) copy_folder=(cp -r) show=(cat) look=(ls)
  pod=("$PY" launch/local_pod.py --processes=2 --devices=1 -- humpback)
  mkdir -p "$inputs/seed"
  if [[ ! -e $weights/checksums.json ]]; then
    make="import pathlib; from tests import tiny; tiny.make_base(pathlib.Path('$weights'))"
    step "random weights in place of LLaMA's" "$PY" -c "$make"
  fi
fi
there() { [[ ! $dry_run ]] && "${look[@]}" "$1" >/dev/null 2>&1; } # is this in the bucket?

# The base weights in the form that every worker reads. They pass through this machine's TMPDIR.
base=$inputs/$config-base
there "$base/checksums.json" || step "the base weights" "$PY" -m humpback convert "--source=$weights" "--target=$base"
# The human pairs and the pages, which every worker reads by itself.
there "$inputs/seed/${seed##*/}" || step "the human pairs" "${copy[@]}" "$seed" "$inputs/seed/"
{ [[ $rehearse ]] && there "$inputs/pages"; } || step "the pages" "${copy_folder[@]}" "$pages" "$inputs/pages"
# The method: M_yx, the candidates, M_0, then twice rating, selection and M_t, and the report. Preemptions are seen through, and
# the slices are deleted at the end.
arguments=("--config=configs/$config.py" "--workdir=$run" "--config.base.source=$base"
  "--config.seed_pairs.source=$inputs/seed/${seed##*/}" "--config.segments.input=$inputs/pages")
for field in ${fields[@]+"${fields[@]}"} ${own[@]+"${own[@]}"}; do arguments+=("--config.$field"); done
step "the method, on all workers" "${pod[@]}" run "${arguments[@]}"
# What came out, in the form of the paper's tables: lengths, ratings, overlap, held-out likelihoods of every model.
step "the report" "${show[@]}" "$run/report.md"
# The last model for everybody else: Hugging Face's format, with tokenizer and chat template.
[[ -e $result/config.json ]] ||
  step "the result" "$PY" -m humpback convert "--source=$run/$last" "--target=$result" --to_format=huggingface
say
say "Done: $result"
