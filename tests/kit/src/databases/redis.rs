//! Redis and Valkey servers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use pilotlight::testing::model::RedactedUrl;
use pilotlight::testing::storage::redis::RedisSettings;
use pilotlight::testing::storage::tls::{ClientCertificate, TlsSettings};
use tempfile::TempDir;

use super::{Process, free_port, tool};
use crate::certificates::Certificates;
use crate::eventually;

/// A server that keeps nothing on disk.
pub struct Redis {
    program: &'static str,
    arguments: Vec<String>,
    /// TCP port, with TLS if the options name a certificate.
    pub port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Redis {
    /// Starts a Redis without further options.
    pub async fn start() -> Self {
        Self::launch("redis-server", &[]).await
    }

    /// Starts a Valkey without further options.
    pub async fn start_valkey() -> Self {
        Self::start_valkey_with(&[]).await
    }

    /// Starts a Valkey with further options.
    pub async fn start_valkey_with(arguments: &[&str]) -> Self {
        Self::launch("valkey-server", arguments).await
    }

    /// With further options, such as `["--maxmemory", "2mb"]`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::launch("redis-server", arguments).await
    }

    /// TLS only, and only for clients that show a certificate.
    pub async fn start_tls(certificates: &Certificates) -> Self {
        let arguments = tls_arguments(certificates);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Self::launch("redis-server", &arguments).await
    }

    async fn launch(program: &'static str, arguments: &[&str]) -> Self {
        let mut server = Self {
            program,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            process: None,
        };
        server.restart().await;
        server
    }

    /// Kills it if it runs, and starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(tool(&format!("bin/{}", self.program)));
        let is_tls = self.arguments.iter().any(|argument| argument == "--tls-cert-file");
        let port = self.port.to_string();
        let (plain, tls) = if is_tls { ("0", port.as_str()) } else { (port.as_str(), "0") };
        command.args(["--port", plain]);
        if is_tls {
            command.args(["--tls-port", tls]);
        }
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .arg("--unixsocket")
            .arg(self.socket())
            .args(&self.arguments);
        let process = self.process.insert(Process::start(command, self.folder.path()));
        eventually("redis being ready", async || {
            process.check()?;
            let output = process.output();
            if output.contains("eady to accept connections") { Ok(()) } else { Err(output) }
        })
        .await;
    }

    /// Options from the next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// Kills it if it runs.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without its noticing: connections stay, answers do not come.
    pub fn freeze(&self) {
        self.running().freeze();
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.running().thaw();
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Settings without login.
    pub fn settings(&self) -> RedisSettings {
        self.settings_of(&format!("redis://127.0.0.1:{}", self.port))
    }

    /// Settings from a URL, such as one with a login or of another database.
    pub fn settings_of(&self, url: &str) -> RedisSettings {
        RedisSettings::from_url(&RedactedUrl::new(url)).unwrap()
    }

    /// Settings for TLS with the client's certificate.
    pub fn tls_settings(&self, certificates: &Certificates) -> RedisSettings {
        self.settings().with_tls(tls_settings(certificates))
    }

    /// Runs one command with `redis-cli` over the Unix socket and gives what it prints.
    pub fn command(&self, arguments: &[&str]) -> String {
        redis_cli(&self.socket(), arguments)
    }

    /// Runs commands, one a line, on one connection.
    pub fn script(&self, lines: &str) -> String {
        let file = self.folder.path().join("script");
        std::fs::write(&file, lines).unwrap();
        let output = Command::new(tool("bin/redis-cli"))
            .arg("-s")
            .arg(self.socket())
            .stdin(File::open(file).unwrap())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until it is a master.
    pub async fn is_master(&self) {
        eventually("taking over", async || {
            let info = self.command(&["INFO", "replication"]);
            if info.contains("role:master") { Ok(()) } else { Err(info) }
        })
        .await;
    }

    /// Waits until it has a copy of all that its master has.
    pub async fn is_in_sync(&self) {
        eventually("replication", async || {
            let info = self.command(&["INFO", "replication"]);
            if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
        })
        .await;
    }
}

/// Runs one command over a Unix socket.
pub(super) fn redis_cli(socket: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new(tool("bin/redis-cli")).arg("-s").arg(socket).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Options of a server with TLS that wants to see certificates.
pub(super) fn tls_arguments(certificates: &Certificates) -> Vec<String> {
    let (certificate, key) = certificates.server();
    let path = |path: PathBuf| path.display().to_string();
    [
        "--tls-cert-file",
        &path(certificate),
        "--tls-key-file",
        &path(key),
        "--tls-ca-cert-file",
        &path(certificates.ca()),
        "--tls-auth-clients",
        "yes",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Settings of a client that such a server lets in.
pub(super) fn tls_settings(certificates: &Certificates) -> TlsSettings {
    let (certificate_file, key_file) = certificates.client();
    TlsSettings {
        ca_file: Some(certificates.ca()),
        client_certificate: Some(ClientCertificate { certificate_file, key_file }),
    }
}
