//! `pilotlight demo`: a cold start through an outage, told in a terminal with real processes.
//!
//! The relay is this same program in a process of its own, so that it can be killed as machines
//! kill processes, and the milliseconds are those of a whole process.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::composed_data::{changed_flag, environment, flag_key, sdk_key};
use super::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use super::stream_client::{StreamClient, StreamEvent, StreamTarget};

/// Environments of the story.
const ENVIRONMENTS: usize = 10;
/// Flags in each.
const FLAGS: usize = 200;
/// The port of the relay, if nobody has it.
const USUAL_PORT: u16 = 8030;
/// No step of the story takes longer than this.
const STEP_MAX: Duration = Duration::from_secs(20);
/// Pause between two attempts to reach the relay.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(1);
/// Time to read a line before the next one.
const BREATH: Duration = Duration::from_millis(700);

/// Why the story broke off.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// The machine refused something.
    #[error("the demo cannot {what}: {cause}")]
    Machine {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {STEP_MAX:?}; the relay's log is in {}", log.display())]
    Stuck {
        /// What was awaited.
        what: &'static str,
        /// The log of the relay.
        log: PathBuf,
    },
}

fn machine(what: &'static str) -> impl FnOnce(io::Error) -> StoryError {
    move |cause| StoryError::Machine { what, cause }
}

/// Tells the story, then stays up until it is interrupted.
pub fn tell() -> Result<(), StoryError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(machine("start a runtime"))?;
    let stage = Stage::set()?;
    let told = runtime.block_on(async {
        tokio::select! {
            told = story(&stage) => told,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    if told.is_ok() {
        // The files are of no use once the processes are gone; after a failure the log is.
        let _ = std::fs::remove_dir_all(&stage.directory);
    }
    told
}

async fn story(stage: &Stage) -> Result<(), StoryError> {
    let launchdarkly =
        FakeLaunchDarkly::launch(&FakeSettings::default()).map_err(machine("listen"))?;
    for index in 0..ENVIRONMENTS {
        launchdarkly.load(&environment(index, FLAGS));
    }
    let target = StreamTarget::new(stage.relay, "/all", &sdk_key(0));
    tell_line(format_args!("A fake LaunchDarkly is up at {}", launchdarkly.uri()));

    let relay = stage.start_relay(&launchdarkly)?;
    let (mut client, event) = stage.first_put(&target).await?;
    let size = event.data_bytes / 1024;
    tell_line(format_args!(
        "A relay started; an SDK-like client streams {} flags of one of {ENVIRONMENTS} environments ({size} KiB)",
        flags_in(&event)
    ));
    // The relay stores what it accepts within a quarter of a second.
    pause().await;

    launchdarkly.stop().await;
    tell_line(format_args!("LaunchDarkly is down. The client notices nothing."));
    pause().await;

    let mut relay = relay;
    relay.kill().await.map_err(machine("kill the relay"))?;
    while let Ok(Some(_)) = client.next().await {}
    tell_line(format_args!(
        "The relay is killed (kill -9). Now one starts cold, with a dead upstream:"
    ));

    let begun = Instant::now();
    let mut relay = stage.start_relay(&launchdarkly)?;
    let (mut client, event) = stage.first_put(&target).await?;
    let took = begun.elapsed();
    tell_line(format_args!(
        "  → {} flags served {:.1} ms after exec",
        flags_in(&event),
        took.as_secs_f64() * 1e3
    ));
    pause().await;

    launchdarkly.start().map_err(machine("listen again"))?;
    tell_line(format_args!("LaunchDarkly is back; a flag changes there."));
    let changed = changed_flag(0, 0, 1);
    if launchdarkly.upsert_flag(super::composed_data::environment_id(0).as_str(), changed).is_ok() {
        stage.event(&mut client).await?;
        tell_line(format_args!("  → {} arrived at the client through the relay", flag_key(0)));
    }
    stay_up(stage);
    // Until the user interrupts, or the relay ends.
    let _ = relay.wait().await;
    Ok(())
}

fn stay_up(stage: &Stage) {
    let base = format!("http://{}", stage.relay);
    let key = sdk_key(0);
    tell_line(format_args!("Stays up until you interrupt it. To try:"));
    for line in [
        format!("curl {base}/status"),
        format!("curl -N -H 'Authorization: {key}' {base}/all"),
        format!("curl -H 'Authorization: {key}' {base}/sdk/latest-all"),
        format!("curl {base}/readyz"),
    ] {
        tell_line(format_args!("  {line}"));
    }
    tell_line(format_args!("The relay's log: {}", stage.log().display()));
}

/// Where the story plays.
struct Stage {
    directory: PathBuf,
    relay: SocketAddr,
    program: PathBuf,
}

impl Stage {
    fn set() -> Result<Self, StoryError> {
        let directory = std::env::temp_dir().join(format!(
            "pilotlight-demo-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        std::fs::create_dir_all(&directory).map_err(machine("make a temporary folder"))?;
        let program = std::env::current_exe().map_err(machine("find its own program"))?;
        let relay = free_address().map_err(machine("find a free port"))?;
        Ok(Self { directory, relay, program })
    }

    fn log(&self) -> PathBuf {
        self.directory.join("relay.log")
    }

    fn start_relay(&self, launchdarkly: &FakeLaunchDarkly) -> Result<Child, StoryError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(machine("open the relay's log"))?;
        let errors = log.try_clone().map_err(machine("open the relay's log"))?;
        Command::new(&self.program)
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
            .kill_on_drop(true)
            .spawn()
            .map_err(machine("start a relay"))
    }

    /// Connects until a stream has delivered everything once.
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

    async fn event(&self, client: &mut StreamClient) -> Result<(), StoryError> {
        let arrival = async {
            // Anything that arrives is the change: the relay is silent otherwise.
            let _ = client.next().await;
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
            .map_err(|_| StoryError::Stuck { what, log: self.log() })
    }
}

/// The usual port if it is free, else any.
fn free_address() -> io::Result<SocketAddr> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    bound.local_addr()
}

fn flags_in(event: &StreamEvent) -> usize {
    let put: Value = serde_json::from_slice(&event.data).unwrap_or_default();
    put["data"]["flags"].as_object().map_or(0, serde_json::Map::len)
}

fn tell_line(line: fmt::Arguments<'_>) {
    // Nobody to tell if nobody listens.
    let _ = writeln!(io::stdout(), "{line}");
}

async fn pause() {
    // A person reads; a pipe does not, but the relay's store needs its moment either way.
    let breath = if io::stdout().is_terminal() { BREATH } else { BREATH / 2 };
    tokio::time::sleep(breath).await;
}
