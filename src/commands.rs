//! Runs each command: runtime, logging, signals, exit codes.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, App, Door};
use crate::cli::{self, Command, EXIT_FAILED, EXIT_OK, EXIT_USAGE, USAGE, UsageError};
use crate::config::{
    Config, ConfigSource, Disk, Loaded, Problems, ProcessVariables, Variables, load, table,
};
use crate::model::{ConnectionState, ListState, hex};
use crate::overview;
use crate::telemetry::{self, Chain, LogFormat, LogLevel, LoggingSettings, escaped};

/// The default port of the relay.
const DEFAULT_PORT: u16 = 8030;

/// Threads that are needed in addition to one for each core: the store's, and those for blocking
/// reads of files and host names.
const FURTHER_THREADS: usize = 8;

/// Largest answer that is read: the status of some ten thousand environments.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Time-out of `health`, `ready` and `status`.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval at which `exitAlways` checks whether all environments are connected.
const ONE_SHOT_LOOK: Duration = Duration::from_millis(50);

/// Runs the command that the arguments name. They do not include the program's name.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match cli::parse(arguments) {
        Ok(Command::Serve { source, ignored }) => serve(&source, &ignored),
        Ok(Command::CheckConfig(source)) => check_config(&source),
        Ok(Command::Health { url }) => ask(url.as_deref(), "/livez"),
        Ok(Command::Ready { url }) => ask(url.as_deref(), "/readyz"),
        Ok(Command::Status { url }) => status(url.as_deref()),
        Ok(Command::Demo) => demo(),
        Ok(Command::GenerateKey) => generate_key(),
        Ok(Command::Version) => version(),
        Ok(Command::Help) => help(),
        Err(error) => usage_error(&error),
    }
}

