//! Faults that tests inject, and the requests that they affect.
//!
//! Pure: a table of rules, consulted once for each request. For each aspect of a request, the
//! oldest matching rule decides, so a slow drip and a wrong content type can apply together.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;

use crate::model::Password;

/// The requests that a fault affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultScope {
    /// All requests.
    Everything,
    /// The autoconfig stream.
    Autoconfig,
    /// Flag data: the stream `/all` and the polls below `/sdk/`.
    Flags,
    /// The event routes, diagnostics included.
    Events,
    /// All paths with this prefix.
    Path(String),
}

impl FaultScope {
    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Autoconfig => path == super::AUTOCONFIG_PATH,
            Self::Flags => {
                let polls = ["/sdk/latest-all", "/sdk/flags", "/sdk/segments"];
                path == super::FLAGS_PATH || polls.iter().any(|poll| path.starts_with(poll))
            }
            Self::Events => {
                let events = ["/bulk", "/mobile", "/events/", "/diagnostic"];
                events.iter().any(|prefix| path.starts_with(prefix))
            }
            Self::Path(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset when the request has arrived. For a port that refuses connections
    /// see [`refuse`](super::FakeLaunchDarkly::refuse).
    Reset,
    /// The request is read and never answered, not even when the fault is cleared.
    Hang,
    /// Nothing is read or sent any more; the socket stays open. Without a count this also affects
    /// open streams, and with [`FaultScope::Everything`] not even the request is read. When the
    /// fault is cleared, everything continues where it stopped, as on a network that heals.
    BlackHole,
    /// This answer replaces the correct one.
    Answer(FixedAnswer),
    /// The response is sent at this rate.
    SlowDrip {
        /// Bytes per second, including the response head.
        bytes_per_second: NonZeroU32,
    },
    /// The connection ends after this number of bytes of the response, including its head (about
    /// 300 bytes).
    CutAfter {
        /// Bytes that still arrive.
        bytes: u64,
    },
    /// A stream begins with these bytes as the data of its `put`.
    PutData(Bytes),
    /// A stream answers 200 and sends heartbeats, but no `put`.
    WithoutPut,
    /// A stream answers 200 and then stays silent: no `put`, no heartbeats.
    Silence,
    /// These raw bytes precede the first event of a stream.
    Preamble(Bytes),
    /// A stream answers with this content type.
    ContentType(String),
    /// All matching connections are cut at this interval. A count limits the number of rounds.
    DisconnectStorm {
        /// Time from round to round.
        every: Duration,
    },
}

/// An answer that does not depend on the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedAnswer {
    /// Status code.
    pub status: u16,
    /// Additional headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
}

impl Fault {
    /// An answer with this status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(FixedAnswer { status, headers: Vec::new(), body: Bytes::new() })
    }

    /// An answer with this status and `Retry-After`, in whole seconds.
    pub fn status_with_retry_after(status: u16, after: Duration) -> Self {
        let headers = vec![("retry-after".to_owned(), after.as_secs().to_string())];
        Self::Answer(FixedAnswer { status, headers, body: Bytes::new() })
    }

    /// An answer 200 with a web page, as from captive portals and misrouted proxies.
    pub fn web_page() -> Self {
        let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
        let body = Bytes::from_static(b"<!doctype html><title>Welcome</title>\n");
        Self::Answer(FixedAnswer { status: 200, headers, body })
    }

    /// A redirection.
    pub fn redirect(status: u16, location: &str) -> Self {
        let headers = vec![("location".to_owned(), location.to_owned())];
        Self::Answer(FixedAnswer { status, headers, body: Bytes::new() })
    }

    /// A `put` that is not JSON.
    pub fn garbage_put() -> Self {
        Self::PutData(Bytes::from_static(br#"{"path":"/","data":{"flags":{"a":{"key":"#))
    }

    /// A `retry:` line before the first event.
    pub fn retry_line(milliseconds: u64) -> Self {
        Self::Preamble(format!("retry: {milliseconds}\n\n").into())
    }

    /// A rate in bytes a second; 0 is taken as 1.
    pub fn slow_drip(bytes_per_second: u32) -> Self {
        let bytes_per_second = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
        Self::SlowDrip { bytes_per_second }
    }
}

/// A fault, the requests that it affects, and their number.
#[derive(Clone, PartialEq, Eq)]
pub struct FaultRule {
    scope: FaultScope,
    fault: Fault,
    key: Option<Password>,
    remaining: Option<u32>,
}

impl FaultRule {
    /// A fault for all matching requests until it is cleared.
    pub fn new(scope: FaultScope, fault: Fault) -> Self {
        Self { scope, fault, key: None, remaining: None }
    }

    /// Only for requests with this key in `Authorization` (or environment ID in the path).
    #[must_use]
    pub fn for_key(self, key: &str) -> Self {
        Self { key: Some(Password::new(key)), ..self }
    }

    /// Only for this number of matching requests.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self { remaining: Some(count), ..self }
    }

    fn covers(&self, path: &str, key: &str) -> bool {
        self.scope.covers(path) && self.key.as_ref().is_none_or(|held| held.expose() == key)
    }
}

