//! The task that owns all events between their arrival and LaunchDarkly's answer.

mod spooling;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::gather::{GatherSettings, Gathered, Gatherer};
use super::inbox::{Events, Kind, Posted, Waiting};
use super::lines::{Condition, Effect, Lines, Loss};
use super::outcome::Outcome;
use super::packing::{compressed, new_id, split};
use super::post::{self, Destination, Sender};
use super::recent::Recent;
use super::report::{EventsReport, Reporter, word};
use super::sending::{Credentials, EventSender};
use super::spool::SpoolLimits;
use super::spool::task::{Answer, Order, SpoolEnd, Told};
use super::summaries::Summaries;
use crate::model::{DataSet, unix_ms};
use crate::sealing::KeyRing;
use crate::tasks::{TaskGroup, beside, beside_if, until};

/// Bodies up to this size are looked into and compressed on a thread of the runtime.
const SMALL_BYTES: usize = 64 * 1024;

/// Names of payloads that are remembered, and how long. SDKs try again after a second.
const NAMES_MAX: usize = 10_000;
const NAMES_AGE: Duration = Duration::from_secs(300);

/// Attempts that have ended and not been looked at.
const ATTEMPTS_MAX: usize = 64;

/// Diagnostic events on their way at a time.
const DIAGNOSTICS_MAX: usize = 64;

/// Pause between looks at credentials while LaunchDarkly refuses one.
const CREDENTIALS_PAUSE: Duration = Duration::from_secs(1);

/// Time for the last attempts, and for the last writes, when the process ends.
const LAST_ATTEMPTS_MAX: Duration = Duration::from_secs(2);
const LAST_WRITES_MAX: Duration = Duration::from_secs(2);

/// Settings of the publisher.
#[derive(Clone, Copy, Debug)]
pub struct PublisherSettings {
    /// When batches are closed.
    pub gather: GatherSettings,
    /// Bytes of batches in memory.
    pub bytes_max: usize,
    /// Limits of the spool.
    pub spool: SpoolLimits,
}

/// Where a spool can be, and the keys that seal it.
#[derive(Clone, Debug)]
pub struct SpoolPlace {
    /// The directory of the local store.
    pub directory: PathBuf,
    /// Its keys.
    pub ring: KeyRing,
}

/// Sends events to LaunchDarkly.
#[derive(Debug)]
pub struct Publisher {
    settings: PublisherSettings,
    inbox: mpsc::Receiver<Waiting>,
    /// Names of payloads: what an SDK sends twice counts once.
    names: Recent<(Destination, Arc<str>)>,
    gatherer: Gatherer,
    summaries: Summaries,
    lines: Lines,
    sender: EventSender,
    attempts: mpsc::Sender<Attempt>,
    attempted: mpsc::Receiver<Attempt>,
    spool: Option<SpoolEnd>,
    /// The credentials that LaunchDarkly refused last.
    refused: HashMap<Destination, Option<Credentials>>,
    /// Places for diagnostic events on their way.
    diagnostics: Arc<Semaphore>,
    report: Reporter,
}

/// An attempt to send a batch, and what went wrong.
#[derive(Debug)]
struct Attempt {
    batch: Batch,
    outcome: Outcome,
    problem: Option<String>,
}

impl Publisher {
    /// A publisher, the entrance to it, and its report.
    pub fn new(
        settings: PublisherSettings,
        sender: EventSender,
    ) -> (Self, Events, watch::Receiver<EventsReport>) {
        let (events, inbox) = Events::new();
        let (report, watched) = Reporter::new();
        let (attempts, attempted) = mpsc::channel(ATTEMPTS_MAX);
        let publisher = Self {
            settings,
            inbox,
            names: Recent::new(NAMES_MAX, NAMES_AGE),
            gatherer: Gatherer::new(settings.gather),
            summaries: Summaries::new(settings.gather),
            lines: Lines::new(settings.bytes_max),
            sender,
            attempts,
            attempted,
            spool: None,
            refused: HashMap::new(),
            diagnostics: Arc::new(Semaphore::new(DIAGNOSTICS_MAX)),
            report,
        };
        (publisher, events, watched)
    }

    /// Sends until it is cancelled; then what waits goes to the spool.
    pub async fn run(
        mut self,
        mut places: watch::Receiver<Option<SpoolPlace>>,
        cancel: CancellationToken,
    ) {
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        self.on_place(&mut places, &mut tasks).await;
        loop {
            tasks.reap();
            let effects = self.lines.next(Instant::now());
            self.carry_out(effects, &mut tasks).await;
            let look = (!self.refused.is_empty()).then(|| Instant::now() + CREDENTIALS_PAUSE);
            let due =
                [self.gatherer.due(), self.summaries.due(), self.lines.due(Instant::now()), look];
            let due = due.into_iter().flatten().min();
            let effects = tokio::select! {
                () = cancel.cancelled() => break,
                Some(waiting) = self.inbox.recv() => self.take(waiting, &mut tasks).await,
                Some(attempt) = self.attempted.recv() => self.on_attempt(attempt),
                Some(told) = answer(&mut self.spool) => self.on_told(told),
                Ok(()) = places.changed() => {
                    self.on_place(&mut places, &mut tasks).await;
                    Vec::new()
                }
                () = until(due) => {
                    self.look_at_credentials();
                    let now = Instant::now();
                    let mut due = self.gatherer.close_due(now);
                    due.extend(self.summaries.close_due(now));
                    self.add_all(due).await
                }
            };
            self.carry_out(effects, &mut tasks).await;
        }
        self.finish(&mut tasks).await;
    }

