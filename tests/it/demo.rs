//! `pilotlight demo` as a user runs it: the story is told, what it prints works, and nothing of it
//! is left however it ends.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use pilotlight::testing::demo::stream_client::{StreamClient, StreamTarget};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use pilotlight_test_kit::relay::{LONG, next_event, program, request};
use pilotlight_test_kit::{LIMIT, eventually};

/// The last line of the story, before the URLs.
const STAYS_UP: &str = "The relay stays up until you press Ctrl-C. To try:";

/// A running demo and its folder for temporary files.
struct Demo {
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    folder: TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut child = Command::new(program())
            .arg("demo")
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Self { child, lines, folder }
    }

    /// Reads up to a line that begins so; returns all that was read, without empty lines.
    async fn read_to(&mut self, begin: &str) -> Vec<String> {
        let mut read = Vec::new();
        loop {
            let next = timeout(LIMIT, self.lines.as_mut().unwrap().next_line());
            let line = next.await.unwrap_or_else(|_| panic!("no {begin:?} after {read:#?}"));
            let line = line.unwrap().unwrap_or_else(|| panic!("it ended: {read:#?}"));
            if !line.is_empty() {
                read.push(line.clone());
            }
            if line.starts_with(begin) {
                return read;
            }
        }
    }

    async fn next_lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.read_to("").await);
        }
        lines
    }

    fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The relay's process.
    async fn relay(&self) -> u32 {
        eventually("the demo has a relay", async || {
            children(self.id()).first().copied().ok_or("no child")
        })
        .await
    }

    fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Waits for the end and checks that nothing is left. Returns the status and what was said on
    /// standard error.
    async fn ended(mut self, relay: u32) -> (ExitStatus, String) {
        let status = timeout(LONG, self.child.wait()).await.expect("the demo ends").unwrap();
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
        assert!(!Path::new(&format!("/proc/{relay}")).exists(), "the relay is still there");
        let left: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        (status, errors)
    }
}

fn signal(id: u32, name: &str) {
    let sent =
        std::process::Command::new("kill").args([format!("-{name}"), id.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// IDs of the processes that a process has started.
fn children(id: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let lists = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")));
    let ids = lists.flatten().flat_map(|list| {
        list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
    });
    ids.collect()
}

/// `http://HOST:PORT/PATH` and the key of a printed curl command.
fn parts(command: &str) -> (std::net::SocketAddr, String, Option<String>) {
    let (_, url) = command.split_once("http://").unwrap();
    let (address, path) = url.split_once('/').unwrap();
    let key = command
        .split_once("Authorization: ")
        .map(|(_, rest)| rest.split_once('\'').unwrap().0.to_owned());
    (address.parse().unwrap(), format!("/{path}"), key)
}

#[track_caller]
fn check_story(story: &[String]) {
    let expected = [
        "A relay that starts while LaunchDarkly is down.",
        "1. LaunchDarkly is up: a fake one, http://127.0.0.1:",
        "     10 environments of 200 flags",
        "2. A relay starts, and an SDK-like client streams from it.",
        "     200 flags, ",
        "     the relay keeps a sealed copy on its disk",
        "3. LaunchDarkly is down. The client notices nothing.",
        "4. The relay is killed (kill -9). The client has lost its stream.",
        "5. A relay starts cold. LaunchDarkly is still down.",
        "     +--",
        "     |  200 flags served after ",
        "     +--",
        "     from exec of the new process to the first complete put",
        "     in the client's hands, which tries every millisecond",
    ];
    let debug = ["     (a debug build; a release build is several times faster)"];
    let end = [
        "6. LaunchDarkly returns. A flag was changed during the outage:",
        "     checkout-redesign-0000 is at the client ",
        "     all 10 environments are live again",
        "7. Another flag is changed:",
        "     search-redesign-0001 is at the client after ",
        STAYS_UP,
    ];
    let debug = if cfg!(debug_assertions) { &debug[..] } else { &[] };
    let expected: Vec<&str> = expected.iter().chain(debug).chain(&end).copied().collect();
    assert_eq!(story.len(), expected.len(), "{story:#?}");
    for (line, expected) in story.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line:?} does not begin with {expected:?}");
        assert!(line.len() < 80, "too wide for a terminal: {line}");
    }
    let figure = story.iter().find(|line| line.contains("served after")).unwrap();
    let milliseconds = figure.split_whitespace().rev().nth(2).unwrap();
    assert!(milliseconds.parse::<f64>().unwrap() > 0.0, "{figure}");
}

/// Tells the story to its end and ends it by a signal.
async fn told_and_ended_by(name: &str) {
    let mut demo = Demo::start();
    check_story(&demo.read_to(STAYS_UP).await);
    let relay = demo.relay().await;
    demo.signal(name);
    let (status, errors) = demo.ended(relay).await;
    assert!(status.success(), "{status}");
    assert_eq!(errors, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_ends_the_demo_and_leaves_nothing() {
    told_and_ended_by("INT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_demo_and_leaves_nothing() {
    told_and_ended_by("TERM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_terminal_ends_the_demo() {
    told_and_ended_by("HUP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_to_try_works() {
    let mut demo = Demo::start();
    demo.read_to(STAYS_UP).await;
    let lines = demo.next_lines(5).await;
    let mut tried = Vec::new();
    for line in &lines[..4] {
        let (address, path, key) = parts(line);
        if path == "/all" {
            let target = StreamTarget::new(address, &path, &key.unwrap());
            let mut client = StreamClient::connect(&target).await.unwrap();
            let (name, put) = next_event(&mut client).await;
            assert_eq!(name, "put");
            assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 200);
        } else {
            let headers: Vec<_> = key.iter().map(|key| ("authorization", key.as_str())).collect();
            let response = request(address, "GET", &path, &headers, b"").await.unwrap();
            assert_eq!(response.status, 200, "{line}: {}", response.text());
            match path.as_str() {
                "/status" => assert_eq!(response.json()["status"], "healthy"),
                "/readyz" => assert_eq!(response.json()["ready"], true),
                "/sdk/latest-all" => {
                    assert_eq!(response.json()["flags"].as_object().unwrap().len(), 200);
                }
                other => panic!("{other}"),
            }
        }
        tried.push(path);
    }
    assert_eq!(tried, ["/status", "/all", "/sdk/latest-all", "/readyz"]);
    let log = lines[4].trim().strip_prefix("tail ").unwrap();
    assert!(std::fs::read_to_string(log).unwrap().contains("Pilotlight starts"));
    let relay = demo.relay().await;
    demo.signal("TERM");
    demo.ended(relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_the_middle_leaves_nothing_either() {
    let mut demo = Demo::start();
    demo.read_to("2. ").await;
    let relay = demo.relay().await;
    demo.signal("TERM");
    let (status, errors) = demo.ended(relay).await;
    assert!(status.success(), "{status}: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_demo() {
    let mut demo = Demo::start();
    demo.read_to("2. ").await;
    let relay = demo.relay().await;
    demo.lines = None;
    let (status, errors) = demo.ended(relay).await;
    assert!(status.success(), "{status}: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_ends_by_itself_is_told_with_its_log() {
    let mut demo = Demo::start();
    demo.read_to(STAYS_UP).await;
    let relay = demo.relay().await;
    signal(relay, "KILL");
    let (status, errors) = demo.ended(relay).await;
    assert_eq!(status.code(), Some(1));
    assert!(errors.starts_with("the relay ended by itself; it says:\n"), "{errors}");
    assert!(errors.contains("upstream stream opened"), "{errors}");
}
