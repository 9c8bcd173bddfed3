#!/usr/bin/env bash
# Checks everything, as CI does: `tests/run.sh`. From a clean checkout it needs rustup, a C++ compiler,
# Go, a JDK with Maven, Node with npm, Python 3, and apt with the right to install.
#
# `tests/run.sh --fast` runs only what needs no installation: format, lints, unit tests.
#
# Every step runs, whatever became of the ones before; the exit code is 0 only if all succeeded.
set -Eeuo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$repository"

export PILOTLIGHT_TEST_TOOLS="${PILOTLIGHT_TEST_TOOLS:-$repository/.cache/tools}"
# Traces of errors bury the messages of failed tests; those of panics stay as they are set.
export RUST_LIB_BACKTRACE="${RUST_LIB_BACKTRACE:-0}"

# Exported, as functions run as steps have a shell of their own.
export cargo_deny_version=0.20.2
# Longer than any step takes from scratch on two slow cores; what hangs must not hang CI.
step_limit=25m

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
    step "install databases" ./tests/install-tools.sh
    step "install SDKs" ./tests/install-sdks.sh
  fi
  step "format" cargo fmt --all --check
  step "lints" cargo clippy --locked --all-targets -- -D warnings
  if [[ $mode == full ]]; then
    # By clippy, which can refuse warnings without building all dependencies again.
    step "no features" cargo clippy --locked --no-default-features -- -D warnings
    local feature
    for feature in redis dynamodb consul demo; do
      step "only $feature" \
        cargo clippy --locked --no-default-features --features "$feature" -- -D warnings
    done
    # A workspace of its own, so no other step looks at it. To run it takes a nightly compiler.
    step "fuzz target" cargo clippy --locked --manifest-path fuzz/Cargo.toml \
      --target-dir target/fuzz -- -D warnings
    # Builds the program too; a build of its own would compile the dependencies a second time.
    step "tests" cargo test --locked
    step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
    step "install cargo-deny" install_cargo_deny
    step "dependencies" dependencies
  else
    step "unit tests" cargo test --locked --lib --bins
    left_out "install databases" "install SDKs" "no features" "only one feature (4)" \
      "fuzz target" "integration tests" "documentation tests" "documentation" "dependencies"
  fi
  summarize
}

# step NAME COMMAND...: runs a command or one of the functions below, and notes how it went.
step() {
  local name=$1 started=$SECONDS status=0 result=ok
  shift
  printf '\n=== %s\n' "$name"
  # Not as a condition: inside one, errexit would be off. Functions run in a bash of their own, so
  # that the time limit holds for them too.
  set +e
  if declare -F "$1" >/dev/null; then
    limited bash -Eeuo pipefail -c "$(declare -f "$1"); $1"
  else
    limited "$@"
  fi
  status=$?
  set -e
  if ((status != 0)); then
    result="FAILED with $status"
    ((status == 124)) && result="FAILED: more than $step_limit"
    failed_steps=$((failed_steps + 1))
  fi
  note "$result" "$name" "$((SECONDS - started)) s"
  printf -- '--- %s: %s, %s s\n' "$name" "$result" "$((SECONDS - started))"
}

limited() {
  if [[ -t 0 ]]; then
    # A terminal's Ctrl-C must reach the command, which needs it in this process group.
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
  lines_of_summary+=("$(printf '%-28s %-24s %8s' "$2" "$1" "$3")")
}

summarize() {
  printf '\n=== summary\n'
  printf '%s\n' "${lines_of_summary[@]}"
  printf '%-28s %-24s %8s\n' "total" "" "$SECONDS s"
  if ((failed_steps > 0)); then
    printf '\n%s step(s) FAILED\n' "$failed_steps"
    exit 1
  fi
  printf '\nall steps succeeded\n'
}

# Prints what builds; installs the pinned Rust where rustup does not do so by itself.
toolchain() {
  cargo --version || rustup toolchain install
  cargo --version
  rustc --version
  cargo clippy --version
}

# The newest release in PyPI cannot read what Rust 1.95 says of packages, so it is built here;
# without optimisation, since it runs for a second and would build for minutes longer.
install_cargo_deny() {
  local root="$PILOTLIGHT_TEST_TOOLS/cargo-deny"
  if [[ "$("$root/bin/cargo-deny" --version 2>/dev/null)" == "cargo-deny $cargo_deny_version" ]]; then
    echo "cargo-deny $cargo_deny_version is there"
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
    echo "'cargo deny fetch db' brings one, where the network allows it."
  fi
  # Also those of other platforms, which nothing before has asked for.
  cargo fetch --locked
  "$PILOTLIGHT_TEST_TOOLS/cargo-deny/bin/cargo-deny" --offline --locked check "${checks[@]}"
}
main "$@"
