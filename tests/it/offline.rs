//! Offline mode: environments and flags from an archive, through every fault of the file.

use std::path::PathBuf;

use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::representations::EnvironmentRep;
use pilotlight_test_kit::databases::Redis;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::offline_archive::OfflineArchive;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings, next_event, stream_end};
use serde_json::{Value, json};
use tempfile::TempDir;

const CONTEXT: &str = "eyJraW5kIjoidXNlciIsImtleSI6InVzZXItMSJ9";

fn environment(id: &str, sdk_key: &str) -> EnvironmentRep {
    EnvironmentRep::simple(id, sdk_key, &format!("mob-{id}"))
}

/// Data with one flag of that version, which is on or off, and one that browsers see.
fn data(version: u64, on: bool) -> String {
    let flag = |key: &str| {
        json!({
            "key": key, "version": version, "on": on, "variations": [true, false],
            "fallthrough": {"variation": 0}, "offVariation": 1, "salt": "s",
            "clientSideAvailability": {"usingMobileKey": true, "usingEnvironmentId": true},
        })
    };
    json!({"flags": {"f": flag("f")}, "segments": {}}).to_string()
}

fn two() -> OfflineArchive {
    OfflineArchive::default()
        .with(&environment("e1", "sdk-1"), &data(3, true))
        .with(&environment("e2", "sdk-2"), &data(3, true))
}

/// A folder with an archive and a local store, and a relay's settings for them.
struct Site {
    folder: TempDir,
    archive: PathBuf,
    settings: RelaySettings,
}

impl Site {
    fn new(archive: &OfflineArchive) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data.tar.gz");
        archive.replace(&path);
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let settings = RelaySettings::empty()
            .with("FILE_DATA_SOURCE", path.display().to_string())
            .with("FILE_DATA_SOURCE_MONITORING_INTERVAL", "100ms")
            .with("LOCAL_STORE_DIR", store.display().to_string());
        Self { folder, archive: path, settings }
    }

    async fn start(&self) -> RelayProcess {
        let relay = self.settings.start().unwrap();
        relay.wait_until_ready().await;
        relay
    }
}

/// The value of the flag for a client with that key; the status if there is none.
async fn flag(relay: &RelayProcess, key: &str) -> Result<Value, u16> {
    let path = format!("/sdk/evalx/contexts/{CONTEXT}");
    let response = relay.get_with_key(&path, key).await;
    match response.status {
        200 => Ok(response.json()["f"]["value"].clone()),
        status => Err(status),
    }
}

