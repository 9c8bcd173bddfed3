use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn file(path: &str) -> ConfigFile {
    ConfigFile { path: path.into(), may_be_missing: false }
}

#[track_caller]
fn check_serve(line: &str, file: Option<ConfigFile>, from_env: bool) {
    let source = ConfigSource { file, from_env };
    let expected = Command::Serve { source: source.clone(), ignored: vec![] };
    assert_eq!(parse(words(line)), Ok(expected), "{line}");
    let expected = Command::CheckConfig(source);
    assert_eq!(parse(words(&format!("check-config {line}"))), Ok(expected), "{line}");
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a table of literals reads better so")]
fn check(line: &str, expected: Result<Command, UsageError>) {
    assert_eq!(parse(words(line)), expected, "{line}");
}

#[test]
fn flags_say_where_the_configuration_comes_from() {
    check_serve("", Some(file(DEFAULT_FILE)), false);
    check_serve("--config a.conf", Some(file("a.conf")), false);
    check_serve("-config a.conf", Some(file("a.conf")), false);
    check_serve("--config=a.conf", Some(file("a.conf")), false);
    check_serve("-config=a=b", Some(file("a=b")), false);
    check_serve("--config -x", Some(file("-x")), false);
    check_serve("--from-env", None, true);
    check_serve("--allow-missing-file --from-env", None, true);
    check_serve("--config= --from-env", None, true);
    check_serve("--config a.conf --from-env", Some(file("a.conf")), true);
    check_serve("--from-env=false", Some(file(DEFAULT_FILE)), false);
    check_serve("-from-env=T", None, true);
    let tolerant = ConfigFile { may_be_missing: true, ..file("/ldr/ld-relay.conf") };
    check_serve(
        "--config /ldr/ld-relay.conf --allow-missing-file --from-env",
        Some(tolerant),
        true,
    );
    let tolerant = ConfigFile { may_be_missing: true, ..file(DEFAULT_FILE) };
    check_serve("--allow-missing-file", Some(tolerant), false);
}

#[test]
fn the_last_of_several_flags_counts() {
    check_serve("--config a --config b --from-env --from-env=0", Some(file("b")), false);
}

#[test]
fn the_first_word_that_is_no_flag_ends_the_flags() {
    let serve = |file: Option<ConfigFile>, from_env, ignored: &str| {
        let source = ConfigSource { file, from_env };
        Ok(Command::Serve { source, ignored: words(ignored) })
    };
    check("--from-env serve --bogus", serve(None, true, "serve --bogus"));
    check("--from-env -- --version", serve(None, true, "--version"));
    check("--from-env - --version", serve(None, true, "- --version"));
    check("--from-env check-config", Err(UsageError::NotFirst("check-config")));
}

#[test]
fn version_and_help_go_before_the_rest() {
    check("--version", Ok(Command::Version));
    check("--config a --from-env -version", Ok(Command::Version));
    check("check-config --version", Ok(Command::Version));
    for line in ["-h", "--help", "-help", "--from-env -h --bogus", "demo -h", "health --help"] {
        check(line, Ok(Command::Help));
    }
}

#[test]
fn subcommands_stand_first() {
    check("demo", Ok(Command::Demo));
    check("generate-key", Ok(Command::GenerateKey));
    check("health", Ok(Command::Health { url: None }));
    check("ready", Ok(Command::Ready { url: None }));
    check("ready --url=", Ok(Command::Ready { url: None }));
    let url = Some("http://127.0.0.1:9000".to_owned());
    check("health --url http://127.0.0.1:9000", Ok(Command::Health { url: url.clone() }));
    check("ready -url=http://127.0.0.1:9000", Ok(Command::Ready { url }));
    check("demo now", Err(UsageError::UnexpectedWord("now".to_owned())));
    check("check-config --from-env x", Err(UsageError::UnexpectedWord("x".to_owned())));
    check("health --from-env", Err(UsageError::UnknownFlag("--from-env".to_owned())));
    check("--url=http://x", Err(UsageError::UnknownFlag("--url".to_owned())));
}

#[test]
fn an_unknown_first_word_is_an_error_with_a_suggestion() {
    let check = |line: &str, expected: &str| {
        assert_eq!(parse(words(line)).unwrap_err().to_string(), expected, "{line}");
    };
    let serve = "; to run the relay, pass flags only";
    check("serve --from-env", &format!("unknown command \"serve\"{serve}"));
    for line in ["check", "checkconfig", "check_config", "chekc-config --from-env", "validate"] {
        let word = line.split(' ').next().unwrap();
        check(line, &format!("unknown command {word:?}; did you mean check-config?"));
    }
    check("helth", "unknown command \"helth\"; did you mean health?");
    check("raedy --url x", "unknown command \"raedy\"; did you mean ready?");
    check("version", "unknown command \"version\"; use --version or --help");
    check("/etc/ld-relay.conf", "unknown command \"/etc/ld-relay.conf\"");
    check("-", "unknown command \"-\"");
}

#[test]
fn mistakes_are_usage_errors() {
    check("--bogus", Err(UsageError::UnknownFlag("--bogus".to_owned())));
    check("--password=secret", Err(UsageError::UnknownFlag("--password".to_owned())));
    check("--Config a", Err(UsageError::UnknownFlag("--Config".to_owned())));
    check("---config a", Err(UsageError::BadFlag("---config".to_owned())));
    check("--=a", Err(UsageError::BadFlag("--=a".to_owned())));
    check("--config", Err(UsageError::MissingValue("--config")));
    check("health --url", Err(UsageError::MissingValue("--url")));
    let value = "maybe".to_owned();
    check("--from-env=maybe", Err(UsageError::NotBoolean { flag: "--from-env", value }));
    check("--version --bogus", Err(UsageError::UnknownFlag("--bogus".to_owned())));
}

#[cfg(unix)]
#[test]
fn paths_may_be_any_bytes() {
    use std::os::unix::ffi::OsStringExt;

    let path = OsString::from_vec(b"/etc/\xff.conf".to_vec());
    let parsed = parse([OsString::from("--config"), path.clone()]);
    let file = Some(ConfigFile { path: path.into(), may_be_missing: false });
    let source = ConfigSource { file, from_env: false };
    assert_eq!(parsed, Ok(Command::Serve { source, ignored: vec![] }));
    let joined = OsString::from_vec(b"--config=\xff".to_vec());
    assert_eq!(parse([joined.clone()]), Err(UsageError::NotUnicode));
    let url = parse([OsString::from("health"), OsString::from("--url"), joined]);
    assert_eq!(url, Err(UsageError::NotUnicode));
}

#[test]
fn the_usage_page_names_every_flag_and_subcommand() {
    let flags = CONFIG_FLAGS.into_iter().chain([Flag::Url]).map(Flag::shown);
    for name in flags.chain(Subcommand::ALL.map(Subcommand::name)).chain([DEFAULT_FILE]) {
        assert!(USAGE.contains(name), "{name}");
    }
}
