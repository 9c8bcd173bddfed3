//! The program as an operator meets it: flags, exit codes, what goes to which stream, signals.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use pilotlight::testing::demo::composed_data::{environment, mobile_key, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use pilotlight_test_kit::relay::{RelaySettings, free_address, program, stream_end};
use pilotlight_test_kit::{LIMIT, eventually};

/// How a run of the program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    errors: String,
}

/// Runs the program to its end.
async fn run(directory: &Path, arguments: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace()).current_dir(directory).env_clear();
    command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments} does not end")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), errors: text(output.stderr) }
}

/// Runs it in an empty folder.
async fn run_alone(arguments: &str, variables: &[(&str, &str)]) -> Ended {
    let directory = TempDir::new().unwrap();
    run(directory.path(), arguments, variables).await
}

/// A folder with a configuration file `relay.conf`.
fn with_file(content: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("relay.conf"), content).unwrap();
    directory
}

#[tokio::test]
async fn generated_keys_are_strong_and_differ() {
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let ended = run_alone("generate-key", &[]).await;
        assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""), "{ended:?}");
        let key = ended.out.trim_end().to_owned();
        assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
        let variables = [("LD_ENV_a", "sdk-a"), ("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", &*key)];
        let checked = run_alone("check-config --from-env", &variables).await;
        assert!(!checked.errors.contains("generate-key"), "{checked:?}");
        keys.insert(key);
    }
    assert_eq!(keys.len(), 3);
    let variables = [("LD_ENV_a", "sdk-a"), ("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", "abc")];
    let checked = run_alone("check-config --from-env", &variables).await;
    let said = format!("{}{}", checked.out, checked.errors);
    assert!(said.contains("is shorter than 16 characters") && !said.contains("abc"), "{said}");
    assert_eq!(checked.code, Some(0));
}

/// Names and values come from outside: none drives the terminal or adds a line of its own.
#[tokio::test]
async fn no_text_from_outside_forges_output() {
    let evil = "\u{1b}[31mred\nforged: line\u{202e}";
    let check = async |arguments: &[&str], variables: &[(&str, &str)], code, line: &str| {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new(program());
        command.args(arguments).current_dir(directory.path()).env_clear();
        command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(LIMIT, command.output()).await.expect("it ends").unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("forged")), "{said}");
        assert!(said.contains(line), "no {line:?} in {said}");
    };
    let escaped = r"\u001b[31mred\u000aforged: line\u202e";
    let base = [("LD_ENV_shop", "sdk-1"), ("LD_PREFIX_shop", "p"), ("LOCAL_STORE_DIR", "off")];
    let with =
        |name, value| -> Vec<(&str, &str)> { base.into_iter().chain([(name, value)]).collect() };
    let check_config = &["check-config", "--from-env"];
    let name = format!("LD_PREFIX_{evil}");
    let warning = format!("warning: LD_PREFIX_{escaped}: has no effect");
    check(check_config, &with(&name, "p"), 0, &warning).await;
    let name = format!("LD_ENV_{evil}");
    check(check_config, &with(&name, "\u{1}"), 1, &format!("LD_ENV_{escaped}: contains")).await;
    check(check_config, &with("LD_PROJ_KEY_shop", evil), 0, &format!("projKey: {escaped}")).await;
    check(check_config, &with("REDIS_TLS", evil), 0, "[Main]").await;
    check(check_config, &with("LOG_LEVEL", evil), 1, "LOG_LEVEL: ").await;
    let refused = format!("/{escaped} cannot be read");
    let file = format!("/{evil}");
    check(check_config, &with("PROXY_CA_CERTS", &file), 1, &refused).await;
    check(&["--config", &file], &[], 1, &format!("/{escaped}: cannot be read")).await;
    check(&[&format!("--{evil}")], &[], 64, &format!("unknown flag --{escaped}")).await;
    check(&["health", "--url", evil], &[], 1, &format!("{escaped}/livez did not answer")).await;
}

