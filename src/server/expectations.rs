//! `?expect=` of `/status` (late ld-relay v8): what monitoring expects of the status, answered by an
//! HTTP code. Pure.
//!
//! An expectation is a path, `=` or `!=`, and a text: `environments.Prod.status=connected`. Paths
//! name members by dots, odd names as `["..."]`, and elements of lists as `[0]` or
//! `[value=sdk-1]`, the first one that has this member.

use hyper::StatusCode;
use serde_json::{Value, json};

/// Members that are not always there. A path to one that is missing is not fulfilled; a path to any
/// other name that is missing is a mistake.
const OPTIONAL: &[&str] = &[
    "archive",
    "autoConfigCache",
    "autoConfigStatus",
    "bigSegmentStatus",
    "breaker",
    "bytes",
    "cache",
    "database",
    "dbPrefix",
    "dbServer",
    "dbTable",
    "dirty",
    "dropped",
    "envId",
    "envKey",
    "envName",
    "error",
    "evictionPolicy",
    "expiringSdkKey",
    "expiry",
    "flags",
    "itemsFromSharedStore",
    "key",
    "lastError",
    "lastRepopulation",
    "lastWrite",
    "localStore",
    "missingItems",
    "mobileKey",
    "modifiedAt",
    "presumedComplete",
    "problem",
    "projKey",
    "projName",
    "segments",
    "statusCode",
    "storedDataProblem",
    "undecodable",
    "unrepaired",
    "writePending",
];

/// The object whose members are named by the operator, not by the relay.
const NAMED: &str = "environments";

const UNREADABLE: &str = "the expectation cannot be read: write path=value or path!=value";
const UNKNOWN_OPERATOR: &str = "the operator is not known: there are = and !=";
const UNKNOWN_FIELD: &str = "there is no such field";
const NOT_A_VALUE: &str = "the path ends at an object or a list";

/// The answer to a request with expectations.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// 200, or the code of the worst expectation.
    pub(super) status: StatusCode,
    /// JSON.
    pub(super) body: String,
}

/// Checks expectations, each as it was written in the query.
pub(super) fn check(expectations: &[String], status: &Value) -> Checked {
    let results: Vec<_> = expectations.iter().map(|text| result(text, status)).collect();
    // From harmless to worst.
    let order = [
        StatusCode::OK,
        StatusCode::PRECONDITION_FAILED,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::BAD_REQUEST,
    ];
    let rank = |code: &StatusCode| order.iter().position(|it| it == code);
    let worst = results.iter().map(|(code, _)| *code).max_by_key(rank).unwrap_or(StatusCode::OK);
    let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
    let mut body = json!({"satisfied": worst == StatusCode::OK, "results": results}).to_string();
    body.push('\n');
    Checked { status: worst, body }
}

fn result(text: &str, status: &Value) -> (StatusCode, Value) {
    let problem = |code, problem| (code, json!({"expr": text, "problem": problem, "ok": false}));
    let parsed = match Expectation::parse(text) {
        Ok(parsed) => parsed,
        Err(Unusable::Unreadable) => return problem(StatusCode::BAD_REQUEST, UNREADABLE),
        Err(Unusable::UnknownOperator) => {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, UNKNOWN_OPERATOR);
        }
    };
    let actual = match find(status, &parsed.path) {
        Ok(actual) => actual,
        Err(what) => return problem(StatusCode::UNPROCESSABLE_ENTITY, what),
    };
    let is_equal = actual.as_ref().map(|actual| *actual == parsed.expected);
    // What is missing fulfils neither.
    let is_ok = is_equal == Some(parsed.is_equality);
    let code = if is_ok { StatusCode::OK } else { StatusCode::PRECONDITION_FAILED };
    (code, json!({"expr": text, "expected": parsed.expected, "actual": actual, "ok": is_ok}))
}

#[derive(Debug, PartialEq, Eq)]
struct Expectation {
    path: Vec<Step>,
    is_equality: bool,
    expected: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Index(usize),
    /// The first element that has a member with this text.
    With(String, String),
}

#[derive(Debug, PartialEq, Eq)]
enum Unusable {
    Unreadable,
    UnknownOperator,
}

impl Expectation {
    fn parse(text: &str) -> Result<Self, Unusable> {
        let mut path = Vec::new();
        let mut rest = text;
        loop {
            if let Some(inner) = rest.strip_prefix('[') {
                let (step, behind) = in_brackets(inner).ok_or(Unusable::Unreadable)?;
                path.push(step);
                rest = behind;
            } else {
                let rest_of_name = match rest.strip_prefix('.') {
                    Some(behind) if !path.is_empty() => behind,
                    None if path.is_empty() => rest,
                    Some(_) | None => break,
                };
                let end = rest_of_name.find(['.', '[', '=', '!', '<', '>', '~']);
                let (name, behind) = rest_of_name.split_at(end.unwrap_or(rest_of_name.len()));
                if name.is_empty() {
                    return Err(Unusable::Unreadable);
                }
                path.push(Step::Member(name.to_owned()));
                rest = behind;
            }
        }
        if path.is_empty() {
            return Err(Unusable::Unreadable);
        }
        let (is_equality, expected) = match rest.strip_prefix("!=") {
            Some(expected) => (false, expected),
            None if rest.is_empty() => return Err(Unusable::Unreadable),
            None if rest.starts_with("==") => return Err(Unusable::UnknownOperator),
            None => (true, rest.strip_prefix('=').ok_or(Unusable::UnknownOperator)?),
        };
        Ok(Self { path, is_equality, expected: expected.to_owned() })
    }
}

