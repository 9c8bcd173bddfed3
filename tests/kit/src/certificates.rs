//! Certificates of a CA of our own, as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A CA, a certificate for 127.0.0.1 and localhost, and one for a client.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them in a folder that is removed when this is dropped.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(DnType::CommonName, "test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write(folder.path(), "ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
        let issuer = Issuer::new(ca, ca_key);
        for (name, subjects) in
            [("server", vec!["127.0.0.1".to_owned(), "localhost".to_owned()]), ("client", vec![])]
        {
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(subjects).unwrap();
            // Like its issuer's, it would pass for self-signed.
            leaf.distinguished_name.push(DnType::CommonName, name);
            let leaf = leaf.signed_by(&key, &issuer).unwrap();
            write(folder.path(), &format!("{name}.pem"), &leaf.pem());
            write(folder.path(), &format!("{name}.key"), &key.serialize_pem());
        }
        Self { folder }
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        self.pair("server")
    }

    /// Certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        self.pair("client")
    }

    fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        let path = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        (path("pem"), path("key"))
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}
