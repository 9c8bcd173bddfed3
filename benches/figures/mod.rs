//! What the whole-process benchmarks share: the relay as a child process, what `/proc` says of it,
//! and figures with their conditions.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pilotlight::testing::demo::composed_data::environment;
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest wait for anything that must happen.
const LONG: Duration = Duration::from_secs(180);

/// The arguments of a benchmark: numbers, words, and options with a value.
pub(crate) struct Arguments {
    pub(crate) numbers: Vec<usize>,
    pub(crate) words: Vec<String>,
    pub(crate) rounds: usize,
    /// The relay's program.
    pub(crate) program: PathBuf,
}

impl Arguments {
    pub(crate) fn parse(rounds: usize) -> Self {
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_pilotlight"));
        let mut parsed = Self { numbers: Vec::new(), words: Vec::new(), rounds, program };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => parsed.rounds = words.next().unwrap().parse().unwrap(),
                "--program" => parsed.program = words.next().unwrap().into(),
                other => match other.parse() {
                    Ok(number) => parsed.numbers.push(number),
                    Err(_) => parsed.words.push(word),
                },
            }
        }
        parsed
    }
}

/// A fake LaunchDarkly with so many environments of so many flags.
pub(crate) fn launchdarkly(environments: usize, flags: usize) -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    for index in 0..environments {
        launchdarkly.load(&environment(index, flags));
    }
    launchdarkly
}

/// Starts relays on one port and one folder.
pub(crate) struct Stage {
    program: PathBuf,
    /// Variables of the relay.
    variables: BTreeMap<String, String>,
    pub(crate) address: SocketAddr,
    pub(crate) directory: TempDir,
}

impl Stage {
    pub(crate) fn set(program: &Path, launchdarkly: &FakeLaunchDarkly) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, directory) = (free.local_addr().unwrap(), TempDir::new().unwrap());
        let variables = [
            ("AUTO_CONFIG_KEY", FakeSettings::default().autoconfig_key),
            ("STREAM_URI", launchdarkly.uri()),
            ("BASE_URI", launchdarkly.uri()),
            ("BIND_ADDRESS", address.ip().to_string()),
            ("PORT", address.port().to_string()),
            ("LOCAL_STORE_DIR", directory.path().join("store").display().to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { program: program.to_owned(), variables, address, directory }
    }

    /// Further variables, which replace those of the same names.
    pub(crate) fn with(mut self, variables: &BTreeMap<String, String>) -> Self {
        self.variables.extend(variables.clone());
        self
    }

    /// The file of the local store.
    pub(crate) fn store_file(&self) -> PathBuf {
        self.directory.path().join("store/pilotlight.redb")
    }

    pub(crate) fn start(&self) -> Relay {
        let log = self.directory.path().join("relay.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(&self.program)
            .arg("--from-env")
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Relay { child, address: self.address }
    }
}

/// A running relay; killed when dropped.
pub(crate) struct Relay {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It is gone already if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    /// Waits until `/status` says something.
    pub(crate) async fn wait_until(&self, said: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if status.as_ref().is_ok_and(&said) {
                return;
            }
            assert!(begun.elapsed() < LONG, "the relay stays at {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn status(&self) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream
            .write_all(b"GET /status HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
            .await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        let head = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let body = head.map_or(&[][..], |end| &response[end + 4..]);
        Ok(serde_json::from_slice(body)?)
    }

    /// Resident memory, in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time used so far, user and system. The kernel counts it in hundredths of a second.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in parentheses may hold blanks; the times are the 12th and 13th word behind it.
        let words = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let ticks: u64 = words.skip(11).take(2).map(|word| word.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

/// Whether `/status` says that so many environments are live and stored.
pub(crate) fn is_stored(status: &Value, environments: usize) -> bool {
    let (store, cache) = (&status["localStore"], &status["autoConfigCache"]["local"]);
    status["status"] == "healthy"
        && status["environments"].as_object().is_some_and(|all| all.len() == environments)
        && store["pending"] == 0
        && store["lastCommit"].is_u64()
        && cache["writePending"] == false
        && cache["lastWrite"].is_u64()
}

/// Whether it says that so many environments are live and stored in the shared database alone.
pub(crate) fn is_shared(status: &Value, environments: usize) -> bool {
    let cache = &status["autoConfigCache"]["shared"];
    let all = status["environments"].as_object();
    status["status"] == "healthy"
        && cache["writePending"] == false
        && cache["lastWrite"].is_u64()
        && all.is_some_and(|all| {
            let stored =
                |store: &Value| store["writePending"] == false && store["lastWrite"].is_u64();
            all.len() == environments && all.values().all(|one| stored(&one["dataStoreStatus"]))
        })
}

/// Whether it says that so many environments serve what a store holds.
pub(crate) fn is_serving(status: &Value, environments: usize) -> bool {
    let serving = status["environments"].as_object().into_iter().flatten();
    let stored = |origin: &Value| origin == "localStore" || origin == "sharedStore";
    serving.filter(|(_, one)| stored(&one["data"]["origin"])).count() == environments
}

/// Durations of several rounds.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The duration that this share of all does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| self.quantile(share).as_secs_f64() * 1e3;
        write!(f, "min {:7.1}  median {:7.1}  max {:7.1} ms", ms(0.0), ms(0.5), ms(1.0))
    }
}

/// Mebibytes with one decimal.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What the figures depend on.
pub(crate) fn print_conditions(program: &Path) {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let kernel = file("/proc/sys/kernel/osrelease");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let size = std::fs::metadata(program).map_or(0, |file| file.len());
    println!(
        "conditions: {cores} cores ({}), Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim()
    );
    println!(
        "  program {} ({}), measuring process on the same cores",
        program.display(),
        mib(size)
    );
    print_load();
}

/// How busy the machine is, with this benchmark and without.
pub(crate) fn print_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("  load average {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}