fn launchdarkly(environments: usize) -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    for index in 0..environments {
        launchdarkly.load(&environment(index, 5));
    }
    launchdarkly
}

fn autoconfig(launchdarkly: &FakeLaunchDarkly, store: &TempDir) -> RelaySettings {
    let key = FakeSettings::default().autoconfig_key;
    RelaySettings::autoconfig(launchdarkly, &key, store.path())
}

#[tokio::test]
async fn version_and_help_go_to_standard_output() {
    let version = format!("Pilotlight {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in ["--version", "-version", "--from-env --version", "check-config -version"] {
        let ended = run_alone(arguments, &[]).await;
        assert_eq!(
            (ended.code, ended.out, ended.errors),
            (Some(0), version.clone(), String::new())
        );
    }
    for arguments in ["--help", "-help", "-h", "health --help", "demo -h"] {
        let ended = run_alone(arguments, &[]).await;
        assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""), "{arguments}");
        assert!(ended.out.starts_with("Usage: pilotlight [flags]"), "{}", ended.out);
    }
}

#[tokio::test]
async fn what_is_not_understood_is_64_with_the_reason_and_the_usage() {
    for (arguments, reason) in [
        ("--bogus", "unknown flag --bogus"),
        ("-bogus=secret", "unknown flag --bogus"),
        ("---config x", "---config is not a flag"),
        ("--config", "--config needs a value"),
        ("--from-env=perhaps", "--from-env must be true or false, not \"perhaps\""),
        ("demo now", "unexpected argument \"now\""),
        ("demo --from-env", "unknown flag --from-env"),
        ("health --config x", "unknown flag --config"),
        ("--from-env ready", "the command ready must come before all flags"),
        ("chekc-config --from-env", "unknown command \"chekc-config\"; did you mean check-config?"),
        ("serve", "unknown command \"serve\"; to run the relay, pass flags only"),
    ] {
        let ended = run_alone(arguments, &[]).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{arguments}");
        assert_eq!(ended.errors.lines().next(), Some(reason), "{arguments}");
        assert!(ended.errors.contains("\n\nUsage: pilotlight [flags]"), "{}", ended.errors);
    }
}

