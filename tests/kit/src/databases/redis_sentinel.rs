//! A Redis master with replicas and the sentinels that watch them.

use std::path::PathBuf;
use std::process::Command;

use pilotlight::testing::model::{Password, RedactedUrl};
use pilotlight::testing::storage::redis::{Login, SentinelSettings};
use tempfile::TempDir;

use super::redis::{redis_cli, tls_arguments, tls_settings};
use super::{Process, Redis, free_port, tool};
use crate::certificates::Certificates;
use crate::eventually;
use crate::relay::RelaySettings;

/// What the sentinels call the master.
pub const MASTER_NAME: &str = "flags";

/// Users that the servers and the sentinels let in where they ask for a login.
const SERVER_USER: (&str, &str) = ("relay", "s3cret");
const SENTINEL_USER: (&str, &str) = ("watcher", "w4tched");

/// Servers and sentinels. All of them may name themselves master in the course of a test.
pub struct SentinelGroup<'a> {
    /// The first one is the master at the start.
    pub servers: Vec<Redis>,
    /// Sentinels, all of which watch the master.
    pub sentinels: Vec<Sentinel>,
    certificates: Option<&'a Certificates>,
}

impl<'a> SentinelGroup<'a> {
    /// Anybody may talk to them.
    pub async fn start(replicas: usize, sentinels: usize) -> Self {
        Self::launch(replicas, sentinels, None).await
    }

    /// TLS only, certificates of clients, and users of their own for servers and sentinels.
    pub async fn start_guarded(
        replicas: usize,
        sentinels: usize,
        certificates: &'a Certificates,
    ) -> Self {
        Self::launch(replicas, sentinels, Some(certificates)).await
    }

