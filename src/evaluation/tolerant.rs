//! Members of JSON that may be missing or null, as LaunchDarkly's Go SDK reads them.

use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// A member that is null counts as missing.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A number without its fraction; null and missing count as 0.
pub(super) fn int<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(optional_int(deserializer)?.unwrap_or_default())
}

/// A number without its fraction, if there is one.
pub(super) fn optional_int<'de, D>(deserializer: D) -> Result<Option<i64>, D::Error>
where
    D: Deserializer<'de>,
{
    let number: Option<Number> = Option::deserialize(deserializer)?;
    Ok(number.map(|number| whole(&number)))
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, and cuts the fraction off")]
fn whole(number: &Number) -> i64 {
    number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64)
}
