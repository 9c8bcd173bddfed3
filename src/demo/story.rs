//! `pilotlight demo`: shows a cold start during an outage in a terminal, with real processes.
//!
//! The relay is this same program in a separate process, so that it can be killed with `kill -9`.
//! The times are those of the whole process: from its exec until the client has the first complete
//! put.
//!
//! Invariant: the relay's process and the story's folder are removed however the story ends; only
//! `kill -9` of the story itself leaves them.

use std::fmt;
use std::fs::DirBuilder;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::composed_data::{changed_flag, environment, environment_id, flag_key, sdk_key};
use super::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use super::stream_client::{StreamClient, StreamEvent, StreamTarget};

/// Environments of the story.
const ENVIRONMENTS: usize = 10;
/// Flags in each environment.
const FLAGS: usize = 200;
/// The port of the relay, if it is free.
const USUAL_PORT: u16 = 8030;
/// Time-out of each step.
const STEP_MAX: Duration = Duration::from_secs(20);
/// Pause between two attempts to reach the relay.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(1);
/// Pause between two checks of the relay's status.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Time to read a line before the next one.
const BREATH: Duration = Duration::from_millis(900);
/// Lines of the relay's log that are shown when the story fails.
const LOG_LINES_SHOWN: usize = 20;

/// The reason why the story failed.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// An operation of the machine failed.
    #[error("the demo cannot {what}: {cause}")]
    Machine {
        /// The operation.
        what: &'static str,
        /// The cause.
        cause: io::Error,
    },
    /// A step did not finish in time.
    #[error("{what} did not happen within {STEP_MAX:?}; the relay says:\n{log}")]
    Stuck {
        /// The step.
        what: &'static str,
        /// The end of the relay's log.
        log: String,
    },
    /// The relay stopped unexpectedly.
    #[error("the relay ended by itself; it says:\n{log}")]
    RelayEnded {
        /// The end of the relay's log.
        log: String,
    },
    /// The reader of the output closed it.
    #[error("nobody reads the story any more")]
    Unread,
}

fn machine(what: &'static str) -> impl FnOnce(io::Error) -> StoryError {
    move |cause| StoryError::Machine { what, cause }
}

/// Tells the story, then keeps running until SIGINT, SIGTERM or SIGHUP.
pub fn tell() -> Result<(), StoryError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(machine("start a runtime"))?;
    runtime.block_on(async {
        // Set up before there is anything to clean up.
        let ended = end_signal().map_err(machine("listen for signals"))?;
        let stage = Stage::set()?;
        let mut relay = None;
        let told = tokio::select! {
            biased;
            () = ended => Ok(()),
            told = story(&stage, &mut relay) => told,
        };
        // Killed before its folder is removed.
        if let Some(mut relay) = relay {
            let _ = relay.kill().await;
        }
        match told {
            Ok(()) | Err(StoryError::Unread) => Ok(()),
            Err(error) => Err(error),
        }
    })
}

/// A future that completes when the process is asked to end. Listens from the call on.
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn story(stage: &Stage, relay: &mut Option<Child>) -> Result<(), StoryError> {
    say(format_args!("A relay that starts while LaunchDarkly is down.\n"))?;
    let launchdarkly =
        FakeLaunchDarkly::launch(&FakeSettings::default()).map_err(machine("listen"))?;
    for index in 0..ENVIRONMENTS {
        launchdarkly.load(&environment(index, FLAGS));
    }
    let target = StreamTarget::new(stage.relay, "/all", &sdk_key(0));
    say(format_args!("1. LaunchDarkly is up: a fake one, {}", launchdarkly.uri()))?;
    detail(format_args!("{ENVIRONMENTS} environments of {FLAGS} flags"))?;

    say(format_args!("2. A relay starts, and an SDK-like client streams from it."))?;
    stage.start_relay(&launchdarkly, relay)?;
    let (mut client, put) = stage.first_put(&target).await?;
    detail(format_args!("{} flags, {} KiB", flags_in(&put), put.data_bytes / 1024))?;
    stage.until("storing the flags", is_stored).await?;
    detail(format_args!("the relay keeps a sealed copy on its disk"))?;
    pause().await;

    launchdarkly.stop().await;
    say(format_args!("3. LaunchDarkly is down. The client notices nothing."))?;
    pause().await;

    if let Some(relay) = relay {
        relay.kill().await.map_err(machine("kill the relay"))?;
    }
    while let Ok(Some(_)) = client.next().await {}
    say(format_args!("4. The relay is killed (kill -9). The client has lost its stream."))?;
    pause().await;

    say(format_args!("5. A relay starts cold. LaunchDarkly is still down."))?;
    let begun = Instant::now();
    stage.start_relay(&launchdarkly, relay)?;
    let (mut client, put) = stage.first_put(&target).await?;
    the_figure(begun.elapsed(), &put)?;
    pause().await;

    returned(stage, &launchdarkly, &mut client).await?;
    stay_up(stage)?;
    // Until a signal ends the story.
    if let Some(relay) = relay {
        let _ = relay.wait().await;
    }
    Err(StoryError::RelayEnded { log: stage.log_tail() })
}

