//! Any bytes as an archive of offline mode, and as the two members of one environment in an archive
//! whose checksum is right: nothing panics, and what is read a second time changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use pilotlight::testing::archive::{Archive, ArchiveState};
use pilotlight::testing::autoconfig::SpecSettings;

fuzz_target!(|bytes: &[u8]| {
    let _ = Archive::read(bytes);
    let mut halves = bytes.splitn(2, |byte| *byte == b'\n');
    let (description, data) =
        (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    let composed = archive(description, data);
    let read = || Archive::read(&*composed).expect("the archive is sound");
    let mut state = ArchiveState::new(SpecSettings::default());
    state.on_archive(read());
    let again = state.on_archive(read()).expect("it has an environment");
    assert_eq!((again.changed_flags, again.changes.len()), (0, 1), "only the state of the list");
});

/// An archive of the environment `e1`.
fn archive(description: &[u8], data: &[u8]) -> Vec<u8> {
    let checksum = Md5::new().chain_update(data).chain_update(description).finalize();
    let members =
        [("e1-data.json", data), ("e1.json", description), ("checksum.md5", &checksum[..])];
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).expect("memory takes everything");
    }
    archive.into_inner().expect("memory takes everything")
}
