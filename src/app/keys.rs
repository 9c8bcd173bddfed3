//! The secrets of this process: read from the configuration, and read again when their files change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::autoconfig::cache::codec::CacheKeys;
use crate::autoconfig::cache::ld_relay_format::LdRelayKeys;
use crate::config::{AutoConfigSection, Disk, Files, SecretKind, SecretSource, WeakKey};
use crate::model::{AutoConfigKey, Password};
use crate::sealing::{KeyRing, SealingKey};
use crate::storage::local::{KeyFile, KeyFileError, KeyFileWarning};
use crate::telemetry::Chain;

/// Interval between reads of secret files. File watches would miss the links that orchestrators
/// swap.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Most replaced keys that still open records. They keep records readable until all are sealed
/// under the new key.
const FORMER_KEYS_MAX: usize = 8;

/// Time for which a replaced key still opens records. Sealing again takes seconds where the stores
/// can be written; an hour outlasts most outages of a database.
const FORMER_KEY_TIME: Duration = Duration::from_secs(3600);

/// The current secrets of `[AutoConfig]`.
#[derive(Clone, Debug)]
pub(super) struct Secrets {
    pub(super) autoconfig: Option<AutoConfigKey>,
    encryption: Option<Password>,
    previous: Vec<Password>,
    /// Replaced keys of both kinds, the newest first, with the time at which they stop opening
    /// records.
    former: Vec<(Password, Instant)>,
}

impl Secrets {
    pub(super) fn from_config(section: &AutoConfigSection) -> Self {
        Self {
            autoconfig: section.key.as_ref().map(|source| source.value.clone()),
            encryption: section.cache_encryption_key.as_ref().map(|source| source.value.clone()),
            previous: section
                .cache_previous_encryption_keys
                .as_ref()
                .map(|source| source.value.clone())
                .unwrap_or_default(),
            former: Vec::new(),
        }
    }

    /// The text of the key that seals: a previous key never does.
    fn current(&self) -> Option<&str> {
        let encryption = self.encryption.as_ref().map(Password::expose);
        encryption.or(self.autoconfig.as_ref().map(AutoConfigKey::expose))
    }

    /// The texts of the keys that open; the sealing key may be among them.
    fn others(&self) -> impl Iterator<Item = &str> {
        let previous = self.previous.iter().map(Password::expose);
        let autoconfig = self.autoconfig.iter().map(AutoConfigKey::expose);
        previous.chain(autoconfig).chain(self.former.iter().map(|(key, _)| key.expose()))
    }

    /// True if a sealing key is configured. Then the key file of the embedded store opens nothing.
    pub(super) fn has_sealing_key(&self) -> bool {
        self.current().is_some()
    }

    /// Keys for the embedded store in a directory. Without a configured sealing key, the store has
    /// a key file there.
    pub(super) fn local_ring(
        &self,
        directory: &Path,
    ) -> Result<(KeyRing, Option<KeyFileWarning>), KeyFileError> {
        let others = self.others().map(SealingKey::derive);
        match self.current() {
            Some(current) => Ok((KeyRing::new(SealingKey::derive(current), others), None)),
            None => {
                let file = KeyFile::read_or_make(directory)?;
                Ok((KeyRing::new(file.key, others), file.warning))
            }
        }
    }

    /// Keys for the shared cache; `None` without any.
    pub(super) fn cache_keys(&self) -> Option<CacheKeys> {
        let current = self.current()?;
        let others = self.others().map(SealingKey::derive);
        Some(CacheKeys {
            ring: KeyRing::new(SealingKey::derive(current), others),
            ld_relay: LdRelayKeys::derive(current, self.others()),
        })
    }

    fn keep_former(&mut self, key: Password, now: Instant) {
        self.former.retain(|(known, _)| *known != key);
        self.former.insert(0, (key, now + FORMER_KEY_TIME));
        self.former.truncate(FORMER_KEYS_MAX);
    }

    /// Drops replaced keys whose time is over. Returns true if there were any.
    fn drop_former(&mut self, now: Instant) -> bool {
        let before = self.former.len();
        self.former.retain(|(_, until)| now < *until);
        self.former.len() < before
    }
}

/// Files of secrets that are read again when they change.
#[derive(Debug)]
pub(super) struct SecretFiles {
    autoconfig: Option<PathBuf>,
    encryption: Option<PathBuf>,
    previous: Option<PathBuf>,
}

impl SecretFiles {
    pub(super) fn from_config(section: &AutoConfigSection) -> Self {
        Self {
            autoconfig: section.key.as_ref().and_then(|source| source.file.clone()),
            encryption: section.cache_encryption_key.as_ref().and_then(|s| s.file.clone()),
            previous: section.cache_previous_encryption_keys.as_ref().and_then(|s| s.file.clone()),
        }
    }

    /// True if no secret comes from a file.
    pub(super) fn is_empty(&self) -> bool {
        self.autoconfig.is_none() && self.encryption.is_none() && self.previous.is_none()
    }

