//! Wire shapes of the autoconfig stream: put, patch, delete, reconnect.
//!
//! Decoding follows ld-relay v8, which uses Go's JSON rules: member names match whatever their
//! case, unknown members are ignored, `null` and absent mean the zero value. One environment or
//! filter that cannot be decoded, or whose keys contradict each other, is reported and does not
//! affect the others of its message. No I/O here.

use serde_json::{Map, Value};

use super::fields::{Fields, Malformed};
use super::records::{EnvironmentRecord, FilterRecord};

/// Reason why a whole message cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The data is not JSON.
    #[error("{event} event is not valid JSON")]
    Json {
        /// Name of the event.
        event: &'static str,
        /// Position of the error. Its text never quotes the data.
        #[source]
        cause: serde_json::Error,
    },
    /// JSON of another shape.
    #[error("{event} event has a wrong shape: {problem}")]
    Shape {
        /// Name of the event.
        event: &'static str,
        /// The problem.
        problem: String,
    },
}

/// Reason why an environment of a message is not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It cannot be decoded, or its keys contradict each other: another connection may bring it
    /// in good form.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It names another environment. ld-relay v8 skips it and does not reconnect.
    #[error("its envID differs from the ID it is filed under")]
    Foreign,
}

/// A message of the stream, decoded and validated.
#[derive(Debug)]
pub enum Message {
    /// The whole set.
    Put(Put),
    /// A put that is about another path than the root; nothing to do.
    PutElsewhere,
    /// One environment is new or changed.
    PatchEnvironment(String, Result<EnvironmentRecord, Unusable>),
    /// One filter is new or changed.
    PatchFilter(String, FilterRecord),
    /// One environment is deleted at a version.
    DeleteEnvironment(String, i64),
    /// One filter is deleted at a version.
    DeleteFilter(String, i64),
    /// The server asks for a new connection.
    Reconnect,
    /// An event that this version does not know.
    UnknownEvent(String),
    /// A change of something that this version does not know, by its path.
    UnknownItem(String),
}

/// The whole set of environments and filters.
#[derive(Debug, Default)]
pub struct Put {
    /// By ID; `Err` for one that must be skipped while its previous form is kept.
    pub environments: Vec<(String, Result<EnvironmentRecord, Unusable>)>,
    /// By ID; `Err` as for environments.
    pub filters: Vec<(String, Result<FilterRecord, Malformed>)>,
}

/// Decodes one event of the stream.
pub fn decode(event: &str, data: &[u8]) -> Result<Message, MessageError> {
    match event {
        "put" => decode_put(&object("put", data)?),
        "patch" => decode_patch(&object("patch", data)?),
        "delete" => decode_delete(&object("delete", data)?),
        "reconnect" => Ok(Message::Reconnect),
        other => Ok(Message::UnknownEvent(other.to_owned())),
    }
}

fn object(event: &'static str, data: &[u8]) -> Result<Map<String, Value>, MessageError> {
    match serde_json::from_slice(data) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(shape(event, "not an object")),
        Err(cause) => Err(MessageError::Json { event, cause }),
    }
}

fn shape(event: &'static str, problem: impl Into<String>) -> MessageError {
    MessageError::Shape { event, problem: problem.into() }
}

fn decode_put(message: &Map<String, Value>) -> Result<Message, MessageError> {
    let wrong = |Malformed(problem)| shape("put", problem);
    let message = Fields(message);
    if message.text("path").map_err(wrong)? != "/" {
        return Ok(Message::PutElsewhere);
    }
    let empty = Map::new();
    let data = Fields(message.object("data").map_err(wrong)?.unwrap_or(&empty));
    let mut put = Put::default();
    for (id, value) in data.object("environments").map_err(wrong)?.unwrap_or(&empty) {
        put.environments.push((id.clone(), environment(id, value)));
    }
    for (id, value) in data.object("filters").map_err(wrong)?.unwrap_or(&empty) {
        put.filters.push((id.clone(), FilterRecord::from_json(value)));
    }
    Ok(Message::Put(put))
}

/// Decodes an environment and checks that it is the one it is filed under.
fn environment(id: &str, value: &Value) -> Result<EnvironmentRecord, Unusable> {
    let record = EnvironmentRecord::from_json(value)?;
    if record.id != id {
        return Err(Unusable::Foreign);
    }
    record.check_credentials()?;
    Ok(record)
}

fn decode_patch(message: &Map<String, Value>) -> Result<Message, MessageError> {
    let wrong = |Malformed(problem)| shape("patch", problem);
    let message = Fields(message);
    let null = Value::Null;
    let data = message.get("data").unwrap_or(&null);
    match target(message.text("path").map_err(wrong)?) {
        Target::Environment(id) => {
            Ok(Message::PatchEnvironment(id.to_owned(), environment(id, data)))
        }
        Target::Filter(id) => {
            let filter = FilterRecord::from_json(data).map_err(wrong)?;
            Ok(Message::PatchFilter(id.to_owned(), filter))
        }
        Target::Other(path) => Ok(Message::UnknownItem(path.to_owned())),
    }
}

