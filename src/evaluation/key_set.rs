//! Sets of strings that are asked for one string at a time.

use std::collections::HashSet;

use serde::{Deserialize, Deserializer};

use super::tolerant;

/// Most strings that are compared one after the other; a hash costs more than that.
const FEW: usize = 6;

/// A set of strings: keys of contexts in targets and segments, values of clauses.
#[derive(Debug)]
pub(super) enum KeySet {
    /// Compared one after the other.
    Few(Box<[Box<str>]>),
    /// Found by their hash.
    Many(HashSet<Box<str>>),
}

impl KeySet {
    /// True if the string is in the set.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::Few(keys) => keys.iter().any(|held| **held == *key),
            Self::Many(keys) => keys.contains(key),
        }
    }

    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Few(keys) => keys.is_empty(),
            Self::Many(keys) => keys.is_empty(),
        }
    }
}

impl Default for KeySet {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl FromIterator<Box<str>> for KeySet {
    fn from_iter<T: IntoIterator<Item = Box<str>>>(keys: T) -> Self {
        let keys: Vec<Box<str>> = keys.into_iter().collect();
        if keys.len() <= FEW {
            Self::Few(keys.into())
        } else {
            Self::Many(keys.into_iter().collect())
        }
    }
}

impl<'de> Deserialize<'de> for KeySet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys: Vec<Box<str>> = tolerant::or_default(deserializer)?;
        Ok(keys.into_iter().collect())
    }
}
