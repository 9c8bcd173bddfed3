//! All ways to reach a Redis, each with flags and the cache of environments: written by one relay,
//! read by another one that has nothing else. Passwords show nowhere.

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use serde_json::Value;
use tempfile::TempDir;

use super::redis_scene::{PLAIN, launchdarkly, on, relay, serves_from_the_store, wait_until_held};
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::Redis;
use pilotlight_test_kit::fleet::SEALED;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};
use pilotlight_test_kit::stored_flags::wait_for_store;

const PASSWORD: &str = "s3cret-p@ss";

/// The same as it is written in a URL.
const IN_URL: &str = "s3cret-p%40ss";

/// Lets a user in that may do everything.
fn add_user(server: &Redis) {
    let password = format!(">{PASSWORD}");
    let command = ["ACL", "SETUSER", "relay", "reset", "on", &password, "~*", "&*", "+@all"];
    assert_eq!(server.command(&command), "OK");
}

async fn shows_no_password(relay: &RelayProcess) {
    let status = relay.status().await.to_string();
    let log = relay.log();
    for password in [PASSWORD, IN_URL] {
        assert!(!status.contains(password), "{status}");
        assert!(!log.contains(password), "{log}");
    }
}

/// A way to reach a server.
struct Way<'a> {
    server: &'a Redis,
    /// The number of the database.
    database: u32,
    /// What `/status` calls it.
    shown: String,
    configure: &'a dyn Fn(RelaySettings) -> RelaySettings,
}

impl Way<'_> {
    /// Everything is written to the server, to this database, and read from it.
    async fn works(&self) {
        let number = self.database.to_string();
        let run =
            |_: &str, command: &[&str]| self.server.command(&[&["-n", &number], command].concat());
        let launchdarkly = launchdarkly(2, 20);
        let machine = TempDir::new().unwrap();
        let settings = (self.configure)(relay(&launchdarkly, &machine, PLAIN));
        let settings = settings.with("LOG_LEVEL", "debug");
        let first = settings.start().unwrap();
        first.wait_until_stored().await;
        wait_until_held(&run, &launchdarkly, PLAIN, 2).await;
        assert_eq!(run("", &["HLEN", SEALED]), "3", "environments and the manifest");
        for other in (0..4).filter(|other| *other != self.database) {
            let size = self.server.command(&["-n", &other.to_string(), "DBSIZE"]);
            assert_eq!(size, "0", "database {other}");
        }
        let status = first.status().await;
        let store = &status["environments"][environment_id(0)]["dataStoreStatus"];
        assert_eq!(
            (&store["database"], &store["dbServer"]),
            (&Value::from("redis"), &Value::from(self.shown.clone()))
        );
        shows_no_password(&first).await;
        let said = launchdarkly.data(environment_id(1).as_str());
        launchdarkly.stop().await;
        first.kill().await.unwrap();

        let machine = TempDir::new().unwrap();
        let settings = (self.configure)(relay(&launchdarkly, &machine, PLAIN));
        let second = settings.start().unwrap();
        serves_from_the_store(&second, 1, &said).await;
        shows_no_password(&second).await;
        assert_eq!(self.server.command(&["FLUSHALL"]), "OK");
    }
}

fn by_url(url: String) -> impl Fn(RelaySettings) -> RelaySettings {
    move |settings| settings.with("USE_REDIS", "true").with("REDIS_URL", &*url)
}

