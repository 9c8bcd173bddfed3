//! Runs an official LaunchDarkly SDK as a child process and speaks to it (tests/sdks/README.md).
//!
//! It does not install anything: without `tests/install-sdks.sh`, or with drivers older than their
//! sources, [`SdkDriver::start`] fails. Invariant: every command ends, by an answer, by the end of
//! the child or by its deadline; no child outlives its [`SdkDriver`].

mod answers;
mod client_side;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pilotlight::testing::model::SdkKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

pub use self::answers::{
    AllFlags, Awaited, Evaluation, Initialization, State, Status, WatchReport, same_value,
};
pub use self::client_side::ClientSide;
pub use self::store::SdkStore;

/// What a command may take beyond the time that it asks for. Long, because two cores may be
/// starting several virtual machines at once; nobody waits for it unless something is broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How much of a driver's log goes into a failure message: the last lines tell why it failed.
const LOG_TAIL_LINES: usize = 60;

/// Variables that would send an SDK's requests elsewhere than to the relay under test.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// The SDKs that have a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// The server-side SDK for Python.
    Python,
    /// The server-side SDK for Node.js.
    Node,
    /// The server-side SDK for Go.
    Go,
    /// The server-side SDK for Java.
    Java,
    /// The client-side SDK for Node.js.
    NodeClient,
    /// The browser SDK 3.x in Chromium.
    Browser3,
    /// The browser SDK 4.x in Chromium.
    Browser4,
    /// The React SDK in Chromium.
    React,
    /// The React Native SDK, in a page of Chromium that stands in for a phone.
    ReactNative,
}

impl Language {
    /// Every server-side SDK.
    pub const SERVER_SIDE: [Self; 4] = [Self::Python, Self::Node, Self::Go, Self::Java];

    /// Every client-side SDK.
    pub const CLIENT_SIDE: [Self; 5] =
        [Self::NodeClient, Self::Browser3, Self::Browser4, Self::React, Self::ReactNative];

    /// The name in its greeting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
            Self::Java => "java",
            Self::NodeClient => "node-client",
            Self::Browser3 => "browser-3",
            Self::Browser4 => "browser-4",
            Self::React => "react",
            Self::ReactNative => "react-native",
        }
    }

    /// The name of its folders.
    fn folder(self) -> &'static str {
        match self {
            Self::Python | Self::Node | Self::Go | Self::Java => self.name(),
            Self::NodeClient
            | Self::Browser3
            | Self::Browser4
            | Self::React
            | Self::ReactNative => "client",
        }
    }

    fn command(self, installed: &Path) -> Command {
        let sources = installed.join("sources");
        match self {
            Self::Python => {
                let mut command = Command::new(installed.join("venv/bin/python"));
                command.arg(sources.join("driver.py"));
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                command.arg(sources.join("driver.mjs"));
                command
            }
            Self::Go => Command::new(installed.join("driver")),
            Self::Java => {
                let mut command = Command::new("java");
                let class_path =
                    format!("{0}/classes:{0}/lib/*", installed.to_string_lossy().into_owned());
                // Starting fast matters more here than running fast.
                command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]);
                command.args(["-cp", &class_path, "Driver"]);
                command
            }
            Self::NodeClient
            | Self::Browser3
            | Self::Browser4
            | Self::React
            | Self::ReactNative => {
                let mut command = Command::new("node");
                command.arg(sources.join("driver.mjs")).args(["--sdk", self.name()]);
                command
            }
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the SDK gets its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// FDv1 by a stream.
    Stream,
    /// FDv1 by polls.
    Poll,
    /// FDv2 as its documentation recommends it. Python and Node only, as the next two.
    Fdv2,
    /// FDv2 by a stream alone.
    Fdv2Stream,
    /// FDv2 by polls alone.
    Fdv2Poll,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Poll => "poll",
            Self::Fdv2 => "fdv2",
            Self::Fdv2Stream => "fdv2-stream",
            Self::Fdv2Poll => "fdv2-poll",
        }
    }
}

/// Whether the SDK sends analytics and diagnostic events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Sends both.
    On,
    /// Sends neither.
    Off,
}