#[tokio::test]
async fn a_missing_file_is_1_with_its_name() {
    for arguments in ["--config no.conf", "-config=no.conf", "check-config --config no.conf"] {
        let ended = run_alone(arguments, &[]).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{arguments}");
        assert!(ended.errors.starts_with("no.conf: cannot be read: No such file"), "{ended:?}");
    }
    // It may be missing; then there is nothing to serve, which is another problem.
    let ended = run_alone("check-config --config no.conf --allow-missing-file", &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(!ended.errors.contains("no.conf"), "{ended:?}");
    let variables = [("LD_ENV_Shop", "sdk-1")];
    let arguments = "check-config -config no.conf -allow-missing-file -from-env";
    let ended = run_alone(arguments, &variables).await;
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    assert!(ended.out.contains("[Environment \"Shop\"]"), "{}", ended.out);
}

#[tokio::test]
async fn all_problems_are_told_at_once_each_with_its_place() {
    let directory = with_file(
        "[Main]\n\
         port = eighty\n\
         heartbeatInterval = soon\n\
         colour = blue\n\
         [Environment \"shop\"]\n\
         mobileKey = mob-that-nobody-may-read\n\
         [Nonsense]\n\
         [Redis]\n\
         url = redis://:password-that-nobody-may-read@host:many\n",
    );
    let variables = [("INIT_TIMEOUT", "later"), ("LOG_LEVEL", "loud")];
    for arguments in ["--config relay.conf --from-env", "check-config -config relay.conf -from-env"]
    {
        let ended = run(directory.path(), arguments, &variables).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        let places: Vec<&str> = ended
            .errors
            .lines()
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no place: {line}")).0)
            .collect();
        let expected = [
            "relay.conf:2",
            "relay.conf:3",
            "relay.conf:4",
            "relay.conf:7",
            "relay.conf:9",
            "INIT_TIMEOUT",
            "LOG_LEVEL",
            "[Environment \"shop\"] sdkKey (LD_ENV_shop)",
        ];
        assert_eq!(places, expected, "{}", ended.errors);
        assert!(ended.errors.contains("[Main] port: \"eighty\" is not a port; allowed: a number"));
        assert!(!ended.errors.contains("nobody-may-read"), "{}", ended.errors);
    }
}

#[tokio::test]
async fn check_config_tells_what_was_understood_and_no_secret() {
    let secrets = TempDir::new().unwrap();
    let key_file = secrets.path().join("key");
    std::fs::write(&key_file, "rel-from-the-file-which-is-secret-0001\n").unwrap();
    let directory = with_file(
        "[Main]\nport = 9123\n\
         [AutoConfig]\nenvDatastorePrefix = ld-$CID\ncacheKey = fleet\n\
         cacheEncryptionKey = encryption-secret\ncachePreviousEncryptionKeys = previous-secret\n\
         [Redis]\nurl = redis://user:redis-secret@cache:6379\n\
         [Proxy]\nurl = http://user:proxy-secret@proxy:3128\n",
    );
    let variables = [("AUTO_CONFIG_KEY_FILE", key_file.to_str().unwrap())];
    let arguments = "check-config --config relay.conf --from-env";
    let ended = run(directory.path(), arguments, &variables).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in ["[Main]", "  port: 9123", "  cacheKey: fleet", "  cacheEncryptionKey: set"] {
        assert!(ended.out.lines().any(|it| it == line), "no {line:?} in\n{}", ended.out);
    }
    assert!(ended.out.contains(&format!("key: …0001, from the file {}", key_file.display())));
    assert!(!ended.out.contains("secret") && !ended.errors.contains("secret"), "{ended:?}");
}

#[tokio::test]
async fn one_warning_names_everything_that_is_not_built() {
    let directory = with_file(
        "[Main]\ntlsCert = c\n[Prometheus]\nenabled = true\n\
         [Environment \"shop\"]\nsdkKey = sdk-1\n",
    );
    let ended = run(directory.path(), "check-config --config relay.conf", &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let warning = "warning: configuration: accepted, but not implemented yet and without effect: \
                   [Main] tlsCert, [Prometheus] enabled\n";
    assert_eq!(ended.errors, warning);
}

#[tokio::test]
async fn a_running_relay_warns_of_what_is_not_built_once() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    let settings =
        autoconfig(&launchdarkly, &store).with("USE_PROMETHEUS", "1").with("CACHE_TTL", "5s");
    let relay = settings.with("TLS_CERT", "c").start().unwrap();
    relay.wait_until_healthy(1).await;
    let log = relay.log();
    let warnings: Vec<&str> =
        log.lines().filter(|line| line.contains("not implemented yet")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains("TLS_CERT"), "{}", warnings[0]);
    assert!(warnings[0].contains("USE_PROMETHEUS"), "{}", warnings[0]);
}

#[tokio::test]
async fn what_would_weaken_security_is_refused() {
    let manual = ("LD_ENV_Shop", "sdk-1");
    let tls = [manual, ("TLS_ENABLED", "1"), ("TLS_CERT", "c"), ("TLS_KEY", "k")];
    let ended = run_alone("--from-env", &tls).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    let reason = "TLS_ENABLED: HTTPS is not implemented yet";
    assert!(ended.errors.starts_with(reason), "{}", ended.errors);
}

#[tokio::test]
async fn a_taken_port_is_1_and_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for level in ["info", "none"] {
        let variables = [
            ("LD_ENV_Shop", "sdk-1"),
            ("PORT", port.as_str()),
            ("LOCAL_STORE_DIR", "off"),
            ("LOG_LEVEL", level),
        ];
        let ended = run_alone("--from-env", &variables).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for part in [&*format!(":{port}"), "another process listens there", "[Main] port (PORT)"] {
            assert!(ended.errors.contains(part), "no {part:?}: {}", ended.errors);
        }
        assert_eq!(ended.errors.lines().count(), 1, "told once: {}", ended.errors);
    }
}