    /// Takes events out of the entrance.
    async fn take(&mut self, waiting: Waiting, tasks: &mut TaskGroup) -> Vec<Effect> {
        let Waiting { posted, room } = waiting;
        let Posted { destination, sender, kind, payload_id, body, summarize } = posted;
        if kind == Kind::Diagnostic {
            self.forward(destination, sender, body, tasks);
            return Vec::new();
        }
        let now = Instant::now();
        let (is_large, bytes) = (body.len() > SMALL_BYTES, body.clone());
        let events = match beside_if(is_large, move || post::elements(&bytes)).await {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(
                    environment = %destination.environment,
                    %error,
                    "events of an SDK cannot be read; they are dropped"
                );
                return Vec::new();
            }
        };
        if let Some(id) = &payload_id
            && !self.names.is_new(&(destination.clone(), id.clone()), now)
        {
            return Vec::new();
        }
        self.report.update(|report| report.received += events.count as u64);
        let closed = match summarize {
            None => self.gatherer.add(&(destination, sender), payload_id, &events, now),
            Some(data) => self.summarize(destination, sender, body, data).await,
        };
        drop(room);
        self.add_all(closed).await
    }

    /// Adds events to a summary.
    async fn summarize(
        &mut self,
        destination: Destination,
        sender: Sender,
        body: Bytes,
        data: Arc<DataSet>,
    ) -> Vec<Gathered> {
        let is_large = body.len() > SMALL_BYTES;
        let mut summaries =
            std::mem::replace(&mut self.summaries, Summaries::new(self.settings.gather));
        let work = move || {
            let events: Vec<&RawValue> = serde_json::from_slice(&body).unwrap_or_default();
            let now_ms = i64::try_from(unix_ms(SystemTime::now())).unwrap_or(i64::MAX);
            let at = (Instant::now(), now_ms);
            let (closed, unusable) = summaries.add(&destination, &sender, &events, &data, at);
            if unusable > 0 {
                tracing::warn!(
                    environment = %destination.environment,
                    events = unusable,
                    "events of an SDK cannot be read; they are dropped"
                );
            }
            (summaries, closed, unusable)
        };
        let (summaries, closed, unusable) = beside_if(is_large, work).await;
        self.summaries = summaries;
        self.report.lose("unreadable", unusable as u64);
        closed.into_iter().collect()
    }

    /// Sends a diagnostic event on, as it is. It is of use only now, so it waits nowhere.
    fn forward(
        &mut self,
        destination: Destination,
        sender: Sender,
        body: Bytes,
        tasks: &mut TaskGroup,
    ) {
        let Ok(place) = self.diagnostics.clone().try_acquire_owned() else {
            return self.report.lose("diagnostics", 1);
        };
        let (client, report) = (self.sender.clone(), self.report.clone());
        tasks.spawn_many("diagnostic events", async move {
            let gzip = compressed(&body);
            if !client.send_diagnostic(&destination, &sender, &gzip).await {
                report.lose("diagnostics", 1);
            }
            drop(place);
        });
    }

    /// Compresses closed batches and adds them to their lines.
    async fn add_all(&mut self, gathered: Vec<Gathered>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for Gathered { destination, sender, payload_id, json, count } in gathered {
            let gzip = beside_if(json.len() > SMALL_BYTES, move || compressed(&json)).await;
            let batch = Batch {
                id: payload_id.unwrap_or_else(new_id),
                destination,
                sender,
                count,
                gzip,
                created: SystemTime::now(),
                invalid: 0,
                is_spooled: false,
            };
            effects.extend(self.lines.add(batch));
        }
        effects
    }

    fn on_attempt(&mut self, attempt: Attempt) -> Vec<Effect> {
        let Attempt { batch, outcome, problem } = attempt;
        if outcome == Outcome::Delivered {
            self.report.update(|report| report.delivered += batch.count as u64);
        }
        let destination = batch.destination.clone();
        let (news, effects) = self.lines.done(batch, outcome, Instant::now(), fastrand::f64());
        if let Some(condition) = news {
            self.tell(&destination, condition, &problem.unwrap_or_default());
        }
        effects
    }

    async fn carry_out(&mut self, effects: Vec<Effect>, tasks: &mut TaskGroup) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(batch) => {
                    let (sender, attempts) = (self.sender.clone(), self.attempts.clone());
                    tasks.spawn_many("events", async move {
                        let (outcome, problem) = sender.send(&batch).await;
                        // Fails only when the process is ending.
                        let _ = attempts.send(Attempt { batch, outcome, problem }).await;
                    });
                }
                Effect::Spool(destination, batches) => {
                    effects.extend(self.order(Order::Append(destination, batches)));
                }
                Effect::Load(destination) => effects.extend(self.order(Order::Load(destination))),
                Effect::Delete(segment) => effects.extend(self.order(Order::Delete(segment))),
                Effect::Lose(batch, loss) => {
                    let reason = match loss {
                        Loss::Invalid => "invalid",
                        Loss::TooLarge => "tooLarge",
                        Loss::NoRoom => "noRoom",
                    };
                    self.report.lose(reason, batch.count as u64);
                    tracing::warn!(
                        environment = %batch.destination.environment,
                        events = batch.count,
                        reason,
                        "events are lost"
                    );
                }
                Effect::Split(batch) => {
                    let parts = beside(move || split(&batch)).await;
                    for part in parts {
                        effects.extend(self.lines.add(part));
                    }
                }
            }
        }
        let bytes = self.lines.bytes() as u64;
        self.report
            .update_if(|report| std::mem::replace(&mut report.bytes_in_memory, bytes) != bytes);
    }

    /// Sends again what was refused under a credential that has changed since.
    fn look_at_credentials(&mut self) {
        let Self { refused, sender, lines, .. } = self;
        for (destination, credentials) in refused.iter_mut() {
            let now = sender.credentials(destination);
            if now != *credentials {
                *credentials = now;
                lines.credential_changed(destination);
            }
        }
    }

    fn tell(&mut self, destination: &Destination, condition: Condition, problem: &str) {
        let environment = destination.environment.to_string();
        self.refused.remove(destination);
        match condition {
            Condition::Well => {
                tracing::info!(environment, "LaunchDarkly takes events again");
            }
            Condition::Failing => tracing::warn!(
                environment,
                problem,
                "events cannot be sent to LaunchDarkly; they wait"
            ),
            Condition::Refused(status) => {
                let credentials = self.sender.credentials(destination);
                self.refused.insert(destination.clone(), credentials);
                tracing::error!(
                    environment,
                    status,
                    "LaunchDarkly refuses events of this environment; they wait, and are tried \
                     again now and then"
                );
            }
        }
        self.report.update(|report| match word(condition) {
            Some(word) => {
                report.failing.insert(environment, word);
            }
            None => {
                report.failing.remove(&environment);
            }
        });
    }

    /// Takes what is left at the end: what cannot be sent at once goes to the spool.
    async fn finish(mut self, tasks: &mut TaskGroup) {
        self.inbox.close();
        let mut effects = Vec::new();
        while let Some(waiting) = self.inbox.recv().await {
            effects.extend(self.take(waiting, tasks).await);
        }
        let mut open = self.gatherer.close_all();
        open.extend(self.summaries.close_all());
        effects.extend(self.add_all(open).await);
        effects.extend(self.lines.next(Instant::now()));
        self.carry_out(effects, tasks).await;
        let last = Instant::now() + LAST_ATTEMPTS_MAX;
        while self.lines.is_sending() {
            let effects = tokio::select! {
                () = sleep_until(last) => break,
                Some(attempt) = self.attempted.recv() => self.on_attempt(attempt),
                Some(told) = answer(&mut self.spool) => self.on_told(told),
            };
            self.carry_out(effects, tasks).await;
            let effects = self.lines.next(Instant::now());
            self.carry_out(effects, tasks).await;
        }
        let rest = self.lines.rest();
        let rest: Vec<Effect> = rest
            .into_iter()
            .map(|(destination, batches)| Effect::Spool(destination, batches))
            .collect();
        self.carry_out(rest, tasks).await;
        let Some(SpoolEnd { orders, mut answers }) = self.spool.take() else { return };
        drop(orders);
        // The task ends once it has carried out all orders.
        let written = async {
            while let Some(told) = answers.recv().await {
                if let Answer::NotWritten(batches, problem) = told.answer {
                    let events: usize = batches.iter().map(|batch| batch.count).sum();
                    tracing::error!(events, problem, "events are lost: they cannot be written");
                }
            }
        };
        if tokio::time::timeout(LAST_WRITES_MAX, written).await.is_err() {
            tracing::error!("the disk does not answer; events that were to be written may be lost");
        }
    }
}

/// The next answer of the spool, if there is one.
async fn answer(spool: &mut Option<SpoolEnd>) -> Option<Told> {
    match spool {
        Some(spool) => spool.answers.recv().await,
        None => std::future::pending().await,
    }
}
