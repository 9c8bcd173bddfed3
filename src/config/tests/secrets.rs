//! Secrets from files, and secrets that stay secret.

use super::*;

const ENVIRONMENT: &str = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";

fn with_files(file: &str, pairs: &[(&str, &str)]) -> Config {
    let files = Memory::default().with("/run/a", " first \n").with("/run/b", "x, y\nz\n");
    load_with(files, file, pairs).unwrap_or_else(|problems| panic!("{problems}")).config
}

#[test]
fn each_named_secret_can_be_in_a_file() {
    let first = |secret: Option<SecretSource<crate::model::Password>>| {
        let SecretSource { value, file } = secret.expect("there is a secret");
        assert_eq!((value.expose(), file), ("first", Some("/run/a".into())));
    };
    let redis = |config: Config| match config.database {
        Some(Database::Redis(redis)) => redis.password,
        other => panic!("{other:?}"),
    };
    let consul = |config: Config| match config.database {
        Some(Database::Consul(consul)) => consul.token,
        other => panic!("{other:?}"),
    };
    let proxy = |config: Config| match config.proxy.login {
        ProxyLogin::Basic { password, .. } => password,
        ProxyLogin::FromUrl => panic!("is basic"),
    };
    let load =
        |file: &str, pairs: &[(&str, &str)]| with_files(&format!("{ENVIRONMENT}{file}"), pairs);
    first(redis(load("[Redis]\nhost = h\npasswordFile = /run/a", &[])));
    first(redis(load("[Redis]\nhost = h", &[("REDIS_PASSWORD_FILE", "/run/a")])));
    first(consul(load("[Consul]\nhost = h\ntokenFile = /run/a", &[])));
    first(consul(load("[Consul]\nhost = h", &[("CONSUL_TOKEN_FILE", "/run/a")])));
    first(proxy(load("[Proxy]\nurl = http://h\nuser = u\npasswordFile = /run/a", &[])));
    let by_variable = ("PROXY_AUTH_PASSWORD_FILE", "/run/a");
    first(proxy(load("[Proxy]\nurl = http://h\nuser = u", &[by_variable])));
    let encryption = |config: Config| config.autoconfig.cache_encryption_key;
    first(encryption(load("[AutoConfig]\ncacheEncryptionKeyFile = /run/a", &[])));
    first(encryption(load("", &[("AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE", "/run/a")])));
}

#[test]
fn keys_can_be_in_files() {
    for config in [
        with_files("[AutoConfig]\nkeyFile = /run/a", &[]),
        with_files("", &[("AUTO_CONFIG_KEY_FILE", "/run/a")]),
    ] {
        let key = config.autoconfig.key.expect("there is a key");
        assert_eq!((key.value.expose(), key.file), ("first", Some("/run/a".into())));
    }
    for config in [
        with_files(
            &format!("{ENVIRONMENT}[AutoConfig]\ncachePreviousEncryptionKeysFile = /run/b"),
            &[],
        ),
        with_files(ENVIRONMENT, &[("AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE", "/run/b")]),
    ] {
        let keys = config.autoconfig.cache_previous_encryption_keys.expect("there are keys").value;
        let keys: Vec<&str> = keys.iter().map(crate::model::Password::expose).collect();
        assert_eq!(keys, ["x", "y", "z"]);
    }
    let file = "[Environment \"e\"]\nsdkKeyFile = /run/a\nmobileKeyFile = /run/a";
    let environment = with_files(file, &[]).environments.remove("e").unwrap();
    assert_eq!(environment.sdk_key.value.expose(), "first");
    assert_eq!(environment.sdk_key.file, Some("/run/a".into()));
    assert_eq!(environment.mobile_key.unwrap().value.expose(), "first");
}

#[test]
fn families_of_variables_have_no_file_form() {
    // `LD_ENV_FILE` defines an environment with the name `FILE`, as in ld-relay.
    let config = good("", &[("LD_ENV_FILE", "sdk-1"), ("LD_ENV_x_FILE", "sdk-2")]);
    let names: Vec<&String> = config.environments.keys().collect();
    assert_eq!(names, ["FILE", "x_FILE"]);
}