/// The end of the outage: a change from the outage arrives, then a new one.
async fn returned(
    stage: &Stage,
    launchdarkly: &FakeLaunchDarkly,
    client: &mut StreamClient,
) -> Result<(), StoryError> {
    let id = environment_id(0);
    let change = |flag: usize| {
        let changed = launchdarkly.upsert_flag(&id, changed_flag(0, flag, 1));
        changed.expect("a composed flag has a key")
    };
    say(format_args!("6. LaunchDarkly returns. A flag was changed during the outage:"))?;
    let version = change(0);
    launchdarkly.start().map_err(machine("listen again"))?;
    let back = Instant::now();
    stage.flag_at(client, 0, version).await?;
    let took = back.elapsed().as_secs_f64();
    detail(format_args!("{} is at the client {took:.1} s after the return", flag_key(0)))?;
    stage.until("reaching LaunchDarkly again", is_healthy).await?;
    detail(format_args!("all {ENVIRONMENTS} environments are live again"))?;
    pause().await;

    say(format_args!("7. Another flag is changed:"))?;
    let changed = Instant::now();
    let version = change(1);
    stage.flag_at(client, 1, version).await?;
    let took = Milliseconds(changed.elapsed());
    detail(format_args!("{} is at the client after {took}", flag_key(1)))
}

/// Prints the time from the start to the first complete put.
fn the_figure(took: Duration, put: &StreamEvent) -> Result<(), StoryError> {
    let figure = format!("{} flags served after {}", flags_in(put), Milliseconds(took));
    let rule = "-".repeat(figure.len() + 4);
    say(format_args!("\n     +{rule}+\n     |  {figure}  |\n     +{rule}+\n"))?;
    detail(format_args!("from exec of the new process to the first complete put"))?;
    detail(format_args!("in the client's hands, which tries every millisecond"))?;
    if cfg!(debug_assertions) {
        detail(format_args!("(a debug build; a release build is several times faster)"))?;
    }
    Ok(())
}

fn stay_up(stage: &Stage) -> Result<(), StoryError> {
    let base = format!("http://{}", stage.relay);
    let key = sdk_key(0);
    say(format_args!("\nThe relay stays up until you press Ctrl-C. To try:\n"))?;
    for line in [
        format!("curl {base}/status"),
        format!("curl -N -H 'Authorization: {key}' {base}/all"),
        format!("curl -H 'Authorization: {key}' {base}/sdk/latest-all"),
        format!("curl {base}/readyz"),
        format!("tail {}", stage.log().display()),
    ] {
        say(format_args!("  {line}"))?;
    }
    Ok(())
}

