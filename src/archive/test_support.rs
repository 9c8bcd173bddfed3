//! Archives that tests compose.

use std::io::Write;

use md5::{Digest, Md5};

/// A tar archive of members of these names, kinds and contents.
pub(super) fn tar_of(members: &[(Vec<u8>, tar::EntryType, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, content) in members {
        let mut header = tar::Header::new_gnu();
        // Written by hand, because the builder refuses names that lead out of a folder.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        archive.append(&header, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A tar archive of regular members.
pub(super) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let regular = |(name, content): &(&str, &[u8])| {
        (name.as_bytes().to_vec(), tar::EntryType::Regular, content.to_vec())
    };
    tar_of(&members.iter().map(regular).collect::<Vec<_>>())
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// An archive of environments: the members are sorted by name, and the checksum is added.
pub(super) fn archive_of(members: &[(&str, &str)]) -> Vec<u8> {
    let mut members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    members.sort_unstable();
    let mut checksum = Md5::new();
    members.iter().for_each(|(_, content)| checksum.update(content));
    let checksum = checksum.finalize();
    members.push(("checksum.md5", &checksum));
    gzip(&tar(&members))
}