#[test]
fn files_that_give_no_secret_are_problems() {
    let files = Memory::default()
        .with("/empty", " \n")
        .with("/binary", [0xff, 0xfe])
        .with("/large", vec![b'x'; 64 * 1024 + 1])
        .with("/accent", "clé");
    check_problems_with(
        files,
        "[AutoConfig]\nkeyFile = /missing\ncacheEncryptionKeyFile = /empty\n\
         cachePreviousEncryptionKeysFile = /binary\n[Redis]\nhost = h\npasswordFile = /large\n\
         [Environment \"e\"]\nsdkKeyFile = /accent",
        &[],
        &[
            "/c.conf:2: [AutoConfig] keyFile: an autoconfig key is set together with",
            "/c.conf:2: [AutoConfig] keyFile: the file /missing cannot be read: ",
            "/c.conf:3: [AutoConfig] cacheEncryptionKeyFile: the file /empty is empty",
            "/c.conf:4: [AutoConfig] cachePreviousEncryptionKeysFile: the file /binary is not UTF-8",
            "/c.conf:7: [Redis] passwordFile: the file /large is larger than 65536 bytes",
            "/c.conf:9: [Environment \"e\"] sdkKeyFile: the file /accent contains a character",
            "[AutoConfig] envDatastorePrefix (ENV_DATASTORE_PREFIX): must contain $CID",
        ],
    );
}

#[test]
fn a_secret_has_one_place() {
    let files = Memory::default().with("/k", "rel-1");
    check_problems_with(
        files,
        "[AutoConfig]\nkey = rel-secret\n[Environment \"e\"]\nsdkKey = sdk-secret\nsdkKeyFile = /k",
        &[("AUTO_CONFIG_KEY_FILE", "/k")],
        &[
            "/c.conf:5: [Environment \"e\"] sdkKeyFile: is set together with [Environment \"e\"] sdkKey",
            "AUTO_CONFIG_KEY_FILE: an autoconfig key is set together with [Environment]",
            "AUTO_CONFIG_KEY_FILE: is set together with [AutoConfig] key (AUTO_CONFIG_KEY); set only",
        ],
    );
    let files = Memory::default().with("/k", "rel-1");
    let pairs = [("AUTO_CONFIG_KEY", ""), ("AUTO_CONFIG_KEY_FILE", "/k")];
    let loaded = load_with(files, "[AutoConfig]\nkey = rel-2", &pairs).unwrap();
    assert_eq!(loaded.config.autoconfig.key.unwrap().value.expose(), "rel-1");
}

/// All secrets in one configuration.
const SECRETS: &str = "[AutoConfig]\ncacheEncryptionKey = hunter-encryption\n\
    cachePreviousEncryptionKeys = hunter-previous-1,hunter-previous-2\n\
    [Environment \"e\"]\nsdkKey = sdk-hunter-0001\nmobileKey = mob-hunter-0002\nprefix = p\n\
    [Redis]\nurl = redis://u:hunter-in-url@h:1\npassword = hunter-redis\n\
    [Proxy]\nurl = http://u:hunter-in-proxy@h:1\nuser = u\npassword = hunter-proxy\n";

#[test]
fn no_secret_is_in_debug_output_or_in_the_description() {
    let loaded = load_both(SECRETS, &[]).unwrap();
    let debug = format!("{loaded:#?}");
    let page = loaded.shown.lines().join("\n");
    for text in [&debug, &page] {
        assert!(!text.contains("hunter"), "{text}");
    }
    assert!(page.contains("sdkKey: …0001"), "{page}");
    assert!(page.contains("mobileKey: …0002"), "{page}");
    assert!(page.contains("password: set"), "{page}");
    assert!(page.contains("cachePreviousEncryptionKeys: 2 set"), "{page}");
    assert!(page.contains("redis://u:xxxxx@h:1"), "{page}");
}

#[test]
fn no_secret_is_in_a_problem() {
    let broken = SECRETS
        .replace("sdk-hunter-0001", "\"sdk-hunter\\n\"")
        .replace("mob-hunter-0002", "ключ-hunter")
        .replace("@h:1", "@h:hunter")
        .replace("password = hunter-redis", "password = \"hunter-redis");
    let problems = load_both(&broken, &[("REDIS_PORT", "1")]).unwrap_err().to_string();
    assert!(problems.lines().count() >= 4, "{problems}");
    assert!(!problems.contains("hunter"), "{problems}");
}
