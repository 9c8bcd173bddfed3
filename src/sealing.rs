//! Seals (encrypts and authenticates) all stored data: AES-256-GCM under keys derived by
//! HKDF-SHA256, with a ring of keys so that a key can be replaced.
//!
//! A sealed record is `magic(4) | key ID(8) | nonce(12) | ciphertext | tag(16)`. Its place
//! ([`Place`]) is authenticated with it, so a record that was moved, copied or renamed does not
//! open. Plaintext never passes below this module.
//!
//! Record names in a sealed store are keyed hashes ([`SealingKey::name`]): they do not reveal flag
//! keys, and the records of a key are found without opening records of another key.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// First bytes of a sealed record. The last one is the format's version.
const MAGIC: [u8; 4] = *b"PLT\x02";
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = MAGIC.len() + KEY_ID_BYTES + NONCE_BYTES;

/// Length of a [`KeyId`], in bytes.
pub const KEY_ID_BYTES: usize = 8;

/// Length of the tag that authenticates a record, in bytes.
pub const TAG_BYTES: usize = 16;

/// Length that sealing adds to a plaintext, in bytes.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;

/// Length of a record name, in bytes.
pub const NAME_BYTES: usize = 16;

/// Length of the secret of a random key, in bytes.
const SECRET_BYTES: usize = 32;

/// Length of a wrapped key, in bytes.
pub const WRAPPED_KEY_BYTES: usize = OVERHEAD_BYTES + SECRET_BYTES;

/// The reason why a record did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, or not of this format.
    #[error("record is not in the sealed format")]
    Format,
    /// No key of the ring has the record's key ID.
    #[error("record is sealed under a key that is not configured")]
    UnknownKey,
    /// The key is known, but the record was altered, cut, or belongs to another place.
    #[error("record fails authentication: it was altered or belongs to another place")]
    Forged,
}

/// The place of a record: authenticated, but not stored in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The store and namespace, e.g. `local/flags` or `shared/<cache key>`.
    pub namespace: &'a str,
    /// The record's name in the namespace.
    pub name: &'a [u8],
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(MAGIC.len() + 8 + self.namespace.len() + self.name.len());
        data.extend_from_slice(&MAGIC);
        // The length distinguishes (ab, c) from (a, bc).
        data.extend_from_slice(&(self.namespace.len() as u64).to_be_bytes());
        data.extend_from_slice(self.namespace.as_bytes());
        data.extend_from_slice(self.name);
        data
    }
}

/// Identifies a key without revealing any part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl KeyId {
    /// An ID from the bytes in a record or in a name of a store.
    pub fn from_bytes(bytes: [u8; KEY_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The ID's bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_ID_BYTES] {
        &self.0
    }
}

/// The tag of a sealed record. No two sealed records have the same tag, so it distinguishes two
/// records of one place. `None` if the record is too short to have one.
pub fn tag_of(sealed: &[u8]) -> Option<[u8; TAG_BYTES]> {
    (sealed.len() >= OVERHEAD_BYTES).then(|| sealed.last_chunk().copied())?
}

/// One key, derived from any text of the operator.
#[derive(Clone)]
pub struct SealingKey {
    id: KeyId,
    cipher: Aes256Gcm,
    naming: Hmac<Sha256>,
    /// Source of the keys of namespaces.
    branch: zeroize::Zeroizing<[u8; 32]>,
}

impl SealingKey {
    /// Derives the key from a secret text of any length (HKDF-SHA256, no salt).
    pub fn derive(secret: &str) -> Self {
        Self::of_secret(secret.as_bytes())
    }

