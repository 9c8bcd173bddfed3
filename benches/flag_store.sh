#!/usr/bin/env bash
# Builds the release binary and prints the figures of benches/flag_store.rs; arguments are handed on.
set -Eeuo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench flag_store -- "$@"
