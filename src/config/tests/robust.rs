//! No text ends the program, whatever is in the file and the variables.

use proptest::prelude::*;

use super::*;

/// Texts that are likely to reach every parser of values.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[-+0-9.a-z:/@\\[\\],$CIDµ \"\\\\;#]{0,20}",
        "(redis|rediss|http|https|tcp|unix)://[a-z:@\\[\\]0-9/]{0,12}",
        "[0-9]{1,20}(ns|ms|s|h|KiB|EB|B)?",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn no_bytes_in_the_file_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let files = Memory::default().with("/c.conf", bytes);
        let file = Some(ConfigFile { path: "/c.conf".into(), may_be_missing: false });
        let _ = load(&ConfigSource { file, from_env: false }, &variables(&[]), &files);
    }

    #[test]
    fn no_values_panic(
        options in prop::collection::vec((0..200usize, value()), 0..20),
        set in prop::collection::vec((0..env_vars::ALL.len(), value()), 0..20),
    ) {
        let none = BTreeMap::<String, String>::new();
        let memory = Memory::default();
        let mut reader = Reader::new(None, &none, false, &memory, Vec::new());
        sections::read(&mut reader);
        let known: Vec<(&str, &str)> = reader
            .known()
            .iter()
            .flat_map(|(section, options)| options.iter().map(|option| (*section, *option)))
            .collect();
        let mut file = String::new();
        for (index, value) in &options {
            let (section, option) = known[index % known.len()];
            let name = if sections::NAMED.contains(&section) { " \"x\"" } else { "" };
            file += &format!("[{section}{name}]\n{option} = {value}\n");
        }
        let pairs: Vec<(String, &str)> = set
            .iter()
            .map(|(index, value)| {
                let name = env_vars::ALL[*index];
                let suffix = if name.ends_with('_') { "x" } else { "" };
                (format!("{name}{suffix}"), value.as_str())
            })
            .collect();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, it)| (name.as_str(), *it)).collect();
        match load_both(&file, &pairs) {
            Ok(loaded) => {
                describe(&loaded.config);
                loaded.config.manual_environments();
            }
            // One line each, also for values with line breaks in them.
            Err(problems) => {
                let count = problems.lines().count();
                prop_assert!(count > 0);
                prop_assert_eq!(problems.to_string().lines().count(), count);
            }
        }
    }
}
