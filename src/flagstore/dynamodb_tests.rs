use super::*;
use crate::storage::dynamodb::{DynamoDbDialer, DynamoDbSettings};
use crate::storage::fail_fast::{Budgets, FailFast};

fn flags(prefix: &str) -> DynamoDbFlags {
    let dialer = DynamoDbDialer::new(DynamoDbSettings::default());
    DynamoDbFlags::new(FailFast::new("dynamodb", dialer, Budgets::default()), "table", prefix)
}

#[test]
fn the_size_rule_is_ld_relays() {
    let check = |key_bytes: usize, json_bytes: usize, expected: bool| {
        let key = ItemKey::new(ItemKind::Flag, "k".repeat(key_bytes));
        let row = Row { key, version: 10, json: vec![b' '; json_bytes].into() };
        assert_eq!(flags("ld").takes(&row), expected, "{key_bytes} {json_bytes}");
    };
    // Names 23, `ld:features` 11, version 2, overhead 100: 399 864 for key and JSON.
    check(1, 399_863, true);
    check(1, 399_864, false);
    check(1024, 0, true);
    check(1025, 0, false);
    check(0, 0, false);
}

#[test]
fn the_version_attribute_goes_before_the_json() {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let check = |version: Option<AttributeValue>, item: Option<AttributeValue>, expected| {
        let mut attributes = name("features".to_owned(), "a".to_owned());
        attributes.extend(version.map(|version| (VERSION.to_owned(), version)));
        attributes.extend(item.map(|item| (ITEM.to_owned(), item)));
        let row = stored_row(ItemKind::Flag, attributes).unwrap();
        assert_eq!(row.head.map(|head| (head.version, head.deleted)), expected);
    };
    let json = || Some(text(r#"{"version":7,"deleted":true}"#));
    check(Some(number(9)), json(), Some((9, true)));
    check(Some(number(3)), json(), Some((3, true)));
    check(Some(number(0)), json(), Some((7, true)));
    check(None, json(), Some((7, true)));
    check(Some(text("9")), json(), Some((7, true)));
    check(Some(AttributeValue::N("1.5".to_owned())), json(), Some((7, true)));
    check(Some(number(9)), Some(text("{")), None);
    check(Some(number(9)), None, None);
    check(Some(number(9)), Some(AttributeValue::Bool(true)), None);
    assert_eq!(stored_row(ItemKind::Flag, HashMap::new()), None);
}
