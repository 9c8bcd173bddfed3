#!/usr/bin/env bash
# Builds the release binary and prints the figures of benches/fan_out.rs; arguments are handed on.
set -Eeuo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench fan_out -- "$@"