impl Events {
    fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

#[derive(Deserialize)]
struct Greeting {
    sdk: String,
    version: String,
    /// How others use the same Chromium.
    chromium: Option<String>,
}

/// What commands without content answer.
#[derive(Deserialize)]
struct Done {}

/// One running SDK. Dropping it kills the process.
pub struct SdkDriver {
    language: Language,
    version: String,
    child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    log: NamedTempFile,
    chromium: Option<String>,
    /// What the SDK writes besides; only for drivers that end in order when they are dropped.
    folder: Option<TempDir>,
}

impl SdkDriver {
    /// Starts an SDK without events. The client exists on return, but may have no data yet.
    pub async fn start(
        language: Language,
        sdk_key: &SdkKey,
        relay_url: &str,
        mode: Mode,
    ) -> anyhow::Result<Self> {
        Self::start_with(language, sdk_key, relay_url, mode, Events::Off).await
    }

    /// As [`Self::start`], with a choice about events.
    pub async fn start_with(
        language: Language,
        sdk_key: &SdkKey,
        relay_url: &str,
        mode: Mode,
        events: Events,
    ) -> anyhow::Result<Self> {
        Self::launch(language, None, |command| {
            command.args(["--sdk-key", sdk_key.expose(), "--mode", mode.word()]);
            command.args(["--events", events.word(), "--url", relay_url]);
        })
        .await
    }

    async fn launch(
        language: Language,
        folder: Option<TempDir>,
        arguments: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let installed = installed(&crate::tools(), language)?;
        let log = NamedTempFile::new().context("creating the driver's log file")?;
        let mut command = language.command(&installed);
        arguments(&mut command);
        for variable in PROXY_VARIABLES {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.reopen()?);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting the {language} SDK driver"))?;
        let stdin = child.stdin.take().context("the driver's stdin was not piped")?;
        let stdout = child.stdout.take().context("the driver's stdout was not piped")?;
        let answers = BufReader::new(stdout).lines();
        let version = String::new();
        let mut driver =
            Self { language, version, child, stdin, answers, log, chromium: None, folder };
        let greeting: Greeting = driver.answer("start", ANSWER_LIMIT).await?;
        ensure!(greeting.sdk == language.name(), "{language} driver says it is {}", greeting.sdk);
        driver.version = greeting.version;
        driver.chromium = greeting.chromium;
        Ok(driver)
    }

    /// The language of the SDK.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The SDK's own version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The child's process ID, while it has not been waited for.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything the driver and its SDK have logged so far.
    pub fn log(&self) -> String {
        match std::fs::read(self.log.path()) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(log is not readable: {error})"),
        }
    }

    /// Waits until the SDK has its first complete data set.
    pub async fn wait_init(&mut self, limit: Duration) -> anyhow::Result<Initialization> {
        let command = json!({"cmd": "wait_init", "timeout_ms": whole_milliseconds(limit)});
        self.ask_within(command, limit).await
    }

    /// Evaluates one flag for the default context.
    pub async fn eval(
        &mut self,
        flag: &str,
        default: impl Into<Value>,
    ) -> anyhow::Result<Evaluation> {
        let default = default.into();
        self.ask(json!({"cmd": "eval", "flag": flag, "default": default})).await
    }

    /// Evaluates one flag for a context.
    pub async fn eval_for(
        &mut self,
        flag: &str,
        default: impl Into<Value>,
        context: Value,
    ) -> anyhow::Result<Evaluation> {
        let default = default.into();
        self.ask(json!({"cmd": "eval", "flag": flag, "default": default, "context": context})).await
    }

    /// Evaluates several flags for the default context, with default null.
    pub async fn eval_all(
        &mut self,
        flags: &[&str],
    ) -> anyhow::Result<BTreeMap<String, Evaluation>> {
        #[derive(Deserialize)]
        struct Results {
            results: BTreeMap<String, Evaluation>,
        }
        let answer: Results = self.ask(json!({"cmd": "eval_all", "flags": flags})).await?;
        Ok(answer.results)
    }

    /// The values of all flags that the SDK holds, for the default context.
    pub async fn all_flags(&mut self) -> anyhow::Result<AllFlags> {
        self.ask(json!({"cmd": "all_flags"})).await
    }

    /// Waits until a flag evaluates to a value, not by default.
    pub async fn await_value(
        &mut self,
        flag: &str,
        value: impl Into<Value>,
        limit: Duration,
    ) -> anyhow::Result<Awaited> {
        let (value, millis) = (value.into(), whole_milliseconds(limit));
        let command =
            json!({"cmd": "await_value", "flag": flag, "value": value, "timeout_ms": millis});
        self.ask_within(command, limit).await
    }

    /// What the SDK says of its connection. For Node see tests/sdks/README.md.
    pub async fn status(&mut self) -> anyhow::Result<Status> {
        self.ask(json!({"cmd": "status"})).await
    }

