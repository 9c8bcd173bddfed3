//! `check-config` ends with 0 for configurations with which the relay starts, and for no others.

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use pilotlight_test_kit::LIMIT;
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::relay::{free_address, program};

/// Exit code and standard error of the program with these variables.
async fn run(arguments: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace()).current_dir(directory.path()).env_clear();
    command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.expect("it ends").unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The check and the start refuse it, and name the reason.
async fn check_refused(variables: &[(&str, &str)], reason: &str) {
    let port = free_address().unwrap().port().to_string();
    let base = [
        ("LD_ENV_Shop", "sdk-1"),
        ("LD_PREFIX_Shop", "p"),
        ("LOCAL_STORE_DIR", "off"),
        ("STREAM_URI", "http://127.0.0.1:1"),
        ("PORT", port.as_str()),
    ];
    let all: Vec<(&str, &str)> = base.iter().chain(variables).copied().collect();
    for arguments in ["check-config --from-env", "--from-env"] {
        let (code, errors) = run(arguments, &all).await;
        assert_eq!(code, Some(1), "{arguments} {variables:?}: {errors}");
        assert!(errors.contains(reason), "{arguments} {variables:?}: no {reason:?} in {errors}");
        assert!(!errors.contains("hidden"), "{errors}");
    }
}

/// The check accepts it.
async fn check_accepted(variables: &[(&str, &str)]) {
    let base = [("LD_ENV_Shop", "sdk-1"), ("LD_PREFIX_Shop", "p"), ("PORT", "8030")];
    let all: Vec<(&str, &str)> = base.iter().chain(variables).copied().collect();
    let (code, errors) = run("check-config --from-env", &all).await;
    assert_eq!(code, Some(0), "{variables:?}: {errors}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn addresses_and_files_that_cannot_work_are_refused() {
    let folder = TempDir::new().unwrap();
    let no_pem = folder.path().join("no.pem");
    std::fs::write(&no_pem, "text").unwrap();
    let proxy = [("PROXY_CA_CERTS", text(&no_pem))];
    check_refused(&proxy, "no.pem: the file contains no certificate").await;
    // 192.0.2.0/24 is for documentation; no machine has it.
    check_refused(&[("BIND_ADDRESS", "192.0.2.7")], "cannot listen on 192.0.2.7:").await;
    check_refused(
        &[("PROXY_AUTH_NTLM", "1"), ("PROXY_URL", "http://p"), ("PROXY_AUTH_USER", "u")],
        "PROXY_AUTH_NTLM: NTLM is not implemented yet",
    )
    .await;
}

#[tokio::test]
async fn addresses_of_many_machines_are_refused() {
    for address in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
        let reason = "a multicast or broadcast address";
        check_refused(&[("BIND_ADDRESS", address)], reason).await;
    }
}

#[tokio::test]
async fn tokens_that_no_header_can_carry_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "hidden\nhidden\n").unwrap();
    let reason = "contains a character that is not allowed here";
    for token in [("CONSUL_TOKEN", "hidden\nhidden"), ("CONSUL_TOKEN", "hidden\u{1}")] {
        check_refused(&[("USE_CONSUL", "1"), token], reason).await;
    }
    check_refused(&[("USE_CONSUL", "1"), ("CONSUL_TOKEN_FILE", text(&file))], reason).await;
}

#[tokio::test]
async fn dynamodb_without_a_region_is_warned_of() {
    let base = [("USE_DYNAMODB", "1"), ("DYNAMODB_TABLE", "t"), ("LD_ENV_Shop", "sdk-1")];
    let folder = TempDir::new().unwrap();
    let file = folder.path().join(".aws/config");
    std::fs::create_dir(folder.path().join(".aws")).unwrap();
    std::fs::write(&file, "[default]\nregion = eu-west-1\n").unwrap();
    let check = async |more: (&str, &str), expected| {
        let all: Vec<_> = base.into_iter().chain([more]).collect();
        let (code, errors) = run("check-config --from-env", &all).await;
        assert_eq!(code, Some(0), "{errors}");
        let warned = errors.contains("warning: USE_DYNAMODB: no AWS region is set; set AWS_REGION");
        assert_eq!(warned, expected, "{more:?}: {errors}");
    };
    check(("AWS_PROFILE", "x"), true).await;
    check(("AWS_CONFIG_FILE", "/does/not/exist"), true).await;
    check(("AWS_REGION", "eu-west-1"), false).await;
    check(("AWS_DEFAULT_REGION", "eu-west-1"), false).await;
    check(("AWS_CONFIG_FILE", text(&file)), false).await;
    check(("AWS_SHARED_CREDENTIALS_FILE", text(&file)), false).await;
    check(("HOME", text(folder.path())), false).await;
}