async fn wait_for_flag(relay: &RelayProcess, key: &str, expected: Result<Value, u16>) {
    eventually("the flag is as expected", async || {
        let found = flag(relay, key).await;
        if found == expected { Ok(()) } else { Err(format!("{found:?}; {}", relay.log())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_served_and_launchdarkly_is_never_asked() {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    let mut site = Site::new(&two());
    for name in ["STREAM_URI", "BASE_URI", "EVENTS_HOST"] {
        site.settings = site.settings.with(name, launchdarkly.uri());
    }
    let relay = site.start().await;
    let (_stream, put) = relay.stream_with_put("/all", "sdk-1").await;
    assert_eq!(put["data"], serde_json::from_str::<Value>(&data(3, true)).unwrap());
    assert_eq!(flag(&relay, "sdk-2").await, Ok(json!(true)));
    assert_eq!(flag(&relay, "sdk-3").await, Err(401), "the archive lists all environments");
    assert_eq!(relay.get("/ping/e3", &[]).await.status, 404);

    let status = relay.wait_until_healthy(2).await;
    assert_eq!(status["archive"]["state"], "valid");
    assert_eq!(status["archive"]["unusableEnvironments"], json!([]));
    assert!(status["archive"]["modifiedAt"].is_u64(), "{status:#}");
    assert_eq!(status["summary"]["live"], 2);
    assert_eq!(status["environments"]["e1"]["connectionStatus"]["state"], "VALID");

    // Events go nowhere, and there are no goals.
    let key = [("authorization", "sdk-1")];
    let events = relay.request("POST", "/bulk", &key, b"[{}]").await;
    assert_eq!((events.status, events.body.len()), (202, 0));
    let image = relay.get("/a/e1.gif?d=e30=", &[]).await;
    assert_eq!((image.status, image.header("content-type")), (200, Some("image/gif")));
    assert!(image.body.len() == 42 && image.body.starts_with(b"GIF89a"), "{:?}", image.body);
    let goals = relay.get("/sdk/goals/e1", &[]).await;
    assert_eq!((goals.status, goals.text()), (200, "[]"));
    assert_eq!(goals.header("access-control-allow-origin"), Some("*"));
    assert!(launchdarkly.requests().is_empty(), "{:?}", launchdarkly.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_archive_reaches_clients_at_once() {
    let mut site = Site::new(&two());
    // Far too long to be noticed: the events of the file system tell of the change.
    site.settings = site.settings.with("FILE_DATA_SOURCE_MONITORING_INTERVAL", "1h");
    let relay = site.start().await;
    let (mut stream, _) = relay.stream_with_put("/all", "sdk-1").await;
    let (mut other, _) = relay.stream_with_put("/all", "sdk-2").await;
    relay.wait_for_log("the archive was read").await;

    // An older version counts as well: the archive is what the operator wants.
    for (version, on, event) in [(4, false, "patch"), (2, true, "put")] {
        OfflineArchive::default()
            .with(&environment("e1", "sdk-1"), &data(version, on))
            .with(&environment("e2", "sdk-2"), &data(3, true))
            .replace(&site.archive);
        let (name, found) = next_event(&mut stream).await;
        assert_eq!(name, event, "{found}");
        assert_eq!(flag(&relay, "sdk-1").await, Ok(json!(on)));
    }

    // A new key, an environment less, an environment more.
    OfflineArchive::default()
        .with(&environment("e1", "sdk-1b"), &data(2, true))
        .with(&environment("e3", "sdk-3"), &data(1, false))
        .replace(&site.archive);
    stream_end(&mut stream).await.unwrap();
    stream_end(&mut other).await.unwrap();
    wait_for_flag(&relay, "sdk-3", Ok(json!(false))).await;
    assert_eq!(flag(&relay, "sdk-1b").await, Ok(json!(true)));
    for gone in ["sdk-1", "sdk-2"] {
        assert_eq!(flag(&relay, gone).await, Err(401), "{gone}");
    }
}

/// Kubernetes mounts files behind a link to a folder, and swaps that link.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_behind_links_is_followed() {
    let site = Site::new(&two());
    let path = |name: &str| site.folder.path().join(name);
    for (folder, on) in [("first", true), ("second", false)] {
        std::fs::create_dir(path(folder)).unwrap();
        OfflineArchive::default()
            .with(&environment("e1", "sdk-1"), &data(3, on))
            .replace(&path(folder).join("archive"));
    }
    std::os::unix::fs::symlink("first", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/archive", path("archive")).unwrap();
    let settings = site.settings.clone();
    let settings = settings.with("FILE_DATA_SOURCE", path("archive").display().to_string());
    let relay = settings.start().unwrap();
    wait_for_flag(&relay, "sdk-1", Ok(json!(true))).await;
    std::os::unix::fs::symlink("second", path("..data_new")).unwrap();
    std::fs::rename(path("..data_new"), path("..data")).unwrap();
    wait_for_flag(&relay, "sdk-1", Ok(json!(false))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let site = Site::new(&two());
    let relay = site.start().await;
    let good = two().tar_gz();
    let wrong = two().with_member("checksum.md5", b"0123456789abcdef").tar_gz();
    let faults: [(&str, Option<Vec<u8>>); 5] = [
        ("not a complete tar archive", Some(good[..good.len() / 2].to_vec())),
        ("not a complete tar archive", Some(b"no archive".to_vec())),
        ("its checksum is that of other members", Some(wrong)),
        ("it has no environments", Some(OfflineArchive::default().tar_gz())),
        ("No such file or directory", None),
    ];
    for (problem, content) in faults {
        match content {
            Some(content) => std::fs::write(&site.archive, content).unwrap(),
            None => std::fs::remove_file(&site.archive).unwrap(),
        }
        let status = relay
            .wait_for_status(problem, |status| {
                status["archive"]["error"].as_str().is_some_and(|it| it.contains(problem))
            })
            .await;
        assert_eq!(status["archive"]["state"], "unusable");
        for environment in ["e1", "e2"] {
            relay
                .wait_for_status("the flags are called old", |status| {
                    connection(status, environment) == "INTERRUPTED"
                })
                .await;
        }
        assert_eq!(flag(&relay, "sdk-1").await, Ok(json!(true)), "{problem}");
        assert_eq!(flag(&relay, "sdk-9").await, Err(401), "{problem}");
        let told = relay.log().lines().filter(|line| line.contains(problem)).count();
        assert_eq!(told, 1, "{}", relay.log());
    }
    OfflineArchive::default()
        .with(&environment("e1", "sdk-1"), &data(4, false))
        .replace(&site.archive);
    wait_for_flag(&relay, "sdk-1", Ok(json!(false))).await;
    let status = relay.status().await;
    assert_eq!(
        (&status["archive"]["state"], &status["archive"]["error"]),
        (&json!("valid"), &Value::Null)
    );
    assert_eq!(connection(&status, "e1"), "VALID");
}

fn connection(status: &Value, environment: &str) -> Value {
    let environments = status["environments"].as_object().unwrap();
    let found = environments.values().find(|it| it["envId"] == environment);
    found.map_or(Value::Null, |it| it["connectionStatus"]["state"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_environment_affects_no_other() {
    let bad = |id: &str| format!("{id}-data.json");
    let site = Site::new(&two().with_member(&bad("e2"), b"{\"flags\":7}"));
    let relay = site.start().await;
    assert_eq!(flag(&relay, "sdk-1").await, Ok(json!(true)));
    assert_eq!(flag(&relay, "sdk-2").await, Err(503), "nobody knows its keys");
    let status = relay.status().await;
    assert_eq!(status["archive"]["unusableEnvironments"], json!(["e2"]));

    two().replace(&site.archive);
    wait_for_flag(&relay, "sdk-2", Ok(json!(true))).await;
    assert_eq!(flag(&relay, "sdk-9").await, Err(401));
    let broken = OfflineArchive::default()
        .with(&environment("e1", "sdk-1"), &data(4, false))
        .with(&environment("e2", "sdk-2"), &data(4, false))
        .with_member("e2.json", br#"{"env":{"envID":"e2"}}"#);
    broken.replace(&site.archive);
    wait_for_flag(&relay, "sdk-1", Ok(json!(false))).await;
    assert_eq!(flag(&relay, "sdk-2").await, Ok(json!(true)), "it stays as it was");
    assert_eq!(flag(&relay, "sdk-9").await, Err(401), "all keys are known");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_archive_and_without_a_past_the_relay_does_not_start() {
    let site = Site::new(&two());
    std::fs::write(&site.archive, b"no archive").unwrap();
    let mut relay = site.settings.start().unwrap();
    assert_eq!(relay.ended().await.unwrap().code(), Some(1), "{}", relay.log());
    let log = relay.log();
    assert!(log.contains("data.tar.gz") && log.contains("not a complete tar archive"), "{log}");

    let mut command = std::process::Command::new(pilotlight_test_kit::relay::program());
    command.args(["check-config", "--from-env"]).env_clear().envs(site.settings.variables());
    let checked = command.output().unwrap();
    let errors = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{errors}");
    assert!(errors.contains("data.tar.gz") && errors.contains("fileDataSource"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_read_an_archive_starts_without_it() {
    let site = Site::new(&two());
    let relay = site.start().await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    std::fs::write(&site.archive, b"the disk was full").unwrap();

    let relay = site.start().await;
    for key in ["sdk-1", "sdk-2"] {
        assert_eq!(flag(&relay, key).await, Ok(json!(true)), "{}", relay.log());
    }
    assert_eq!(flag(&relay, "sdk-9").await, Err(503), "the archive may list it");
    let status = relay.status().await;
    assert_eq!(status["environments"]["e1"]["data"]["origin"], "localStore");
    assert_eq!(status["archive"]["state"], "unusable");
    assert!(relay.log().contains("environments of an earlier archive"), "{}", relay.log());

    OfflineArchive::default()
        .with(&environment("e1", "sdk-1"), &data(4, false))
        .replace(&site.archive);
    wait_for_flag(&relay, "sdk-1", Ok(json!(false))).await;
    wait_for_flag(&relay, "sdk-2", Err(401)).await;
    relay.wait_until_healthy(1).await;
}

/// A restart must not make a mistake in the archive worse.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_lacks_by_mistake_is_served_after_a_restart() {
    let site = Site::new(&two());
    let relay = site.start().await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    let broken = two().with_member("e2-data.json", b"[]");
    for (archive, unknown) in [(broken, 401), (OfflineArchive::default(), 503)] {
        archive.replace(&site.archive);
        let relay = site.start().await;
        for key in ["sdk-1", "sdk-2"] {
            wait_for_flag(&relay, key, Ok(json!(true))).await;
        }
        assert_eq!(flag(&relay, "sdk-9").await, Err(unknown), "{}", relay.log());
        relay.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flags_of_an_archive_are_kept_in_the_shared_store() {
    let redis = Redis::start().await;
    let mut site = Site::new(&two());
    site.settings = site
        .settings
        .with("USE_REDIS", "true")
        .with("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port))
        .with("ENV_DATASTORE_PREFIX", "ld-$CID");
    let relay = site.start().await;
    let wait = async |prefix: &str, version: u64| {
        eventually("the store holds the flag", async || {
            let item = redis.command(&["HGET", &format!("{prefix}:features"), "f"]);
            let item: Value = serde_json::from_str(&item).unwrap_or_default();
            if item["version"] == version {
                Ok(())
            } else {
                Err(format!("{prefix}: {item}; {}", relay.log()))
            }
        })
        .await;
    };
    wait("ld-e1", 3).await;
    wait("ld-e2", 3).await;
    // An older version in the archive replaces the newer one in the store as well.
    OfflineArchive::default()
        .with(&environment("e1", "sdk-1"), &data(1, false))
        .with(&environment("e2", "sdk-2"), &data(7, false))
        .replace(&site.archive);
    wait("ld-e2", 7).await;
    wait("ld-e1", 1).await;
}
