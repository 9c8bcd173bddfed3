//! The environments that the configuration names: an authoritative list from the start. Keys in
//! files are read again when the files change.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::keys::{Problems, look_ticks, read};
use crate::config::{Config, SecretSource};
use crate::model::{EnvironmentChange, ListState, MobileKey, SdkKey};
use crate::tasks::TaskGroup;

/// Starts the task that sends the environments to the supervisor and follows their key files.
pub(super) fn start(
    config: &Config,
    changes: &mpsc::Sender<Vec<EnvironmentChange>>,
    parts: &mut TaskGroup,
) {
    let mut batch = upserts(config, |_| true);
    batch.push(EnvironmentChange::List(ListState::Authoritative));
    let changes = changes.clone();
    let manual = Manual { files: KeyFiles::of(config), config: config.clone() };
    parts.spawn("manual environments", |cancel| async move {
        // Fails only when the process is ending.
        let _ = changes.send(batch).await;
        if manual.files.is_empty() {
            cancel.cancelled().await;
        } else {
            manual.follow(&changes, &cancel).await;
        }
    });
}

/// The environments of these names, each also under every filter of its project.
fn upserts(config: &Config, wanted: impl Fn(&str) -> bool) -> Vec<EnvironmentChange> {
    config
        .manual_environments()
        .into_iter()
        .filter(|spec| wanted(&spec.reference.environment))
        .map(|spec| EnvironmentChange::Upsert(Arc::new(spec)))
        .collect()
}

/// The files with the keys of one environment.
struct KeyFiles {
    environment: String,
    sdk_key: Option<PathBuf>,
    mobile_key: Option<PathBuf>,
}

impl KeyFiles {
    fn of(config: &Config) -> Vec<Self> {
        let files = config.environments.iter().map(|(name, environment)| Self {
            environment: name.clone(),
            sdk_key: environment.sdk_key.file.clone(),
            mobile_key: environment.mobile_key.as_ref().and_then(|key| key.file.clone()),
        });
        files.filter(|files| files.sdk_key.is_some() || files.mobile_key.is_some()).collect()
    }
}

/// The keys of one environment, read from their files; `None` without a file, or if it cannot be
/// used.
#[derive(Default)]
struct ReadKeys {
    sdk_key: Option<SdkKey>,
    mobile_key: Option<MobileKey>,
}

impl ReadKeys {
    /// Takes over what differs; returns true if anything did. The old key is refused from then on,
    /// like a key that is removed from the configuration.
    fn apply(self, environment: &str, config: &mut Config) -> bool {
        let Some(environment) = config.environments.get_mut(environment) else { return false };
        let mobile_key = environment.mobile_key.as_mut();
        let sdk = replace(Some(&mut environment.sdk_key), self.sdk_key);
        replace(mobile_key, self.mobile_key) || sdk
    }
}

fn replace<T: PartialEq>(source: Option<&mut SecretSource<T>>, read: Option<T>) -> bool {
    match (source, read) {
        (Some(source), Some(read)) if source.value != read => {
            source.value = read;
            true
        }
        _ => false,
    }
}

struct Manual {
    files: Vec<KeyFiles>,
    config: Config,
}

impl Manual {
    /// Reads the files at intervals until cancelled, and sends the environments whose keys have
    /// changed.
    async fn follow(
        mut self,
        changes: &mpsc::Sender<Vec<EnvironmentChange>>,
        cancel: &CancellationToken,
    ) {
        let mut ticks = look_ticks();
        let mut problems = Problems::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let mut found = Vec::new();
            let mut changed = Vec::new();
            for files in &self.files {
                let keys = ReadKeys {
                    sdk_key: read(files.sdk_key.as_ref(), &mut found).await,
                    mobile_key: read(files.mobile_key.as_ref(), &mut found).await,
                };
                if keys.apply(&files.environment, &mut self.config) {
                    tracing::info!(
                        environment = files.environment,
                        "a key was read anew from its file; the one before is refused from now on"
                    );
                    changed.push(files.environment.as_str());
                }
            }
            problems.update(found);
            if !changed.is_empty() {
                // Fails only when the process is ending.
                let _ = changes.send(upserts(&self.config, |name| changed.contains(&name))).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, ConfigSource, Disk, Variables, load};

    struct NoVariables;

    impl Variables for NoVariables {
        fn get(&self, _: &str) -> Option<std::ffi::OsString> {
            None
        }
        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn a_key_that_differs_replaces_the_one_before_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("sdk"), "sdk-1").unwrap();
        std::fs::write(path("mobile"), "mob-1").unwrap();
        let text = format!(
            "[Environment \"a\"]\nsdkKeyFile = {}\nmobileKeyFile = {}\nprojKey = p\n\
             [Environment \"b\"]\nsdkKey = sdk-b\nprojKey = p\n[Filters \"p\"]\nkeys = f\n",
            path("sdk").display(),
            path("mobile").display()
        );
        std::fs::write(path("conf"), text).unwrap();
        let file = ConfigFile { path: path("conf"), may_be_missing: false };
        let source = ConfigSource { file: Some(file), from_env: false };
        let mut config = load(&source, &NoVariables, &Disk).unwrap().config;
        let files = KeyFiles::of(&config);
        assert_eq!(files.iter().map(|files| &files.environment).collect::<Vec<_>>(), ["a"]);

        let mut check = |sdk: Option<&str>, mobile: Option<&str>, expected: Option<[&str; 2]>| {
            let keys =
                ReadKeys { sdk_key: sdk.map(SdkKey::new), mobile_key: mobile.map(MobileKey::new) };
            let changed = keys.apply("a", &mut config);
            assert_eq!(changed, expected.is_some(), "{sdk:?} {mobile:?}");
            let Some([sdk, mobile]) = expected else { return };
            let specs = upserts(&config, |name| name == "a");
            assert_eq!(specs.len(), 2, "also seen through its filter");
            for spec in specs {
                let EnvironmentChange::Upsert(spec) = spec else { panic!("{spec:?}") };
                let sdk_keys: Vec<_> =
                    spec.credentials.sdk_keys.iter().map(|key| key.value.expose()).collect();
                let primary = spec.credentials.primary_mobile.as_ref().map(MobileKey::expose);
                assert_eq!((sdk_keys, primary), (vec![sdk], Some(mobile)));
            }
        };
        check(None, None, None);
        check(Some("sdk-1"), Some("mob-1"), None);
        check(Some("sdk-2"), Some("mob-1"), Some(["sdk-2", "mob-1"]));
        check(None, Some("mob-2"), Some(["sdk-2", "mob-2"]));
        check(Some("sdk-3"), Some("mob-3"), Some(["sdk-3", "mob-3"]));
    }
}
