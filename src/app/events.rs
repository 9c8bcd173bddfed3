//! Starts the publisher of events.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::EventsConfig;
use crate::environments::Registry;
use crate::events::{
    Audience, Credentials, Destination, EventSender, Events, EventsReport, GatherSettings,
    Publisher, PublisherSettings, SpoolLimits, SpoolPlace,
};
use crate::tasks::TaskGroup;
use crate::upstream::{BaseUrl, HttpClient};

/// Time for which events are gathered, if it is configured as zero (ld-relay v8).
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// The parts that the publisher needs.
pub(super) struct Parts<'a> {
    pub(super) config: &'a EventsConfig,
    pub(super) client: HttpClient,
    pub(super) base: BaseUrl,
    pub(super) registry: Arc<Registry>,
    /// Where the spool can be, once that is known.
    pub(super) place: watch::Receiver<Option<SpoolPlace>>,
}

/// Starts the publisher; returns the entrance to it, and its report.
pub(super) fn start(
    parts: Parts<'_>,
    tasks: &mut TaskGroup,
) -> (Events, watch::Receiver<EventsReport>) {
    let Parts { config, client, base, registry, place } = parts;
    let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let settings = PublisherSettings {
        gather: GatherSettings {
            interval: config.flush_interval.unwrap_or(FLUSH_INTERVAL),
            capacity: bounded(config.capacity),
        },
        bytes_max: bounded(config.memory_bytes_max),
        spool: SpoolLimits { bytes: config.spool_bytes_max, age: config.spool_age_max },
    };
    let sender =
        EventSender::new(client, base, Arc::new(move |wanted| credentials(&registry, wanted)));
    let (publisher, events, report) = Publisher::new(settings, sender);
    tasks.spawn("events", |cancel| publisher.run(place, cancel));
    (events, report)
}

/// The credentials of a destination as they are now.
fn credentials(registry: &Registry, wanted: &Destination) -> Option<Credentials> {
    let environments = registry.environments();
    let found = environments.iter().find(|it| it.reference == wanted.environment)?;
    let spec = found.spec();
    let authorization = match wanted.audience {
        Audience::Server => Some((&spec.credentials.anchor).into()),
        Audience::Mobile => Some(spec.credentials.primary_mobile.as_ref()?.into()),
        Audience::Browser => None,
    };
    let environment_id = spec.credentials.environment_id.as_ref().map(|id| id.as_str().into());
    Some(Credentials { authorization, environment_id })
}
