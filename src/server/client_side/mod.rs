//! Client-side SDKs: the values of all flags for a context, and streams that tell them when to ask
//! again. Browsers get CORS headers with every answer, refusals included.

mod context;
mod events;
mod goals;
mod report;
mod secure_mode;
mod values;

use std::sync::Arc;

use hyper::body::Body as HttpBody;

use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::Server;
use super::authorized_request::AuthorizedRequest;
use super::body::{Body, discard};
use super::cors::{self, Allowed};
use super::handlers::name_environment;
use super::not_built::Feature;
use super::pace::Pace;
use super::refusals::Refusal;
use super::responses::{empty, json, retry_later, text};
use super::routes::{Auth, ClientRoute, ClientWanted, ContextPlace, EventForm};
use crate::evaluation::Context;
use crate::streams::StreamKind;

pub(super) use report::BodyBudget;

impl Server {
    /// Answers a request of a client-side SDK.
    pub(super) async fn client_side<B>(
        &self,
        request: &Request<()>,
        body: &mut B,
        route: ClientRoute,
        pace: &Arc<Pace>,
    ) -> Response<Body>
    where
        B: HttpBody + Unpin,
    {
        let ClientRoute { auth, methods, wanted } = route;
        let has_body = match wanted {
            ClientWanted::Values(ContextPlace::Body)
            | ClientWanted::Pings(Some(ContextPlace::Body)) => true,
            ClientWanted::Events(EventForm::Analytics | EventForm::Diagnostic) => {
                self.events.is_some()
            }
            ClientWanted::Values(ContextPlace::Path(_))
            | ClientWanted::Pings(Some(ContextPlace::Path(_)) | None)
            | ClientWanted::Events(EventForm::Image)
            | ClientWanted::Goals => false,
        };
        let is_body_wanted = has_body && request.method() != Method::OPTIONS;
        if !is_body_wanted {
            // Before the environment is looked up, so that the answer is current after the wait.
            discard(request, body).await;
        }
        let selected = self.select(request, &auth).await;
        let spec = selected.as_ref().ok().map(|access| access.environment.spec());
        let browser = matches!(auth, Auth::EnvironmentId(_));
        let mut response = match selected {
            // Also where the request itself will be refused: a browser that is refused before does
            // not send it, and tells the page of a broken network.
            _ if request.method() == Method::OPTIONS => empty(StatusCode::OK),
            Err(refused) => refused,
            Ok(access) => {
                pace.trust();
                let mut asked = AuthorizedRequest { request, auth, access, pace };
                let answered = self.answer_client(&mut asked, body, &wanted).await;
                answered.unwrap_or_else(|refused| refused)
            }
        };
        if is_body_wanted {
            // What is left of it, so that a client that is still sending sees the answer.
            discard(request, body).await;
        }
        if browser {
            let allowed = spec.as_deref().map_or(Allowed::default(), Allowed::of);
            cors::add(response.headers_mut(), request.headers(), methods, allowed, &[]);
        }
        let id = spec.and_then(|spec| spec.credentials.environment_id.clone());
        name_environment(&mut response, id);
        response
    }

    async fn answer_client<B>(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        body: &mut B,
        wanted: &ClientWanted,
    ) -> Result<Response<Body>, Response<Body>>
    where
        B: HttpBody + Unpin,
    {
        match wanted {
            ClientWanted::Goals => Ok(self.goals(asked).await),
            ClientWanted::Events(form) => self.events(asked, body, *form).await,
            ClientWanted::Pings(None) => self.stream(asked, StreamKind::Pings).await,
            ClientWanted::Pings(Some(place)) => {
                self.context(asked, body, place).await?;
                self.stream(asked, StreamKind::Pings).await
            }
            ClientWanted::Values(place) => {
                let context = self.context(asked, body, place).await?;
                self.values(asked, context).await
            }
        }
    }

    /// The context of a request, if it may ask for it.
    async fn context<B>(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        body: &mut B,
        place: &ContextPlace,
    ) -> Result<Arc<Context>, Response<Body>>
    where
        B: HttpBody + Unpin,
    {
        let context = match place {
            ContextPlace::Path(text) => context::from_path(text)?,
            ContextPlace::Body => {
                let context = self.context_of_body(asked.request, body).await?;
                // The key may have been revoked meanwhile.
                asked.access = self.select_now(asked.request, &asked.auth)?;
                context
            }
        };
        let spec = asked.access.environment.spec();
        let is_secure = spec.secure_mode && matches!(asked.auth, Auth::EnvironmentId(_));
        if is_secure && !secure_mode::is_proven(asked.request, &context, &spec.credentials.anchor) {
            return Err(refused(
                "the environment is in secure mode, and the hash `h` does not fit",
            ));
        }
        Ok(Arc::new(context))
    }

    /// Answers a route of a feature that is not there: 503 to clients that may use the environment.
    fn not_built(&self, asked: &AuthorizedRequest<'_>, feature: Feature) -> Response<Body> {
        let environment = asked.access.environment.reference.to_string();
        if self.not_built.is_due(&environment, feature, Instant::now()) {
            tracing::warn!(
                environment,
                feature = feature.name(),
                advice = feature.advice(),
                "an SDK asks for a feature that is not there, and gets 503"
            );
        }
        text(StatusCode::SERVICE_UNAVAILABLE, feature.answer())
    }
}

/// 400 with a text for people.
fn refused(message: &str) -> Response<Body> {
    message_of(StatusCode::BAD_REQUEST, message)
}

/// 503 with a text for people.
fn unavailable(refusal: Refusal, message: &str) -> Response<Body> {
    retry_later(message_of(StatusCode::SERVICE_UNAVAILABLE, message), refusal)
}

/// The form of errors on these routes (ld-relay v8).
fn message_of(status: StatusCode, message: &str) -> Response<Body> {
    json(status, serde_json::json!({ "message": message }).to_string())
}
