//! Archives of offline mode, composed in ld-relay's format.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use md5::{Digest, Md5};
use pilotlight::testing::demo::representations::EnvironmentRep;
use serde_json::json;

const CHECKSUM: &str = "checksum.md5";

/// The members of an archive.
#[derive(Clone, Debug, Default)]
pub struct OfflineArchive {
    members: BTreeMap<String, Vec<u8>>,
}

impl OfflineArchive {
    /// Adds an environment. `data` is the JSON of all its flags and segments.
    pub fn with(self, environment: &EnvironmentRep, data: &str) -> Self {
        let id = &environment.env_id;
        let data_id = format!("{:x?}", Md5::digest(data));
        let description = json!({"env": environment, "dataId": data_id}).to_string();
        self.with_member(&format!("{id}.json"), description.as_bytes())
            .with_member(&format!("{id}-data.json"), data.as_bytes())
    }

    /// Adds a member, or replaces it.
    pub fn with_member(mut self, name: &str, content: &[u8]) -> Self {
        self.members.insert(name.to_owned(), content.to_vec());
        self
    }

    /// The archive as it is before compression, with the checksum of its members unless it has one.
    pub fn tar(&self) -> Vec<u8> {
        let mut members = self.members.clone();
        let mut checksum = Md5::new();
        self.members.values().for_each(|content| checksum.update(content));
        members.entry(CHECKSUM.to_owned()).or_insert_with(|| checksum.finalize().to_vec());
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in &members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// The archive as LaunchDarkly gives it.
    pub fn tar_gz(&self) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(&self.tar()).unwrap();
        writer.finish().unwrap()
    }

    /// Puts the archive in the place of a file at once.
    pub fn replace(&self, path: &Path) {
        let new = path.with_extension("new");
        std::fs::write(&new, self.tar_gz()).unwrap();
        std::fs::rename(new, path).unwrap();
    }
}
