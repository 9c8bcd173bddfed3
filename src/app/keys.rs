//! The keys of this process: from the configuration, and again from their files when those
//! change.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::autoconfig::cache::codec::CacheKeys;
use crate::autoconfig::cache::ld_relay_format::LdRelayKeys;
use crate::config::{AutoConfigSection, SecretSource};
use crate::model::{AutoConfigKey, Password};
use crate::sealing::{KeyRing, SealingKey};

/// How often secret files are looked at. Orchestrators swap links, which file watches miss.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Former autoconfig keys that still open records, so that an exchange while the relay runs
/// loses nothing before everything is sealed anew.
const FORMER_KEYS_MAX: usize = 4;

/// The secrets of `[AutoConfig]` as they are at this moment.
#[derive(Clone, Debug)]
pub(super) struct Secrets {
    pub(super) autoconfig: Option<AutoConfigKey>,
    encryption: Option<Password>,
    previous: Vec<Password>,
    former: Vec<AutoConfigKey>,
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

    /// The texts of all keys, the sealing one first (design D10).
    fn texts(&self) -> Vec<&str> {
        let autoconfig = self.autoconfig.iter().map(AutoConfigKey::expose);
        self.encryption
            .iter()
            .chain(&self.previous)
            .map(Password::expose)
            .chain(autoconfig)
            .chain(self.former.iter().map(AutoConfigKey::expose))
            .collect()
    }

    /// Keys for the embedded store; without any the store makes one of its own.
    pub(super) fn sealing_keys(&self) -> Vec<SealingKey> {
        // Without an encryption key the autoconfig key seals, not a previous one.
        let mut texts = self.texts();
        if self.encryption.is_none()
            && let Some(key) = &self.autoconfig
        {
            texts.insert(0, key.expose());
        }
        texts.into_iter().map(SealingKey::derive).collect()
    }

    /// Keys for the shared cache; `None` without any.
    pub(super) fn cache_keys(&self) -> Option<CacheKeys> {
        let mut keys = self.sealing_keys().into_iter();
        let ring = KeyRing::new(keys.next()?, keys);
        let current = self
            .encryption
            .as_ref()
            .map(Password::expose)
            .or(self.autoconfig.as_ref().map(AutoConfigKey::expose))?;
        Some(CacheKeys { ring, ld_relay: LdRelayKeys::derive(current, self.texts()) })
    }

    fn replace_autoconfig(&mut self, key: AutoConfigKey) {
        if let Some(former) = self.autoconfig.replace(key) {
            self.former.insert(0, former);
            self.former.truncate(FORMER_KEYS_MAX);
        }
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

    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.autoconfig.is_none() && self.encryption.is_none() && self.previous.is_none()
    }

    /// Looks at the files until told to stop, and publishes what changed. A file that cannot be
    /// used keeps the secret that is in use.
    pub(super) async fn watch(self, secrets: watch::Sender<Secrets>, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complained = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.read().await {
                Ok(read) => {
                    complained = false;
                    secrets.send_if_modified(|secrets| read.apply(secrets));
                }
                Err(problem) => {
                    if !complained {
                        tracing::error!(
                            problem,
                            "a secret file cannot be used; the secret that was read before stays in use"
                        );
                    }
                    complained = true;
                }
            }
        }
    }

    async fn read(&self) -> Result<ReadSecrets, String> {
        Ok(ReadSecrets {
            autoconfig: read(self.autoconfig.as_ref()).await?,
            encryption: read(self.encryption.as_ref()).await?,
            previous: read(self.previous.as_ref()).await?,
        })
    }
}

/// Secrets as their files hold them; `None` where there is no file.
struct ReadSecrets {
    autoconfig: Option<AutoConfigKey>,
    encryption: Option<Password>,
    previous: Option<Vec<Password>>,
}

impl ReadSecrets {
    /// Takes over what differs; returns whether anything did.
    fn apply(self, secrets: &mut Secrets) -> bool {
        let mut changed = false;
        if let Some(key) = self.autoconfig
            && secrets.autoconfig.as_ref() != Some(&key)
        {
            secrets.replace_autoconfig(key);
            changed = true;
        }
        if let Some(key) = self.encryption
            && secrets.encryption.as_ref() != Some(&key)
        {
            // The former key still opens until everything is sealed anew.
            secrets.previous.extend(secrets.encryption.replace(key));
            changed = true;
        }
        if let Some(keys) = self.previous
            && !keys.iter().all(|key| secrets.previous.contains(key))
        {
            secrets.previous = keys;
            changed = true;
        }
        changed
    }
}

async fn read<T: crate::config::SecretKind>(path: Option<&PathBuf>) -> Result<Option<T>, String> {
    let Some(path) = path else { return Ok(None) };
    let content = tokio::fs::read(path)
        .await
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    SecretSource::<T>::from_file_content(&content)
        .map(Some)
        .map_err(|error| format!("{}: {error}", path.display()))
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
    fn a_key_that_was_exchanged_still_opens() {
        let mut secrets = secrets(Some("auto"), Some("key"), &[]);
        let read = ReadSecrets {
            autoconfig: Some(AutoConfigKey::new("auto2")),
            encryption: Some(Password::new("key2")),
            previous: None,
        };
        assert!(read.apply(&mut secrets));
        check(&secrets, &["key2", "key", "auto2", "auto"]);
        let same = ReadSecrets {
            autoconfig: Some(AutoConfigKey::new("auto2")),
            encryption: Some(Password::new("key2")),
            previous: None,
        };
        assert!(!same.apply(&mut secrets));
    }
}
