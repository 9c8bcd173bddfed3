//! The program: from arguments to a command. No policy.

use std::process::ExitCode;

use pilotlight::cli::{self, Command};
use pilotlight::commands;

/// Gives memory back that slow clients once held; docs/decisions/0002-allocator.md has the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve { source, ignored }) => commands::serve(&source, &ignored),
        Ok(Command::CheckConfig(source)) => commands::check_config(&source),
        Ok(Command::Health { url }) => commands::ask(url.as_deref(), "/livez"),
        Ok(Command::Ready { url }) => commands::ask(url.as_deref(), "/readyz"),
        Ok(Command::Demo) => commands::demo(),
        Ok(Command::GenerateKey) => commands::generate_key(),
        Ok(Command::Version) => commands::version(),
        Ok(Command::Help) => commands::help(),
        Err(error) => commands::usage_error(&error),
    }
}
