//! Items as SDKs read them in databases (ld-relay v8: the persistent store's JSON). Pure.
//!
//! The JSON stays as LaunchDarkly sent it; members that strict readers demand are
//! added where they are missing, with the value that means the same as their absence. A tombstone
//! is written with all of them, because older readers decode an item before they check whether it
//! is deleted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::model::raw_json::{ItemHead, VersionForm, bounded_text, last, members, with_version};
use crate::model::{DataSet, Item, ItemKey, ItemKind, same_json};

/// The key inside a tombstone (ld-relay v8).
const DELETED_KEY: &str = "$deleted";

/// One item as it is to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub key: ItemKey,
    /// Its version, tombstones included.
    pub version: u64,
    /// The JSON of the layout: complete for strict readers, a tombstone in its full form.
    pub json: Bytes,
}

/// Shows the size of the content and not the content.
impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("json", &format_args!("{} bytes", self.json.len()))
            .finish()
    }
}

/// Members that strict readers demand of an object: names with defaults, and lists of further
/// objects.
struct Shape {
    mandatory: &'static [(&'static str, &'static str)],
    lists: &'static [(&'static str, &'static Shape)],
}

const CLAUSE: Shape = Shape {
    mandatory: &[("attribute", "\"\""), ("op", "\"\""), ("values", "[]"), ("negate", "false")],
    lists: &[],
};
const RULE: Shape = Shape { mandatory: &[("clauses", "[]")], lists: &[("clauses", &CLAUSE)] };
const TARGET: Shape = Shape { mandatory: &[("values", "[]"), ("variation", "0")], lists: &[] };
const PREREQUISITE: Shape = Shape { mandatory: &[("key", "\"\""), ("variation", "0")], lists: &[] };
const FLAG: Shape = Shape {
    mandatory: &[
        ("on", "false"),
        ("prerequisites", "[]"),
        ("targets", "[]"),
        ("rules", "[]"),
        ("fallthrough", "{}"),
        ("offVariation", "null"),
        ("variations", "[]"),
        ("salt", "\"\""),
        ("deleted", "false"),
    ],
    lists: &[
        ("prerequisites", &PREREQUISITE),
        ("targets", &TARGET),
        ("contextTargets", &TARGET),
        ("rules", &RULE),
    ],
};
const SEGMENT: Shape = Shape {
    mandatory: &[
        ("included", "[]"),
        ("excluded", "[]"),
        ("salt", "\"\""),
        ("rules", "[]"),
        ("deleted", "false"),
    ],
    lists: &[("rules", &RULE)],
};

/// The row of an item.
pub fn row(key: &ItemKey, item: &Item) -> Row {
    let json = match &item.json {
        Some(json) => complete(key, item.version, json),
        None => tombstone(key.kind, item.version).into(),
    };
    Row { key: key.clone(), version: item.version, json }
}

/// All rows of a data set, in the order for writing them in several calls: segments first, then
/// prerequisites before the flags that depend on them (cycles are cut anywhere).
pub fn ordered(data: &DataSet) -> Vec<Row> {
    let mut names = Vec::with_capacity(data.len());
    let mut seen = HashSet::new();
    for (kind, key, _) in data.iter() {
        let mut way = vec![(ItemKey { kind, key: key.clone() }, false)];
        while let Some((name, is_ready)) = way.pop() {
            if is_ready {
                names.push(name);
            } else if seen.insert(name.clone()) {
                let before = data.item(&name).map(|item| prerequisites(item)).unwrap_or_default();
                way.push((name, true));
                let before = before.into_iter().map(|key| ItemKey::new(kind, key));
                way.extend(before.filter(|name| data.item(name).is_some()).map(|it| (it, false)));
            }
        }
    }
    names.iter().filter_map(|name| Some(row(name, data.item(name)?))).collect()
}

