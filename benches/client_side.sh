#!/usr/bin/env bash
# Builds the release binary and prints the figures of benches/client_side.rs; arguments are handed on.
set -Eeuo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench client_side -- "$@"