/// Runs the relay until a signal stops it.
fn serve(source: &ConfigSource, ignored: &[OsString]) -> ExitCode {
    let Loaded { config, warnings, .. } = match load(source, &ProcessVariables, &Disk) {
        Ok(loaded) => loaded,
        Err(problems) => return refused(&problems),
    };
    if let Err(error) = telemetry::init(logging(&config)) {
        return failed(&error);
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !ignored.is_empty() {
        tracing::warn!(arguments = ?ignored, "arguments after the flags are ignored");
    }
    tracing::info!(version = crate::VERSION, "Pilotlight starts");
    raise_open_files_limit();
    if let Err(error) = can_have_threads() {
        return failed(&format!(
            "the relay cannot start: the system allows too few threads ({error}); raise the limit \
             of processes (`ulimit -u`, `TasksMax=` of systemd, `--pids-limit` of containers)"
        ));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(relay(&config));
    // Blocking reads that hang must not keep the process running.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Starts as many threads as the relay needs at first, and ends them. Later, the runtime would
/// panic if it could not start a thread.
fn can_have_threads() -> io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let stop = Arc::new((Mutex::new(false), Condvar::new()));
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for _ in 0..cores + FURTHER_THREADS {
        let stop = stop.clone();
        let wait = move || {
            let (stopped, changed) = &*stop;
            let guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(guard, |stopped| !*stopped));
        };
        match std::thread::Builder::new().spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    let (stopped, changed) = &*stop;
    *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
    changed.notify_all();
    for thread in threads {
        // They only wait, so they cannot have panicked.
        let _ = thread.join();
    }
    outcome
}

async fn relay(config: &Config) -> ExitCode {
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
        Err(errors) => {
            for error in errors.iter() {
                tracing::error!(error = %Chain(error), "the relay cannot start");
                if config.main.log_level == crate::config::LogLevel::None {
                    // The reason for the exit is printed even where nothing is logged.
                    say_error(&escaped(&Chain(error).to_string()));
                }
            }
            return ExitCode::from(EXIT_FAILED);
        }
    };
    if let Some(address) = app.address() {
        tracing::info!(%address, "listening");
    }
    if config.main.exit_always {
        return one_shot(config, app, either(&mut terminate, &mut interrupt)).await;
    }
    let door = loop {
        tokio::select! {
            _ = terminate.recv() => break Door::OpenAWhile,
            // The operator waits at a terminal.
            _ = interrupt.recv() => break Door::Closed,
            _ = hangup.recv() => tracing::info!(
                "SIGHUP is ignored: secrets in files are read again when they change, everything \
                 else needs a restart"
            ),
            part = app.broken() => {
                tracing::error!(part, "a task of the relay stopped unexpectedly; the process ends so that it can be restarted");
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

/// ld-relay v8 `exitAlways`: connects every environment once, stores its flags and exits; with 0 if
/// all of that succeeded. Bounded by `initTimeout`.
async fn one_shot(config: &Config, app: App, stopped: impl Future<Output = ()>) -> ExitCode {
    let done = async {
        while !is_connected(&app) || !app.unwritten().is_empty() {
            tokio::time::sleep(ONE_SHOT_LOOK).await;
        }
    };
    let code = tokio::select! {
        () = done => {
            tracing::info!("exitAlways: all environments were connected, and their flags are stored");
            EXIT_OK
        }
        () = tokio::time::sleep(config.main.init_timeout) => {
            if is_connected(&app) {
                let unwritten = app.unwritten().join(", ");
                tracing::error!(
                    unwritten,
                    "exitAlways: some data could not be stored within initTimeout"
                );
            } else {
                tracing::error!(
                    "exitAlways: some environments could not be connected within initTimeout"
                );
            }
            EXIT_FAILED
        }
        () = stopped => {
            tracing::warn!("exitAlways: stopped before everything was connected and stored");
            EXIT_FAILED
        }
    };
    app.stop(Door::Closed).await;
    ExitCode::from(code)
}

fn is_connected(app: &App) -> bool {
    let registry = app.registry();
    let connected = |environment: &Arc<crate::environments::Environment>| {
        environment.status().connection.state == ConnectionState::Valid
    };
    registry.list() == ListState::Authoritative && registry.environments().iter().all(connected)
}

/// Prints the configuration, or every reason why the relay would refuse to start with it. Nothing
/// is dialled.
fn check_config(source: &ConfigSource) -> ExitCode {
    match load(source, &ProcessVariables, &Disk) {
        Ok(Loaded { config, warnings, shown }) => {
            for warning in warnings {
                say_error(&escaped(&format!("warning: {warning}")));
            }
            if let Err(errors) = app::check(&config) {
                for error in errors.iter() {
                    say_error(&escaped(&Chain(error).to_string()));
                }
                return ExitCode::from(EXIT_FAILED);
            }
            for line in shown.lines() {
                say(&escaped(&line));
            }
            ExitCode::from(EXIT_OK)
        }
        Err(problems) => refused(&problems),
    }
}

/// Sends a request to a running relay; exits with 0 if it answers 200. Without a URL, to the relay
/// on this machine.
fn ask(url: Option<&str>, path: &str) -> ExitCode {
    match asked(url, path) {
        Some(body) => {
            say(&body);
            ExitCode::from(EXIT_OK)
        }
        None => ExitCode::from(EXIT_FAILED),
    }
}

/// Prints the overview of a running relay; exits with 0 if all is well there.
fn status(url: Option<&str>) -> ExitCode {
    let Some(body) = asked(url, "/status") else { return ExitCode::from(EXIT_FAILED) };
    let status: serde_json::Value = match serde_json::from_str(&body) {
        Ok(status) => status,
        Err(error) => return failed(&format!("what answered is not a relay: {error}")),
    };
    // Line by line, because names come from LaunchDarkly.
    overview::text(&status).lines().for_each(|line| say(&escaped(line)));
    let is_healthy = status["status"] == "healthy";
    ExitCode::from(if is_healthy { EXIT_OK } else { EXIT_FAILED })
}

/// The body of an answer 200; anything else is told.
fn asked(url: Option<&str>, path: &str) -> Option<String> {
    let url = &url.map_or_else(|| own_url(&ProcessVariables), str::to_owned);
    match answer(url, path) {
        Ok((200, body)) => return Some(body),
        Ok((status, body)) => {
            say_error(&format!("{}{path} answered {status}: {body}", escaped(url)));
        }
        Err(error) => say_error(&escaped(&format!("{url}{path} did not answer: {error}"))),
    }
    None
}

/// The URL of the relay on this machine, from the variables `PORT` and `BIND_ADDRESS`, which
/// container images set. The file is not read.
fn own_url(variables: &dyn Variables) -> String {
    let value = |row: &table::Row| variables.get(row.variable?)?.into_string().ok();
    let port = value(&table::main::PORT).and_then(|text| text.parse::<u16>().ok());
    let address = value(&table::main::BIND_ADDRESS).and_then(|text| text.parse::<IpAddr>().ok());
    let address = address.filter(|address| !address.is_unspecified());
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let port = port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT);
    format!("http://{}", SocketAddr::new(address, port))
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
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut response)?;
    let text = String::from_utf8_lossy(&response);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| invalid("the answer is not HTTP"))?;
    Ok((status, body.to_owned()))
}

/// Connects to the first address that accepts: `localhost` often has two, and the relay may listen
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
fn demo() -> ExitCode {
    raise_open_files_limit();
    match crate::demo::story::tell() {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => {
            // It has several lines if it includes the log of the relay.
            say_error(&error.to_string());
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Shows a cold start through an outage.
#[cfg(not(feature = "demo"))]
fn demo() -> ExitCode {
    failed(&"this binary was built without the demo")
}

/// Random bytes of a generated key, as many as in the key that is derived from it. Printed as twice
/// as many hexadecimal digits.
const GENERATED_KEY_BYTES: usize = 32;

/// Prints a new random key for `cacheEncryptionKey`.
fn generate_key() -> ExitCode {
    let mut bytes = zeroize::Zeroizing::new([0; GENERATED_KEY_BYTES]);
    if let Err(error) = getrandom::fill(&mut *bytes) {
        return failed(&error);
    }
    say(&zeroize::Zeroizing::new(hex(&*bytes)));
    ExitCode::from(EXIT_OK)
}

/// Prints the version.
fn version() -> ExitCode {
    say(&format!("Pilotlight {}", crate::VERSION));
    ExitCode::from(EXIT_OK)
}

/// Prints how the program is used.
fn help() -> ExitCode {
    say(USAGE);
    ExitCode::from(EXIT_OK)
}

/// Prints why the command line was not understood.
fn usage_error(error: &UsageError) -> ExitCode {
    say_error(&format!("{}\n\n{USAGE}", escaped(&error.to_string())));
    ExitCode::from(EXIT_USAGE)
}

fn failed(problem: &dyn std::fmt::Display) -> ExitCode {
    say_error(&escaped(&problem.to_string()));
    ExitCode::from(EXIT_FAILED)
}

fn refused(problems: &Problems) -> ExitCode {
    for line in problems.lines() {
        say_error(&escaped(&line));
    }
    ExitCode::from(EXIT_FAILED)
}

fn say(text: &str) {
    write_lines(io::stdout().lock(), text);
}

fn say_error(text: &str) {
    write_lines(io::stderr().lock(), text);
}

/// Writes the lines of a text, with control characters escaped. Line breaks stay, so the caller
/// escapes a text from outside that must not break the line.
fn write_lines(mut to: impl Write, text: &str) {
    for line in text.trim_end().split('\n') {
        // If the output is closed, the error cannot be reported either.
        let _ = writeln!(to, "{}", escaped(line));
    }
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

/// Raises the soft limit to the hard one: each stream is an open file, and most soft limits are
/// low.
fn raise_open_files_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_relay_of_this_machine_is_found_by_its_variables() {
        let check = |pairs: &[(&str, &str)], expected: &str| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let variables: BTreeMap<String, String> = pairs.iter().map(pair).collect();
            assert_eq!(own_url(&variables), expected, "{pairs:?}");
        };
        check(&[], "http://127.0.0.1:8030");
        check(&[("PORT", "9000")], "http://127.0.0.1:9000");
        check(&[("PORT", "9000"), ("BIND_ADDRESS", "10.1.2.3")], "http://10.1.2.3:9000");
        check(&[("BIND_ADDRESS", "::")], "http://127.0.0.1:8030");
        check(&[("BIND_ADDRESS", "::1")], "http://[::1]:8030");
        check(&[("PORT", "many"), ("BIND_ADDRESS", "eth0")], "http://127.0.0.1:8030");
    }

    #[test]
    fn threads_can_be_had() {
        assert!(can_have_threads().is_ok());
    }

    #[test]
    fn every_address_of_a_host_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        // No process listens on port 1.
        let closed = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(connect([closed, open].into_iter()).unwrap().peer_addr().unwrap(), open);
        let refused = connect([closed].into_iter()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect([].into_iter()).is_err());
    }
}
