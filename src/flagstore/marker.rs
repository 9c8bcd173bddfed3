//! The marker `$inited` of a shared flag store. Pure.
//!
//! SDKs and ld-relay only ask whether it exists. Pilotlight also writes what the marker vouches
//! for: how many rows of each kind there are, a checksum of their names, for which environment, and
//! when LaunchDarkly last confirmed the data.
//!
//! ```text
//! pilotlight-0123456789abcdef {"flags":200,"segments":3,"names":"89ab…","environment":"…", …}
//! token of the initialization  note
//! ```
//!
//! The token changes only when the store is initialized again or taken over by another environment,
//! so that relays do not take each other's notes for a loss. Tombstones are rows too. A new row is
//! listed before it is written, so that it cannot stand in for one that is lost; and a row is taken
//! off the list before it is removed.
//!
//! While rows are not confirmed, the marker says only that (`{"unsettled":"unconfirmed"}`): SDKs in
//! daemon mode and ld-relay see an initialized store, and no relay serves the rows as a set.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::inventory::{Counts, Inventory};
use crate::model::EnvironmentSpec;

/// Bytes of a token: `pilotlight-` and 16 hexadecimal digits.
const TOKEN_BYTES: usize = TOKEN_PREFIX.len() + 16;
const TOKEN_PREFIX: &str = "pilotlight-";

/// Longest marker that is read for a note. Longer ones were not written here.
const NOTE_BYTES_MAX: usize = 4 * 1024;

/// The marker as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Distinguishes one initialization of the store from another.
    pub token: Bytes,
    /// The set that the marker vouches for; `None` if another program wrote it, or if it is
    /// unsettled.
    pub note: Option<Note>,
    /// Reason why it vouches for nothing, if Pilotlight wrote one into it.
    pub unsettled: Option<Unsettled>,
    /// Its value, byte for byte, for a compare-and-set.
    pub value: Bytes,
    /// The database's own revision of it where it has one (Consul's ModifyIndex), else 0.
    pub revision: u64,
}

/// The set that a marker vouches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The rows, tombstones included. Other programs may have added some.
    pub inventory: Inventory,
    /// The environment whose data it is; `None` if the writer did not know its ID.
    pub identity: Option<Identity>,
    /// Time at which LaunchDarkly last confirmed the data.
    pub confirmed_at: Option<SystemTime>,
    /// A reason to vouch for nothing: only this is written, and it is not read as a note.
    pub unsettled: Option<Unsettled>,
}

/// Reason why a marker vouches for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Unsettled {
    /// Some rows differ from what LaunchDarkly sent and may be newer.
    Unconfirmed,
    /// The rows of another environment are being replaced. Any other word is read as this one.
    #[serde(other)]
    Mixed,
}

/// The environment and the payload filter that a data set belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The environment ID.
    pub environment: Arc<str>,
    /// The key of the payload filter; empty without one.
    pub filter: Arc<str>,
}

/// The note in the marker. Members that are missing or unknown are no error.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct WireNote<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<u64>,
    /// As 16 hexadecimal digits, because some readers of JSON round large numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsettled: Option<Unsettled>,
}

impl Identity {
    /// The identity of an environment; `None` if its ID is not known, as for an environment that
    /// is configured by its SDK key alone.
    pub fn of(spec: &EnvironmentSpec) -> Option<Self> {
        let environment = spec.credentials.environment_id.as_ref()?.as_str().into();
        Some(Self { environment, filter: spec.reference.filter.as_str().into() })
    }
}

impl Marker {
    /// Reads a marker. `revision` stands in for the token of markers that other programs wrote,
    /// in databases that have revisions.
    pub fn read(value: Bytes, revision: u64) -> Self {
        let ours = split(&value);
        let token = match &ours {
            Some((token, _)) => value.slice_ref(token),
            None if revision != 0 => Bytes::copy_from_slice(&revision.to_be_bytes()),
            None => value.clone(),
        };
        let note = ours.and_then(|(_, note)| note);
        let unsettled = note.as_ref().and_then(|note| note.unsettled);
        let note = note.filter(|note| note.unsettled.is_none());
        Self { token, note, unsettled, value, revision }
    }

    /// True if both were written by the same initialization of the store.
    pub fn is_same_set(&self, other: &Self) -> bool {
        self.token == other.token
    }

    /// True if the data set was written for another environment, as far as both are known.
    pub fn is_foreign_to(&self, identity: Option<&Identity>) -> bool {
        identity.is_some() && self.names_another(identity)
    }

