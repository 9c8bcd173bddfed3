//! What is written while all is well: what changed, and nothing else.

use pilotlight::testing::demo::composed_data::{environment, environment_id};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, KEY, NEVER, OFTEN, difference, manifest_row, row_name};

on_every_database!(a_change_costs_as_many_rows_as_it_has);

async fn a_change_costs_as_many_rows_as_it_has(kind: Kind) {
    let fleet = Fleet::on(kind, 20, 1).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    let mut before = fleet.rows().await;
    assert_eq!(before.len(), 20 + 1);
    let text = format!("{before:?}");
    assert!(!before.keys().any(|name| text.contains(&environment_id(0)) || name.contains("env")));

    // A change, an addition, a removal: one row each, and the manifest.
    fleet.rename(3, "renamed");
    let after = settled(&fleet).await;
    assert_eq!(difference(&before, &after), (0, 2, 0));
    let changed = row_name(KEY, &format!("env:{}", environment_id(3)));
    assert_ne!(before[&changed], after[&changed]);
    assert_ne!(before[&manifest_row()], after[&manifest_row()]);
    before = after;
    fleet.launchdarkly.load(&environment(20, 1));
    let after = settled(&fleet).await;
    assert_eq!(difference(&before, &after), (1, 1, 0));
    before = after;
    fleet.launchdarkly.delete_environment(&environment_id(5));
    let after = settled(&fleet).await;
    assert_eq!(difference(&before, &after), (0, 1, 1));
    before = after;

    // A put that says nothing new writes nothing; a change after it shows that it was heard.
    fleet.launchdarkly.send_autoconfig_put();
    fleet.rename(6, "renamed too");
    let after = settled(&fleet).await;
    assert_eq!(difference(&before, &after), (0, 2, 0));
    before = after;

    // What changed while the stream was down comes with the put: all of it is written.
    fleet.launchdarkly.stop().await;
    for index in [0, 1, 2] {
        fleet.rename(index, "renamed in the meantime");
    }
    fleet.launchdarkly.delete_environment(&environment_id(7));
    fleet.launchdarkly.start().unwrap();
    let after = settled(&fleet).await;
    // What the put does not list had been this relay's own, so it goes without a second look.
    assert_eq!(difference(&before, &after), (0, 4, 1));
    before = after;

    // Nothing is written by looking, nor by a restart.
    relay.kill().await.unwrap();
    let relay = fleet.relay(&disk, OFTEN).start().unwrap();
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
    assert_eq!(fleet.rows().await, before);
}

/// The rows, once they hold what LaunchDarkly says.
async fn settled(fleet: &Fleet) -> pilotlight_test_kit::cache_database::Rows {
    fleet.wait_until_whole().await;
    fleet.rows().await
}
