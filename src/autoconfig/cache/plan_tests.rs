use super::*;
use crate::autoconfig::record_set::Stamp;
use crate::autoconfig::records::{FilterRecord, encode_filter};
use crate::sealing::{KeyRing, SealingKey};

fn codec(keys: &[&str]) -> Codec {
    let mut keys = keys.iter().map(|text| SealingKey::derive(text));
    let ring = KeyRing::new(keys.next().unwrap(), keys);
    Codec::sealed(&ring, "here")
}

fn text(version: i64) -> String {
    let project_key = "p".to_owned();
    encode_filter(&FilterRecord { project_key, key: "f".to_owned(), version })
}

/// Names with versions, such as `a1 b2`; those with `-` are removed.
fn words(text: &str) -> Vec<(bool, String, i64)> {
    let word = |word: &str| {
        let (gone, word) = match word.strip_prefix('-') {
            Some(word) => (true, word),
            None => (false, word),
        };
        let (name, version) = word.split_at(1);
        (gone, name.to_owned(), version.parse().unwrap())
    };
    text.split_whitespace().map(word).collect()
}

/// A cache with rows and perhaps a manifest, and what a relay knows.
struct Case {
    codec: Codec,
    rows: Vec<Row>,
    opened: OpenedRows,
    manifest: Option<Manifest>,
    desired: Desired,
    gone: BTreeMap<String, Gone>,
    missing: BTreeMap<String, i64>,
}

impl Case {
    fn new(rows: &str, manifest: Option<&str>, known: &str) -> Self {
        let codec = codec(&["k"]);
        let row = |(_, name, version): (bool, String, i64)| Row {
            name: codec.row_name(&name),
            value: codec.seal(&name, &text(version)),
            revision: 0,
        };
        let rows: Vec<Row> = words(rows).into_iter().map(row).collect();
        let opened = codec.open_all(&rows);
        let gone_of = |listed: &str| -> BTreeMap<String, Gone> {
            let gone = words(listed).into_iter().filter(|(gone, ..)| *gone);
            gone.map(|(_, name, version)| (name, Gone { version, order: 1 })).collect()
        };
        let manifest = manifest.map(|listed| Manifest {
            stamp: Stamp { confirmed_at: None, sequence: 1 },
            writer: String::new(),
            records: words(listed)
                .into_iter()
                .filter(|(gone, ..)| !gone)
                .map(|(_, name, version)| {
                    let entry = Entry::of(&name, version, &text(version));
                    (name, entry)
                })
                .collect(),
            gone: gone_of(listed),
            adopted: false,
        });
        let (lost, known): (Vec<&str>, Vec<&str>) =
            known.split_whitespace().partition(|word| word.starts_with('!'));
        let missing = words(&lost.join(" ").replace('!', ""));
        let missing = missing.into_iter().map(|(_, name, version)| (name, version)).collect();
        let known = known.join(" ");
        let desired = words(&known)
            .into_iter()
            .filter(|(gone, ..)| !gone)
            .map(|(_, name, version)| (name, (version, text(version))))
            .collect();
        Self { codec, rows, opened, manifest, desired, gone: gone_of(&known), missing }
    }