    /// True if it names an environment other than this one. If this one's ID is not known, any name
    /// is another one: a relay that does not know its ID cannot write under a name.
    pub fn names_another(&self, identity: Option<&Identity>) -> bool {
        let written_for = self.note.as_ref().and_then(|note| note.identity.as_ref());
        written_for.is_some() && written_for != identity
    }
}

impl Note {
    /// A note that vouches for nothing, written by a relay of this environment.
    pub fn unsettled(why: Unsettled, identity: Option<Identity>) -> Self {
        Self { unsettled: Some(why), identity, ..Self::default() }
    }

    /// True if the marker vouches for these rows and this environment, so that it need not be
    /// written again.
    pub fn is_current(&self, inventory: Inventory, identity: Option<&Identity>) -> bool {
        self.inventory == inventory && self.belongs_to(identity)
    }

    /// True if it names this environment; if the ID of this environment is not known, true if it
    /// names none.
    pub fn belongs_to(&self, identity: Option<&Identity>) -> bool {
        self.identity.as_ref() == identity
    }

    /// The marker's value with this note: under the token of the marker that was found, or under a
    /// new one if there was none of Pilotlight's, or another environment's.
    pub fn value(&self, found: Option<&Marker>) -> Bytes {
        let kept = found.filter(|found| {
            split(&found.value).is_some() && !found.is_foreign_to(self.identity.as_ref())
        });
        let token = match kept {
            Some(found) => String::from_utf8_lossy(&found.token).into_owned(),
            None => format!("{TOKEN_PREFIX}{:016x}", fastrand::u64(..)),
        };
        // Numbers and text always serialize.
        let note = serde_json::to_string(&self.wire()).unwrap_or_default();
        Bytes::from(format!("{token} {note}"))
    }

    fn wire(&self) -> WireNote<'_> {
        if self.unsettled.is_some() {
            return WireNote { unsettled: self.unsettled, ..WireNote::default() };
        }
        let identity = self.identity.as_ref();
        let Inventory { counts, names } = self.inventory;
        WireNote {
            flags: Some(counts.flags),
            segments: Some(counts.segments),
            names: names.map(|names| format!("{names:016x}").into()),
            environment: identity.map(|identity| (&*identity.environment).into()),
            filter: identity
                .map(|it| (&*it.filter).into())
                .filter(|filter: &std::borrow::Cow<'_, str>| !filter.is_empty()),
            confirmed_at: self
                .confirmed_at
                .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
            unsettled: None,
        }
    }

    fn of_wire(wire: WireNote<'_>) -> Option<Self> {
        if let Some(why) = wire.unsettled {
            return Some(Self::unsettled(why, None));
        }
        let filter = wire.filter.unwrap_or_default();
        Some(Self {
            inventory: Inventory {
                counts: Counts { segments: wire.segments?, flags: wire.flags? },
                names: wire.names.and_then(|names| u64::from_str_radix(&names, 16).ok()),
            },
            identity: wire.environment.map(|environment| Identity {
                environment: (*environment).into(),
                filter: (*filter).into(),
            }),
            confirmed_at: wire.confirmed_at.and_then(|seconds| {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
            }),
            unsettled: None,
        })
    }
}