/// Facts about a stored item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredHead {
    /// Its version.
    pub version: u64,
    /// True for a tombstone.
    pub deleted: bool,
    /// True if its JSON states another version, so that it gets this one when it is served; also if
    /// the database keeps a version apart from the JSON and that is missing or not a whole number.
    pub respell: bool,
}

/// Version and deletion of a stored item; `None` if it must not be served. An odd version is read
/// as Go reads it, because ld-relay would serve the item.
pub fn head(json: &[u8]) -> Option<StoredHead> {
    let (head, form) = ItemHead::tolerant(bounded_text(json).ok()?).ok()?;
    let ItemHead { version, deleted } = head;
    Some(StoredHead { version, deleted, respell: form == VersionForm::Odd })
}

/// The same in a database that keeps a version apart from the JSON. That one takes precedence;
/// where it is 0, missing or not a whole number, the JSON counts (go-server-sdk-dynamodb). An item
/// without a whole number there must be written again: SDKs and ld-relay would never replace it.
pub fn head_beside(json: &[u8], version: Option<&str>) -> Option<StoredHead> {
    let head = head(json)?;
    let beside: Option<u64> = version.and_then(|version| version.parse().ok());
    let version = beside.filter(|version| *version != 0).unwrap_or(head.version);
    Some(StoredHead { version, respell: head.respell || beside.is_none(), ..head })
}

/// A stored item as it is served.
pub fn item(head: StoredHead, json: &Bytes) -> Arc<Item> {
    let StoredHead { version, deleted, respell } = head;
    if deleted {
        return Arc::new(Item::tombstone(version));
    }
    let respelt = || with_version(std::str::from_utf8(json).ok()?, version);
    let json = respell.then(respelt).flatten().map_or_else(|| json.clone(), Bytes::from);
    Arc::new(Item::live(version, json))
}

/// True if every reader reads the item from a stored row of the same version. False for a tombstone
/// without the members of the full form: strict readers refuse it.
pub fn is_as_wanted(key: &ItemKey, head: StoredHead, json: &Bytes, wanted: &Item) -> bool {
    match (&wanted.json, head) {
        (_, StoredHead { respell: true, .. }) => false,
        (None, StoredHead { deleted: true, .. }) => has_mandatory(key.kind, json),
        (Some(live), StoredHead { deleted: false, .. }) => {
            // The usual case: LaunchDarkly's JSON lacks nothing.
            live == json || same_json(&complete(key, wanted.version, live), json)
        }
        (None, StoredHead { deleted: false, .. }) | (Some(_), StoredHead { deleted: true, .. }) => {
            false
        }
    }
}

fn has_mandatory(kind: ItemKind, json: &[u8]) -> bool {
    let Some(present) = std::str::from_utf8(json).ok().and_then(|text| members(text).ok()) else {
        return false;
    };
    let has = |name: &str| present.iter().any(|(present, _)| present == name);
    shape(kind).mandatory.iter().all(|(name, _)| has(name))
}

/// Keys of the flags that must be evaluated before this one.
fn prerequisites(item: &Item) -> Vec<String> {
    let read = || {
        let text = std::str::from_utf8(item.json.as_ref()?).ok()?;
        let flag = members(text).ok()?;
        let list: Vec<&RawValue> =
            serde_json::from_str(last(&flag, "prerequisites")?.get()).ok()?;
        let key = |raw: &RawValue| {
            let key = last(&members(raw.get()).ok()?, "key")?.get();
            serde_json::from_str(key).ok()
        };
        Some(list.into_iter().filter_map(key).collect())
    };
    read().unwrap_or_default()
}

