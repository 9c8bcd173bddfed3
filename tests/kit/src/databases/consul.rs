//! Consul agents in development mode: one server, in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use pilotlight::testing::storage::consul::ConsulSettings;
use pilotlight::testing::storage::tls::{ClientCertificate, TlsSettings};
use serde_json::json;
use tempfile::TempDir;

use super::{Process, free_port, tool};
use crate::certificates::Certificates;
use crate::eventually;

/// The token that may do everything, where tokens are asked for.
pub const MASTER_TOKEN: &str = "5f0c8a54-2f9c-4a5e-9a43-0c6f1d1b7e11";

/// An agent in development mode, which keeps nothing on disk.
pub struct Consul {
    config: serde_json::Value,
    /// Port for HTTP without TLS.
    pub port: u16,
    /// Port for HTTPS, if it listens there.
    pub tls_port: Option<u16>,
    folder: TempDir,
    process: Option<Process>,
}

impl Consul {
    /// Starts an agent without TLS that lets everybody in.
    pub async fn start() -> Self {
        Self::launch(json!({}), None).await
    }

    /// Refuses whoever shows no token.
    pub async fn start_with_acl() -> Self {
        let acl = json!({
            "enabled": true, "default_policy": "deny", "tokens": { "master": MASTER_TOKEN }
        });
        Self::launch(json!({ "acl": acl }), None).await
    }

    /// Listens with TLS too, there only for clients that show a certificate.
    pub async fn start_tls(certificates: &Certificates) -> Self {
        let (certificate, key) = certificates.server();
        let tls_port = free_port();
        let config = json!({
            "ports": { "https": tls_port },
            "cert_file": certificate,
            "key_file": key,
            "ca_file": certificates.ca(),
            "verify_incoming_https": true,
        });
        Self::launch(config, Some(tls_port)).await
    }

    async fn launch(config: serde_json::Value, tls_port: Option<u16>) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Self { config, port, tls_port, folder, process: None };
        agent.restart().await;
        agent
    }

    /// Kills it if it runs, and starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.kill();
        let file = self.folder.path().join("config.json");
        std::fs::write(&file, self.config.to_string()).unwrap();
        let mut command = Command::new(tool("bin/consul"));
        command
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "t"])
            .args(["-dns-port", "-1", "-grpc-port", "-1", "-serf-wan-port", "-1"])
            .args(["-log-level", "warn", "-http-port", &self.port.to_string()])
            .args(["-server-port", &free_port().to_string()])
            .args(["-serf-lan-port", &free_port().to_string()])
            .arg("-config-file")
            .arg(&file);
        let process = self.process.insert(Process::start(command, self.folder.path()));
        let port = self.port;
        eventually("consul having a leader and its rules", async || {
            process.check()?;
            let leader = get(port, "/v1/status/leader")?;
            let keys = get(port, "/v1/kv/?keys")?;
            // Before its rules are there it refuses also the token that may do everything.
            let allowed = keys.contains(" 200 ") || keys.contains(" 404 ");
            if leader.contains("127.0.0.1:") && allowed { Ok(()) } else { Err(leader + &keys) }
        })
        .await;
    }

    /// Kills it if it runs.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without its noticing: connections stay, answers do not come.
    pub fn freeze(&self) {
        self.process.as_ref().unwrap().freeze();
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.process.as_ref().unwrap().thaw();
    }

    /// Settings without TLS and without a token.
    pub fn settings(&self) -> ConsulSettings {
        ConsulSettings::from_address(&format!("127.0.0.1:{}", self.port)).unwrap()
    }

    /// Settings for TLS with the client's certificate.
    pub fn tls_settings(&self, certificates: &Certificates) -> ConsulSettings {
        let (certificate_file, key_file) = certificates.client();
        let address = format!("https://127.0.0.1:{}", self.tls_port.unwrap());
        ConsulSettings::from_address(&address).unwrap().with_tls(TlsSettings {
            ca_file: Some(certificates.ca()),
            client_certificate: Some(ClientCertificate { certificate_file, key_file }),
        })
    }
}

/// The raw answer to a request.
fn get(port: u16, path: &str) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: t\r\nX-Consul-Token: {MASTER_TOKEN}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().map_err(|error: std::io::Error| error.to_string())
}
