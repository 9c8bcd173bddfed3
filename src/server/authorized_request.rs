//! Input of the handlers of polls and streams.

use std::sync::Arc;

use hyper::Request;

use super::pace::Pace;
use super::routes::Auth;
use crate::environments::Access;

/// A request whose credential is valid.
pub(super) struct AuthorizedRequest<'a> {
    pub(super) request: &'a Request<()>,
    pub(super) auth: Auth,
    /// Environment that the credential opened when it was last checked.
    pub(super) access: Access,
    pub(super) pace: &'a Arc<Pace>,
}