    /// Reads the files at intervals until cancelled, and publishes changes. If a file cannot be
    /// used, its former secret stays in use; the other files are still read.
    pub(super) async fn watch(self, secrets: watch::Sender<Secrets>, cancel: CancellationToken) {
        let mut ticks = look_ticks();
        let mut problems = Problems::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let (read, found) = self.read().await;
            problems.update(found);
            let known = secrets.borrow().encryption.clone();
            if let Some(key) = read.encryption.as_ref().filter(|key| known.as_ref() != Some(key))
                && let Some(weakness) = WeakKey::find(key.expose())
            {
                tracing::warn!(file = ?self.encryption, "the new cacheEncryptionKey {weakness}");
            }
            let now = Instant::now();
            secrets.send_if_modified(|secrets| {
                let changed = read.apply(secrets, now);
                let dropped = secrets.drop_former(now);
                if dropped {
                    tracing::info!("keys that were exchanged 1h ago no longer open records");
                }
                changed || dropped
            });
        }
    }

    /// The secrets in the files, and what is wrong with those that cannot be used.
    async fn read(&self) -> (ReadSecrets, Vec<String>) {
        let mut problems = Vec::new();
        let read = ReadSecrets {
            autoconfig: read(self.autoconfig.as_ref(), &mut problems).await,
            encryption: read(self.encryption.as_ref(), &mut problems).await,
            previous: read(self.previous.as_ref(), &mut problems).await,
        };
        (read, problems)
    }
}

/// Secrets read from their files; `None` without a file, or if it cannot be used.
struct ReadSecrets {
    autoconfig: Option<AutoConfigKey>,
    encryption: Option<Password>,
    previous: Option<Vec<Password>>,
}

impl ReadSecrets {
    /// Takes over what differs; returns true if anything did. A replaced key still opens records
    /// for [`FORMER_KEY_TIME`]. A changed list of previous keys says which older keys open, so it
    /// drops all replaced keys that it does not name at once.
    fn apply(self, secrets: &mut Secrets, now: Instant) -> bool {
        let mut changed = false;
        if let Some(key) = self.autoconfig
            && secrets.autoconfig.as_ref() != Some(&key)
        {
            if let Some(former) = secrets.autoconfig.replace(key) {
                secrets.keep_former(Password::new(former.expose()), now);
            }
            changed = true;
        }
        if let Some(key) = self.encryption
            && secrets.encryption.as_ref() != Some(&key)
        {
            if let Some(former) = secrets.encryption.replace(key) {
                secrets.keep_former(former, now);
            }
            changed = true;
        }
        if let Some(keys) = self.previous
            && secrets.previous != keys
        {
            secrets.previous = keys;
            secrets.former.clear();
            changed = true;
        }
        changed
    }
}

/// The ticks at which secret files are read.
pub(super) fn look_ticks() -> Interval {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Problems of secret files, each of which is logged once while it lasts.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    pub(super) fn update(&mut self, found: Vec<String>) {
        for problem in found.iter().filter(|problem| !self.0.contains(problem)) {
            tracing::warn!(
                problem,
                "a secret file cannot be used; the secret that was read before stays in use"
            );
        }
        self.0 = found;
    }
}

/// The content of a file that was read before. `None` if it is not a regular file: a pipe gives its
/// content once, and a second read may block indefinitely.
fn read_again(file: &Path) -> std::io::Result<Option<Vec<u8>>> {
    if std::fs::metadata(file)?.is_file() { Disk.read(file).map(Some) } else { Ok(None) }
}