    /// Makes a random key, and wraps it: seals its secret under this key for the place.
    pub fn wrap_new_key(&self, place: Place<'_>) -> (Self, Vec<u8>) {
        let mut secret = zeroize::Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut *secret).expect("the operating system gives random bytes");
        (Self::of_secret(&*secret), self.seal(place, &*secret))
    }

    fn of_secret(secret: &[u8]) -> Self {
        Self::expand(&Hkdf::<Sha256>::new(None, secret))
    }

    /// The key of one namespace: with its own cipher, record names and ID. Stores that are sealed
    /// under the same secret thus share neither nonces nor names.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self::expand(&Hkdf::<Sha256>::new(Some(namespace.as_bytes()), &*self.branch))
    }

    fn expand(source: &Hkdf<Sha256>) -> Self {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        let mut naming = zeroize::Zeroizing::new([0; 32]);
        let mut branch = zeroize::Zeroizing::new([0; 32]);
        let mut id = [0; KEY_ID_BYTES];
        let fits = "32 bytes are within what HKDF-SHA256 gives";
        source.expand(b"pilotlight record sealing v1", &mut *key).expect(fits);
        source.expand(b"pilotlight record names v1", &mut *naming).expect(fits);
        source.expand(b"pilotlight namespaces v1", &mut *branch).expect(fits);
        source.expand(b"pilotlight key id v1", &mut id).expect(fits);
        Self {
            id: KeyId(id),
            cipher: Aes256Gcm::new_from_slice(&*key).expect("the key has 32 bytes"),
            naming: <Hmac<Sha256> as KeyInit>::new_from_slice(&*naming)
                .expect("HMAC takes keys of any length"),
            branch,
        }
    }

    /// The ID of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The name of a record about `parts`: a keyed hash of them.
    pub fn name(&self, parts: &[&[u8]]) -> [u8; NAME_BYTES] {
        let mut mac = self.naming.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let digest = mac.finalize().into_bytes();
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&digest[..NAME_BYTES]);
        name
    }

    /// Seals a plaintext for its place.
    pub fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        let mut sealed = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
        sealed.extend_from_slice(&MAGIC);
        sealed.extend_from_slice(&self.id.0);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &Nonce::from(nonce),
                &place.associated_data(),
                (&mut sealed[HEAD_BYTES..]).into(),
            )
            .expect("records are far below the 64 GiB that AES-GCM can seal");
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens a record that is sealed under this key; `plaintext` is replaced.
    fn open_into(
        &self,
        place: Place<'_>,
        sealed: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let (nonce, rest) = sealed[MAGIC.len() + KEY_ID_BYTES..].split_at(NONCE_BYTES);
        let (body, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let nonce = Nonce::try_from(nonce).map_err(|_| OpenError::Format)?;
        let tag = Tag::try_from(tag).map_err(|_| OpenError::Format)?;
        plaintext.clear();
        plaintext.extend_from_slice(body);
        self.cipher
            .decrypt_inout_detached(
                &nonce,
                &place.associated_data(),
                plaintext.as_mut_slice().into(),
                &tag,
            )
            .map_err(|_| OpenError::Forged)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({:?})", self.id)
    }
}

/// The keys of a process: the first seals, all open.
#[derive(Clone, Debug)]
pub struct KeyRing(Arc<[SealingKey]>);

impl KeyRing {
    /// A ring of the sealing key and those that only open. Repetitions are dropped.
    pub fn new(current: SealingKey, others: impl IntoIterator<Item = SealingKey>) -> Self {
        let mut keys = vec![current];
        for key in others {
            if keys.iter().all(|known| known.id != key.id) {
                keys.push(key);
            }
        }
        Self(keys.into())
    }