    /// Waits until the SDK says that its connection is sound: some SDKs say so a moment after they
    /// say that they are initialized.
    pub async fn wait_valid(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let status = self.status().await?;
            if status.state == State::Valid {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the SDK is not connected: {status:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts to evaluate these flags again and again, until the driver ends.
    pub async fn watch_start(&mut self, flags: &[&str], interval: Duration) -> anyhow::Result<()> {
        let millis = whole_milliseconds(interval);
        let command = json!({"cmd": "watch_start", "flags": flags, "interval_ms": millis});
        self.ask::<Done>(command).await.map(|Done {}| ())
    }

    /// What the watcher has counted so far.
    pub async fn watch_report(&mut self) -> anyhow::Result<WatchReport> {
        self.ask(json!({"cmd": "watch_report"})).await
    }

    /// Lets the SDK flush its events and end by itself.
    pub async fn quit(mut self) -> anyhow::Result<()> {
        let Done {} = self.ask(json!({"cmd": "quit"})).await?;
        let status = match timeout(ANSWER_LIMIT, self.child.wait()).await {
            Ok(status) => status.context("waiting for the driver")?,
            Err(_) => bail!("{}", self.failure("quit", "did not end")),
        };
        ensure!(status.success(), "{}", self.failure("quit", &format!("ended with {status}")));
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(&mut self, command: Value) -> anyhow::Result<T> {
        self.ask_within(command, Duration::ZERO).await
    }

    /// Sends one command that may take `wanted` by its own meaning.
    async fn ask_within<T: DeserializeOwned>(
        &mut self,
        command: Value,
        wanted: Duration,
    ) -> anyhow::Result<T> {
        let line = format!("{command}\n");
        if let Err(error) = self.stdin.write_all(line.as_bytes()).await {
            bail!("{}", self.failure(&line, &format!("does not read commands: {error}")));
        }
        self.answer(&line, wanted + ANSWER_LIMIT).await
    }

    async fn answer<T: DeserializeOwned>(
        &mut self,
        command: &str,
        limit: Duration,
    ) -> anyhow::Result<T> {
        let line = match timeout(limit, self.answers.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => bail!("{}", self.failure(command, "ended without an answer")),
            Ok(Err(error)) => bail!("{}", self.failure(command, &format!("broke off: {error}"))),
            Err(_) => bail!("{}", self.failure(command, &format!("no answer in {limit:?}"))),
        };
        let parsed = serde_json::from_str::<Map<String, Value>>(&line).ok();
        match parsed {
            Some(fields) if fields.get("ok") == Some(&Value::Bool(true)) => {
                serde_json::from_value(Value::Object(fields))
                    .with_context(|| self.failure(command, &format!("unexpected answer {line}")))
            }
            Some(_) | None => bail!("{}", self.failure(command, &format!("answered {line}"))),
        }
    }

    /// A message for a failed test: what was asked, what came, and the end of the SDK's log.
    fn failure(&self, command: &str, what: &str) -> String {
        format!("{} SDK, {}: {what}\n{}", self.language, command.trim_end(), self.log_tail())
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines.len().min(LOG_TAIL_LINES);
        let tail = lines[lines.len() - shown..].join("\n");
        format!("--- last {shown} of {} lines of its log:\n{tail}\n---", lines.len())
    }
}

impl Drop for SdkDriver {
    #[expect(clippy::print_stderr, reason = "the log of a failed test belongs beside its panic")]
    fn drop(&mut self) {
        // The child itself ends by `kill_on_drop`.
        if std::thread::panicking() {
            eprintln!("{} SDK {}\n{}", self.language, self.version, self.log_tail());
        }
        if self.folder.is_some() {
            self.terminate();
        }
    }
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The folder of an installed driver, if it is whole and made from today's sources.
pub fn installed(tools: &Path, language: Language) -> anyhow::Result<PathBuf> {
    let folder = tools.join("sdks").join(language.folder());
    ensure!(
        folder.join("stamp").is_file(),
        "the {language} SDK driver is not installed in {}: run ./tests/install-sdks.sh",
        folder.display()
    );
    let sources = crate::repository().join("tests/sdks").join(language.folder());
    for entry in std::fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
        let source = entry?;
        let copy = folder.join("sources").join(source.file_name());
        let same = source.file_type()?.is_dir()
            || std::fs::read(source.path())? == std::fs::read(&copy).unwrap_or_default();
        ensure!(
            same,
            "the {language} SDK driver is older than {}: run ./tests/install-sdks.sh",
            source.path().display()
        );
    }
    Ok(folder)
}