/// The JSON with the members that strict readers demand; the same bytes if nothing is missing.
fn complete(key: &ItemKey, version: u64, json: &Bytes) -> Bytes {
    // Accepted JSON is valid; other text would be stored as it is.
    let Ok(text) = std::str::from_utf8(json) else { return json.clone() };
    let Ok(present) = members(text) else { return json.clone() };
    let mut missing = Vec::new();
    if last(&present, "key").is_none() {
        missing.push(("key", quoted(&key.key)));
    }
    if last(&present, "version").is_none() {
        missing.push(("version", version.to_string()));
    }
    if key.kind == ItemKind::Flag && last(&present, "clientSide").is_none() {
        missing.push(("clientSide", client_side(&present).to_string()));
    }
    match completed(text, &present, shape(key.kind), missing) {
        Some(Cow::Owned(text)) => text.into(),
        Some(Cow::Borrowed(_)) | None => json.clone(),
    }
}

fn shape(kind: ItemKind) -> &'static Shape {
    match kind {
        ItemKind::Flag => &FLAG,
        ItemKind::Segment => &SEGMENT,
    }
}

/// True if browsers may see the flag, for readers that know only the older member.
fn client_side(flag: &[(Cow<'_, str>, &RawValue)]) -> bool {
    let read = || {
        let availability = members(last(flag, "clientSideAvailability")?.get()).ok()?;
        serde_json::from_str(last(&availability, "usingEnvironmentId")?.get()).ok()
    };
    read().unwrap_or_default()
}

/// An object's text with the missing members at its end; `None` if something in it does not have
/// the expected shape; then it is left alone.
fn completed<'a>(
    text: &'a str,
    present: &[(Cow<'_, str>, &RawValue)],
    shape: &Shape,
    mut missing: Vec<(&'static str, String)>,
) -> Option<Cow<'a, str>> {
    let mut replaced: Vec<(&RawValue, String)> = Vec::new();
    for (name, of) in shape.lists {
        let Some(list) = last(present, name) else { continue };
        if let Cow::Owned(text) = completed_list(list.get(), of)? {
            replaced.push((list, text));
        }
    }
    for (name, default) in shape.mandatory {
        // `null` is a value where the default is one.
        let is_there = present
            .iter()
            .any(|(key, value)| key == name && (value.get() != "null" || *default == "null"));
        if !is_there {
            missing.push((name, (*default).to_owned()));
        }
    }
    if missing.is_empty() && replaced.is_empty() {
        return Some(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len() + 32 * missing.len() + 256);
    let put = |out: &mut String, name: &str, value: &str| {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&quoted(name));
        out.push(':');
        out.push_str(value);
    };
    for (name, value) in present {
        // A `null` gives way to the default that follows.
        if value.get() == "null" && missing.iter().any(|(missing, _)| missing == name) {
            continue;
        }
        let changed = replaced.iter().find(|(list, _)| std::ptr::eq(*list, *value));
        put(&mut out, name, changed.map_or(value.get(), |(_, text)| text));
    }
    for (name, value) in &missing {
        put(&mut out, name, value);
    }
    out.push('}');
    Some(Cow::Owned(out))
}

fn completed_list<'a>(text: &'a str, of: &Shape) -> Option<Cow<'a, str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let mut changed = false;
    let mut done = Vec::with_capacity(elements.len());
    for element in elements {
        let present = members(element.get()).ok()?;
        let element = completed(element.get(), &present, of, Vec::new())?;
        changed |= matches!(element, Cow::Owned(_));
        done.push(element);
    }
    Some(if changed { Cow::Owned(format!("[{}]", done.join(","))) } else { Cow::Borrowed(text) })
}

fn tombstone(kind: ItemKind, version: u64) -> String {
    let rest = match kind {
        ItemKind::Flag => {
            r#""on":false,"prerequisites":[],"targets":[],"contextTargets":[],"rules":[],"fallthrough":{},"offVariation":null,"variations":[],"clientSide":false,"salt":"","trackEvents":false,"trackEventsFallthrough":false,"debugEventsUntilDate":null"#
        }
        ItemKind::Segment => {
            r#""included":[],"excluded":[],"includedContexts":[],"excludedContexts":[],"salt":"","rules":[],"generation":null"#
        }
    };
    format!("{{\"key\":\"{DELETED_KEY}\",{rest},\"version\":{version},\"deleted\":true}}")
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