/// The step that a bracket encloses, and what follows it.
fn in_brackets(text: &str) -> Option<(Step, &str)> {
    if text.starts_with('"') {
        let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let name = names.next()?.ok()?;
        let behind = text.get(names.byte_offset()..)?.strip_prefix(']')?;
        return Some((Step::Member(name), behind));
    }
    let (inner, behind) = text.split_once(']')?;
    let step = match inner.split_once('=') {
        Some(("", _)) => return None,
        Some((field, value)) => Step::With(field.to_owned(), value.to_owned()),
        None => Step::Index(inner.parse().ok()?),
    };
    Some((step, behind))
}

/// The text at the end of a path; `None` if something optional is not there.
fn find(status: &Value, path: &[Step]) -> Result<Option<String>, &'static str> {
    let mut at = status;
    let mut is_named = false;
    for step in path {
        let next = match (step, at) {
            (Step::Member(name), Value::Object(members)) => match members.get(name) {
                Some(value) => Some(value),
                None if is_named || OPTIONAL.contains(&name.as_str()) => None,
                None => return Err(UNKNOWN_FIELD),
            },
            (Step::Index(index), Value::Array(elements)) => elements.get(*index),
            (Step::With(field, value), Value::Array(elements)) => elements
                .iter()
                .find(|element| element.get(field).and_then(text_of).as_ref() == Some(value)),
            (Step::Member(_) | Step::Index(_) | Step::With(..), _) => return Err(UNKNOWN_FIELD),
        };
        let Some(next) = next else { return Ok(None) };
        is_named = matches!(step, Step::Member(name) if name == NAMED);
        at = next;
    }
    text_of(at).map(Some).ok_or(NOT_A_VALUE)
}

/// A value as text; `None` for objects and lists.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "environments": {
                "Prod": {
                    "status": "connected",
                    "connectionStatus": {"state": "VALID", "stateSince": 5},
                    "sdkKeys": [{"value": "sdk-1"}, {"value": "sdk-2", "expiry": 9}],
                    "data": {"ageSeconds": null, "presumedComplete": true},
                },
                "a.b \"c\"": {"status": "disconnected"},
            },
            "status": "degraded",
        })
    }

    fn code(text: &str) -> u16 {
        check(&[text.to_owned()], &status()).status.as_u16()
    }

    #[test]
    fn one_expectation() {
        for (text, expected) in [
            ("status=degraded", 200),
            ("status!=healthy", 200),
            ("status=healthy", 412),
            ("status!=degraded", 412),
            ("environments.Prod.status=connected", 200),
            (r#"environments["a.b \"c\""].status=disconnected"#, 200),
            (r#"["status"]=degraded"#, 200),
            ("environments.Prod.connectionStatus.stateSince=5", 200),
            ("environments.Prod.data.ageSeconds=null", 200),
            ("environments.Prod.data.presumedComplete=true", 200),
            ("environments.Prod.sdkKeys[0].value=sdk-1", 200),
            ("environments.Prod.sdkKeys[value=sdk-2].expiry=9", 200),
            // Known, and not there.
            ("environments.Prod.sdkKeys[0].expiry=9", 412),
            ("environments.Prod.sdkKeys[7].value=sdk-1", 412),
            ("environments.Prod.sdkKeys[value=sdk-3].value=x", 412),
            ("environments.Prod.connectionStatus.lastError.kind=UNKNOWN", 412),
            ("environments.Prod.connectionStatus.lastError.kind!=UNKNOWN", 412),
            ("environments.Test.status=connected", 412),
            ("autoConfigStatus.state=VALID", 412),
            // Mistakes.
            ("stauts=healthy", 422),
            ("environments.Prod.stauts=connected", 422),
            ("status.more=1", 422),
            ("status[0]=1", 422),
            ("environments=1", 422),
            ("environments.Prod.sdkKeys=1", 422),
            ("environments.Prod.sdkKeys.value=1", 422),
            ("status==degraded", 422),
            ("status>1", 422),
            ("status~x", 422),
            ("", 400),
            ("status", 400),
            ("=x", 400),
            (".status=x", 400),
            ("status..x=1", 400),
            ("status.=1", 400),
            ("environments[Prod]=1", 400),
            ("environments[=x]=1", 400),
            (r#"environments["Prod"#, 400),
            (r#"environments["Prod=1"#, 400),
            ("environments.Prod.sdkKeys[0=1", 400),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn the_worst_of_several_counts_and_all_are_told() {
        let all = ["status=degraded", "status=healthy", "other=1", "status"].map(str::to_owned);
        for (count, expected) in [(1, 200), (2, 412), (3, 422), (4, 400)] {
            assert_eq!(check(&all[..count], &status()).status.as_u16(), expected);
        }
        let body: Value = serde_json::from_str(&check(&all[..3], &status()).body).unwrap();
        assert_eq!(
            body,
            json!({"satisfied": false, "results": [
                {"expr": "status=degraded", "expected": "degraded", "actual": "degraded", "ok": true},
                {"expr": "status=healthy", "expected": "healthy", "actual": "degraded", "ok": false},
                {"expr": "other=1", "problem": UNKNOWN_FIELD, "ok": false},
            ]})
        );
    }
}
