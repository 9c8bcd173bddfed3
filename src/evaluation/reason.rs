//! Why a flag has the value that it has.

/// Why a flag has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// The step of the evaluation that decided.
    pub kind: ReasonKind<'a>,
    /// What is known of big segments, if one was asked.
    pub big_segments: Option<BigSegmentsStatus>,
}

/// The step of an evaluation that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonKind<'a> {
    /// The flag is off.
    Off,
    /// No target and no rule applied.
    Fallthrough {
        /// True if the context takes part in an experiment.
        in_experiment: bool,
    },
    /// The context is a target.
    TargetMatch,
    /// A rule applied.
    RuleMatch {
        /// Its place among the rules, from 0.
        index: usize,
        /// Its identifier; empty if it has none.
        id: &'a str,
        /// True if the context takes part in an experiment.
        in_experiment: bool,
    },
    /// Another flag does not have the variation that this one demands.
    PrerequisiteFailed {
        /// The other flag.
        key: &'a str,
    },
    /// There is no value.
    Error(ErrorKind),
}

/// Why a flag has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The flag or something it refers to contradicts itself: a variation that does not exist, an
    /// empty rollout, a circle of prerequisites or of segments, an attribute that names nothing.
    MalformedFlag,
}

impl ErrorKind {
    /// The value in a reason's JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedFlag => "MALFORMED_FLAG",
        }
    }
}

/// How far the answer about big segments can be trusted; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BigSegmentsStatus {
    /// The store answered, and is up to date.
    Healthy,
    /// The store answered, and was not kept up to date.
    Stale,
    /// The store did not answer.
    StoreError,
    /// There is no store, or the segment does not say which data belongs to it.
    NotConfigured,
}

impl BigSegmentsStatus {
    /// The value in a reason's JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Stale => "STALE",
            Self::StoreError => "STORE_ERROR",
            Self::NotConfigured => "NOT_CONFIGURED",
        }
    }
}
