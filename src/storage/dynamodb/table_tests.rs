use super::*;
use crate::storage::dynamodb::{DynamoDbDialer, DynamoDbSettings};
use crate::storage::fail_fast::{Budgets, FailFast};

fn table(form: Form) -> DynamoDbTable {
    let dialer = DynamoDbDialer::new(DynamoDbSettings::default());
    DynamoDbTable::new(FailFast::new("dynamodb", dialer, Budgets::default()), "table", form)
}

#[test]
fn the_size_rule_is_ld_relays() {
    let check = |space: &str, key: String, bytes: usize, version: Option<&str>, expected| {
        let name = RowName::new(&space.into(), key);
        let value = Value { bytes: vec![b' '; bytes].into(), version: version.map(Into::into) };
        let taken = table(Form::Text).takes(&name, &value);
        assert_eq!(taken, expected, "{name:?} {bytes}");
    };
    // Names 23, name space 11, version 2, overhead 100: 399 864 for key and text.
    check("ld:features", "k".to_owned(), 399_863, Some("10"), true);
    check("ld:features", "k".to_owned(), 399_864, Some("10"), false);
    check("ld:features", "k".repeat(1024), 0, Some("10"), true);
    check("ld:features", "k".repeat(1025), 0, Some("10"), false);
    check("ld:features", String::new(), 0, Some("10"), false);
    // Without a version 399 884 for name space, key and bytes.
    check("ns", "env:a".to_owned(), 399_884 - 2 - 5, None, true);
    check("ns", "env:a".to_owned(), 399_884 - 2 - 5 + 1, None, false);
}

#[test]
fn attributes_of_other_types_are_not_content() {
    let read = |form, more: &[(&str, AttributeValue)]| {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let row = table(form).row(RowName::new(&"features".into(), "a"), more.collect())?;
        Some((row.value.bytes, row.value.version.as_deref().map(str::to_owned)))
    };
    let (json, bytes) = ((ITEM, text("{}")), (ITEM, binary(b"\0")));
    let version = (VERSION, number("1.5"));
    let all = [json.clone(), version.clone()];
    assert_eq!(read(Form::Text, &all), Some(("{}".into(), Some("1.5".to_owned()))));
    assert_eq!(read(Form::Text, &all[..1]), Some(("{}".into(), None)));
    assert_eq!(read(Form::Text, &[bytes.clone(), (VERSION, text("9"))]), Some(("".into(), None)));
    assert_eq!(read(Form::Text, &[version]), Some(("".into(), Some("1.5".to_owned()))));
    assert_eq!(read(Form::Binary, &[bytes]), Some((Bytes::from_static(b"\0"), None)));
    assert_eq!(read(Form::Binary, &[json]), None);
    assert_eq!(read(Form::Binary, &[]), None);
}