#[tokio::test]
async fn an_address_of_another_machine_is_1_and_named() {
    // 192.0.2.0/24 is for documentation; no machine has it.
    let variables = [("LD_ENV_Shop", "sdk-1"), ("BIND_ADDRESS", "192.0.2.7"), ("PORT", "8030")];
    let ended = run_alone("--from-env", &variables).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.errors.contains("cannot listen on 192.0.2.7:8030"), "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_ready_ask_a_running_relay() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    launchdarkly.stop().await;
    let relay = autoconfig(&launchdarkly, &store).start().unwrap();
    relay.get("/livez", &[]).await;
    let ask =
        async |command: &str| run_alone(&format!("{command} --url {}", relay.url()), &[]).await;
    let alive = ask("health").await;
    assert_eq!((alive.code, alive.errors.as_str()), (Some(0), ""), "{alive:?}");
    let not_ready = ask("ready").await;
    assert_eq!((not_ready.code, not_ready.out.as_str()), (Some(1), ""));
    assert!(not_ready.errors.contains("/readyz answered 503"), "{}", not_ready.errors);
    assert!(not_ready.errors.contains("list of environments is not known"), "{not_ready:?}");
    launchdarkly.start().unwrap();
    relay.wait_until_healthy(1).await;
    let ready = ask("ready").await;
    assert_eq!((ready.code, ready.errors.as_str()), (Some(0), ""), "{ready:?}");
    let port = relay.address().port().to_string();
    for variables in
        [&[("PORT", port.as_str())][..], &[("PORT", &port), ("BIND_ADDRESS", "127.0.0.1")]]
    {
        assert_eq!(run_alone("ready", variables).await.code, Some(0), "found by PORT");
    }
    let same_url = format!("-url={}", relay.url());
    assert_eq!(run_alone(&format!("ready {same_url}"), &[]).await.code, Some(0));
}

