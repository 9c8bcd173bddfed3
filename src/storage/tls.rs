//! TLS for databases: custom CA, client certificate, checks that cannot be turned off.
//!
//! Files are read at each dial, so a renewed certificate is used from the next connection on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::StoreError;

/// TLS settings of a database connection. The default trusts the system's roots and sends no client
/// certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM file of the CAs to trust instead of the system's (ld-relay v9: `caFile`).
    pub ca_file: Option<PathBuf>,
    /// The client certificate.
    pub client_certificate: Option<ClientCertificate>,
}

/// PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by its intermediates.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// The reason why TLS cannot be set up. The operator must change a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// A file contains no usable PEM section of the required kind.
    #[error("{path} contains no {what} in PEM format")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The required kind.
        what: &'static str,
    },
    /// The system has no root certificates and no CA file is configured.
    #[error("no trusted root certificate was found on this system")]
    NoRoots,
    /// The process is ending.
    #[error("the files were not read, since the process is ending")]
    Stopped(#[source] tokio::task::JoinError),
    /// Certificate and key do not match each other or the protocol.
    #[error("client certificate cannot be used")]
    Unusable(#[source] rustls::Error),
}

impl From<TlsError> for StoreError {
    fn from(error: TlsError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl TlsSettings {
    /// Reads the files and builds a configuration.
    pub async fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let settings = self.clone();
        let loaded = tokio::task::spawn_blocking(move || settings.load_now()).await;
        loaded.unwrap_or_else(|error| Err(TlsError::Stopped(error)))
    }

    /// Checks the configured files. Reads only those files; the system's root certificates are read
    /// at the first dial.
    pub fn check(&self) -> Result<(), TlsError> {
        if let Some(path) = &self.ca_file {
            own_roots(path)?;
        }
        if self.client_certificate.is_some() {
            self.with_roots(RootCertStore::empty())?;
        }
        Ok(())
    }

    fn load_now(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = match &self.ca_file {
            Some(path) => own_roots(path)?,
            None => system_roots()?,
        };
        self.with_roots(roots)
    }

    fn with_roots(&self, roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_root_certificates(roots);
        let config = match &self.client_certificate {
            Some(files) => {
                let chain = certificates(&files.certificate_file)?;
                let key = private_key(&files.key_file)?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

fn own_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates(path)?);
    if usable == 0 {
        return Err(TlsError::NotPem { path: path.to_owned(), what: "CA certificate" });
    }
    Ok(roots)
}

/// Reads the system's roots. Invalid entries are skipped: the others may suffice.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(TlsError::NotPem { path: path.to_owned(), what: "certificate" }),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| TlsError::NotPem { path: path.to_owned(), what: "private key" })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|cause| TlsError::Unreadable { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn check(settings: TlsSettings, expected: &str) {
        let checked = settings.check().map_or_else(|error| error.to_string(), |()| "loaded".into());
        assert!(checked.contains(expected), "{checked:?} should say {expected:?}");
        let outcome = match settings.load().await {
            Ok(_) => "loaded".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(outcome.contains(expected), "{outcome:?} should say {expected:?}");
    }

    #[tokio::test]
    async fn files_are_checked_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = file(folder.path(), "cert.pem", &pair.cert.pem());
        let key = file(folder.path(), "key.pem", &pair.signing_key.serialize_pem());
        let other_key = file(folder.path(), "other.pem", &other.signing_key.serialize_pem());
        let text = file(folder.path(), "text.pem", "not PEM at all");
        let missing = folder.path().join("missing.pem");
        let with = |certificate_file: &Path, key_file: &Path| TlsSettings {
            ca_file: Some(certificate.clone()),
            client_certificate: Some(ClientCertificate {
                certificate_file: certificate_file.to_owned(),
                key_file: key_file.to_owned(),
            }),
        };
        let own_ca =
            |path: &Path| TlsSettings { ca_file: Some(path.to_owned()), client_certificate: None };
        check(own_ca(&certificate), "loaded").await;
        check(own_ca(&missing), "missing.pem cannot be read").await;
        check(own_ca(&text), "text.pem contains no certificate").await;
        check(with(&certificate, &key), "loaded").await;
        check(with(&text, &key), "text.pem contains no certificate").await;
        check(with(&certificate, &text), "text.pem contains no private key").await;
        check(with(&certificate, &other_key), "client certificate cannot be used").await;
    }
}
