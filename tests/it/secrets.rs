//! No secret leaves the process but for where it belongs: a run with everything that makes a relay
//! talk, at the finest log level, and then a search through all that it said and stored.

use std::path::Path;

use pilotlight::testing::demo::composed_data::{
    changed_flag, environment_id, flag_key, mobile_key, sdk_key, segment_key,
};
use pilotlight::testing::demo::fake_launchdarkly::{
    FakeSettings, Fault, FaultRule, FaultScope, StreamSelector,
};
use pilotlight::testing::demo::representations::{ExpiringKeyRep, KeyRep};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::{CacheDatabase, Kind};
use pilotlight_test_kit::databases::MASTER_TOKEN;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{CACHE_KEY, Fleet, KEY, OFTEN, SEALED, shared, wait_for_shared};
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings, program};

on_every_database!(no_secret_is_logged_told_or_stored_in_clear);

const NEW_KEY: &str = "Tr0ub4dor-and-3-the-new-encryption-key";
const PREVIOUS_KEY: &str = "an-encryption-key-of-the-year-before";
const WRONG_KEY: &str = "an-encryption-key-that-never-was-used";
const PASSWORD: &str = "hunter2-password-of-the-database";
const WRONG_PASSWORD: &str = "wrong-password-of-the-database";
const ROTATED: &str = "sdk-b2f5a1c3-1111-4222-8333-rotated00001";
const EXPIRING: &str = "sdk-b2f5a1c3-1111-4222-8333-expiring0001";
const CONCURRENT: &str = "sdk-b2f5a1c3-1111-4222-8333-concurrent01";
const SECOND_MOBILE: &str = "mob-b2f5a1c3-1111-4222-8333-second000001";
const MALFORMED: &str = "sdk-b2f5a1c3-1111-4222-8333-malformed001";
const STRANGER: &str = "sdk-b2f5a1c3-1111-4222-8333-stranger0001";
const NEW_AUTOCONFIG: &str = "rel-b2f5a1c3-1111-4222-8333-autoconfig02";
const PROXY_PASSWORD: &str = "password-of-the-outbound-proxy";
const PROXY_LOGIN: &str = "login-secret-of-the-outbound-proxy";
const SESSION_TOKEN: &str = "session-token-of-a-temporary-role";

#[test]
fn debug_shows_no_content() {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use pilotlight::testing::autoconfig::cache::OpenedRow;
    use pilotlight::testing::autoconfig::cache::{Claim, Known};
    use pilotlight::testing::autoconfig::cache::{Row as CacheRow, Swap};
    use pilotlight::testing::flagstore::backend::{Row, StoredRow};
    use pilotlight::testing::model::{
        ChangeSet, DataSet, Item, ItemKey, ItemKind, Origin, Password,
    };
    use pilotlight::testing::sse::{Event, EventWriter, Limits, Parser};
    use pilotlight::testing::storage::consul::{Entry, Operation};
    use pilotlight::testing::storage::table::Value;
    use pilotlight::testing::streams::{Next, Snapshot};

    let text = "plaintext-of-a-record";
    let bytes = bytes::Bytes::from_static(b"plaintext-of-a-record");
    let key = ItemKey::new(ItemKind::Flag, "flag");
    let item = Item::live(1, bytes.clone());
    let mut data = DataSet::default();
    data.upsert(&key, Arc::new(item.clone()));
    let snapshot = Arc::new(Snapshot::new(Arc::new(data.clone()), Origin::Live, None));
    let _ = (snapshot.put_all(), snapshot.latest_all());
    let mut parser = Parser::new(Limits { line_bytes_max: 1000, event_bytes_max: 1000 });
    let mut input = &b"data: plaintext-of-a-record\ndata: plaintext-of-a-record"[..];
    parser.read(&mut input).unwrap();
    let mut writer = EventWriter::new("put", 100);
    writer.push(text.as_bytes());
    let (name, index) = ("name".to_owned(), 1);
    let desired = BTreeMap::from([(name.clone(), (1, text.to_owned()))]);
    let known = Known { desired: &desired, gone: &BTreeMap::new(), missing: &BTreeMap::new() };
    let row = CacheRow { name: name.clone(), value: bytes.clone(), revision: 1 };
    let swap = Swap { name: name.clone(), expected: Some(row.clone()), value: Some(bytes.clone()) };
    let shown = [
        format!("{item:?}"),
        format!("{data:?}"),
        format!("{snapshot:?}"),
        format!("{:?}", Next::Event(bytes.clone())),
        format!("{:?}", ChangeSet::one(key.clone(), item)),
        format!("{:?}", Row { key: key.clone(), version: 1, json: bytes.clone() }),
        format!("{:?}", StoredRow { key, json: bytes.clone(), head: None, revision: 1 }),
        format!("{:?}", Event { name: name.clone(), data: bytes.clone(), id: None }),
        format!("{parser:?}"),
        format!("{writer:?}"),
        format!("{:?}", OpenedRow { name: name.clone(), text: text.to_owned(), key_rank: 0 }),
        format!("{:?}", Entry { key: name.clone(), value: bytes.clone(), modify_index: 1 }),
        format!(
            "{:?}",
            Operation::CompareAndSet { key: name.clone(), value: bytes.clone(), index }
        ),
        format!("{:?}", Value::from(bytes.clone())),
        format!("{:?}", Operation::Set { key: name, value: bytes }),
        format!("{:?}", Password::new(text)),
        format!("{known:?}"),
        format!("{swap:?}"),
        format!("{:?}", Claim { row: Some(row), version: None }),
    ];
    for shown in shown {
        // As text, and as the numbers of a list of bytes.
        assert!(!shown.contains("text-of") && !shown.contains("112, 108"), "{shown}");
        assert!(!shown.contains("cord"), "{shown}");
    }
}