#[tokio::test]
async fn health_and_ready_say_why_nobody_answered() {
    let nobody = free_address().unwrap();
    for (url, reason) in [
        (format!("http://{nobody}"), "Connection refused"),
        (format!("https://{nobody}"), "only http is spoken here"),
        ("http://".to_owned(), "not a URL"),
    ] {
        for command in ["health", "ready"] {
            let ended = run_alone(&format!("{command} --url {url}"), &[]).await;
            assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
            assert!(ended.errors.contains(reason), "{url}: {}", ended.errors);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_always_ends_with_0_once_everything_was_connected() {
    let (launchdarkly, store) = (launchdarkly(3), TempDir::new().unwrap());
    let settings = autoconfig(&launchdarkly, &store).with("EXIT_ALWAYS", "true");
    let mut relay = settings.start().unwrap();
    let status = relay.ended().await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("all environments were connected"), "{}", relay.log());
    // What it learnt is stored: the run was a warm-up.
    launchdarkly.stop().await;
    let relay = autoconfig(&launchdarkly, &store).start().unwrap();
    relay.stream_with_put("/all", &sdk_key(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_always_ends_with_1_when_something_could_not_be_connected() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    let settings = RelaySettings::manual(&launchdarkly, store.path())
        .with("LD_ENV_Known", sdk_key(0))
        .with("LD_ENV_Unknown", "sdk-unknown")
        .with("INIT_TIMEOUT", "700ms")
        .with("EXIT_ALWAYS", "1");
    let mut relay = settings.start().unwrap();
    let status = relay.ended().await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", relay.log());
    assert!(relay.log().contains("could not be connected within initTimeout"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_always_can_be_stopped() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    launchdarkly.stop().await;
    let settings = autoconfig(&launchdarkly, &store).with("INIT_TIMEOUT", "1h");
    let mut relay = settings.with("EXIT_ALWAYS", "1").start().unwrap();
    relay.wait_for_log("connecting to upstream").await;
    assert!(TcpStream::connect(relay.address()).is_err(), "nothing is served, so no port is open");
    assert!(!relay.log().contains("listening"), "{}", relay.log());
    relay.signal("TERM").unwrap();
    assert_eq!(relay.ended().await.unwrap().code(), Some(1), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn file_and_variables_complete_each_other() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    let directory = with_file(&format!(
        "[Main]\nstreamUri = {uri}\nbaseUri = http://127.0.0.1:1\nport = 1\n\
         [Environment \"Shop\"]\nmobileKey = {mobile}\n",
        uri = launchdarkly.uri(),
        mobile = mobile_key(0),
    ));
    let relay = RelaySettings::empty()
        .argument("--config")
        .argument(directory.path().join("relay.conf").display().to_string())
        .with("LD_ENV_Shop", sdk_key(0))
        .with("LOCAL_STORE_DIR", store.path().display().to_string())
        .start()
        .unwrap();
    let (_, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    let status = relay.wait_until_healthy(1).await;
    let shop = &status["environments"]["Shop"];
    assert!(shop["mobileKey"].as_str().is_some_and(|key| key.starts_with("mob-")), "{shop:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_may_come_from_files() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    let secrets = TempDir::new().unwrap();
    let file = |name: &str, content: &str| {
        let path = secrets.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let key = FakeSettings::default().autoconfig_key;
    let relay = autoconfig(&launchdarkly, &store)
        .without("AUTO_CONFIG_KEY")
        .with("AUTO_CONFIG_KEY_FILE", file("key", &format!("\n  {key}\n")))
        .with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE", file("encryption", "of the cache\n"))
        .start()
        .unwrap();
    relay.wait_until_healthy(1).await;
    assert!(!relay.log().contains(&key) && !relay.log().contains("of the cache"));
    drop(relay);

    let both = [("AUTO_CONFIG_KEY", "rel-1"), ("AUTO_CONFIG_KEY_FILE", "key")];
    let missing = [("AUTO_CONFIG_KEY_FILE", "missing")];
    let empty_file = file("empty", " \n");
    let empty = [("AUTO_CONFIG_KEY_FILE", empty_file.as_str())];
    for (variables, parts) in [
        (&both[..], ["AUTO_CONFIG_KEY", "AUTO_CONFIG_KEY_FILE"]),
        (&missing[..], ["missing", "No such file"]),
        (&empty[..], ["empty", "is empty"]),
    ] {
        let ended = run_alone("--from-env", variables).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        assert!(parts.iter().all(|part| ended.errors.contains(part)), "{}", ended.errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_a_relay_in_order() {
    for signal in ["TERM", "INT"] {
        let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
        let mut relay = autoconfig(&launchdarkly, &store).start().unwrap();
        relay.wait_until_healthy(1).await;
        let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
        relay.signal(signal).unwrap();
        stream_end(&mut client).await.expect("the stream ends in order");
        assert_eq!(relay.ended().await.unwrap().code(), Some(0), "{}", relay.log());
        assert!(relay.log().contains("shut down"), "{}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    let settings = autoconfig(&launchdarkly, &store).with("GRACEFUL_SHUTDOWN_TIMEOUT", "1h");
    let mut relay = settings.start().unwrap();
    relay.wait_until_healthy(1).await;
    let clients = [
        relay.stream_with_put("/all", &sdk_key(0)).await.0,
        relay.stream_with_put("/all", &sdk_key(0)).await.0,
    ];
    relay.signal("TERM").unwrap();
    eventually("the relay is leaving", async || {
        let ready = relay.get("/readyz", &[]).await.status;
        if ready == 503 { Ok(()) } else { Err(ready) }
    })
    .await;
    relay.signal("TERM").unwrap();
    assert_eq!(relay.ended().await.unwrap().code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("second signal"), "{}", relay.log());
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_behind_the_flags_are_ignored_with_a_warning() {
    let (launchdarkly, store) = (launchdarkly(1), TempDir::new().unwrap());
    let relay = autoconfig(&launchdarkly, &store).argument("serve").argument("--bogus");
    let relay = relay.start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_for_log("arguments after the flags are ignored").await;
}