#[tokio::test(flavor = "multi_thread")]
async fn users_passwords_and_numbers_of_databases() {
    let server = Redis::start().await;
    add_user(&server);
    let port = server.port;
    let url = |login: &str, database: u32| format!("redis://{login}127.0.0.1:{port}/{database}");
    let way = |database, shown, configure| Way { server: &server, database, shown, configure };
    let in_url = by_url(url(&format!("relay:{IN_URL}@"), 3));
    way(3, url("relay:xxxxx@", 3), &in_url).works().await;
    // Options count before the URL, and a file holds the password.
    let file = TempDir::new().unwrap();
    let path = file.path().join("password");
    std::fs::write(&path, format!("{PASSWORD}\n")).unwrap();
    let by_options = |settings| {
        by_url(url("nobody:nothing@", 1))(settings)
            .with("REDIS_USERNAME", "relay")
            .with("REDIS_PASSWORD_FILE", path.display().to_string())
    };
    way(1, url("nobody:xxxxx@", 1), &by_options).works().await;
    let by_host = |settings: RelaySettings| {
        settings
            .with("USE_REDIS", "true")
            .with("REDIS_HOST", "127.0.0.1")
            .with("REDIS_PORT", port.to_string())
            .with("REDIS_USERNAME", "relay")
            .with("REDIS_PASSWORD", PASSWORD)
    };
    way(0, format!("redis://127.0.0.1:{port}"), &by_host).works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_by_its_own_name() {
    let server = Redis::start_valkey().await;
    add_user(&server);
    let port = server.port;
    let url = |login: &str| format!("valkey://{login}127.0.0.1:{port}/2");
    let configure = by_url(url(&format!("relay:{IN_URL}@")));
    let shown = url("relay:xxxxx@");
    Way { server: &server, database: 2, shown, configure: &configure }.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket() {
    let server = Redis::start().await;
    add_user(&server);
    let socket = server.socket().display().to_string();
    for scheme in ["unix", "redis+unix", "valkey+unix"] {
        let url = format!("{scheme}://{socket}?db=3");
        let configure = |settings| {
            by_url(url.clone())(settings)
                .with("REDIS_USERNAME", "relay")
                .with("REDIS_PASSWORD", PASSWORD)
        };
        Way { server: &server, database: 3, shown: url.clone(), configure: &configure }
            .works()
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_ca_of_ones_own_and_a_certificate_that_is_asked_for() {
    let certificates = Certificates::make();
    let server = Redis::start_tls(&certificates).await;
    add_user(&server);
    let port = server.port;
    let ca = certificates.ca().display().to_string();
    let (certificate, key) = certificates.client();
    let with_ca = |settings: RelaySettings| settings.with("REDIS_CA_FILE", &*ca);
    let with_certificate = |settings: RelaySettings| {
        with_ca(settings)
            .with("REDIS_CLIENT_CERTIFICATE_FILE", certificate.display().to_string())
            .with("REDIS_CLIENT_KEY_FILE", key.display().to_string())
    };
    for (scheme, database) in [("rediss", 0), ("valkeys", 2)] {
        let url = |login: &str| format!("{scheme}://{login}127.0.0.1:{port}/{database}");
        let configure =
            |settings| with_certificate(by_url(url(&format!("relay:{IN_URL}@")))(settings));
        let shown = url("relay:xxxxx@");
        Way { server: &server, database, shown, configure: &configure }.works().await;
    }
    let by_option = |settings| {
        let settings = by_url(format!("redis://127.0.0.1:{port}"))(settings);
        with_certificate(settings).with("REDIS_TLS", "true")
    };
    let shown = format!("rediss://127.0.0.1:{port}");
    Way { server: &server, database: 0, shown, configure: &by_option }.works().await;

    // Without its certificate, or the CA's, a relay is not let in or does not trust the server;
    // it says so and serves from memory.
    let url = format!("rediss://127.0.0.1:{port}");
    let nobody = |settings| with_ca(by_url(url.clone())(settings));
    let distrustful = by_url(url.clone());
    let ways: [&dyn Fn(RelaySettings) -> RelaySettings; 2] = [&nobody, &distrustful];
    for configure in ways {
        let launchdarkly = launchdarkly(1, 5);
        let machine = TempDir::new().unwrap();
        let relay = configure(relay(&launchdarkly, &machine, PLAIN)).start().unwrap();
        wait_for_store(&relay, "the trouble shows", |store| {
            store["state"] == "INTERRUPTED"
                && store["error"].as_str().is_some_and(|error| error.contains("ertificate"))
        })
        .await;
        relay.stream_with_put("/all", &sdk_key(0)).await;
        assert_eq!(on(&server)("", &["DBSIZE"]), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_without_it_until_it_is_right() {
    let server = Redis::start().await;
    add_user(&server);
    let file = TempDir::new().unwrap();
    let path = file.path().join("password");
    std::fs::write(&path, "wr0ng-p4ssword").unwrap();
    let launchdarkly = launchdarkly(2, 5);
    let machine = TempDir::new().unwrap();
    let settings = by_url(format!("redis://relay@127.0.0.1:{}/2", server.port))(relay(
        &launchdarkly,
        &machine,
        PLAIN,
    ))
    .with("REDIS_PASSWORD_FILE", path.display().to_string())
    .with("LOG_LEVEL", "debug");
    let relay = settings.start().unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
    let status = wait_for_store(&relay, "the refusal shows", |store| {
        store["state"] == "INTERRUPTED"
            && store["error"].as_str().is_some_and(|error| error.contains("WRONGPASS"))
    })
    .await;
    for text in [status.to_string(), relay.log()] {
        assert!(!text.contains("wr0ng-p4ssword"), "{text}");
    }
    server.command(&["ACL", "SETUSER", "relay", ">wr0ng-p4ssword"]);
    let run = |_: &str, command: &[&str]| server.command(&[&["-n", "2"], command].concat());
    wait_until_held(&run, &launchdarkly, PLAIN, 2).await;
    wait_for_store(&relay, "the store is in use", |store| {
        store["state"] == "VALID" && store["error"].is_null()
    })
    .await;
}
