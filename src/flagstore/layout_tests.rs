use serde_json::{Value, json};

use super::*;

fn flag(key: &str) -> ItemKey {
    ItemKey::new(ItemKind::Flag, key)
}

fn segment(key: &str) -> ItemKey {
    ItemKey::new(ItemKind::Segment, key)
}

fn stored(key: &ItemKey, version: u64, json: &'static str) -> Row {
    row(key, &Item::live(version, json))
}

fn whole_flag() -> &'static str {
    r#"{"key":"a","version":3,"on":true,"new":[1.50],"prerequisites":[],"targets":[],"rules":[{"clauses":[{"attribute":"x","op":"in","values":[1],"negate":false,"extra":1}]}],"fallthrough":{"variation":0},"offVariation":null,"variations":[1,2],"salt":"s","deleted":false,"clientSide":true}"#
}

#[test]
fn what_is_whole_stays_byte_for_byte() {
    assert_eq!(stored(&flag("a"), 3, whole_flag()).json, whole_flag());
    let whole = r#"{"key":"s","version":1,"included":["u"],"excluded":[],"salt":"","rules":[], "deleted":false}"#;
    assert_eq!(stored(&segment("s"), 1, whole).json, whole);
}

#[test]
fn what_strict_readers_demand_is_added_and_nothing_else_changes() {
    let check = |key: &ItemKey, json: &'static str, expected: Value| {
        let row = stored(key, 7, json);
        let value: Value = serde_json::from_slice(&row.json).unwrap();
        assert_eq!(value, expected, "{json}");
    };
    let mut bare = json!({
        "key": "a \"b\"", "version": 7, "on": false, "prerequisites": [], "targets": [],
        "rules": [], "fallthrough": {}, "offVariation": null, "variations": [], "salt": "",
        "deleted": false, "clientSide": false
    });
    check(&flag("a \"b\""), "{}", bare.clone());
    check(&flag("a \"b\""), r#"{"rules":null,"offVariation":null,"salt":null}"#, bare.clone());
    bare["clientSide"] = true.into();
    bare["clientSideAvailability"] = json!({"usingEnvironmentId": true});
    check(&flag("a \"b\""), r#"{"clientSideAvailability":{"usingEnvironmentId":true}}"#, bare);
    let bare = json!({
        "key": "s", "version": 7, "included": [], "excluded": [], "salt": "", "rules": [],
        "deleted": false, "unbounded": true
    });
    check(&segment("s"), r#"{"unbounded":true}"#, bare);

    let row = stored(
        &flag("a"),
        7,
        r#"{"key":"a","version":7,"x":1e400,"rules":[{"id":"r"},{"clauses":[{"op":"in"}],"y":1}],"targets":[{"values":["u"]}],"prerequisites":[{"key":"p"}]}"#,
    );
    let text = std::str::from_utf8(&row.json).unwrap();
    for part in [
        r#""x":1e400"#,
        r#""rules":[{"id":"r","clauses":[]},{"clauses":[{"op":"in","attribute":"","values":[],"negate":false}],"y":1}]"#,
        r#""targets":[{"values":["u"],"variation":0}]"#,
        r#""prerequisites":[{"key":"p","variation":0}]"#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_is_not_understood_is_left_as_it_is() {
    for json in [r#"{"rules":7}"#, r#"{"targets":[1]}"#, "[1]", "nothing", ""] {
        assert_eq!(stored(&flag("a"), 7, json).json, json);
    }
}

#[test]
fn tombstones_have_every_member_and_are_read_as_such() {
    for (key, mandatory) in [(flag("a"), FLAG.mandatory), (segment("s"), SEGMENT.mandatory)] {
        let row = row(&key, &Item::tombstone(9));
        let value: Value = serde_json::from_slice(&row.json).unwrap();
        assert_eq!(value["key"], "$deleted");
        assert_eq!((&value["version"], &value["deleted"]), (&9.into(), &true.into()));
        for (name, _) in mandatory {
            assert!(value.get(name).is_some(), "{name}");
        }
        let head = head(&row.json).unwrap();
        assert_eq!(*item(head, &row.json), Item::tombstone(9));
    }
}

#[test]
fn heads_are_read_without_the_rest() {
    let check = |json: &str, expected: Option<(u64, bool)>| {
        let head = head(json.as_bytes()).map(|head| (head.version, head.deleted));
        assert_eq!(head, expected, "{json}");
    };
    check(r#"{"key":"a","version":3,"x":{"version":9}}"#, Some((3, false)));
    check(r#"{"version":4,"deleted":true}"#, Some((4, true)));
    check("{}", Some((0, false)));
    check("null", None);
    check("", None);
    check("{", None);
}

#[test]
fn rows_come_in_an_order_that_a_reader_can_use_at_any_moment() {
    let mut data = DataSet::default();
    let mut add = |key: ItemKey, item: Item| data.upsert(&key, Arc::new(item));
    let after = |keys: &str| {
        let list: Vec<Value> = keys.split(' ').map(|key| json!({"key": key})).collect();
        Item::live(1, json!({"prerequisites": list}).to_string())
    };
    add(flag("a"), after("z m"));
    add(flag("b"), after("a nowhere"));
    add(flag("m"), after("z"));
    add(flag("z"), Item::live(1, "{}"));
    add(flag("c"), after("d"));
    add(flag("d"), after("c"));
    add(flag("gone"), Item::tombstone(1));
    add(segment("s"), Item::live(1, "{}"));
    let rows = ordered(&data);
    let place = |key: ItemKey| rows.iter().position(|row| row.key == key).unwrap();
    assert_eq!((rows.len(), place(segment("s"))), (8, 0));
    for (first, then) in [("z", "m"), ("m", "a"), ("z", "a"), ("a", "b")] {
        assert!(place(flag(first)) < place(flag(then)), "{first} before {then}");
    }
    place(flag("c"));
    place(flag("d"));
    place(flag("gone"));
}

#[test]
fn a_long_chain_of_prerequisites_needs_no_deep_stack() {
    let mut data = DataSet::default();
    for number in 0..20_000 {
        let json = format!(r#"{{"prerequisites":[{{"key":"f{}"}}]}}"#, number + 1);
        data.upsert(&flag(&format!("f{number}")), Arc::new(Item::live(1, json)));
    }
    assert_eq!(ordered(&data)[0].key, flag("f19999"));
}

#[test]
fn a_version_beside_the_json_goes_first() {
    let check = |version: Option<&str>, json: &str, expected: Option<(u64, bool)>| {
        let head = head_beside(json.as_bytes(), version);
        assert_eq!(head.map(|head| (head.version, head.respell)), expected, "{version:?} {json}");
    };
    let json = r#"{"version":7,"deleted":true}"#;
    check(Some("9"), json, Some((9, false)));
    check(Some("3"), json, Some((3, false)));
    check(Some("0"), json, Some((7, false)));
    check(None, json, Some((7, true)));
    check(Some("1.5"), json, Some((7, true)));
    check(Some("-1"), json, Some((7, true)));
    check(Some("9"), "{", None);
    check(Some("9"), "", None);
}