impl fmt::Debug for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, fault, key, remaining } = self;
        write!(f, "FaultRule({fault:?} on {scope:?}, key {key:?}, remaining {remaining:?})")
    }
}

/// Identifies a rule, to clear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(u64);

/// Path and key of the last request on a connection; `None` before the first.
pub(super) type LastRequest<'a> = Option<(&'a str, &'a str)>;

/// The treatment of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) answer: Answer,
    pub(super) bytes_per_second: Option<NonZeroU32>,
    pub(super) cut_after: Option<u64>,
    pub(super) opening: Opening,
    pub(super) preamble: Bytes,
    pub(super) content_type: Option<String>,
}

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    #[default]
    Right,
    Reset,
    Hang,
    /// Held until the rule is cleared.
    BlackHole(FaultId),
    Fixed(FixedAnswer),
}

/// How a stream begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Opening {
    #[default]
    Put,
    PutData(Bytes),
    Nothing,
    Silence,
}

/// All rules, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct FaultTable {
    rules: BTreeMap<FaultId, FaultRule>,
    next_id: u64,
}

impl FaultTable {
    /// Adds a rule.
    pub(super) fn inject(&mut self, rule: FaultRule) -> FaultId {
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.rules.insert(id, rule);
        id
    }

    /// Removes a rule.
    pub(super) fn clear(&mut self, id: FaultId) {
        self.rules.remove(&id);
    }

    /// Removes all rules.
    pub(super) fn clear_all(&mut self) {
        self.rules.clear();
    }

    /// True if the rule was not cleared, even if its count is exhausted.
    pub(super) fn contains(&self, id: FaultId) -> bool {
        self.rules.contains_key(&id)
    }

    /// True if a connection with this last request is frozen. Rules with a count hold only the
    /// requests that they were counted for.
    pub(super) fn freezes(&self, request: LastRequest<'_>) -> bool {
        self.rules.values().any(|rule| {
            rule.fault == Fault::BlackHole
                && rule.remaining.is_none()
                && match request {
                    Some((path, key)) => rule.covers(path, key),
                    None => rule.scope == FaultScope::Everything && rule.key.is_none(),
                }
        })
    }

    /// Decides the treatment of one request and counts it against the rules that apply.
    pub(super) fn verdict(&mut self, path: &str, key: &str) -> Verdict {
        let mut verdict = Verdict::default();
        for (&id, rule) in &mut self.rules {
            let storm = matches!(rule.fault, Fault::DisconnectStorm { .. });
            if storm || rule.remaining == Some(0) || !rule.covers(path, key) {
                continue;
            }
            if verdict.add(id, &rule.fault)
                && let Some(remaining) = &mut rule.remaining
            {
                *remaining -= 1;
            }
        }
        verdict
    }