/// The folder and address of the story. The folder is removed on drop.
struct Stage {
    directory: PathBuf,
    relay: SocketAddr,
    /// Keeps the relay's port while no relay runs.
    _port: Socket,
    program: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Files that cannot be removed stay in the machine's folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Stage {
    fn set() -> Result<Self, StoryError> {
        let program = std::env::current_exe().map_err(machine("find its own program"))?;
        let (relay, port) = free_address().map_err(machine("find a free port"))?;
        let name = format!("pilotlight-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let directory = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(machine("make a temporary folder"))?;
        Ok(Self { directory, relay, _port: port, program })
    }

    fn log(&self) -> PathBuf {
        self.directory.join("relay.log")
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn start_relay(
        &self,
        launchdarkly: &FakeLaunchDarkly,
        relay: &mut Option<Child>,
    ) -> Result<(), StoryError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(machine("open the relay's log"))?;
        let errors = log.try_clone().map_err(machine("open the relay's log"))?;
        let started = Command::new(&self.program)
            .arg("--from-env")
            .env_clear()
            .env("AUTO_CONFIG_KEY", FakeSettings::default().autoconfig_key)
            .env("STREAM_URI", launchdarkly.uri())
            .env("BASE_URI", launchdarkly.uri())
            .env("BIND_ADDRESS", self.relay.ip().to_string())
            .env("PORT", self.relay.port().to_string())
            .env("LOCAL_STORE_DIR", self.directory.join("store"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // The terminal's Ctrl-C goes to the story, which then ends the relay.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(machine("start a relay"))?;
        *relay = Some(started);
        Ok(())
    }

    /// Connects until a stream has delivered a first event.
    async fn first_put(
        &self,
        target: &StreamTarget,
    ) -> Result<(StreamClient, StreamEvent), StoryError> {
        let attempts = async {
            loop {
                if let Ok(mut client) = StreamClient::connect(target).await
                    && let Ok(Some(event)) = client.next().await
                {
                    return (client, event);
                }
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
        };
        self.within("the first put", attempts).await
    }

    /// Waits until `said` is true for the relay's `/status`.
    async fn until(&self, what: &'static str, said: fn(&Value) -> bool) -> Result<(), StoryError> {
        let looks = async {
            while !self.status().await.is_ok_and(|status| said(&status)) {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        self.within(what, looks).await
    }

    async fn status(&self) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.relay).await?;
        let request =
            format!("GET /status HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.relay);
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        let response = String::from_utf8_lossy(&response);
        let (_, body) = response.split_once("\r\n\r\n").unwrap_or_default();
        Ok(serde_json::from_str(body)?)
    }

    /// Reads the stream until a flag has arrived in a version.
    async fn flag_at(
        &self,
        client: &mut StreamClient,
        flag: usize,
        version: u64,
    ) -> Result<(), StoryError> {
        let arrival = async {
            while let Ok(Some(event)) = client.next().await {
                if version_in(&event, &flag_key(flag)) == Some(version) {
                    return;
                }
            }
            // After the stream has ended, the step's time-out applies.
            std::future::pending().await
        };
        self.within("the change of the flag", arrival).await
    }

    async fn within<T>(
        &self,
        what: &'static str,
        step: impl Future<Output = T>,
    ) -> Result<T, StoryError> {
        tokio::time::timeout(STEP_MAX, step)
            .await
            .map_err(|_| StoryError::Stuck { what, log: self.log_tail() })
    }
}

/// The usual port if it is free, else any free port; with a socket that reserves it for the relay.
fn free_address() -> io::Result<(SocketAddr, Socket)> {
    let keep = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // Shared only after it is bound; otherwise two stories would both find the port free.
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        socket.set_reuse_address(true)?;
        let address = socket.local_addr()?.as_socket();
        Ok((address.ok_or_else(|| io::Error::other("not an IP address"))?, socket))
    };
    keep(USUAL_PORT).or_else(|_: io::Error| keep(0))
}

/// True if the relay's `/status` reports all environments as live.
fn is_healthy(status: &Value) -> bool {
    status["status"] == "healthy"
        && status["environments"].as_object().is_some_and(|all| all.len() == ENVIRONMENTS)
}

/// True if it also reports them as stored.
fn is_stored(status: &Value) -> bool {
    let (store, cache) = (&status["localStore"], &status["autoConfigCache"]["local"]);
    is_healthy(status)
        && store["pending"] == 0
        && store["lastCommit"].is_u64()
        && cache["writePending"] == false
        && cache["lastWrite"].is_u64()
}

fn flags_in(put: &StreamEvent) -> usize {
    let put: Value = serde_json::from_slice(&put.data).unwrap_or_default();
    put["data"]["flags"].as_object().map_or(0, serde_json::Map::len)
}

/// The version of a flag in a put or a patch.
fn version_in(event: &StreamEvent, flag: &str) -> Option<u64> {
    let body: Value = serde_json::from_slice(&event.data).unwrap_or_default();
    let item = match event.name.as_str() {
        "put" => &body["data"]["flags"][flag],
        _ if body["path"] == format!("/flags/{flag}") => &body["data"],
        _ => return None,
    };
    item["version"].as_u64()
}

/// A duration shown in milliseconds with one decimal.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}

fn detail(line: fmt::Arguments<'_>) -> Result<(), StoryError> {
    say(format_args!("     {line}"))
}

fn say(line: fmt::Arguments<'_>) -> Result<(), StoryError> {
    writeln!(io::stdout(), "{line}").map_err(|_| StoryError::Unread)
}

async fn pause() {
    // A person reads; a pipe does not.
    if io::stdout().is_terminal() {
        tokio::time::sleep(BREATH).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> StreamEvent {
        let data = bytes::Bytes::copy_from_slice(data.as_bytes());
        StreamEvent { name: name.to_owned(), data_bytes: data.len(), data }
    }

    #[test]
    fn a_flags_version_is_found_in_puts_and_patches() {
        let put = event("put", r#"{"data":{"flags":{"a":{"version":3}}}}"#);
        let patch = event("patch", r#"{"path":"/flags/a","data":{"version":4}}"#);
        let delete = event("delete", r#"{"path":"/flags/a","version":5}"#);
        let check = |event, flag, expected| assert_eq!(version_in(event, flag), expected);
        check(&put, "a", Some(3));
        check(&put, "b", None);
        check(&patch, "a", Some(4));
        check(&patch, "b", None);
        check(&delete, "a", None);
        check(&event("put", "{"), "a", None);
        assert_eq!((flags_in(&put), flags_in(&event("put", "{"))), (1, 0));
    }

    #[test]
    fn the_stage_goes_with_its_folder() {
        let stage = Stage::set().unwrap();
        let directory = stage.directory.clone();
        std::fs::write(
            stage.log(),
            (0..50).map(|line| format!("line {line}\n")).collect::<String>(),
        )
        .unwrap();
        assert!(stage.log_tail().starts_with("line 30\n"), "{}", stage.log_tail());
        drop(stage);
        assert!(!directory.exists());
    }
}
