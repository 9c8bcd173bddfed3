//! The records of ld-relay's own cache, byte for byte: `nonce(12) | ciphertext | tag(16)` under
//! AES-256-GCM, without associated data.
//!
//! The key is HKDF-SHA256 of the operator's text (ld-relay v8); early drafts used its plain
//! SHA-256, which is tried for reading. Nothing binds a record to its place in this format, which
//! is why it is only written where a mixed fleet needs it.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

const KEY_INFO: &[u8] = b"ld-relay autoconfig cache";
const NONCE_BYTES: usize = 12;

/// The keys of a relay in this format: the first seals, all open.
#[derive(Clone)]
pub struct LdRelayKeys {
    seal: Aes256Gcm,
    open: Vec<Aes256Gcm>,
}

impl LdRelayKeys {
    /// Derives the keys from the texts of the current and the other keys.
    pub fn derive<'a>(current: &'a str, others: impl IntoIterator<Item = &'a str>) -> Self {
        let mut open = Vec::new();
        for text in std::iter::once(current).chain(others) {
            open.push(expanded(text));
            open.push(digested(text));
        }
        Self { seal: expanded(current), open }
    }

    /// Seals a record.
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        self.seal_with(nonce, plaintext)
    }

    fn seal_with(&self, nonce: [u8; NONCE_BYTES], plaintext: &[u8]) -> Vec<u8> {
        let sealed = self
            .seal
            .encrypt(&Nonce::from(nonce), plaintext)
            .expect("records are far below the 64 GiB that AES-GCM can seal");
        [&nonce[..], &sealed].concat()
    }

    /// Opens a record with the key that fits, and returns true with it if that key is the one that
    /// seals.
    pub fn open(&self, record: &[u8]) -> Option<(Vec<u8>, bool)> {
        let (nonce, sealed) = record.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_from(nonce).ok()?;
        let open = |(index, key): (usize, &Aes256Gcm)| {
            Some((key.decrypt(&nonce, sealed).ok()?, index == 0))
        };
        self.open.iter().enumerate().find_map(open)
    }
}

impl std::fmt::Debug for LdRelayKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LdRelayKeys({} to open)", self.open.len())
    }
}

fn expanded(text: &str) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(&expand(text)[..]).expect("the key has 32 bytes")
}

fn expand(text: &str) -> zeroize::Zeroizing<[u8; 32]> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, text.as_bytes())
        .expand(KEY_INFO, &mut *key)
        .expect("32 bytes are within what HKDF-SHA256 gives");
    key
}

fn digested(text: &str) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(&Sha256::digest(text.as_bytes())).expect("the key has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hex;

    const TEXT: &str = "pilotlight-test-key";
    const NONCE: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    const PLAINTEXT: &[u8] =
        br#"{"kind":"filter","modelVersion":2,"data":{"projKey":"p1","key":"f1","version":7}}"#;
    const SEALED: &str = concat!(
        "000102030405060708090a0b110144789894e9abb80b0c3abf550c64e2a46c9f3249d88639a785298c06239b",
        "33ba7f33433a73aa372191d8712510fc8837da7c67441ef71f30b8b7dcb2ca17e1e3edaefba89eccad6e47fa",
        "0513dae76e399ffcfc23b3b80ac89f6f639da14325"
    );

    #[test]
    fn matches_the_reference_vectors() {
        assert_eq!(
            hex(&expand(TEXT)[..]),
            "081a50c816a9d0496389e65c871f869f41e63e82b752deeebaf5fc7e5fc95a52"
        );
        let keys = LdRelayKeys::derive(TEXT, []);
        let sealed = keys.seal_with(NONCE, PLAINTEXT);
        assert_eq!(hex(&sealed), SEALED);
        assert_eq!(keys.open(&sealed), Some((PLAINTEXT.to_vec(), true)));
        let empty = keys.seal_with(NONCE, b"");
        assert_eq!(hex(&empty), "000102030405060708090a0bab76a8f316fef25f158745cdb3c2c9c9");
    }

    #[test]
    fn other_keys_and_the_early_derivation_open_too() {
        let old = LdRelayKeys::derive("old", []).seal(PLAINTEXT);
        let keys = LdRelayKeys::derive("new", ["old"]);
        assert_eq!(keys.open(&old), Some((PLAINTEXT.to_vec(), false)));
        let early = digested("old").encrypt(&Nonce::from(NONCE), PLAINTEXT).unwrap();
        let early = [&NONCE[..], &early].concat();
        assert_eq!(keys.open(&early), Some((PLAINTEXT.to_vec(), false)));
        assert_eq!(LdRelayKeys::derive("new", []).open(&old), None);
    }

    #[test]
    fn altered_and_short_records_do_not_open() {
        let keys = LdRelayKeys::derive(TEXT, []);
        let sealed = keys.seal(PLAINTEXT);
        assert_ne!(sealed, keys.seal(PLAINTEXT));
        for at in [0, 6, 12, 60, sealed.len() - 16, sealed.len() - 1] {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(keys.open(&altered), None, "byte {at}");
        }
        for length in [0, 11, 12, 27, sealed.len() - 1] {
            assert_eq!(keys.open(&sealed[..length]), None, "cut to {length}");
        }
        assert_eq!(keys.open(&[&sealed[..], b"x"].concat()), None);
    }
}