    /// The ring of one namespace, in the same order.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self(self.0.iter().map(|key| key.within(namespace)).collect())
    }

    /// The key that seals.
    pub fn current(&self) -> &SealingKey {
        &self.0[0]
    }

    /// True if a record under this key can be opened.
    pub fn holds(&self, id: KeyId) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// All keys, the sealing one first.
    pub fn keys(&self) -> &[SealingKey] {
        &self.0
    }

    /// Opens a record with the key of the ring that it was sealed under, and returns the key's ID.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<(Vec<u8>, KeyId), OpenError> {
        let mut plaintext = Vec::new();
        let under = self.open_into(place, sealed, &mut plaintext)?;
        Ok((plaintext, under))
    }

    /// Opens a key that [`SealingKey::wrap_new_key`] made, and returns the ID of the key of the
    /// ring under which it was wrapped.
    pub fn unwrap_key(
        &self,
        place: Place<'_>,
        wrapped: &[u8],
    ) -> Result<(SealingKey, KeyId), OpenError> {
        let (secret, under) = self.open(place, wrapped)?;
        let secret = zeroize::Zeroizing::new(secret);
        if secret.len() == SECRET_BYTES {
            Ok((SealingKey::of_secret(&secret), under))
        } else {
            Err(OpenError::Format)
        }
    }

    /// Opens a record into a reusable buffer, whose content is replaced. After an error the content
    /// is meaningless.
    pub fn open_into(
        &self,
        place: Place<'_>,
        sealed: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<KeyId, OpenError> {
        if sealed.len() < OVERHEAD_BYTES || sealed[..MAGIC.len()] != MAGIC {
            return Err(OpenError::Format);
        }
        let id = &sealed[MAGIC.len()..MAGIC.len() + KEY_ID_BYTES];
        let key = self.0.iter().find(|key| key.id.0 == id).ok_or(OpenError::UnknownKey)?;
        key.open_into(place, sealed, plaintext)?;
        Ok(key.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place { namespace: "test", name: b"record" };

    fn ring(secrets: &[&str]) -> KeyRing {
        let mut keys = secrets.iter().map(|secret| SealingKey::derive(secret));
        KeyRing::new(keys.next().unwrap(), keys)
    }

    #[test]
    fn opens_what_it_sealed_and_never_twice_the_same() {
        let ring = ring(&["one"]);
        for plaintext in [&b""[..], b"x", &[7; 5000]] {
            let a = ring.current().seal(HERE, plaintext);
            let b = ring.current().seal(HERE, plaintext);
            assert_ne!(a, b);
            assert_eq!(a.len(), plaintext.len() + OVERHEAD_BYTES);
            assert_eq!(ring.open(HERE, &a), Ok((plaintext.to_vec(), ring.current().id())));
        }
    }

    #[test]
    fn a_record_opens_only_in_its_place() {
        let ring = ring(&["one"]);
        let sealed = ring.current().seal(HERE, b"secret");
        for place in [
            Place { namespace: "test", name: b"other" },
            Place { namespace: "tes", name: b"trecord" },
            Place { namespace: "testrecord", name: b"" },
        ] {
            assert_eq!(ring.open(place, &sealed), Err(OpenError::Forged), "{place:?}");
        }
    }

    #[test]
    fn every_altered_byte_and_every_length_is_noticed() {
        let ring = ring(&["one"]);
        let sealed = ring.current().seal(HERE, b"secret");
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(ring.open(HERE, &altered).is_err(), "byte {at}");
            assert!(ring.open(HERE, &sealed[..at]).is_err(), "cut to {at}");
        }
        let longer = [&sealed[..], b"x"].concat();
        assert_eq!(ring.open(HERE, &longer), Err(OpenError::Forged));
    }

    #[test]
    fn previous_keys_open_and_unknown_ones_are_told_apart() {
        let old = ring(&["old"]).current().seal(HERE, b"data");
        let rotated = ring(&["new", "old", "new"]);
        assert_eq!(rotated.keys().len(), 2, "repetitions are dropped");
        let (plaintext, under) = rotated.open(HERE, &old).unwrap();
        assert_eq!(plaintext, b"data");
        assert_ne!(under, rotated.current().id(), "the caller sees that it must be sealed anew");
        assert_eq!(ring(&["new"]).open(HERE, &old), Err(OpenError::UnknownKey));
    }

    #[test]
    fn a_buffer_serves_for_many_records() {
        let ring = ring(&["one"]);
        let mut buffer = b"left over from the record before".to_vec();
        for plaintext in [&b"longer than the next"[..], b"short", b""] {
            let sealed = ring.current().seal(HERE, plaintext);
            assert_eq!(ring.open_into(HERE, &sealed, &mut buffer), Ok(ring.current().id()));
            assert_eq!(buffer, plaintext);
        }
    }

    #[test]
    fn tags_tell_records_of_one_place_apart() {
        let key = SealingKey::derive("one");
        let (a, b) = (key.seal(HERE, b"same"), key.seal(HERE, b"same"));
        assert_eq!(tag_of(&a), tag_of(&a.clone()));
        assert_ne!(tag_of(&a), tag_of(&b));
        assert_eq!(tag_of(&a[1..OVERHEAD_BYTES]), None);
    }

    #[test]
    fn names_depend_on_the_key_and_on_each_part() {
        let key = SealingKey::derive("one");
        let name = key.name(&[b"ab", b"c"]);
        assert_eq!(name, key.name(&[b"ab", b"c"]));
        assert_ne!(name, key.name(&[b"a", b"bc"]));
        assert_ne!(name, SealingKey::derive("two").name(&[b"ab", b"c"]));
    }

    #[test]
    fn each_namespace_has_keys_of_its_own() {
        let root = ring(&["one", "two"]);
        let (here, there) = (root.within("here"), root.within("there"));
        let sealed = here.current().seal(HERE, b"data");
        assert_eq!(here.open(HERE, &sealed), Ok((b"data".to_vec(), here.current().id())));
        assert_eq!(root.within("here").open(HERE, &sealed).unwrap().0, b"data");
        for other in [&root, &there] {
            assert_eq!(other.open(HERE, &sealed), Err(OpenError::UnknownKey));
            assert_ne!(other.current().name(&[b"a"]), here.current().name(&[b"a"]));
        }
    }

    #[test]
    fn a_wrapped_key_opens_under_its_ring_in_its_place_only() {
        let ring = ring(&["one"]);
        let (key, wrapped) = ring.current().wrap_new_key(HERE);
        assert_eq!(wrapped.len(), WRAPPED_KEY_BYTES);
        let (again, under) = ring.unwrap_key(HERE, &wrapped).unwrap();
        assert_eq!((again.id(), under), (key.id(), ring.current().id()));
        let sealed = key.seal(HERE, b"data");
        assert_eq!(KeyRing::new(again, []).open(HERE, &sealed).unwrap().0, b"data");
        assert_ne!(ring.current().wrap_new_key(HERE).0.id(), key.id(), "each is a new one");

        let elsewhere = Place { namespace: "test", name: b"other" };
        assert_eq!(ring.unwrap_key(elsewhere, &wrapped).unwrap_err(), OpenError::Forged);
        let other = KeyRing::new(SealingKey::derive("two"), []);
        assert_eq!(other.unwrap_key(HERE, &wrapped).unwrap_err(), OpenError::UnknownKey);
        let short = ring.current().seal(HERE, b"no key");
        assert_eq!(ring.unwrap_key(HERE, &short).unwrap_err(), OpenError::Format);
    }

    #[test]
    fn debug_tells_no_key() {
        assert!(!format!("{:?}", ring(&["hunter2"])).contains("hunter2"));
    }
}
