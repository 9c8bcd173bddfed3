#!/usr/bin/env bash
# Fuzzes each target for a while: `fuzz/run.sh [SECONDS] [TARGET...]`, 600 seconds and all targets by
# default. Needs cargo-fuzz and a nightly toolchain (`cargo install cargo-fuzz`,
# `rustup toolchain install nightly`). What it finds stands in fuzz/artifacts.
set -Eeuo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

seconds=${1:-600}
shift || true
targets=("$@")
if [[ ${#targets[@]} == 0 ]]; then
  for file in fuzz/fuzz_targets/*.rs; do
    targets+=("$(basename -- "$file" .rs)")
  done
fi

for target in "${targets[@]}"; do
  corpus=fuzz/corpus/$target
  mkdir -p -- "$corpus"
  seeds=()
  if [[ -d fuzz/seeds/$target ]]; then
    seeds=("fuzz/seeds/$target")
  fi
  echo "=== $target"
  cargo +nightly fuzz run "$target" "$corpus" "${seeds[@]}" -- \
    -max_total_time="$seconds" -max_len=8192 -print_final_stats=1
done
