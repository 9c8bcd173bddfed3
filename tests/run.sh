#!/usr/bin/env bash
# Runs the same checks as CI: `tests/run.sh`. A clean checkout needs network access, Debian with apt
# (root is not needed), rustup, a C and C++ compiler, make, Go, a JDK (17 or later) with Maven, Node.js with
# npm, and Python 3. On systems without apt, put the databases and chromium into $PILOTLIGHT_TEST_TOOLS/bin.
#
# `tests/run.sh --fast` runs only the checks that need no installation: format, lints, unit tests.
#
# Every step runs, even if an earlier one failed; the exit code is 0 only if all steps succeeded.
# Known vulnerabilities of dependencies are checked only where a copy of the advisory database is
# present; the summary says so if they were not checked.
set -Eeuo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$repository"

export PILOTLIGHT_TEST_TOOLS="${PILOTLIGHT_TEST_TOOLS:-$repository/.cache/tools}"
# Backtraces of errors would hide the messages of failed tests. Those of panics keep their setting.
export RUST_LIB_BACKTRACE="${RUST_LIB_BACKTRACE:-0}"

# Exported, because a function that runs as a step has its own shell.
export cargo_deny_version=0.20.2
# A step may write a remark into this file; the summary shows it behind "ok".
remark_file=$(mktemp)
export remark_file
background_folder=$(mktemp -d)
trap 'rm -rf -- "$remark_file" "$background_folder"' EXIT
# Longer than any step takes from scratch on two slow cores; a step that hangs must not block CI.
step_limit=35m

lines_of_summary=()
failed_steps=0

main() {
  local mode=full
  case "${1-}" in
    "") ;;
    --fast) mode=fast ;;
    *)
      echo "usage: tests/run.sh [--fast]" >&2
      exit 64
      ;;
  esac

  step "toolchain" toolchain
  if [[ $mode == full ]]; then
    # Mostly downloads, so they run beside the first compilation.
    begin "install programs" ./tests/install-tools.sh
    begin "install SDKs" ./tests/install-sdks.sh
  fi
  step "format" cargo fmt --all --check
  step "format of fuzz targets" cargo fmt --manifest-path fuzz/Cargo.toml --check
  step "mutations apply" ./tests/simulation/mutations.py --check
  step "lints" cargo clippy --locked --all-targets -- -D warnings
  if [[ $mode == full ]]; then
    # With clippy, which can deny warnings without building all dependencies again.
    step "no features" cargo clippy --locked -p pilotlight --no-default-features -- -D warnings
    local feature
    for feature in redis dynamodb consul testing demo; do
      step "only $feature" \
        cargo clippy --locked -p pilotlight --no-default-features --features "$feature" -- -D warnings
    done
    # A separate workspace, which no other step checks. Running it needs a nightly compiler. The
    # dependencies are those of the step "only testing".
    step "fuzz targets" cargo clippy --locked --manifest-path fuzz/Cargo.toml \
      --target-dir "${CARGO_TARGET_DIR:-target}" -- -D warnings
    await "install programs"
    await "install SDKs"
    # Builds the program too; a separate build would compile the dependencies a second time.
    step "tests" cargo test --locked --no-fail-fast
    # Of everything: the product has no public interface but the one for its tests.
    step "documentation" env RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
      cargo doc --locked --no-deps --document-private-items
    step "install cargo-deny" install_cargo_deny
    step "dependencies" dependencies
  else
    step "unit tests" cargo test --locked --lib --bins
    left_out "install programs" "install SDKs" "no features" "only one feature (5)" \
      "fuzz targets" "integration tests" "documentation tests" "documentation" "dependencies"
  fi
  summarize
}

# step NAME COMMAND...: runs a command or one of the functions below, and notes the result.
step() {
  local name=$1 started=$SECONDS status=0 result=ok remark
  shift
  printf '\n=== %s\n' "$name"
  : >"$remark_file"
  # Not as a condition: inside one, errexit would be off. Functions run in a separate bash, so that
  # the time limit applies to them too.
  set +e
  if declare -F "$1" >/dev/null; then
    limited bash -Eeuo pipefail -c "$(declare -f "$1"); $1"
  else
    limited "$@"
  fi
  status=$?
  set -e
  remark=$(<"$remark_file")
  if ((status == 0)) && [[ -n $remark ]]; then
    result="ok, $remark"
  fi
  if ((status != 0)); then
    result="FAILED with $status"
    ((status == 124)) && result="FAILED: more than $step_limit"
    failed_steps=$((failed_steps + 1))
  fi
  note "$result" "$name" "$((SECONDS - started)) s"
  printf -- '--- %s: %s, %s s\n' "$name" "$result" "$((SECONDS - started))"
}

# begin NAME COMMAND...: starts a command beside the steps that follow; await NAME is its step.
begin() {
  local files=$background_folder/$1
  shift
  (
    status=0
    limited "$@" >"$files.log" 2>&1 </dev/null || status=$?
    echo "$status" >"$files.status.new"
    mv -- "$files.status.new" "$files.status"
  ) &
}

await() {
  # shellcheck disable=SC2016 # expands in the inner bash
  step "$1" bash -c 'until [[ -e $1.status ]]; do sleep 0.2; done
    cat -- "$1.log"
    exit "$(<"$1.status")"' await "$background_folder/$1"
}

limited() {
  if [[ -t 0 ]]; then
    # Ctrl-C in a terminal must reach the command, so the command stays in this process group.
    timeout --foreground --kill-after=10s "$step_limit" "$@"
  else
    timeout --kill-after=10s "$step_limit" "$@"
  fi
}

left_out() {
  local name
  for name in "$@"; do
    note "left out" "$name" ""
  done
}

note() {
  lines_of_summary+=("$(printf '%-20s %-28s %8s' "$2" "$1" "$3")")
}

summarize() {
  printf '\n=== summary\n'
  printf '%s\n' "${lines_of_summary[@]}"
  printf '%-20s %-28s %8s\n' "total" "" "$SECONDS s"
  if ((failed_steps > 0)); then
    printf '\n%s step(s) FAILED\n' "$failed_steps"
    exit 1
  fi
  printf '\nall steps succeeded\n'
}

# Prints the versions of the toolchain; installs the pinned Rust if rustup does not do so itself.
toolchain() {
  cargo --version || rustup toolchain install
  cargo --version
  rustc --version
  cargo clippy --version
}

# The newest release on PyPI cannot read the package metadata of Rust 1.95, so cargo-deny is built
# here. Without optimisation, because it runs for a second and would take minutes longer to build.
install_cargo_deny() {
  local root="$PILOTLIGHT_TEST_TOOLS/cargo-deny"
  if [[ "$("$root/bin/cargo-deny" --version 2>/dev/null)" == "cargo-deny $cargo_deny_version" ]]; then
    echo "cargo-deny $cargo_deny_version is installed"
    return
  fi
  CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version "=$cargo_deny_version" --locked \
    --debug --quiet --root "$root" --target-dir "$root/build"
  rm -rf -- "$root/build"
}

dependencies() {
  local databases="${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" checks=(bans licenses sources)
  if compgen -G "$databases/*/.git" >/dev/null; then
    checks+=(advisories)
  else
    echo "Advisories are NOT checked: there is no copy of the advisory database in $databases."
    echo "'cargo deny fetch db' downloads one where the network allows it."
    echo "advisories not checked" >"$remark_file"
  fi
  # Also fetches the dependencies of other platforms, which no earlier step needs.
  cargo fetch --locked
  "$PILOTLIGHT_TEST_TOOLS/cargo-deny/bin/cargo-deny" --offline --locked check "${checks[@]}"
}

main "$@"