    /// The active storms and their intervals.
    pub(super) fn storms(&self) -> BTreeMap<FaultId, Duration> {
        let mut storms = BTreeMap::new();
        for (&id, rule) in &self.rules {
            if let Fault::DisconnectStorm { every } = rule.fault
                && rule.remaining != Some(0)
            {
                storms.insert(id, every);
            }
        }
        storms
    }

    /// Begins a round of a storm and counts it. Returns a function that is true for requests whose
    /// connection is cut.
    pub(super) fn storm_round(&mut self, id: FaultId) -> impl Fn(LastRequest<'_>) -> bool + use<> {
        let rule = self.rules.get_mut(&id);
        let struck = rule.filter(|rule| rule.remaining != Some(0)).map(|rule| {
            rule.remaining = rule.remaining.map(|remaining| remaining - 1);
            rule.clone()
        });
        move |request| match (&struck, request) {
            (Some(rule), Some((path, key))) => rule.covers(path, key),
            (Some(rule), None) => rule.scope == FaultScope::Everything && rule.key.is_none(),
            (None, _) => false,
        }
    }
}

impl Verdict {
    /// The rule that swallows the request.
    pub(super) fn black_hole(&self) -> Option<FaultId> {
        match self.answer {
            Answer::BlackHole(id) => Some(id),
            Answer::Right | Answer::Reset | Answer::Hang | Answer::Fixed(_) => None,
        }
    }

    /// Applies the fault; false if an older rule has already decided the same aspect.
    fn add(&mut self, id: FaultId, fault: &Fault) -> bool {
        match fault {
            Fault::Reset => self.decide_answer(Answer::Reset),
            Fault::Hang => self.decide_answer(Answer::Hang),
            Fault::BlackHole => self.decide_answer(Answer::BlackHole(id)),
            Fault::Answer(answer) => self.decide_answer(Answer::Fixed(answer.clone())),
            Fault::SlowDrip { bytes_per_second } => {
                decide(&mut self.bytes_per_second, *bytes_per_second)
            }
            Fault::CutAfter { bytes } => decide(&mut self.cut_after, *bytes),
            Fault::PutData(data) => self.decide_opening(Opening::PutData(data.clone())),
            Fault::WithoutPut => self.decide_opening(Opening::Nothing),
            Fault::Silence => self.decide_opening(Opening::Silence),
            Fault::Preamble(bytes) => {
                let free = self.preamble.is_empty();
                if free {
                    self.preamble = bytes.clone();
                }
                free
            }
            Fault::ContentType(value) => decide(&mut self.content_type, value.clone()),
            Fault::DisconnectStorm { .. } => false,
        }
    }

    fn decide_answer(&mut self, answer: Answer) -> bool {
        let free = self.answer == Answer::Right;
        if free {
            self.answer = answer;
        }
        free
    }

    fn decide_opening(&mut self, opening: Opening) -> bool {
        let free = self.opening == Opening::Put;
        if free {
            self.opening = opening;
        }
        free
    }
}

