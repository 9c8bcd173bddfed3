//! Client-side SDKs: they have one context at a time and hold values for it alone. All but that for
//! Node.js run in Chromium, which several may share.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Done, Events, Language, SdkDriver};
use crate::waiting::LIMIT;

/// What a client-side SDK is told.
#[derive(Clone, Debug)]
pub struct ClientSide {
    /// The environment's ID, for all but phones.
    pub environment_id: String,
    /// The environment's mobile key, for phones.
    pub mobile_key: String,
    /// The relay's URL.
    pub relay_url: String,
    /// The first context.
    pub context: Value,
    /// Secure mode's hash of the context.
    pub hash: Option<String>,
    /// Whether the SDK listens for changes.
    pub streaming: bool,
    /// Whether the SDK sends contexts in the body of REPORT requests.
    pub report: bool,
    /// Whether the SDK asks for reasons.
    pub reasons: bool,
    /// Whether the SDK sends events.
    pub events: Events,
}

impl ClientSide {
    /// A streaming SDK with everything else at its default, but without events.
    pub fn new(environment_id: &str, mobile_key: &str, relay_url: &str, context: Value) -> Self {
        Self {
            environment_id: environment_id.to_owned(),
            mobile_key: mobile_key.to_owned(),
            relay_url: relay_url.to_owned(),
            context,
            hash: None,
            streaming: true,
            report: false,
            reasons: false,
            events: Events::Off,
        }
    }
}

impl SdkDriver {
    /// Starts a client-side SDK, in a Chromium of its own if it needs one.
    pub async fn start_client_side(
        language: Language,
        settings: &ClientSide,
    ) -> anyhow::Result<Self> {
        let chromium = crate::tools().join("bin/chromium").display().to_string();
        Self::start_in(language, settings, &chromium).await
    }

    /// Starts a client-side SDK in the Chromium that another one has started, and must not outlive.
    pub async fn start_beside(
        &self,
        language: Language,
        settings: &ClientSide,
    ) -> anyhow::Result<Self> {
        let chromium = self.chromium.as_deref().context("this SDK has no Chromium")?;
        Self::start_in(language, settings, chromium).await
    }

    async fn start_in(
        language: Language,
        settings: &ClientSide,
        chromium: &str,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().to_owned();
        let on_off = |on| if on { "on" } else { "off" };
        Self::launch(language, Some(folder), |command| {
            command.env("HOME", &path).env("TMPDIR", path).args(["--chromium", chromium]);
            command.args(["--environment-id", &settings.environment_id]);
            command.args(["--mobile-key", &settings.mobile_key]);
            command.args(["--url", &settings.relay_url, "--events", settings.events.word()]);
            command.args(["--context", &settings.context.to_string()]);
            command.args(["--streaming", on_off(settings.streaming)]);
            command.args(["--report", on_off(settings.report)]);
            command.args(["--reasons", on_off(settings.reasons)]);
            if let Some(hash) = &settings.hash {
                command.args(["--hash", hash]);
            }
        })
        .await
    }

    /// Changes the context, with secure mode's hash if there is one; gives whether the SDK got the
    /// values of the new context.
    pub async fn identify(&mut self, context: Value, hash: Option<&str>) -> anyhow::Result<bool> {
        #[derive(Deserialize)]
        struct Identified {
            identified: bool,
        }
        let command = json!({"cmd": "identify", "context": context, "hash": hash});
        let answer: Identified = self.ask(command).await?;
        Ok(answer.identified)
    }

    /// Lets the SDK open a stream, or forbids it.
    pub async fn set_streaming(&mut self, streaming: bool) -> anyhow::Result<()> {
        let command = json!({"cmd": "set_streaming", "streaming": streaming});
        self.ask::<Done>(command).await.map(|Done {}| ())
    }

    /// The folder where a client-side SDK and its Chromium keep their files.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(TempDir::path)
    }

    /// Ends a driver that was not asked to quit, and its Chromium, and waits for both, because they
    /// could still write into the folder that is about to be removed.
    pub(super) fn terminate(&mut self) {
        let Some(id) = self.child.id() else { return };
        let sent = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status();
        let deadline = Instant::now() + LIMIT;
        while sent.is_ok() && matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline
        {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}