fn decode_delete(message: &Map<String, Value>) -> Result<Message, MessageError> {
    let wrong = |Malformed(problem)| shape("delete", problem);
    let message = Fields(message);
    let version = message.integer("version").map_err(wrong)?;
    match target(message.text("path").map_err(wrong)?) {
        Target::Environment(id) => Ok(Message::DeleteEnvironment(id.to_owned(), version)),
        Target::Filter(id) => Ok(Message::DeleteFilter(id.to_owned(), version)),
        Target::Other(path) => Ok(Message::UnknownItem(path.to_owned())),
    }
}

enum Target<'a> {
    Environment(&'a str),
    Filter(&'a str),
    Other(&'a str),
}

/// Target of a path, which is split at its last slash (ld-relay v8).
fn target(path: &str) -> Target<'_> {
    match path.rsplit_once('/') {
        Some(("/environments", id)) => Target::Environment(id),
        Some(("/filters", id)) => Target::Filter(id),
        Some(_) | None => Target::Other(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(data: &str) -> Put {
        match decode("put", data.as_bytes()).unwrap() {
            Message::Put(put) => put,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn decodes_a_put_whatever_the_case_of_its_names() {
        let put = put(r#"{"Path":"/","DATA":{"environments":{"e1":{"EnvID":"e1","envKey":"prod",
            "sdkkey":{"value":"sdk-a","expiring":null},"mobKey":null,"version":3,"future":1}},
            "filters":{"web.small":{"projKey":"web","key":"small","version":2}},"more":[]}}"#);
        let record = put.environments[0].1.as_ref().unwrap();
        assert_eq!((record.id.as_str(), record.version), ("e1", 3));
        assert_eq!(record.anchor.expose(), "sdk-a");
        assert_eq!(put.filters[0].1.as_ref().unwrap().key, "small");
    }

    #[test]
    fn absent_and_null_collections_are_empty() {
        for data in [r#"{"path":"/"}"#, r#"{"path":"/","data":{"environments":null}}"#] {
            let put = put(data);
            assert!(put.environments.is_empty() && put.filters.is_empty());
        }
    }

    #[test]
    fn one_bad_record_harms_no_other() {
        let put = put(r#"{"path":"/","data":{"environments":{
            "good":{"envID":"good","sdkKey":{"value":"sdk-a"},"version":1},
            "keyless":{"envID":"keyless","version":1},
            "typed":{"envID":"typed","sdkKey":{"value":"sdk-b"},"version":"one"},
            "elsewhere":{"envID":"other","sdkKey":{"value":"sdk-c"},"version":1}},
            "filters":{"good":{"projKey":"web","key":"small","version":1},"text":"small"}}}"#);
        let verdict = |record: &Result<EnvironmentRecord, Unusable>| match record {
            Ok(_) => "good",
            Err(Unusable::Malformed(_)) => "malformed",
            Err(Unusable::Foreign) => "foreign",
        };
        let found: Vec<_> =
            put.environments.iter().map(|(id, r)| (id.as_str(), verdict(r))).collect();
        assert_eq!(
            found,
            [
                ("elsewhere", "foreign"),
                ("good", "good"),
                ("keyless", "malformed"),
                ("typed", "malformed")
            ]
        );
        let filters: Vec<_> = put.filters.iter().map(|(id, r)| (id.as_str(), r.is_ok())).collect();
        assert_eq!(filters, [("good", true), ("text", false)]);
    }

    #[test]
    fn paths_decide_what_a_message_is_about() {
        let check = |event: &str, data: &str, expected: &str| {
            let text = format!("{:?}", decode(event, data.as_bytes()).unwrap());
            assert!(text.starts_with(expected), "{data}: {text}");
        };
        check("put", r#"{"path":"/elsewhere","data":7}"#, "PutElsewhere");
        check(
            "delete",
            r#"{"path":"/environments/e1","version":4}"#,
            r#"DeleteEnvironment("e1", 4)"#,
        );
        check("delete", r#"{"path":"/filters/f","version":4}"#, r#"DeleteFilter("f", 4)"#);
        check("delete", r#"{"path":"environments/e1","version":4}"#, "UnknownItem");
        check("delete", r#"{"path":"/environments/a/b","version":4}"#, "UnknownItem");
        check("patch", r#"{"path":"/cats/x","data":true}"#, "UnknownItem");
        check("reconnect", "not even json", "Reconnect");
        check("news", "not even json", "UnknownEvent");
    }

    #[test]
    fn broken_messages_are_errors_that_quote_no_data() {
        for (event, data) in [
            ("put", "{"),
            ("put", "[]"),
            ("put", r#"{"path":"/","data":"sdk-secret"}"#),
            ("put", r#"{"path":"/","data":{"environments":["sdk-secret"]}}"#),
            ("put", r#"{"path":"/","data":{"filters":"sdk-secret"}}"#),
            ("patch", r#"{"path":"/filters/f","data":"sdk-secret"}"#),
            ("patch", r#"{"path":"/filters/f","sdk-secret"}"#),
            ("delete", r#"{"path":"/environments/e","version":"sdk-secret"}"#),
        ] {
            let error = decode(event, data.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("sdk-secret"), "{error:?}");
        }
    }
}