/// Token and note of a marker that Pilotlight wrote.
fn split(value: &[u8]) -> Option<(&[u8], Option<Note>)> {
    let (token, rest) = value.split_at_checked(TOKEN_BYTES)?;
    let digits = token.strip_prefix(TOKEN_PREFIX.as_bytes())?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let note = match rest.split_first() {
        None => None,
        Some((b' ', note)) if note.len() <= NOTE_BYTES_MAX => {
            serde_json::from_slice(note).ok().and_then(Note::of_wire)
        }
        Some(_) => return None,
    };
    Some((token, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(flags: u64, segments: u64, environment: Option<(&str, &str)>) -> Note {
        Note {
            inventory: Inventory { counts: Counts { segments, flags }, names: Some(flags << 60) },
            identity: environment.map(|(environment, filter)| Identity {
                environment: environment.into(),
                filter: filter.into(),
            }),
            confirmed_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_442_000)),
            unsettled: None,
        }
    }

    #[test]
    fn an_unsettled_marker_vouches_for_nothing_and_says_so() {
        let identity = |environment: &str| {
            Some(Identity { environment: environment.into(), filter: "".into() })
        };
        for why in [Unsettled::Unconfirmed, Unsettled::Mixed] {
            let marker = Marker::read(Note::unsettled(why, identity("e")).value(None), 0);
            assert_eq!((marker.note.as_ref(), marker.unsettled), (None, Some(why)));
            assert_eq!(marker.token.len(), TOKEN_BYTES);
            let noted = Marker::read(note(2, 1, Some(("e", ""))).value(Some(&marker)), 0);
            assert!(noted.is_same_set(&marker) && noted.note.is_some());
            assert_eq!(noted.unsettled, None);
        }
        let unknown = r#"pilotlight-0123456789abcdef {"unsettled":"x","flags":1,"segments":1}"#;
        let marker = Marker::read(unknown.into(), 0);
        assert_eq!((marker.note, marker.unsettled), (None, Some(Unsettled::Mixed)));
        // Relays of the environment that had the set so far see that it was initialized again.
        let theirs = Marker::read(note(2, 1, Some(("x", ""))).value(None), 0);
        let taken = |identity| {
            let note = Note::unsettled(Unsettled::Mixed, identity);
            Marker::read(note.value(Some(&theirs)), 0)
        };
        assert!(!taken(identity("e")).is_same_set(&theirs));
        assert!(taken(identity("x")).is_same_set(&theirs));
        assert!(taken(None).is_same_set(&theirs), "it may be the same environment");
    }

    #[test]
    fn what_is_written_is_read() {
        for note in [
            note(200, 3, Some(("5f\"\n", "micro"))),
            note(0, 0, Some(("e", ""))),
            note(u64::MAX, 1, None),
            Note::default(),
        ] {
            let marker = Marker::read(note.value(None), 0);
            assert_eq!(marker.note.as_ref(), Some(&note));
            assert_eq!(marker.token.len(), TOKEN_BYTES);
            let renewed = Note { inventory: Inventory { names: None, ..note.inventory }, ..note };
            let renewed = Marker::read(renewed.value(Some(&marker)), 0);
            assert!(renewed.is_same_set(&marker) && renewed != marker);
            let other = Marker::read(Note::default().value(None), 0);
            assert!(!other.is_same_set(&marker));
        }
    }

    #[test]
    fn markers_of_others_are_told_apart_as_well_as_they_can_be() {
        let read = |value: &'static str, revision| Marker::read(value.into(), revision);
        for value in ["", "launchdarkly:$inited", "pilotlight-", "pilotlight-0123456789abcdeg {}"] {
            let marker = read(value, 0);
            assert_eq!((marker.token, marker.note), (value.into(), None), "{value}");
            assert!(!read(value, 7).is_same_set(&read(value, 8)), "{value}");
            // One that takes its place has a token of its own.
            let ours = Marker::read(note(1, 1, None).value(Some(&read(value, 0))), 0);
            assert_eq!(ours.token.len(), TOKEN_BYTES);
        }
        // A note that cannot be read vouches for nothing.
        for rest in
            ["", " ", " {", " []", " {}", r#" {"flags":1}"#, r#" {"flags":-1,"segments":0}"#]
        {
            let marker = Marker::read(format!("pilotlight-0123456789abcdef{rest}").into(), 3);
            assert_eq!((marker.token.len(), marker.note), (TOKEN_BYTES, None), "{rest}");
        }
        let long = format!("pilotlight-0123456789abcdef {{{}", " ".repeat(NOTE_BYTES_MAX));
        assert_eq!(Marker::read(long.into(), 0).note, None);
    }

    #[test]
    fn a_set_belongs_to_its_environment() {
        let identity = |environment: &str, filter: &str| Identity {
            environment: environment.into(),
            filter: filter.into(),
        };
        let of = |environment| Marker::read(note(1, 1, environment).value(None), 0);
        let ours = identity("a", "f");
        let check = |written, ours: Option<&Identity>, foreign| {
            assert_eq!(of(written).is_foreign_to(ours), foreign, "{written:?} {ours:?}");
            let names_another = foreign || (written.is_some() && ours.is_none());
            assert_eq!(of(written).names_another(ours), names_another, "{written:?} {ours:?}");
            let is_same = written.is_some() == ours.is_some() && !foreign;
            let note = of(written).note.unwrap();
            assert_eq!(note.belongs_to(ours), is_same, "{written:?} {ours:?}");
        };
        check(Some(("a", "f")), Some(&ours), false);
        check(Some(("a", "")), Some(&ours), true);
        check(Some(("b", "f")), Some(&ours), true);
        check(None, Some(&ours), false);
        check(Some(("b", "")), None, false);
        check(None, None, false);
        assert!(!Marker::read(Bytes::new(), 0).is_foreign_to(Some(&ours)));
    }
}
