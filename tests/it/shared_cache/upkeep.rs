//! What is written while all is well: what changed, and nothing else.

use pilotlight::testing::demo::composed_data::{environment, environment_id};
use tempfile::TempDir;

use super::database::Kind;
use super::scene::{KEY, NEVER, OFTEN, Scene, difference, manifest_row, row_name};
use crate::support::eventually;

on_every_database!(a_change_costs_as_many_rows_as_it_has);

async fn a_change_costs_as_many_rows_as_it_has(kind: Kind) {
    let scene = Scene::on(kind, 20, 1).await;
    let disk = TempDir::new().unwrap();
    let relay = scene.filled_by(&scene.relay(&disk, NEVER)).await;
    let mut before = scene.rows().await;
    assert_eq!(before.len(), 20 + 1);
    let text = format!("{before:?}");
    assert!(!before.keys().any(|name| text.contains(&environment_id(0)) || name.contains("env")));

    // A change, an addition, a removal: one row each, and the manifest.
    scene.rename(3, "renamed");
    let after = scene.settled().await;
    assert_eq!(difference(&before, &after), (0, 2, 0));
    let changed = row_name(KEY, &format!("env:{}", environment_id(3)));
    assert_ne!(before[&changed], after[&changed]);
    assert_ne!(before[&manifest_row()], after[&manifest_row()]);
    before = after;
    scene.launchdarkly.load(&environment(20, 1));
    let after = scene.settled().await;
    assert_eq!(difference(&before, &after), (1, 1, 0));
    before = after;
    scene.launchdarkly.delete_environment(&environment_id(5));
    let after = scene.settled().await;
    assert_eq!(difference(&before, &after), (0, 1, 1));
    before = after;

    // A put that says nothing new writes nothing; a change after it shows that it was heard.
    scene.launchdarkly.send_autoconfig_put();
    scene.rename(6, "renamed too");
    let after = scene.settled().await;
    assert_eq!(difference(&before, &after), (0, 2, 0));
    before = after;

    // What changed while the stream was down comes with the put: all of it is written.
    scene.launchdarkly.stop().await;
    for index in [0, 1, 2] {
        scene.rename(index, "renamed in the meantime");
    }
    scene.launchdarkly.delete_environment(&environment_id(7));
    scene.launchdarkly.start().unwrap();
    let after = scene.settled().await;
    // What the put does not list had been this relay's own, so it goes without a second look.
    assert_eq!(difference(&before, &after), (0, 4, 1));
    before = after;

    // Nothing is written by looking, nor by a restart.
    relay.kill().await.unwrap();
    let relay = scene.relay(&disk, OFTEN).start().unwrap();
    relay.wait_until_healthy(19).await;
    relay.wait_until_stored().await;
    let looked = |status: &serde_json::Value| {
        status["autoConfigCache"]["shared"]["lastWrite"].as_u64().unwrap()
    };
    let first = looked(&relay.status().await);
    eventually("it looked several times", async || {
        let last = looked(&relay.status().await);
        if last > first + 3_000 { Ok(()) } else { Err(last) }
    })
    .await;
    assert_eq!(scene.rows().await, before);
}

impl Scene {
    /// The rows, once they hold what LaunchDarkly says.
    async fn settled(&self) -> super::database::Rows {
        self.wait_until_whole().await;
        self.rows().await
    }
}
