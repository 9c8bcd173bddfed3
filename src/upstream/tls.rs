//! TLS to upstream, with the system's certificates and those that the operator added.
//!
//! The system's certificates are read when the first TLS connection needs them, once. There is no
//! way to turn the verification off, no client certificate, and no HTTP/2.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::telemetry::Chain;

use super::dial::BoxedIo;
use super::{ConnectError, Phase, SettingsError};

/// The trusted certificates, and the TLS settings made of them.
pub(super) struct Tls {
    own: Vec<CertificateDer<'static>>,
    config: OnceCell<Arc<ClientConfig>>,
    /// True once the log has said that the system has no certificates.
    absence_told: AtomicBool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({} certificates of our own)", self.own.len())
    }
}

impl Tls {
    /// Reads the operator's files. ld-relay v8: one that is unreadable or holds no certificate
    /// fails the start.
    pub(super) fn new(ca_files: &[PathBuf]) -> Result<Self, SettingsError> {
        let mut own = Vec::new();
        for path in ca_files {
            let read = read_certificates(path)
                .map_err(|cause| SettingsError::CaFile { path: path.clone(), cause })?;
            own.extend(read);
        }
        Ok(Self { own, config: OnceCell::new(), absence_told: AtomicBool::new(false) })
    }

    /// Performs the TLS handshake with `host` over a connection.
    pub(super) async fn handshake(
        &self,
        host: &str,
        io: BoxedIo,
        budget: Duration,
    ) -> Result<BoxedIo, ConnectError> {
        let failed = |cause| ConnectError::Tls { host: host.to_owned(), cause };
        let handshake = async {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let config = self.config.get_or_try_init(|| self.load()).await?;
            TlsConnector::from(Arc::clone(config)).connect(name, io).await
        };
        let stream = timeout(budget, handshake)
            .await
            .map_err(|_| ConnectError::TimedOut { phase: Phase::TlsHandshake, budget })?
            .map_err(failed)?;
        Ok(Box::new(stream))
    }

    async fn load(&self) -> io::Result<Arc<ClientConfig>> {
        // Reads hundreds of files on some systems.
        let native = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
            .await
            .map_err(io::Error::other)?;
        let problem = native.errors.first().map(|error| Chain(error).to_string());
        if native.certs.is_empty() {
            if !self.absence_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    error = problem,
                    "this machine has no root certificates; connections by TLS need those that \
                     [Proxy] caCertFiles (PROXY_CA_CERTS) names, or the system's (package \
                     ca-certificates)"
                );
            }
        } else {
            tracing::debug!(found = native.certs.len(), "read the certificates of the system");
        }
        client_config(native.certs, &self.own).map(Arc::new)
    }
}

/// TLS settings that trust these certificates. An error is not kept: the next attempt looks for
/// the certificates of the system again.
fn client_config(
    native: Vec<CertificateDer<'static>>,
    own: &[CertificateDer<'static>],
) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Systems carry some that rustls cannot use.
    roots.add_parsable_certificates(native);
    roots.add_parsable_certificates(own.iter().cloned());
    if roots.is_empty() {
        return Err(io::Error::other("there are no trusted certificates on this machine"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, super::Cause> {
    let mut certificates = Vec::new();
    // Added to a separate store, to check now whether they can be used.
    let mut usable = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path)? {
        let certificate = certificate?;
        usable.add(certificate.clone())?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err("the file contains no certificate in PEM format".into());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::upstream::test_support::Authority;

    fn check(content: &[u8], expected: Result<usize, &str>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let read = Tls::new(&[file.path().to_owned()]).map(|tls| tls.own.len());
        match (read, expected) {
            (Ok(count), Ok(expected)) => assert_eq!(count, expected),
            (Err(error), Err(expected)) => {
                let shown = Chain(&error).to_string();
                assert!(shown.contains(expected), "{shown}");
                assert!(shown.contains(&file.path().display().to_string()), "{shown}");
            }
            (read, expected) => panic!("{read:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn files_hold_one_or_more_certificates() {
        let (one, two) = (Authority::new(), Authority::new());
        check(one.pem().as_bytes(), Ok(1));
        check(format!("# text\n{}\n{}", one.pem(), two.pem()).as_bytes(), Ok(2));
    }

    #[test]
    fn files_without_a_certificate_are_refused() {
        check(b"", Err("no certificate"));
        check(b"not PEM", Err("no certificate"));
        check(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Err(""));
        check(b"-----BEGIN CERTIFICATE-----\nAAAA\n", Err(""));
        let missing = Tls::new(&[PathBuf::from("/does/not/exist.pem")]);
        assert!(matches!(missing, Err(SettingsError::CaFile { .. })));
    }

    #[test]
    fn without_any_certificate_there_is_no_tls() {
        let error = client_config(vec![CertificateDer::from(vec![1, 2])], &[]).unwrap_err();
        assert!(error.to_string().contains("no trusted certificates"), "{error}");
        let file = Authority::new().file();
        let own = read_certificates(file.path()).unwrap();
        let config = client_config(Vec::new(), &own).unwrap();
        assert!(config.alpn_protocols.is_empty(), "HTTP/1.1 only");
    }
}
