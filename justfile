# Short names for what tests/run.sh and cargo do. `just` alone lists them.

_default:
    @just --list --unsorted

# Everything that CI checks
check:
    ./tests/run.sh

# Format, lints and unit tests: nothing to install
fast:
    ./tests/run.sh --fast

# Real databases, Chromium and official SDKs for the integration tests
install:
    ./tests/install-tools.sh
    ./tests/install-sdks.sh

# All tests, or those whose name contains FILTER
test FILTER="":
    cargo test --locked {{ FILTER }}

# Seeds of the simulation, such as `just simulate 0..1000000`
simulate SEEDS="0..10000":
    PILOTLIGHT_SEEDS={{ SEEDS }} cargo test --release --locked --lib -- simulation::tests::promises

# Shows that the simulation finds faults: undoes one repair after the other
mutations *NAMES:
    ./tests/simulation/mutations.py {{ NAMES }}

# Each fuzz target for so many seconds, or those that are named
fuzz SECONDS="600" *TARGETS:
    ./fuzz/run.sh {{ SECONDS }} {{ TARGETS }}

# Format the code
fmt:
    cargo fmt --all

# The product in a terminal, without a LaunchDarkly account
demo:
    cargo run --release --locked -- demo

# The tables of docs/configuration.md, from the table of options in src/config/table
options:
    PILOTLIGHT_RENEW_OPTIONS=1 cargo test --locked --lib -- config::tests::page
