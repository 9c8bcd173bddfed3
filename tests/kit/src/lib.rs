//! What the tests of Pilotlight need around it: broken networks and overloaded databases.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::needless_pass_by_value,
        clippy::wildcard_enum_match_arm,
        reason = "a test that fails may panic"
    )
)]

pub mod flaky_proxy;
pub mod http_fault_proxy;