    fn stored(&self) -> Stored<'_> {
        Stored { rows: &self.rows, opened: &self.opened, manifest: self.manifest.as_ref() }
    }

    fn known(&self) -> Known<'_> {
        Known { desired: &self.desired, gone: &self.gone, missing: &self.missing }
    }

    fn live(&self, removed: &[&str], due: &BTreeMap<String, Claim>) -> Plan {
        let removed = removed.iter().map(|name| ((*name).to_owned(), 1)).collect();
        plan_live(&self.codec, self.stored(), self.known(), &removed, due)
    }

    /// The writes `+a`, `~a` (over a row), `-a`; then `?a` for what waits; then what the manifest
    /// lists, removals with `-`.
    fn shown(&self, plan: &Plan) -> String {
        let by_row = |row_name: &str| {
            ["a", "b", "c"].into_iter().find(|name| self.codec.row_name(name) == row_name).unwrap()
        };
        let mut shown: Vec<String> = plan
            .swaps
            .iter()
            .map(|swap| match (&swap.expected, &swap.value) {
                (None, Some(_)) => format!("+{}", by_row(&swap.name)),
                (Some(_), Some(_)) => format!("~{}", by_row(&swap.name)),
                (_, None) => format!("-{}", by_row(&swap.name)),
            })
            .collect();
        shown.extend(plan.doubtful.keys().map(|name| format!("?{name}")));
        let listed = plan.records.iter().map(|(name, entry)| format!("{name}{}", entry.version));
        let gone = plan.gone.iter().map(|(name, gone)| format!("-{name}{}", gone.version));
        let list: Vec<String> = listed.chain(gone).collect();
        shown.push(format!("= {}", list.join(" ")));
        shown.join(" ")
    }
}

#[track_caller]
fn live(rows: &str, manifest: &str, known: &str, removed: &[&str], expected: &str) {
    let case = Case::new(rows, Some(manifest), known);
    assert_eq!(case.shown(&case.live(removed, &BTreeMap::new())), expected);
}

/// The second check: the claims are unchanged.
#[track_caller]
fn live_again(rows: &str, manifest: &str, known: &str, expected: &str) {
    let case = Case::new(rows, Some(manifest), known);
    let first = case.live(&[], &BTreeMap::new());
    assert_eq!(case.shown(&case.live(&[], &first.doubtful)), expected);
}

#[track_caller]
fn upward(rows: &str, manifest: Option<&str>, known: &str, expected: &str) {
    let case = Case::new(rows, manifest, known);
    let plan = plan_upward(&case.codec, case.stored(), case.known());
    assert_eq!(case.shown(&plan), expected, "{rows} {manifest:?} {known}");
}

#[test]
fn a_live_relay_writes_what_differs_and_nothing_else() {
    live("", "", "a1 b1", &[], "+a +b = a1 b1");
    live("a1", "a1", "a1 b1", &[], "+b = a1 b1");
    live("a1", "a1", "a2", &[], "~a = a2");
    live("a1", "a1", "a1", &[], "= a1");
}

#[test]
fn what_a_peer_stored_at_a_higher_version_stands_until_the_second_look() {
    live("a3", "a3", "a2", &[], "?a = a3");
    live_again("a3", "a3", "a2", "~a = a2");
    live("a3", "a2", "a2", &[], "?a = a3");
    // Its row is lost, or was put back in an older form: the manifest knows of it.
    live("", "a3", "a2", &[], "?a = a3");
    live("a1", "a3", "a2", &[], "?a = a3");
    live("a1", "a3", "a3", &[], "~a = a3");
}

#[test]
fn what_a_peer_removed_stays_removed_until_the_second_look() {
    live("", "-a2", "a2", &[], "?a = -a2");
    live_again("", "-a2", "a2", "+a = a2");
    live("", "-a2", "a3", &[], "+a = a3");
}

#[test]
fn a_live_relay_removes_what_was_removed_and_looks_twice_at_the_rest() {
    live("a1 b1", "a1 b1", "a1", &["b"], "-b = a1 -b1");
    live("a1 b1", "a1 b1", "a1 -b2", &[], "-b = a1 -b2");
    live("a1 b1", "a1 b1", "a1", &[], "?b = a1 b1");
    live_again("a1 b1", "a1 b1", "a1", "-b = a1 -b1");
    // It was only missing from a put: perhaps a peer received it a moment before.
    live("a1 b1", "a1 b1", "a1 -b1", &[], "?b = a1 b1");
    live("a1", "a1", "", &["a"], "-a = -a1");
    live("a2", "a2", "", &["a"], "?a = a2");
    // Put back after its removal.
    live("a1 b1", "a1 -b1", "a1", &[], "-b = a1 -b1");
}

