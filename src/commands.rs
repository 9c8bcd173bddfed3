//! What each command does: runtime, logging, signals, exit codes.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, Door};
use crate::cli::{EXIT_FAILED, EXIT_OK, EXIT_USAGE, USAGE, UsageError};
use crate::config::{Config, ConfigSource, Disk, Loaded, ProcessVariables, describe, load};
use crate::model::{ConnectionState, ListState};
use crate::telemetry::{self, Chain, LogFormat, LogLevel, LoggingSettings};

/// How long `health` and `ready` wait for an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// How often `exitAlways` looks whether all environments are connected.
const ONE_SHOT_LOOK: Duration = Duration::from_millis(50);

/// Serves until a signal says otherwise.
pub fn serve(source: &ConfigSource, ignored: &[OsString]) -> ExitCode {
    let Loaded { config, warnings } = match load(source, &ProcessVariables, &Disk) {
        Ok(loaded) => loaded,
        Err(problems) => return failed(&problems),
    };
    if let Err(error) = telemetry::init(logging(&config)) {
        return failed(&error);
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !ignored.is_empty() {
        tracing::warn!(words = ?ignored, "words behind the flags are ignored");
    }
    tracing::info!(version = crate::VERSION, "Pilotlight starts");
    raise_open_files_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(run(&config));
    // Blocking reads that hang must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn run(config: &Config) -> ExitCode {
    let signals = || {
        let terminate = signal(SignalKind::terminate())?;
        Ok::<_, io::Error>((
            terminate,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ))
    };
    let (mut terminate, mut interrupt, mut hangup) = match signals() {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let mut app = match App::start(config) {
        Ok(app) => app,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the relay cannot start");
            if config.main.log_level == crate::config::LogLevel::None {
                // A process that ends at once without a word would be a riddle.
                return failed(&Chain(&error));
            }
            return ExitCode::from(EXIT_FAILED);
        }
    };
    tracing::info!(address = %app.address(), "listening");
    if config.main.exit_always {
        return one_shot(config, app, either(&mut terminate, &mut interrupt)).await;
    }
    let door = loop {
        tokio::select! {
            _ = terminate.recv() => break Door::OpenAWhile,
            // Somebody waits at a terminal.
            _ = interrupt.recv() => break Door::Closed,
            _ = hangup.recv() => tracing::info!(
                "SIGHUP is ignored: secrets in files are read again when they change, everything \
                 else needs a restart"
            ),
            part = app.broken() => {
                tracing::error!(part, "a part of the relay ended unasked; leaving so that it can be restarted");
                app.stop(Door::OpenAWhile).await;
                return ExitCode::from(EXIT_FAILED);
            }
        }
    };
    tokio::select! {
        () = app.stop(door) => tracing::info!("shut down"),
        () = either(&mut terminate, &mut interrupt) => {
            tracing::warn!("second signal: ending at once");
        }
    }
    ExitCode::from(EXIT_OK)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// ld-relay v8 `exitAlways`: connect every environment once, then end; 0 if all could be
/// connected. Bounded by `initTimeout`.
async fn one_shot(config: &Config, app: App, stopped: impl Future<Output = ()>) -> ExitCode {
    let all_connected = async {
        loop {
            let registry = app.registry();
            let connected = |environment: &std::sync::Arc<crate::environments::Environment>| {
                environment.status().connection.state == ConnectionState::Valid
            };
            if registry.list() == ListState::Authoritative
                && registry.environments().iter().all(connected)
            {
                return;
            }
            tokio::time::sleep(ONE_SHOT_LOOK).await;
        }
    };
    let code = tokio::select! {
        () = all_connected => {
            tracing::info!("exitAlways: all environments were connected");
            EXIT_OK
        }
        () = tokio::time::sleep(config.main.init_timeout) => {
            tracing::error!(
                "exitAlways: some environments could not be connected within initTimeout"
            );
            EXIT_FAILED
        }
        () = stopped => {
            tracing::warn!("exitAlways: stopped before all environments were connected");
            EXIT_FAILED
        }
    };
    app.stop(Door::Closed).await;
    ExitCode::from(code)
}

/// Tells what is understood of the configuration.
pub fn check_config(source: &ConfigSource) -> ExitCode {
    match load(source, &ProcessVariables, &Disk) {
        Ok(Loaded { config, warnings }) => {
            for warning in warnings {
                say_error(&format!("warning: {warning}"));
            }
            say(&describe(&config));
            ExitCode::from(EXIT_OK)
        }
        Err(problems) => failed(&problems),
    }
}

/// Asks a running relay: 0 if it answers 200.
pub fn ask(url: &str, path: &str) -> ExitCode {
    match answer(url, path) {
        Ok((200, body)) => {
            say(&body);
            ExitCode::from(EXIT_OK)
        }
        Ok((status, body)) => {
            say_error(&format!("{url}{path} answered {status}: {body}"));
            ExitCode::from(EXIT_FAILED)
        }
        Err(error) => {
            say_error(&format!("{url}{path} did not answer: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn answer(url: &str, path: &str) -> io::Result<(u16, String)> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidInput, problem.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| invalid("not a URL"))?;
    let host = uri.host().ok_or_else(|| invalid("the URL names no host"))?;
    if uri.scheme_str() == Some("https") {
        return Err(invalid("only http is spoken here"));
    }
    let port = uri.port_u16().unwrap_or(80);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream = connect((name, port).to_socket_addrs()?)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    stream.set_write_timeout(Some(ASK_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut response)?;
    let text = String::from_utf8_lossy(&response);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| invalid("the answer is not HTTP"))?;
    Ok((status, body.to_owned()))
}

/// Connects to the first address that takes it: `localhost` often has two, and the relay may listen
/// on one of them only.
fn connect(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, ASK_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Shows a cold start through an outage.
#[cfg(feature = "demo")]
pub fn demo() -> ExitCode {
    raise_open_files_limit();
    match crate::demo::story::tell() {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => failed(&error),
    }
}

/// Shows a cold start through an outage.
#[cfg(not(feature = "demo"))]
pub fn demo() -> ExitCode {
    failed(&"this binary was built without the demo")
}

/// Prints the version.
pub fn version() -> ExitCode {
    say(&format!("Pilotlight {}", crate::VERSION));
    ExitCode::from(EXIT_OK)
}

/// Prints how the program is used.
pub fn help() -> ExitCode {
    say(USAGE);
    ExitCode::from(EXIT_OK)
}

/// Prints why the command line was not understood.
pub fn usage_error(error: &UsageError) -> ExitCode {
    say_error(&format!("{error}\n\n{USAGE}"));
    ExitCode::from(EXIT_USAGE)
}

fn failed(problem: &dyn std::fmt::Display) -> ExitCode {
    say_error(&problem.to_string());
    ExitCode::from(EXIT_FAILED)
}

fn say(text: &str) {
    // Nobody to tell if nobody listens.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}

fn say_error(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}

fn logging(config: &Config) -> LoggingSettings {
    use crate::config;
    LoggingSettings {
        level: match config.main.log_level {
            config::LogLevel::Debug => LogLevel::Debug,
            config::LogLevel::Info => LogLevel::Info,
            config::LogLevel::Warn => LogLevel::Warn,
            config::LogLevel::Error => LogLevel::Error,
            config::LogLevel::None => LogLevel::None,
        },
        format: match config.main.log_format {
            config::LogFormat::Text => LogFormat::Text,
            config::LogFormat::Json => LogFormat::Json,
        },
    }
}

/// Each stream is an open file; the soft limit of most systems is far below the hard one.
fn raise_open_files_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn every_address_of_a_host_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        // Nobody listens on port 1.
        let closed = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(connect([closed, open].into_iter()).unwrap().peer_addr().unwrap(), open);
        let refused = connect([closed].into_iter()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect([].into_iter()).is_err());
    }
}