fn decide<T>(slot: &mut Option<T>, value: T) -> bool {
    let free = slot.is_none();
    if free {
        *slot = Some(value);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTOCONFIG: &str = "/relay_auto_config";

    #[test]
    fn scopes_cover_their_paths() {
        let check = |scope: FaultScope, covered: &[&str]| {
            let paths = [AUTOCONFIG, "/all", "/sdk/latest-all", "/sdk/goals/e1", "/bulk"];
            let found: Vec<_> = paths.into_iter().filter(|path| scope.covers(path)).collect();
            assert_eq!(found, covered, "{scope:?}");
        };
        check(
            FaultScope::Everything,
            &[AUTOCONFIG, "/all", "/sdk/latest-all", "/sdk/goals/e1", "/bulk"],
        );
        check(FaultScope::Autoconfig, &[AUTOCONFIG]);
        check(FaultScope::Flags, &["/all", "/sdk/latest-all"]);
        check(FaultScope::Events, &["/bulk"]);
        check(FaultScope::Path("/sdk/".to_owned()), &["/sdk/latest-all", "/sdk/goals/e1"]);
    }

    #[test]
    fn a_count_is_used_up_by_matching_requests_only() {
        let mut table = FaultTable::default();
        table.inject(
            FaultRule::new(FaultScope::Flags, Fault::status(503)).for_key("sdk-a").times(2),
        );
        let mut check = |path, key, status: Option<u16>| {
            let expected = match status {
                Some(status) => {
                    let headers = Vec::new();
                    Answer::Fixed(FixedAnswer { status, headers, body: Bytes::new() })
                }
                None => Answer::Right,
            };
            assert_eq!(table.verdict(path, key).answer, expected, "{path} {key}");
        };
        check("/all", "sdk-b", None);
        check(AUTOCONFIG, "sdk-a", None);
        check("/all", "sdk-a", Some(503));
        check("/sdk/latest-all", "sdk-a", Some(503));
        check("/all", "sdk-a", None);
    }

    #[test]
    fn different_faults_add_up_and_the_oldest_of_a_kind_decides() {
        let mut table = FaultTable::default();
        let everything = |fault| FaultRule::new(FaultScope::Everything, fault);
        let reset = table.inject(everything(Fault::Reset).times(1));
        table.inject(everything(Fault::Hang).times(1));
        table.inject(everything(Fault::slow_drip(0)));
        table.inject(everything(Fault::CutAfter { bytes: 9 }));
        table.inject(everything(Fault::WithoutPut));
        table.inject(everything(Fault::Silence));
        table.inject(everything(Fault::retry_line(5)));
        table.inject(everything(Fault::ContentType("x".to_owned())));
        let expected = Verdict {
            answer: Answer::Reset,
            bytes_per_second: Some(NonZeroU32::MIN),
            cut_after: Some(9),
            opening: Opening::Nothing,
            preamble: Bytes::from_static(b"retry: 5\n\n"),
            content_type: Some("x".to_owned()),
        };
        assert_eq!(table.verdict("/all", ""), expected);
        table.clear(reset);
        // The first request was not counted against the hang, which did not apply to it.
        assert_eq!(table.verdict("/all", "").answer, Answer::Hang);
        assert_eq!(table.verdict("/all", "").answer, Answer::Right);
        table.clear_all();
        assert_eq!(table.verdict("/all", ""), Verdict::default());
    }

    #[test]
    fn only_uncounted_black_holes_take_open_connections_along() {
        let mut table = FaultTable::default();
        let all = Some(("/all", "sdk-a"));
        let counted =
            table.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole).times(1));
        assert!(!table.freezes(all));
        assert_eq!(table.verdict("/all", "").answer, Answer::BlackHole(counted));
        assert!(table.contains(counted), "an exhausted rule goes on holding what it caught");
        table.inject(FaultRule::new(FaultScope::Flags, Fault::BlackHole));
        assert!(table.freezes(all));
        assert!(!table.freezes(Some((AUTOCONFIG, "rel-a"))));
        assert!(!table.freezes(None), "a connection that asked nothing yet is not about flags");
        table.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole));
        assert!(table.freezes(None));
    }

    #[test]
    fn a_storm_strikes_its_scope_for_its_rounds() {
        let mut table = FaultTable::default();
        let every = Duration::from_millis(5);
        let storm = Fault::DisconnectStorm { every };
        let id = table.inject(FaultRule::new(FaultScope::Flags, storm).times(1));
        assert_eq!(table.verdict("/all", ""), Verdict::default());
        assert_eq!(table.storms().into_iter().collect::<Vec<_>>(), [(id, every)]);
        let strikes = table.storm_round(id);
        assert!(strikes(Some(("/all", ""))) && !strikes(Some(("/bulk", ""))) && !strikes(None));
        drop(strikes);
        assert!(table.storms().is_empty());
        assert!(!table.storm_round(id)(Some(("/all", ""))));
    }

    #[test]
    fn debug_shows_no_key() {
        let rule = FaultRule::new(FaultScope::Everything, Fault::Hang).for_key("sdk-secret-value");
        assert!(!format!("{rule:?}").contains("secret"), "{rule:?}");
    }
}