#[tokio::test]
async fn urls_of_redis_that_cannot_work_are_refused() {
    for (url, reason) in [
        ("redis://:hidden@c/first", "[Redis] cannot be used as it is configured"),
        ("redis://:hidden@c/-1", "the number of the database is negative"),
        ("redis://:hidden@c?db=1", "unknown option \"db\" in the URL"),
        ("redis://c?protocol=resp9", "not the URL of a Redis server"),
        ("rediss://:hidden@c#insecure", "certificate checks cannot be disabled"),
        ("unix:///run/r.sock?user=u&timeout=hidden", "unknown option \"timeout\" in the URL"),
    ] {
        check_refused(&[("USE_REDIS", "1"), ("REDIS_URL", url)], reason).await;
    }
    let sentinel = [("USE_REDIS", "1"), ("REDIS_MODE", "sentinel"), ("REDIS_SENTINEL_MASTER", "m")];
    for (urls, reason) in [
        ("redis://a/1,redis://b/2", "the URLs name different databases"),
        ("redis://a,rediss://b", "some of the URLs use TLS and others do not"),
        ("unix:///run/r.sock", "a Unix socket cannot be one of several servers"),
    ] {
        let variables: Vec<_> = sentinel.into_iter().chain([("REDIS_URLS", urls)]).collect();
        check_refused(&variables, reason).await;
        let cluster = [("USE_REDIS", "1"), ("REDIS_MODE", "cluster"), ("REDIS_URLS", urls)];
        check_refused(&cluster, reason).await;
    }
}

#[tokio::test]
async fn certificates_of_databases_are_read() {
    let certificates = Certificates::make();
    let ca = certificates.ca();
    let (certificate, key) = certificates.client();
    let (_, other_key) = certificates.server();
    let redis = [("USE_REDIS", "1"), ("REDIS_URL", "rediss://c")];
    let consul = [("USE_CONSUL", "1"), ("CONSUL_HOST", "https://c:8501")];
    for (base, family) in [(redis, "REDIS"), (consul, "CONSUL")] {
        let ca_file = format!("{family}_CA_FILE");
        let certificate_file = format!("{family}_CLIENT_CERTIFICATE_FILE");
        let key_file = format!("{family}_CLIENT_KEY_FILE");
        let with = |more: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
            base.iter().chain(more).copied().collect()
        };
        let mut variables = with(&[]);
        variables.push((&ca_file, "/does/not/exist.pem"));
        check_refused(&variables, "/does/not/exist.pem cannot be read").await;
        let mut variables = with(&[]);
        variables.push((&ca_file, text(&key)));
        check_refused(&variables, "client.key contains no certificate").await;
        let mut variables = with(&[]);
        variables.extend([(&*certificate_file, text(&certificate)), (&key_file, text(&other_key))]);
        check_refused(&variables, "client certificate cannot be used").await;
        let mut variables = with(&[]);
        variables.extend([
            (&*ca_file, text(&ca)),
            (&certificate_file, text(&certificate)),
            (&key_file, text(&key)),
        ]);
        check_accepted(&variables).await;
    }
}

#[tokio::test]
async fn what_works_is_accepted_although_nothing_answers_there() {
    check_accepted(&[]).await;
    // The relay that is to be restarted holds the port.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    check_accepted(&[("BIND_ADDRESS", "127.0.0.1"), ("PORT", &port)]).await;
    check_accepted(&[("USE_REDIS", "1"), ("REDIS_URL", "redis://127.0.0.1:1/3?protocol=resp3")])
        .await;
    check_accepted(&[("USE_DYNAMODB", "1"), ("DYNAMODB_TABLE", "t")]).await;
}

/// A limit of processes counts the threads of a user. Root is not limited, so the program runs as
/// a user that nobody else is.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn limits_that_forbid_threads_end_the_start_with_a_clear_line() {
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("pilotlight");
    std::fs::copy(program(), &copy).unwrap();
    let mut command = if is_root() {
        open_to_all(folder.path());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=58713", "--regid=58713", "--clear-groups", "prlimit"]);
        command
    } else {
        Command::new("prlimit")
    };
    // Fewer than the relay needs; more than any process has at its start.
    command.args(["--nproc=2", "--", text(&copy), "--from-env"]);
    command.env("LD_ENV_Shop", "sdk-1").env("LOCAL_STORE_DIR", "off").env("EXIT_ALWAYS", "1");
    let output = timeout(LIMIT, command.stdin(Stdio::null()).output()).await.expect("it ends");
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("the system allows too few threads"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[cfg(target_os = "linux")]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[cfg(target_os = "linux")]
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, mode).unwrap();
}
