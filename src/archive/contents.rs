//! Verifies the checksum of an archive, and decodes its members.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use serde_json::Value;

use super::ArchiveError;
use super::members::{self, Members};
use crate::autoconfig::records::EnvironmentRecord;
use crate::model::DataSet;
use crate::source::data_set;

/// The member with the checksum: 16 bytes, MD5.
pub(super) const CHECKSUM: &str = "checksum.md5";

const METADATA_SUFFIX: &str = ".json";
const DATA_SUFFIX: &str = "-data.json";

/// The checksum of one or more members.
pub(super) type Checksum = [u8; 16];

/// The content of an archive.
#[derive(Debug)]
pub struct Archive {
    /// By environment ID. The text is the reason why an environment cannot be used.
    pub(super) environments: BTreeMap<String, Result<ArchivedEnvironment, String>>,
}

/// One environment of an archive.
#[derive(Debug)]
pub(super) struct ArchivedEnvironment {
    pub(super) record: Arc<EnvironmentRecord>,
    pub(super) data: DataSet,
    /// Checksum of the member with the data, which says whether the data is the same as before.
    /// (ld-relay v8 compares `dataId`, which is meant to change with the data.)
    pub(super) checksum: Checksum,
}

impl Archive {
    /// True if there are environments and all of them can be used.
    pub fn is_whole(&self) -> bool {
        !self.environments.is_empty() && self.environments.values().all(Result::is_ok)
    }

    /// Reads an archive. An environment that cannot be used does not affect the others.
    pub fn read(file: impl BufRead) -> Result<Self, ArchiveError> {
        let members = members::read(file)?;
        let ids: Vec<&str> = members
            .keys()
            .filter(|name| !name.ends_with(DATA_SUFFIX))
            .filter_map(|name| name.strip_suffix(METADATA_SUFFIX))
            .collect();
        verify(&members, &ids)?;
        let environments = ids.into_iter().map(|id| (id.to_owned(), environment(&members, id)));
        Ok(Self { environments: environments.collect() })
    }
}

/// Compares the checksum with that of all environments' members, in the order of their names.
fn verify(members: &Members, ids: &[&str]) -> Result<(), ArchiveError> {
    let expected = members.get(CHECKSUM).ok_or(ArchiveError::NoChecksum)?;
    let names =
        ids.iter().flat_map(|id| [METADATA_SUFFIX, DATA_SUFFIX].map(|it| format!("{id}{it}")));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    let mut found = Md5::new();
    for name in names {
        let member = members.get(&name).ok_or(ArchiveError::NoData(name))?;
        found.update(member);
    }
    if found.finalize()[..] == expected[..] { Ok(()) } else { Err(ArchiveError::WrongChecksum) }
}

fn environment(members: &Members, id: &str) -> Result<ArchivedEnvironment, String> {
    let member = |suffix: &str| members.get(&format!("{id}{suffix}")).cloned().unwrap_or_default();
    let record = record(&member(METADATA_SUFFIX))?;
    if record.id != id {
        return Err(format!("{id}{METADATA_SUFFIX} describes another environment"));
    }
    let data = member(DATA_SUFFIX);
    let set = data_set(&data).map_err(|error| format!("{id}{DATA_SUFFIX}: {error}"))?;
    let checksum = Md5::digest(&data).into();
    Ok(ArchivedEnvironment { record: Arc::new(record), data: set, checksum })
}

fn record(metadata: &Bytes) -> Result<EnvironmentRecord, String> {
    let metadata: Value = serde_json::from_slice(metadata).map_err(|error| {
        // The error's own text may quote a key.
        format!("its description is not JSON (line {}, column {})", error.line(), error.column())
    })?;
    let record = EnvironmentRecord::from_json(metadata.get("env").unwrap_or(&Value::Null))
        .and_then(|record| record.check_credentials().map(|()| record));
    record.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::test_support::{archive_of, tar};

    const E1: &str =
        r#"{"env":{"envID":"e1","sdkKey":{"value":"sdk-1"},"version":3},"dataId":"x"}"#;
    const DATA: &str = r#"{"flags":{"f":{"key":"f","version":2}},"segments":{},"other":{}}"#;

    fn read(members: &[(&str, &str)]) -> Archive {
        Archive::read(&*archive_of(members)).unwrap()
    }

    #[test]
    fn environments_are_found_by_the_names_of_members() {
        let archive = read(&[("e1.json", E1), ("e1-data.json", DATA)]);
        assert_eq!(archive.environments.len(), 1);
        let found = archive.environments["e1"].as_ref().unwrap();
        assert_eq!((found.record.version, found.data.flags.len()), (3, 1));
    }

    #[test]
    fn a_bad_environment_affects_no_other() {
        let check = |metadata: &str, data: &str, expected: &str| {
            let archive = read(&[
                ("e0.json", metadata),
                ("e0-data.json", data),
                ("e1.json", E1),
                ("e1-data.json", DATA),
            ]);
            assert!(archive.environments["e1"].is_ok());
            let problem = archive.environments["e0"].as_ref().unwrap_err();
            assert!(problem.contains(expected), "{problem}");
            assert!(!problem.contains("sdk-0"), "{problem}");
        };
        let e0 = r#"{"env":{"envID":"e0","sdkKey":{"value":"sdk-0"}}}"#;
        check("{\"env\":sdk-0}", DATA, "its description is not JSON (line 1, column 8)");
        check("[]", DATA, "not an object");
        check("{}", DATA, "not an object");
        check(r#"{"env":{"envID":"e0"}}"#, DATA, "it has no SDK key");
        check(E1, DATA, "e0.json describes another environment");
        check(e0, "sdk-0", "e0-data.json: data cannot be used: ");
        check(e0, r#"{"flags":{"f":{"version":"sdk-0"}}}"#, "e0-data.json: data cannot be used: ");
        check(e0, "[]", "e0-data.json: data cannot be used: ");
    }

    #[test]
    fn the_checksum_is_that_of_the_environments_members() {
        // MD5 of `<DATA><E1>`, computed by another program.
        let checksum = hex_bytes(CHECKSUM_OF_DATA_AND_E1);
        let with = |checksum: &[u8]| {
            let members = [
                ("e1.json", E1.as_bytes()),
                ("e1-data.json", DATA.as_bytes()),
                // No environment has it, so it does not count.
                ("e2-data.json", b"whatever"),
                ("checksum.md5", checksum),
            ];
            Archive::read(&*tar(&members)).map(|archive| archive.environments.len())
        };
        assert!(matches!(with(&checksum), Ok(1)));
        assert!(matches!(with(&checksum[1..]), Err(ArchiveError::WrongChecksum)));
        assert!(matches!(
            with(CHECKSUM_OF_DATA_AND_E1.as_bytes()),
            Err(ArchiveError::WrongChecksum)
        ));
        let none = Archive::read(&*tar(&[("e1.json", E1.as_bytes())]));
        assert!(matches!(none, Err(ArchiveError::NoChecksum)), "{none:?}");
        let alone = Archive::read(&*archive_of(&[("e1.json", E1)]));
        assert!(matches!(&alone, Err(ArchiveError::NoData(name)) if name == "e1-data.json"));
    }

    const CHECKSUM_OF_DATA_AND_E1: &str = "277e9992f764a15443e9443d16c55a03";

    fn hex_bytes(text: &str) -> Vec<u8> {
        let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(pair).collect()
    }
}
