//! Environments and payload filters in the form of the autoconfig stream.
//!
//! These types describe the wire format only. The relay has its own, written separately on purpose,
//! so that a mistake in one does not hide in the other.
//!
//! Invariant: `Debug` shows no key.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One environment (ld-relay v8: `EnvironmentRep`).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvironmentRep {
    /// Client-side ID; identity of the environment.
    #[serde(rename = "envID")]
    pub env_id: String,
    /// Key of the environment within its project.
    pub env_key: String,
    /// Display name.
    pub env_name: String,
    /// Primary mobile key; empty for an environment without one.
    pub mob_key: String,
    /// Key of the project; payload filters belong to projects.
    pub proj_key: String,
    /// Display name of the project.
    pub proj_name: String,
    /// The anchor key and the single expiring key of older relays.
    pub sdk_key: SdkKeyRep,
    /// All accepted SDK keys; empty: only `sdk_key` is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sdk_keys: Vec<KeyRep>,
    /// All accepted mobile keys; empty: only `mob_key` is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mobile_keys: Vec<KeyRep>,
    /// Cache lifetime for PHP polling in minutes.
    pub default_ttl: u32,
    /// True if client-side evaluation requires a hash.
    pub secure_mode: bool,
    /// Higher is newer.
    pub version: u64,
}

/// The anchor SDK key with the expiring slot.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SdkKeyRep {
    /// The anchor key.
    pub value: String,
    /// The key it replaced; empty value: none.
    pub expiring: ExpiringKeyRep,
}

/// A key that was replaced and is accepted for a while.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExpiringKeyRep {
    /// The key; empty: the slot is free.
    pub value: String,
    /// Its expiry in milliseconds since 1970.
    pub timestamp: u64,
}

/// One of several accepted keys.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyRep {
    /// Non-secret name of the key.
    pub key: String,
    /// The key.
    pub value: String,
    /// Its expiry in milliseconds since 1970; `None`: permanent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<u64>,
    /// True if the key is tied to views.
    pub has_views: bool,
}

/// One payload filter, without its ID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterRep {
    /// The project whose environments it filters.
    pub proj_key: String,
    /// The value that clients pass in `?filter=`.
    pub key: String,
    /// Higher is newer.
    pub version: u64,
}

impl KeyRep {
    /// A permanent key without views.
    pub fn permanent(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), ..Self::default() }
    }

    /// A key that expires at this time, in milliseconds since 1970.
    pub fn expiring(key: impl Into<String>, value: impl Into<String>, expiry: u64) -> Self {
        Self { expiry: Some(expiry), ..Self::permanent(key, value) }
    }
}

impl EnvironmentRep {
    /// An environment in the old form: one SDK key, one mobile key, no lists.
    pub fn simple(env_id: &str, sdk_key: &str, mobile_key: &str) -> Self {
        Self {
            env_id: env_id.to_owned(),
            env_key: env_id.to_owned(),
            env_name: env_id.to_owned(),
            mob_key: mobile_key.to_owned(),
            proj_key: "project".to_owned(),
            proj_name: "Project".to_owned(),
            sdk_key: SdkKeyRep { value: sdk_key.to_owned(), ..SdkKeyRep::default() },
            ..Self::default()
        }
    }

    /// True if the SDK key is accepted at this time (milliseconds since 1970).
    pub fn accepts_sdk_key(&self, key: &str, now: u64) -> bool {
        if key.is_empty() {
            return false;
        }
        let SdkKeyRep { value, expiring } = &self.sdk_key;
        value == key
            || match self.sdk_keys.as_slice() {
                [] => expiring.value == key && now <= expiring.timestamp,
                keys => is_accepted(keys, key, now),
            }
    }

    /// True if the mobile key is accepted at this time (milliseconds since 1970).
    pub fn accepts_mobile_key(&self, key: &str, now: u64) -> bool {
        !key.is_empty() && (self.mob_key == key || is_accepted(&self.mobile_keys, key, now))
    }
}

fn is_accepted(keys: &[KeyRep], key: &str, now: u64) -> bool {
    keys.iter().any(|held| held.value == key && held.expiry.is_none_or(|expiry| now <= expiry))
}

impl fmt::Debug for EnvironmentRep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { env_id, version, .. } = self;
        write!(f, "EnvironmentRep({env_id} at {version})")
    }
}

impl fmt::Debug for SdkKeyRep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SdkKeyRep(…)")
    }
}

impl fmt::Debug for ExpiringKeyRep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExpiringKeyRep(…)")
    }
}

impl fmt::Debug for KeyRep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, expiry, .. } = self;
        write!(f, "KeyRep({key}, expiry {expiry:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_stream_carries() {
        let mut rep = EnvironmentRep::simple("e1", "sdk-a", "mob-a");
        rep.version = 12;
        rep.default_ttl = 5;
        rep.sdk_keys =
            vec![KeyRep::permanent("default", "sdk-a"), KeyRep::expiring("old", "sdk-b", 1790)];
        let expected = concat!(
            r#"{"envID":"e1","envKey":"e1","envName":"e1","mobKey":"mob-a","#,
            r#""projKey":"project","projName":"Project","#,
            r#""sdkKey":{"value":"sdk-a","expiring":{"value":"","timestamp":0}},"#,
            r#""sdkKeys":[{"key":"default","value":"sdk-a","hasViews":false},"#,
            r#"{"key":"old","value":"sdk-b","expiry":1790,"hasViews":false}],"#,
            r#""defaultTtl":5,"secureMode":false,"version":12}"#,
        );
        assert_eq!(serde_json::to_string(&rep).unwrap(), expected);
        assert_eq!(serde_json::from_str::<EnvironmentRep>(expected).unwrap(), rep);
    }

    #[test]
    fn knows_which_keys_open_it() {
        let old = EnvironmentRep {
            sdk_key: SdkKeyRep {
                value: "sdk-a".to_owned(),
                expiring: ExpiringKeyRep { value: "sdk-old".to_owned(), timestamp: 100 },
            },
            ..EnvironmentRep::simple("e1", "", "mob-a")
        };
        let new = EnvironmentRep {
            sdk_keys: vec![KeyRep::expiring("b", "sdk-b", 100)],
            mobile_keys: vec![KeyRep::permanent("b", "mob-b")],
            ..old.clone()
        };
        let check = |rep: &EnvironmentRep, key, now, expected| {
            assert_eq!(rep.accepts_sdk_key(key, now), expected, "{key} at {now}");
        };
        check(&old, "sdk-a", 101, true);
        check(&old, "sdk-old", 100, true);
        check(&old, "sdk-old", 101, false);
        check(&old, "", 0, false);
        check(&new, "sdk-a", 101, true);
        check(&new, "sdk-old", 100, false);
        check(&new, "sdk-b", 100, true);
        check(&new, "sdk-b", 101, false);
        check(&new, "mob-a", 0, false);
        for (key, expected) in [("mob-a", true), ("mob-b", true), ("sdk-a", false), ("", false)] {
            assert_eq!(new.accepts_mobile_key(key, 0), expected, "{key}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let mut rep = EnvironmentRep::simple("e1", "sdk-secret-value", "mob-secret-value");
        rep.sdk_keys = vec![KeyRep::permanent("default", "sdk-secret-value")];
        let shown = format!("{rep:?} {:?} {:?}", rep.sdk_key, rep.sdk_keys);
        assert!(!shown.contains("secret"), "{shown}");
    }
}
