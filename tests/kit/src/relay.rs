//! The real binary as a child process, and simple HTTP towards it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pilotlight::testing::demo::fake_launchdarkly::FakeLaunchDarkly;
use pilotlight::testing::demo::stream_client::{StreamClient, StreamClientError, StreamTarget};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::eventually;

/// Longest wait for anything that must happen. Nobody waits for it unless something is broken.
pub const LONG: Duration = Duration::from_secs(30);

/// Settings of a relay: variables, with the port and the store chosen by the test.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    variables: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// A program with its arguments that gets the relay's command and becomes the relay.
    wrapper: Vec<String>,
    /// Folders that are removed when neither these settings nor a relay of theirs is left.
    kept: Vec<Arc<TempDir>>,
}

impl RelaySettings {
    /// A relay that finds its environments by the autoconfig key of a fake LaunchDarkly.
    pub fn autoconfig(upstream: &FakeLaunchDarkly, key: &str, store: &Path) -> Self {
        Self::empty()
            .with("AUTO_CONFIG_KEY", key)
            .with("STREAM_URI", upstream.uri())
            .with("BASE_URI", upstream.uri())
            .with("EVENTS_HOST", upstream.uri())
            .with("LOCAL_STORE_DIR", store.display().to_string())
    }

    /// A relay with manual environments, still to be added as `LD_ENV_…`.
    pub fn manual(upstream: &FakeLaunchDarkly, store: &Path) -> Self {
        let settings = Self::autoconfig(upstream, "", store);
        settings.without("AUTO_CONFIG_KEY")
    }

    /// Nothing but the address: for relays that are configured by a file.
    pub fn empty() -> Self {
        let settings = Self {
            variables: BTreeMap::new(),
            arguments: vec!["--from-env".to_owned()],
            wrapper: vec![],
            kept: vec![],
        };
        settings
            .with("BIND_ADDRESS", Ipv4Addr::LOCALHOST.to_string())
            .with("GRACEFUL_SHUTDOWN_TIMEOUT", "2s")
            .with("SHUTDOWN_DELAY", "0")
    }

    /// Sets a variable, whatever its value was.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Takes a variable away, if it is set.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Adds an argument to the command line.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Keeps a folder for as long as these settings or a relay of theirs are left.
    pub fn keeping(mut self, folder: TempDir) -> Self {
        self.kept.push(Arc::new(folder));
        self
    }

    /// The variables as they are so far.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Starts the relay by another program that prepares things and then becomes the relay.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the relay on a free port.
    pub fn start(&self) -> anyhow::Result<RelayProcess> {
        self.start_at(free_address()?)
    }

    /// Starts the relay on that address.
    pub fn start_at(&self, address: SocketAddr) -> anyhow::Result<RelayProcess> {
        let directory = TempDir::new()?;
        let log = directory.path().join("relay.log");
        let out = std::fs::File::create(&log)?;
        let program = program();
        let mut words = self.wrapper.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
        let first: &OsStr = words.next().context("there is always the relay's program")?;
        let child = Command::new(first)
            .args(words)
            .args(&self.arguments)
            .env_clear()
            .env("PORT", address.port().to_string())
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .context("the relay's binary does not start")?;
        let folders = self.kept.iter().cloned().chain([Arc::new(directory)]).collect();
        Ok(RelayProcess { child, address, started: Instant::now(), log, _folders: folders })
    }
}

/// The relay's binary, which cargo puts beside the tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let folder = test.ancestors().nth(2).expect("it stands in target/*/deps");
    folder.join("pilotlight")
}

/// An address that was free a moment ago, and that stays so: its port lies below those that the
/// kernel gives to connections, and no other test of this process gets it.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other runs of the tests begin elsewhere in the range.
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS.len() {
        let step = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(step % PORTS.len() as u32)?;
        if let Ok(bound) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(bound.local_addr()?);
        }
    }
    bail!("no port between {} and {} is free", PORTS.start, PORTS.end)
}

/// Ports for relays.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A running relay. Dropping it kills it.
pub struct RelayProcess {
    child: Child,
    address: SocketAddr,
    started: Instant,
    log: PathBuf,
    _folders: Vec<Arc<TempDir>>,
}

impl Drop for RelayProcess {
    /// Waits until the process is gone: one that is about to end may make its folder again while
    /// the test removes it.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < LONG {
            std::thread::yield_now();
        }
    }
}

impl RelayProcess {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process ID. Panics once its end was waited for.
    pub fn process_id(&self) -> u32 {
        self.child.id().expect("a relay that was not waited for has an ID")
    }