#[test]
fn a_relay_that_is_not_live_adds_only_what_is_newer_by_version() {
    upward("a1", Some("a1"), "a2", "~a = a2");
    upward("a2", Some("a2"), "a1", "= a2");
    upward("a1", Some("a1"), "a1 b1", "= a1");
    upward("a1", Some("a1 -b1"), "a1 b1", "= a1 -b1");
    upward("a1 b1", Some("a1 b1"), "a1 -b1", "-b = a1 -b1");
    upward("a1 b2", Some("a1 b2"), "a1 -b1", "= a1 b2");
    upward("a1", Some("a1"), "a1 -b1", "= a1 -b1");
    // A lost record that the manifest lists may come back at that version, and at no older one.
    upward("a1", Some("a1 b2"), "a1 b2", "+b = a1 b2");
    upward("a1", Some("a1 b2"), "a1 b1", "= a1 b2");
    // Without a manifest it is not known what is missing.
    upward("a1", None, "a2 b1", "~a = a2");
    // A cache that holds nothing is filled.
    upward("", None, "a1 b1 -c1", "+a +b = a1 b1 -c1");
    upward("", None, "a1 !b2", "+a = a1 b2");
}

#[test]
fn what_cannot_be_used_here_stays_as_it_is_stored() {
    live("a1 b2", "a1 b2", "a1 !b0", &[], "= a1 b2");
    live_again("a1 b2", "a1", "a1 !b0", "= a1 b2");
    live("a1", "a1", "a1 !b0", &[], "= a1 b0");
    live("", "", "a1 !b0", &[], "+a = a1 b0");
    // Another relay can add it, even while it is not live.
    upward("a1", Some("a1 b0"), "a1 b2", "+b = a1 b2");
}

#[test]
fn a_new_key_moves_every_row() {
    let old = codec(&["old"]);
    let new = codec(&["new", "old"]);
    let foreign = codec(&["foreign"]);
    let sealed = |codec: &Codec, name: &str| Row {
        name: codec.row_name(name),
        value: codec.seal(name, &text(1)),
        revision: 0,
    };
    let rows = [sealed(&old, "a"), sealed(&old, "b"), sealed(&new, "b"), sealed(&foreign, "c")];
    let opened = new.open_all(&rows);
    let desired: Desired =
        ["a", "b"].into_iter().map(|name| (name.to_owned(), (1, text(1)))).collect();
    let stored = Stored { rows: &rows, opened: &opened, manifest: None };
    let known = Known { desired: &desired, gone: &BTreeMap::new(), missing: &BTreeMap::new() };
    let plan = plan_live(&new, stored, known, &BTreeMap::new(), &BTreeMap::new());
    let names: Vec<_> =
        plan.swaps.iter().map(|swap| (swap.name.as_str(), swap.value.is_some())).collect();
    assert_eq!(
        names,
        [
            (new.row_name("a").as_str(), true),
            (rows[0].name.as_str(), false),
            (rows[1].name.as_str(), false)
        ],
        "rows of foreign keys are not ours to remove"
    );
    // Only a relay whose stream is live does that.
    assert!(plan_upward(&new, stored, known).swaps.is_empty());
}

#[test]
fn a_row_that_does_not_open_is_overwritten_in_its_place() {
    let codec = codec(&["k"]);
    let rows =
        [Row { name: codec.row_name("a"), value: bytes::Bytes::from_static(b"x"), revision: 4 }];
    let desired = Desired::from([("a".to_owned(), (1, text(1)))]);
    let opened = codec.open_all(&rows);
    let stored = Stored { rows: &rows, opened: &opened, manifest: None };
    let known = Known { desired: &desired, gone: &BTreeMap::new(), missing: &BTreeMap::new() };
    let plan = plan_live(&codec, stored, known, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(plan.swaps[0].expected.as_ref(), Some(&rows[0]));
}
