//! Redis and Valkey servers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use pilotlight::testing::model::RedactedUrl;
use pilotlight::testing::storage::redis::RedisSettings;
use pilotlight::testing::storage::tls::{ClientCertificate, TlsSettings};
use tempfile::TempDir;

use super::{Process, free_port, tool};
use crate::support::certificates::Certificates;
use crate::support::eventually;

/// A server that keeps nothing on disk.
pub(crate) struct Redis {
    program: &'static str,
    arguments: Vec<String>,
    pub(crate) port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::launch("redis-server", &[]).await
    }

    pub(crate) async fn start_valkey() -> Self {
        Self::start_valkey_with(&[]).await
    }

    pub(crate) async fn start_valkey_with(arguments: &[&str]) -> Self {
        Self::launch("valkey-server", arguments).await
    }

    /// With further options, such as `["--maxmemory", "2mb"]`.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        Self::launch("redis-server", arguments).await
    }

    /// TLS only, and only for clients that show a certificate.
    pub(crate) async fn start_tls(certificates: &Certificates) -> Self {
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
    pub(crate) async fn restart(&mut self) {
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
    pub(crate) fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn freeze(&self) {
        self.running().freeze();
    }

    pub(crate) fn thaw(&self) {
        self.running().thaw();
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Settings without login.
    pub(crate) fn settings(&self) -> RedisSettings {
        self.settings_of(&format!("redis://127.0.0.1:{}", self.port))
    }

    pub(crate) fn settings_of(&self, url: &str) -> RedisSettings {
        RedisSettings::from_url(&RedactedUrl::new(url)).unwrap()
    }

    /// Settings for TLS with the client's certificate.
    pub(crate) fn tls_settings(&self, certificates: &Certificates) -> RedisSettings {
        self.settings().with_tls(tls_settings(certificates))
    }

    /// Runs one command with `redis-cli` over the Unix socket and gives what it prints.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        redis_cli(&self.socket(), arguments)
    }

    /// Runs commands, one a line, on one connection.
    pub(crate) fn script(&self, lines: &str) -> String {
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
    pub(crate) async fn is_master(&self) {
        eventually("taking over", async || {
            let info = self.command(&["INFO", "replication"]);
            if info.contains("role:master") { Ok(()) } else { Err(info) }
        })
        .await;
    }

    /// Waits until it has a copy of all that its master has.
    pub(crate) async fn is_in_sync(&self) {
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