/// Texts of a secret to look for: all of it, and a piece from its middle that no obscured form
/// shows.
fn traces(secret: &str) -> [String; 2] {
    let middle = secret.chars().skip(secret.len() / 3).take(12).collect();
    [secret.to_owned(), middle]
}

fn secrets() -> Vec<String> {
    let fixed = [
        KEY,
        NEW_KEY,
        PREVIOUS_KEY,
        WRONG_KEY,
        PASSWORD,
        WRONG_PASSWORD,
        ROTATED,
        EXPIRING,
        CONCURRENT,
        SECOND_MOBILE,
        MALFORMED,
        STRANGER,
        NEW_AUTOCONFIG,
        PROXY_PASSWORD,
        PROXY_LOGIN,
        SESSION_TOKEN,
        MASTER_TOKEN,
    ];
    let composed = (0..3).flat_map(|index| [sdk_key(index), mobile_key(index)]);
    let autoconfig = FakeSettings::default().autoconfig_key;
    fixed.iter().map(|secret| (*secret).to_owned()).chain(composed).chain([autoconfig]).collect()
}

/// What must not be read from a store either.
fn names() -> Vec<String> {
    let environments = (0..3).flat_map(|index| {
        [environment_id(index), format!("environment-{index}"), format!("Environment {index}")]
    });
    let flags = (0..10).map(flag_key);
    environments
        .chain(flags)
        .chain([segment_key(0), "pilot-project".to_owned(), "Pilot project".to_owned()])
        .collect()
}

/// Everything that was heard and found, by where.
#[derive(Default)]
struct Heard(Vec<(String, Vec<u8>)>);

impl Heard {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    async fn ask(
        &mut self,
        relay: &RelayProcess,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) {
        let response = relay.request(method, path, headers, b"").await;
        let head: String =
            response.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        self.add(format!("head of {method} {path}"), head);
        // What the owner of a key gets is its own affair.
        if response.status != 200 || ["/status", "/readyz", "/livez"].contains(&path) {
            self.add(format!("body of {method} {path}: {}", response.status), response.body);
        }
    }

    /// All that can be asked without a key, and with wrong ones.
    async fn ask_everything(&mut self, relay: &RelayProcess) {
        for path in ["/status", "/readyz", "/livez", "/nowhere", "/all", "/flags"] {
            self.ask(relay, "GET", path, &[]).await;
        }
        for key in [STRANGER, "", "Bearer x"] {
            for path in ["/all", "/sdk/flags", "/sdk/latest-all", "/mping", "/sdk/flags/some-flag"]
            {
                self.ask(relay, "GET", path, &[("authorization", key)]).await;
            }
            self.ask(relay, "POST", "/bulk", &[("authorization", key)]).await;
        }
        self.ask(relay, "GET", &format!("/ping/{STRANGER}"), &[]).await;
        self.ask(relay, "GET", &format!("/all?authorization={STRANGER}"), &[]).await;
        self.ask(relay, "REPORT", "/all", &[("authorization", &sdk_key(0))]).await;
        self.ask(relay, "GET", "/sdk/flags?filter=none", &[("authorization", &sdk_key(0))]).await;
    }

