//! Writes results as client-side SDKs read them.

use std::io::Write;

use super::evaluator::Detail;
use super::flag::Flag;
use super::reason::{Reason, ReasonKind};

/// Appends `"key":{...}` to an object: the result of a flag for SDKs.
///
/// The reason is written if it is asked for, and always if the SDK has to report it.
pub fn write_result(
    out: &mut Vec<u8>,
    key: &str,
    version: u64,
    flag: &Flag,
    detail: &Detail<'_>,
    with_reason: bool,
) {
    write_text(out, key);
    match detail.variation {
        Some((index, value)) => {
            out.extend_from_slice(b":{\"value\":");
            out.extend_from_slice(value.get().as_bytes());
            out.extend_from_slice(b",\"variation\":");
            write_number(out, index);
        }
        None => out.extend_from_slice(b":{\"value\":null,\"variation\":null"),
    }
    out.extend_from_slice(b",\"version\":");
    write_number(out, version);
    if flag.track_events || detail.is_experiment {
        out.extend_from_slice(b",\"trackEvents\":true");
    }
    if detail.is_experiment {
        out.extend_from_slice(b",\"trackReason\":true");
    }
    if with_reason || detail.is_experiment {
        out.extend_from_slice(b",\"reason\":");
        write_reason(out, &detail.reason);
    }
    if flag.debug_events_until_date != 0 {
        let until = flag.debug_events_until_date;
        write(out, format_args!(",\"debugEventsUntilDate\":{until}"));
    }
    for (index, prerequisite) in detail.prerequisites.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b",\"prerequisites\":[" } else { b"," });
        write_text(out, &prerequisite.key);
    }
    if !detail.prerequisites.is_empty() {
        out.push(b']');
    }
    out.push(b'}');
}

fn write_reason(out: &mut Vec<u8>, reason: &Reason<'_>) {
    let mut is_in_experiment = false;
    match &reason.kind {
        ReasonKind::Off => out.extend_from_slice(b"{\"kind\":\"OFF\""),
        ReasonKind::TargetMatch => out.extend_from_slice(b"{\"kind\":\"TARGET_MATCH\""),
        ReasonKind::Fallthrough { in_experiment } => {
            out.extend_from_slice(b"{\"kind\":\"FALLTHROUGH\"");
            is_in_experiment = *in_experiment;
        }
        ReasonKind::RuleMatch { index, id, in_experiment } => {
            write(out, format_args!("{{\"kind\":\"RULE_MATCH\",\"ruleIndex\":{index}"));
            if !id.is_empty() {
                out.extend_from_slice(b",\"ruleId\":");
                write_text(out, id);
            }
            is_in_experiment = *in_experiment;
        }
        ReasonKind::PrerequisiteFailed { key } => {
            out.extend_from_slice(b"{\"kind\":\"PREREQUISITE_FAILED\",\"prerequisiteKey\":");
            write_text(out, key);
        }
        ReasonKind::Error(kind) => {
            write(out, format_args!("{{\"kind\":\"ERROR\",\"errorKind\":\"{}\"", kind.as_str()));
        }
    }
    if is_in_experiment {
        out.extend_from_slice(b",\"inExperiment\":true");
    }
    if let Some(status) = reason.big_segments {
        write(out, format_args!(",\"bigSegmentsStatus\":\"{}\"", status.as_str()));
    }
    out.push(b'}');
}

/// Formatting would take a quarter of the time of an answer.
fn write_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writing to a vector cannot fail.
fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}
