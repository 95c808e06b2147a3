# Shared by the scripts of this folder; sourced, never run.
#
# Every script writes what it does to standard error and only its result to standard output, so that
# `pg_config=$(toolchain/postgres18)` works. Everything they make is below $build: `rm -rf build` undoes all.

set -euo pipefail
umask 022 # an unprivileged server process reads these files when root has set them up

toolchain=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
repository=$(dirname "$toolchain")
build=${RUVECTOR_BUILD_DIR:-$repository/build}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# fail MESSAGE [HINT]
fail() {
  printf '%s: error: %s\n' "${0##*/}" "$1" >&2
  [ $# -lt 2 ] || printf '%s: hint: %s\n' "${0##*/}" "$2" >&2
  exit 1
}

# run_logged LOG COMMAND…: silent when it succeeds; shows the end of the log when it does not.
run_logged() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  if ! "$@" >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    fail "failed: $*" "the whole output is in $log"
  fi
}

# One set-up of a thing at a time, also when tests start several at once. Held until the script ends.
lock() {
  mkdir -p "$build"
  exec 9>"$build/.$1.lock"
  flock --nonblock 9 || { say "waiting for another set-up of $1 to end" && flock 9; }
}

# What a finished set-up was made from: the script itself and this file. A changed script sets up anew.
revision() { cat "$0" "$toolchain/common.sh" | sha256sum | cut -d' ' -f1; }

is_stamped() { [ "$(cat "$1/.stamp" 2>/dev/null)" = "$(revision)" ]; }
stamp() { revision >"$1/.stamp"; }

# need_commands PACKAGES COMMAND…: installs Debian packages when root lacks one of the commands, else says what is missing.
need_commands() {
  local packages=$1 missing=() name
  shift
  for name in "$@"; do command -v "$name" >/dev/null || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}" "as root: apt-get install --no-install-recommends $packages"
  say "missing: ${missing[*]}; installing $packages"
  # shellcheck disable=SC2086 # a list of packages
  run_logged "$build/log/apt-install.log" sh -c 'apt-get update -q; DEBIAN_FRONTEND=noninteractive exec apt-get install -qy --no-install-recommends "$@"' sh $packages
  hash -r
}

# A python3 that has pip (the first in PATH may lack it); the answer is in $python.
find_python() {
  need_commands "python3 python3-pip" python3
  for python in python3 /usr/bin/python3; do
    "$python" -m pip --version >/dev/null 2>&1 && return 0
  done
  [ "$(id -u)" = 0 ] || fail "python3 has no pip" "as root: apt-get install --no-install-recommends python3-pip"
  say "python3 has no pip; installing python3-pip"
  run_logged "$build/log/apt-install.log" sh -c 'apt-get update -q; DEBIAN_FRONTEND=noninteractive exec apt-get install -qy --no-install-recommends python3-pip'
  python=/usr/bin/python3
}

# unpack_wheel REQUIREMENT DIRECTORY SHA256…: downloads a pinned wheel (one hash a platform), verifies it, and puts
# its content into DIRECTORY, which appears whole or not at all.
unpack_wheel() {
  local requirement=$1 directory=$2 hash work=$2.new
  shift 2
  find_python
  rm -rf "$work"
  mkdir -p "$work/wheel"
  {
    printf '%s' "$requirement"
    for hash in "$@"; do printf ' --hash=sha256:%s' "$hash"; done
    echo
  } >"$work/wheel/requirements.txt"
  say "downloading $requirement"
  run_logged "$build/log/${requirement%%=*}.log" "$python" -m pip download --no-deps --only-binary=:all: \
    --no-cache-dir --disable-pip-version-check --require-hashes -r "$work/wheel/requirements.txt" -d "$work/wheel"
  say "unpacking into $directory"
  "$python" -m zipfile -e "$work"/wheel/*.whl "$work"
  rm -rf "$work/wheel" "$directory"
  mv -T "$work" "$directory"
}