    fn logs(&mut self, what: &str, relay: &RelayProcess) {
        self.add(format!("log of {what}"), relay.log());
    }

    #[track_caller]
    fn holds_nothing_of(&self, texts: &[String]) {
        for (place, bytes) in &self.0 {
            for text in texts {
                let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
                if let Some(at) = found {
                    let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
                    panic!("{place} holds {text:?}: {}", String::from_utf8_lossy(around));
                }
            }
        }
    }
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

async fn no_secret_is_logged_told_or_stored_in_clear(kind: Kind) {
    let database = match kind {
        Kind::Redis | Kind::DynamoDb => CacheDatabase::start(kind).await,
        Kind::Consul => CacheDatabase::start_consul_with_acl().await,
    };
    let mut fleet = Fleet::new(database, 3, 10);
    fleet.add_filter("pilot-project.small", "small");
    let (disk, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (key_file, autoconfig_file) = (folder.path().join("key"), folder.path().join("autoconfig"));
    std::fs::write(&key_file, KEY).unwrap();
    std::fs::write(&autoconfig_file, FakeSettings::default().autoconfig_key).unwrap();
    let settings = with_password(&fleet, kind, fleet.keyless(disk.path(), OFTEN))
        .without("AUTO_CONFIG_KEY")
        .with("AUTO_CONFIG_KEY_FILE", autoconfig_file.display().to_string())
        .with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE", key_file.display().to_string())
        .with("AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS", PREVIOUS_KEY)
        .with("LOG_LEVEL", "debug");
    let mut heard = Heard::default();

    let mut relay = settings.start().unwrap();
    relay.wait_until_healthy(6).await;
    relay.wait_until_stored().await;
    let at_first = stored(&fleet, disk.path()).await;
    let (_client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    heard.ask_everything(&relay).await;
    keys_change(&fleet, &relay).await;
    heard.ask_everything(&relay).await;
    launchdarkly_talks_nonsense(&fleet, &relay).await;
    the_database_has_its_troubles(&fleet, &relay).await;
    heard.ask_everything(&relay).await;
    files_are_exchanged(&fleet, &relay, &key_file, &autoconfig_file).await;
    heard.ask_everything(&relay).await;
    relay.signal("TERM").unwrap();
    relay.ended().await.unwrap();
    heard.logs("the first relay", &relay);

    // In an outage: with the right keys, then with a wrong one and a wrong password.
    fleet.launchdarkly.stop().await;
    let relay = settings.clone().with("LOG_FORMAT", "json").start().unwrap();
    relay.stream_with_put("/all", ROTATED).await;
    heard.ask_everything(&relay).await;
    heard.logs("a cold relay", &relay);
    relay.kill().await.unwrap();
    std::fs::write(&key_file, WRONG_KEY).unwrap();
    let relay = settings.start().unwrap();
    wait_for_shared(&relay, "unreadable").await;
    heard.ask_everything(&relay).await;
    heard.logs("a relay with a wrong key", &relay);
    relay.kill().await.unwrap();
    let wrong = with_wrong_password(&fleet, kind, settings)
        .with("PROXY_URL", format!("http://user:{PROXY_PASSWORD}@127.0.0.1:9"));
    let relay = wrong.start().unwrap();
    relay.wait_for_status("it has tried", |status| shared(status)["state"] != "reading").await;
    heard.ask_everything(&relay).await;
    heard.logs("a relay with a wrong password", &relay);
    relay.kill().await.unwrap();
    heard.add("check-config", checked(&wrong));
    heard.add("check-config of nonsense", checked(&with_nonsense(kind, wrong)));

    let at_last = stored(&fleet, disk.path()).await;
    judge(&heard, [&at_first, &at_last]);
}

/// Looks for what must not be there.
#[track_caller]
fn judge(heard: &Heard, stored: [&Heard; 2]) {
    let traces: Vec<String> = secrets().iter().flat_map(|secret| traces(secret)).collect();
    heard.holds_nothing_of(&traces);
    for stored in stored {
        stored.holds_nothing_of(&traces);
        stored.holds_nothing_of(&names());
        assert!(stored.0.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 10_000);
    }
    // Logs tell of environments by their IDs, and of nothing that is in them.
    heard.holds_nothing_of(&(0..10).map(flag_key).collect::<Vec<_>>());
    assert!(heard.0.iter().any(|(_, bytes)| bytes.windows(5).any(|part| part == b"DEBUG")));
}

/// The relay's credentials for the database, and the same on its side.
fn with_password(fleet: &Fleet, kind: Kind, settings: RelaySettings) -> RelaySettings {
    match kind {
        Kind::Redis => {
            let rule = format!(">{PASSWORD}");
            let user = ["ACL", "SETUSER", "relay", "reset", "on", &rule, "~*", "+@all"];
            assert_eq!(fleet.database.redis().command(&user), "OK");
            settings.with("REDIS_USERNAME", "relay").with("REDIS_PASSWORD", PASSWORD)
        }
        Kind::DynamoDb => settings
            .with("AWS_SECRET_ACCESS_KEY", PASSWORD)
            .with("AWS_SESSION_TOKEN", SESSION_TOKEN),
        Kind::Consul => settings.with("CONSUL_TOKEN", MASTER_TOKEN),
    }
}

/// Credentials that the database refuses, if it looks at any.
fn with_wrong_password(fleet: &Fleet, kind: Kind, settings: RelaySettings) -> RelaySettings {
    match kind {
        Kind::Redis => {
            let address = fleet.database.proxy().address();
            let url = format!("redis://relay:{WRONG_PASSWORD}@{address}");
            let settings = settings.without("REDIS_USERNAME").without("REDIS_PASSWORD");
            settings.with("REDIS_URL", url)
        }
        Kind::DynamoDb => settings.with("AWS_SECRET_ACCESS_KEY", WRONG_PASSWORD),
        Kind::Consul => settings.with("CONSUL_TOKEN", WRONG_PASSWORD),
    }
}

/// Secrets where they cannot be understood, so that a complaint is due.
fn with_nonsense(kind: Kind, settings: RelaySettings) -> RelaySettings {
    let settings = settings
        .without("AUTO_CONFIG_KEY_FILE")
        .with("AUTO_CONFIG_KEY", format!("{MALFORMED}\u{7}"))
        .with("PROXY_URL", format!("gopher://user:{PROXY_PASSWORD}@127.0.0.1:9"))
        .with("PROXY_AUTH_PASSWORD", PROXY_LOGIN);
    match kind {
        Kind::Redis => settings.with("REDIS_URL", format!("redis://relay:{PASSWORD}@host:port")),
        Kind::DynamoDb => settings.with("DYNAMODB_URL", format!("http://user:{PASSWORD}@:port")),
        Kind::Consul => settings.with("CONSUL_HOST", format!("http://user:{PASSWORD}@:port")),
    }
}

/// Rotation, concurrent and expiring keys.
async fn keys_change(fleet: &Fleet, relay: &RelayProcess) {
    let launchdarkly = &fleet.launchdarkly;
    let mut rep = launchdarkly.environment(&environment_id(0)).unwrap();
    ROTATED.clone_into(&mut rep.sdk_key.value);
    let later = 4_102_444_800_000;
    rep.sdk_key.expiring = ExpiringKeyRep { value: sdk_key(0), timestamp: later };
    rep.sdk_keys = vec![
        KeyRep::permanent("default", ROTATED),
        KeyRep::expiring("old", sdk_key(0), later),
        KeyRep::expiring("gone", EXPIRING, 1_000),
        KeyRep { has_views: true, ..KeyRep::permanent("views", CONCURRENT) },
    ];
    rep.mobile_keys.push(KeyRep::permanent("second", SECOND_MOBILE));
    launchdarkly.upsert_environment(rep);
    relay.stream_with_put("/all", ROTATED).await;
    relay.wait_until_healthy(6).await;
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    launchdarkly.delete_flag(&environment_id(0), &flag_key(4));
}

/// Messages that cannot be used, with keys in them, and refusals.
async fn launchdarkly_talks_nonsense(fleet: &Fleet, relay: &RelayProcess) {
    let launchdarkly = &fleet.launchdarkly;
    let id = environment_id(1);
    for (event, data) in [
        (
            "put",
            format!(
                r#"{{"path":"/","data":{{"environments":{{"{id}":{{"sdkKey":"{MALFORMED}"}}}}}}}}"#
            ),
        ),
        ("put", format!(r#"{{"path":"/","data":"{MALFORMED}""#)),
        (
            "patch",
            format!(
                r#"{{"path":"/environments/{id}","data":{{"envID":"{id}","version":"{MALFORMED}"}}}}"#
            ),
        ),
        (
            "patch",
            format!(
                r#"{{"path":"/environments/{id}","data":{{"envID":"{MALFORMED}","version":99}}}}"#
            ),
        ),
        ("news", MALFORMED.to_owned()),
    ] {
        launchdarkly.push_raw(&StreamSelector::Autoconfig, event, data.as_bytes());
        relay.wait_until_healthy(6).await;
    }
    let flags = StreamSelector::flags(&environment_id(2));
    launchdarkly.push_raw(
        &flags,
        "patch",
        format!(r#"{{"path":"/flags/{}","#, flag_key(5)).as_bytes(),
    );
    launchdarkly.push_raw(
        &flags,
        "put",
        format!(r#"{{"data":{{"flags":{{"{}":7}}}}}}"#, flag_key(6)).as_bytes(),
    );
    launchdarkly.inject(FaultRule::new(FaultScope::Everything, Fault::status(401)).times(4));
    launchdarkly.inject(FaultRule::new(FaultScope::Everything, Fault::web_page()).times(2));
    launchdarkly.cut_connections();
    relay
        .wait_for_status("it shows", |status| status["autoConfigStatus"]["lastError"].is_object())
        .await;
    launchdarkly.clear_faults();
}

async fn the_database_has_its_troubles(fleet: &Fleet, relay: &RelayProcess) {
    fleet.database.put(SEALED, "junk", b"junk").await;
    fleet.database.proxy().kill();
    fleet.rename(1, "Environment 1");
    wait_for_shared(relay, "unavailable").await;
    fleet.database.proxy().pass().unwrap();
    wait_for_shared(relay, "loaded").await;
    fleet.database.remove(SEALED, "junk").await;
}

async fn files_are_exchanged(fleet: &Fleet, relay: &RelayProcess, key: &Path, autoconfig: &Path) {
    std::fs::write(key, "\n").unwrap();
    relay.wait_for_log("a secret file cannot be used").await;
    fleet.launchdarkly.add_autoconfig_key(NEW_AUTOCONFIG);
    std::fs::write(key, NEW_KEY).unwrap();
    std::fs::write(autoconfig, NEW_AUTOCONFIG).unwrap();
    eventually("the new autoconfig key is used", async || {
        let all = fleet.launchdarkly.requests_for("/relay_auto_config");
        let last = all.last().and_then(|request| request.authorization().map(str::to_owned));
        if last.as_deref() == Some(NEW_AUTOCONFIG) { Ok(()) } else { Err("not yet") }
    })
    .await;
    relay.wait_for_log("keys of the cache were read anew").await;
    eventually("the cache is sealed anew", async || {
        let found = pilotlight_test_kit::fleet::open(&fleet.rows().await, &[NEW_KEY]);
        if found.is_whole && found.closed == 0 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    // The key that is exchanged is nowhere listed: a restart before this would not open the store.
    relay
        .wait_for_status("the local store is sealed anew", |status| {
            status["localStore"]["toReseal"] == 0 && status["localStore"]["pending"] == 0
        })
        .await;
    relay.wait_until_stored().await;
}

/// What `check-config` prints for the same variables.
fn checked(settings: &RelaySettings) -> Vec<u8> {
    let output = std::process::Command::new(program())
        .args(["check-config", "--from-env"])
        .env_clear()
        .envs(settings.variables())
        .output()
        .unwrap();
    [output.stdout, output.stderr].concat()
}

async fn stored(fleet: &Fleet, disk: &Path) -> Heard {
    let mut stored = Heard(files(disk));
    for namespace in [SEALED, CACHE_KEY] {
        for (name, value) in fleet.database.rows(namespace).await {
            stored.add(format!("name of a row of {namespace}"), name);
            stored.add(format!("row of {namespace}"), value);
        }
    }
    stored
}