    /// Time since exec.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The most memory that it ever held, in megabytes.
    pub fn peak_megabytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.process_id());
        let status = std::fs::read_to_string(path).expect("the relay runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)).expect("a size");
        kilobytes.parse::<usize>().expect("a number") / 1024
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log.
    pub async fn wait_for_log(&self, part: &str) {
        eventually(&format!("the log says {part:?}"), async || {
            let log = self.log();
            if log.contains(part) { Ok(()) } else { Err(tail(&log)) }
        })
        .await;
    }

    /// `kill -9`.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the relay cannot be killed")
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.process_id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status()?;
        anyhow::ensure!(sent.success(), "kill -{name} failed");
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(timeout(LONG, self.child.wait()).await.context("the relay did not end")??)
    }

    /// Asks in order and waits for the end.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.signal("TERM")?;
        self.ended().await
    }

    /// `/status`, waiting for the listener.
    pub async fn status(&self) -> Value {
        let response = self.get("/status", &[]).await;
        serde_json::from_slice(&response.body).expect("/status is JSON")
    }

    /// Waits until everything is live and stored wherever it is kept.
    pub async fn wait_until_stored(&self) {
        self.wait_for_status("everything is stored", |status| {
            let is_stored = |tier: &Value| {
                tier.is_null() || (tier["writePending"] == false && tier["lastWrite"].is_u64())
            };
            let local = &status["localStore"];
            let environments = status["environments"].as_object().unwrap();
            is_stored(&status["autoConfigCache"]["shared"])
                && is_stored(&status["autoConfigCache"]["local"])
                && (local["state"] == "off"
                    || (local["pending"] == 0 && local["lastCommit"].is_u64()))
                && environments.values().all(|it| {
                    let store = &it["dataStoreStatus"];
                    it["data"]["origin"] == "live"
                        && store["state"] == "VALID"
                        && (store["writePending"].is_null() || store["writePending"] == false)
                })
        })
        .await;
    }

    /// Waits until a condition on `/status` holds.
    pub async fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let status = self.status().await;
            if condition(&status) { Ok(status) } else { Err(format!("{status:#}")) }
        })
        .await
    }

    /// Waits until the relay has reached LaunchDarkly for every environment.
    pub async fn wait_until_healthy(&self, environments: usize) -> Value {
        self.wait_for_status("the relay is healthy", |status| {
            status["status"] == "healthy"
                && status["environments"].as_object().is_some_and(|all| all.len() == environments)
        })
        .await
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_until_ready(&self) {
        eventually("the relay is ready", async || {
            let response = self.get("/readyz", &[]).await;
            if response.status == 200 {
                return Ok(());
            }
            Err(String::from_utf8_lossy(&response.body).into_owned())
        })
        .await;
    }

    /// A GET with headers; waits for the listener at start.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", path, headers, b"").await
    }

    /// A GET with an SDK key.
    pub async fn get_with_key(&self, path: &str, key: &str) -> Response {
        self.get(path, &[("authorization", key)]).await
    }

    /// Any request whose response has an end.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        eventually(&format!("{method} {path} is answered"), async || {
            request(self.address, method, path, headers, body)
                .await
                .map_err(|error| format!("{error:#}; log:\n{}", tail(&self.log())))
        })
        .await
    }

    /// Opens a stream; the first event is still to be read.
    pub async fn stream(&self, path: &str, key: &str) -> Result<StreamClient, StreamClientError> {
        StreamClient::connect(&StreamTarget::new(self.address, path, key)).await
    }

    /// Opens a stream as soon as it is to be had, and reads its first put.
    pub async fn stream_with_put(&self, path: &str, key: &str) -> (StreamClient, Value) {
        eventually("a stream begins with its put", async || {
            let mut client = self
                .stream(path, key)
                .await
                .map_err(|e| format!("{e}; log:\n{}", tail(&self.log())))?;
            let event = timeout(LONG, client.next()).await.map_err(|_| "no event".to_owned())?;
            match event {
                Ok(Some(event)) if event.name == "put" => {
                    let data = serde_json::from_slice(&event.data).map_err(|e| e.to_string())?;
                    Ok((client, data))
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }
}

/// The next event of a stream, within a long limit: its name and data.
pub async fn next_event(client: &mut StreamClient) -> (String, Value) {
    let event = timeout(LONG, client.next())
        .await
        .expect("an event arrives in time")
        .expect("the stream is sound")
        .expect("the stream goes on");
    let data = serde_json::from_slice(&event.data).unwrap_or(Value::Null);
    (event.name, data)
}

/// Waits until the server ends a stream.
pub async fn stream_end(client: &mut StreamClient) -> Result<(), StreamClientError> {
    timeout(LONG, async {
        loop {
            match client.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    })
    .await
    .expect("the stream ends in time")
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body as it was received, not decompressed.
    pub body: Vec<u8>,
}

impl Response {
    /// Value of the first header with that name, which is to be in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// True if the client is told to come again; the time for it is spread.
    #[track_caller]
    pub fn asks_to_retry(&self) -> bool {
        let Some(seconds) = self.header("retry-after") else { return false };
        assert!(["2", "3", "4", "5"].contains(&seconds), "Retry-After: {seconds}");
        true
    }

    /// The body as text. Panics if it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The body as JSON. Panics if it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// One request on a connection of its own, read to the end of the connection.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Response> {
    let mut stream = TcpStream::connect(address).await?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut received = Vec::new();
    timeout(LONG, stream.read_to_end(&mut received)).await.context("the response has no end")??;
    parse(&received)
}

fn parse(received: &[u8]) -> anyhow::Result<Response> {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the response has no head")?;
    let head = std::str::from_utf8(&received[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?;
    let headers = lines
        .map(|line| line.split_once(':').context("a header without a colon"))
        .map(|pair| pair.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
        bail!("the response is a stream");
    }
    Ok(Response { status: status.parse()?, headers, body: received[end + 4..].to_vec() })
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