    async fn launch(
        replicas: usize,
        sentinels: usize,
        certificates: Option<&'a Certificates>,
    ) -> Self {
        let mut arguments: Vec<String> =
            ["--repl-diskless-sync-delay", "0"].map(str::to_owned).to_vec();
        if let Some(certificates) = certificates {
            let (user, password) = SERVER_USER;
            arguments.extend(tls_arguments(certificates));
            arguments.extend(
                format!(
                    "--tls-replication yes --masteruser {user} --masterauth {password} \
                     --user {user} on >{password} ~* &* +@all"
                )
                .split(' ')
                .map(str::to_owned),
            );
        }
        let start = async |more: &[&str]| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Redis::start_with(&[&arguments[..], more].concat()).await
        };
        let master = start(&[]).await;
        let port = master.port.to_string();
        let mut group = Self { servers: vec![master], sentinels: Vec::new(), certificates };
        for _ in 0..replicas {
            group.servers.push(start(&["--replicaof", "127.0.0.1", &port]).await);
        }
        for replica in &group.servers[1..] {
            replica.is_in_sync().await;
        }
        if certificates.is_some() {
            for server in &group.servers {
                assert_eq!(server.command(&["ACL", "SETUSER", "default", "off"]), "OK");
            }
        }
        let quorum = sentinels / 2 + 1;
        for _ in 0..sentinels {
            group.sentinels.push(Sentinel::start(&group.servers[0], quorum, certificates).await);
        }
        for sentinel in &group.sentinels {
            sentinel.knows(replicas, sentinels - 1).await;
        }
        group
    }

    /// How a relay gets there.
    pub fn settings(&self) -> SentinelSettings {
        let urls: Vec<RedactedUrl> = self.sentinels.iter().map(Sentinel::url).collect();
        let mut settings = SentinelSettings::from_urls(MASTER_NAME, &urls).unwrap();
        if let Some(certificates) = self.certificates {
            let (user, password) = SERVER_USER;
            settings = settings.with_tls(&tls_settings(certificates));
            settings.login = Login {
                username: Some(user.to_owned()),
                password: Some(Password::new(password)),
                database: 0,
            };
        }
        settings
    }

    /// Tells a relay of it.
    pub fn configure(&self, settings: RelaySettings) -> RelaySettings {
        let urls: Vec<String> =
            self.sentinels.iter().map(|sentinel| sentinel.url().expose().to_owned()).collect();
        let settings = settings
            .with("USE_REDIS", "true")
            .with("REDIS_MODE", "sentinel")
            .with("REDIS_SENTINEL_MASTER", MASTER_NAME)
            .with("REDIS_URLS", urls.join(","));
        let Some(certificates) = self.certificates else { return settings };
        let (certificate, key) = certificates.client();
        let path = |path: PathBuf| path.display().to_string();
        settings
            .with("REDIS_USERNAME", SERVER_USER.0)
            .with("REDIS_PASSWORD", SERVER_USER.1)
            .with("REDIS_CA_FILE", path(certificates.ca()))
            .with("REDIS_CLIENT_CERT_FILE", path(certificate))
            .with("REDIS_CLIENT_KEY_FILE", path(key))
    }

    /// Waits until the replicas have all rows of the master's hash, and says how many these are.
    pub async fn copied(&self, key: &str) -> usize {
        let (user, password) = SERVER_USER;
        let login = ["--user", user, "--pass", password, "--no-auth-warning"];
        let login = if self.certificates.is_some() { &login[..] } else { &[] };
        let count = |server: &Redis| {
            server.command(&[login, &["HLEN", key]].concat()).parse::<usize>().unwrap()
        };
        let goal = count(&self.servers[0]);
        for replica in &self.servers[1..] {
            eventually("copies", async || {
                let there = count(replica);
                if there >= goal { Ok(()) } else { Err(format!("{there} of {goal}")) }
            })
            .await;
        }
        goal
    }

    /// Orders a failover, as soon as the sentinel knows that the replica is well.
    pub async fn order_failover(&self) {
        eventually("a failover being begun", async || {
            let answer = self.sentinels[0].command(&["SENTINEL", "FAILOVER", MASTER_NAME]);
            if answer == "OK" { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    /// Waits until the sentinels name another master than `old`, and gives its place.
    pub async fn new_master(&self, old: usize) -> usize {
        let old = self.servers[old].port;
        eventually("failover", async || {
            for sentinel in &self.sentinels {
                let port = sentinel.master_port();
                match self.servers.iter().position(|server| Some(server.port) == port) {
                    Some(place) if self.servers[place].port != old => return Ok(place),
                    Some(_) | None => {}
                }
            }
            Err("the sentinels still name the old master")
        })
        .await
    }
}

/// One sentinel.
pub struct Sentinel {
    port: u16,
    folder: TempDir,
    process: Option<Process>,
    guarded: bool,
}

impl Sentinel {
    /// One that watches a master.
    async fn start(master: &Redis, quorum: usize, certificates: Option<&Certificates>) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let dir = folder.path().display();
        let (plain, tls) = if certificates.is_some() { (0, port) } else { (port, 0) };
        let mut lines = vec![
            format!("port {plain}\nbind 127.0.0.1\ndir {dir}\nunixsocket {dir}/socket"),
            format!("sentinel monitor {MASTER_NAME} 127.0.0.1 {} {quorum}", master.port),
            // Long enough that a busy machine is not taken for a dead server.
            format!("sentinel down-after-milliseconds {MASTER_NAME} 3000"),
            format!("sentinel failover-timeout {MASTER_NAME} 6000"),
        ];
        if let Some(certificates) = certificates {
            let (user, password) = SERVER_USER;
            let (own_user, own_password) = SENTINEL_USER;
            let pairs = tls_arguments(certificates);
            let tls_lines = pairs
                .chunks(2)
                .map(|pair| format!("{} {}", pair[0].trim_start_matches('-'), pair[1]));
            lines.extend(tls_lines);
            lines.extend([
                format!("tls-port {tls}\ntls-replication yes"),
                format!("sentinel auth-user {MASTER_NAME} {user}"),
                format!("sentinel auth-pass {MASTER_NAME} {password}"),
                format!("user {own_user} on >{own_password} ~* &* +@all\nuser default off"),
                format!("sentinel sentinel-user {own_user}"),
                format!("sentinel sentinel-pass {own_password}"),
            ]);
        }
        std::fs::write(folder.path().join("sentinel.conf"), lines.join("\n") + "\n").unwrap();
        let mut sentinel = Self { port, folder, process: None, guarded: certificates.is_some() };
        let mut command = Command::new(tool("bin/redis-sentinel"));
        command.arg(sentinel.folder.path().join("sentinel.conf"));
        let process = sentinel.process.insert(Process::start(command, sentinel.folder.path()));
        eventually("sentinel being ready", async || {
            process.check()?;
            let output = process.output();
            if output.contains("+monitor master") { Ok(()) } else { Err(output) }
        })
        .await;
        sentinel
    }

    pub fn url(&self) -> RedactedUrl {
        let port = self.port;
        RedactedUrl::new(if self.guarded {
            let (user, password) = SENTINEL_USER;
            format!("rediss://{user}:{password}@127.0.0.1:{port}")
        } else {
            format!("redis://127.0.0.1:{port}")
        })
    }

    /// Waits until it knows of all replicas and of the other sentinels.
    async fn knows(&self, replicas: usize, sentinels: usize) {
        eventually("sentinels knowing everybody", async || {
            let state = self.command(&["SENTINEL", "MASTER", MASTER_NAME]);
            let words: Vec<&str> = state.lines().collect();
            let is = |name: &str, count: usize| {
                words.windows(2).any(|pair| pair == [name, &count.to_string()])
            };
            let all = is("num-slaves", replicas) && is("num-other-sentinels", sentinels);
            if all { Ok(()) } else { Err(state) }
        })
        .await;
    }

    fn master_port(&self) -> Option<u16> {
        let answer = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME]);
        answer.lines().nth(1)?.parse().ok()
    }

    pub fn command(&self, arguments: &[&str]) -> String {
        let (user, password) = SENTINEL_USER;
        let login = ["--user", user, "--pass", password, "--no-auth-warning"];
        let login = if self.guarded { &login[..] } else { &[] };
        redis_cli(&self.socket(), &[login, arguments].concat())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn freeze(&self) {
        self.process.as_ref().unwrap().freeze();
    }
}
