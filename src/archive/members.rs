//! Reads the members of an archive in memory, within bounds.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::contents::CHECKSUM;
use super::{ArchiveError, MEMBER_BYTES_MAX, MEMBERS_MAX, UNPACKED_BYTES_MAX};

/// The first bytes of a gzip file.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Room that is reserved for a member at once. Its size is only what its header says.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// The members that concern environments, by name.
pub(super) type Members = BTreeMap<String, Bytes>;

/// Reads an archive: tar, with or without gzip. Of several members with one name the last counts,
/// as when they are unpacked.
pub(super) fn read(mut file: impl BufRead) -> Result<Members, ArchiveError> {
    let is_gzip = file.fill_buf().map_err(ArchiveError::Unreadable)?.starts_with(GZIP);
    if is_gzip { read_tar(MultiGzDecoder::new(file)) } else { read_tar(file) }
}

fn read_tar(input: impl Read) -> Result<Members, ArchiveError> {
    let mut archive = tar::Archive::new(Capped { input, left: UNPACKED_BYTES_MAX });
    let mut members = Members::new();
    for entry in archive.entries().map_err(ArchiveError::NotTar)? {
        let entry = entry.map_err(ArchiveError::NotTar)?;
        // Links, folders and sparse files are no members of this format.
        let Some(name) = member_name(&entry.path_bytes()) else { continue };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let size = entry.size();
        if size >= MEMBER_BYTES_MAX {
            return Err(ArchiveError::LargeMember(name));
        }
        let reserved = usize::try_from(size).unwrap_or(usize::MAX).min(RESERVED_BYTES_MAX);
        let mut content = Vec::with_capacity(reserved);
        entry.take(MEMBER_BYTES_MAX).read_to_end(&mut content).map_err(ArchiveError::NotTar)?;
        if content.len() as u64 != size {
            return Err(ArchiveError::NotTar(io::ErrorKind::UnexpectedEof.into()));
        }
        members.insert(name, content.into());
        if members.len() > MEMBERS_MAX {
            return Err(ArchiveError::ManyMembers);
        }
    }
    Ok(members)
}

/// The name of a member that concerns environments: such members are in no folder.
fn member_name(path: &[u8]) -> Option<String> {
    let mut name = std::str::from_utf8(path).ok()?;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    let is_ours = name == CHECKSUM || name.ends_with(".json");
    (is_ours && !name.contains('/')).then(|| name.to_owned())
}

/// Input that fails when it is longer than allowed.
struct Capped<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let limit = UNPACKED_BYTES_MAX >> 20;
            io::Error::other(format!("it is larger than {limit} MiB when unpacked"))
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::test_support::{gzip, tar, tar_of};

    fn names(bytes: &[u8]) -> Vec<String> {
        read(bytes).unwrap().into_keys().collect()
    }

    #[track_caller]
    fn check_error(bytes: &[u8], expected: &str) {
        let error = read(bytes).unwrap_err();
        let text = crate::telemetry::Chain(&error).to_string();
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn tar_is_read_with_and_without_gzip() {
        let plain = tar(&[("a.json", b"1".as_slice()), ("checksum.md5", b"2")]);
        assert_eq!(names(&plain), ["a.json", "checksum.md5"]);
        assert_eq!(names(&gzip(&plain)), ["a.json", "checksum.md5"]);
        let (one, two) = plain.split_at(700);
        let in_two_members = [gzip(one), gzip(two)].concat();
        assert_eq!(names(&in_two_members), ["a.json", "checksum.md5"]);
    }

    #[test]
    fn only_members_of_the_format_are_read() {
        let member = |name: &[u8], kind: tar::EntryType| (name.to_vec(), kind, b"1".to_vec());
        let file = tar::EntryType::Regular;
        let bytes = tar_of(&[
            member(b"./a.json", file),
            member(b"folder/b.json", file),
            member(b"../c.json", file),
            member(b"/d.json", file),
            member(b"..", file),
            member(b"e.txt", file),
            member(b"\xff.json", file),
            member(b"f.json", tar::EntryType::Symlink),
            member(b"g.json", tar::EntryType::Link),
            member(b"h.json", tar::EntryType::Directory),
        ]);
        assert_eq!(names(&bytes), ["a.json"]);
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        let bytes = tar(&[("a.json", b"old".as_slice()), ("./a.json", b"new")]);
        assert_eq!(read(&*bytes).unwrap()["a.json"], "new");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        check_error(b"no archive at all, whatever its name says", "not a complete tar archive");
        check_error(&[0x1f, 0x8b, 8, 0, 0], "not a complete tar archive");
        let content = vec![b'x'; 5_000];
        let bytes = tar(&[("a.json", content.as_slice())]);
        check_error(&bytes[..3_000], "not a complete tar archive");
        let zipped = gzip(&bytes);
        check_error(&zipped[..zipped.len() / 2], "not a complete tar archive");
        assert!(read(&b""[..]).unwrap().is_empty(), "an empty file is an archive without members");
    }

    #[test]
    fn sizes_are_bounded() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a.json").unwrap();
        header.set_size(MEMBER_BYTES_MAX);
        header.set_cksum();
        check_error(header.as_bytes(), "a.json is larger than 200 MiB");
        let endless = io::BufReader::new(io::repeat(0).take(UNPACKED_BYTES_MAX + 2));
        let mut capped = Capped { input: endless, left: UNPACKED_BYTES_MAX };
        let error = io::copy(&mut capped, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("larger than 1024 MiB"), "{error}");
        let many: Vec<String> = (0..=MEMBERS_MAX).map(|index| format!("{index}.json")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        check_error(&tar(&many), "more than 20000 members");
    }
}
