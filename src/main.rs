//! The program.

use std::process::ExitCode;

/// Returns memory to the system that slow clients held; docs/decisions/0002-allocator.md has the
/// figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pilotlight::run(std::env::args_os().skip(1))
}