/// Reads a secret from its file; `None` without a file, or if it cannot be used.
pub(super) async fn read<T: SecretKind>(
    path: Option<&PathBuf>,
    problems: &mut Vec<String>,
) -> Option<T> {
    let path = path?;
    let file = path.clone();
    let content = match tokio::task::spawn_blocking(move || read_again(&file)).await {
        Ok(Ok(Some(content))) => content,
        Ok(Ok(None)) => return None,
        Ok(Err(error)) => {
            problems.push(format!("{} cannot be read: {error}", path.display()));
            return None;
        }
        Err(error) => {
            problems.push(format!("{} cannot be read: {}", path.display(), Chain(&error)));
            return None;
        }
    };
    match SecretSource::<T>::from_file_content(&content) {
        Ok(secret) => Some(secret),
        Err(error) => {
            problems.push(format!("{} {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::KeyId;

    fn secrets(autoconfig: Option<&str>, encryption: Option<&str>, previous: &[&str]) -> Secrets {
        Secrets {
            autoconfig: autoconfig.map(AutoConfigKey::new),
            encryption: encryption.map(Password::new),
            previous: previous.iter().map(|key| Password::new(*key)).collect(),
            former: Vec::new(),
        }
    }

    fn ids(texts: &[&str]) -> Vec<KeyId> {
        texts.iter().map(|text| SealingKey::derive(text).id()).collect()
    }

    #[track_caller]
    fn check(secrets: &Secrets, expected: &[&str]) {
        let keys = secrets.cache_keys().map(|keys| keys.ring);
        let found: Vec<KeyId> =
            keys.iter().flat_map(|ring| ring.keys().iter().map(SealingKey::id)).collect();
        assert_eq!(found, ids(expected));
    }

    #[test]
    fn the_explicit_key_seals_and_all_others_open() {
        check(&secrets(None, None, &[]), &[]);
        check(&secrets(Some("auto"), None, &[]), &["auto"]);
        check(&secrets(Some("auto"), None, &["old"]), &["auto", "old"]);
        check(&secrets(Some("auto"), Some("key"), &["old"]), &["key", "old", "auto"]);
        check(&secrets(None, Some("key"), &[]), &["key"]);
    }

    #[test]
    fn a_previous_key_never_seals() {
        let directory = tempfile::tempdir().unwrap();
        let only_previous = secrets(None, None, &["old"]);
        check(&only_previous, &[]);
        let (ring, _) = only_previous.local_ring(directory.path()).unwrap();
        assert_ne!(ring.current().id(), ids(&["old"])[0]);
        assert!(ring.holds(ids(&["old"])[0]));
        let (same, _) = secrets(None, None, &[]).local_ring(directory.path()).unwrap();
        assert_eq!(same.current().id(), ring.current().id(), "the key beside the store");
        let (ring, _) = secrets(Some("auto"), None, &[]).local_ring(directory.path()).unwrap();
        assert_eq!(ring.current().id(), ids(&["auto"])[0]);
        assert!(!ring.holds(same.current().id()), "where a key is configured, the file's is none");
    }

    /// Applies the content of files; empty means that there is no such file.
    fn apply(secrets: &mut Secrets, autoconfig: &str, encryption: &str, previous: &[&str]) -> bool {
        let given = |text: &str| (!text.is_empty()).then(|| Password::new(text));
        let read = ReadSecrets {
            autoconfig: given(autoconfig).map(|key| AutoConfigKey::new(key.expose())),
            encryption: given(encryption),
            previous: (!previous.is_empty())
                .then(|| previous.iter().map(|key| Password::new(*key)).collect()),
        };
        read.apply(secrets, Instant::now())
    }

    #[test]
    fn a_key_that_was_exchanged_still_opens() {
        let mut secrets = secrets(Some("auto"), Some("key"), &[]);
        assert!(apply(&mut secrets, "auto2", "key2", &[]));
        check(&secrets, &["key2", "auto2", "key", "auto"]);
        assert!(!apply(&mut secrets, "auto2", "key2", &[]));
        assert!(apply(&mut secrets, "", "key", &[]), "back again");
        check(&secrets, &["key", "auto2", "key2", "auto"]);
    }

    #[test]
    fn a_changed_list_of_previous_keys_drops_all_others_at_once() {
        let mut secrets = secrets(Some("auto"), Some("key"), &["old", "older"]);
        assert!(apply(&mut secrets, "", "key2", &["old", "older"]));
        check(&secrets, &["key2", "old", "older", "auto", "key"]);
        assert!(apply(&mut secrets, "", "key2", &["old"]));
        check(&secrets, &["key2", "old", "auto"]);
        assert!(!apply(&mut secrets, "", "key2", &["old"]));
        assert!(apply(&mut secrets, "", "key3", &["old", "key2"]));
        check(&secrets, &["key3", "old", "key2", "auto"]);
    }

    #[test]
    fn an_exchanged_key_opens_for_a_bounded_time() {
        let mut secrets = secrets(Some("auto"), Some("key"), &[]);
        let begun = Instant::now();
        assert!(apply(&mut secrets, "", "key2", &[]));
        assert!(!secrets.drop_former(begun + FORMER_KEY_TIME / 2));
        check(&secrets, &["key2", "auto", "key"]);
        assert!(secrets.drop_former(Instant::now() + FORMER_KEY_TIME));
        check(&secrets, &["key2", "auto"]);
        assert!(!secrets.drop_former(Instant::now() + FORMER_KEY_TIME));
    }

    #[test]
    fn exchanged_keys_are_kept_up_to_a_limit() {
        let mut secrets = secrets(Some("auto"), Some("0"), &[]);
        for number in 1..20 {
            assert!(apply(&mut secrets, "", &number.to_string(), &[]));
        }
        assert_eq!(secrets.former.len(), FORMER_KEYS_MAX);
        assert_eq!(secrets.former[0].0, Password::new("18"));
    }

    #[tokio::test]
    async fn one_file_that_cannot_be_used_holds_up_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("key"), "new\n").unwrap();
        std::fs::write(path("previous"), " \n").unwrap();
        let files = SecretFiles {
            autoconfig: Some(path("missing")),
            encryption: Some(path("key")),
            previous: Some(path("previous")),
        };
        let (read, problems) = files.read().await;
        assert_eq!(read.encryption, Some(Password::new("new")));
        assert!(read.autoconfig.is_none() && read.previous.is_none());
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("missing cannot be read"), "{problems:?}");
        assert!(problems[1].ends_with("previous is empty"), "{problems:?}");
    }
}
