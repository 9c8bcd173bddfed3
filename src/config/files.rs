//! Reads the files of a configuration: the file itself and those of secrets.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest size of one file. A thousand environments take a quarter of this; a larger file is not a
/// configuration, and a device file must not fill the memory.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A source of files: the disk, or a map in tests.
pub trait Files {
    /// The content of the file; an error for one that is missing, unreadable or too large.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {FILE_BYTES_MAX} bytes"),
            ));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![b'x'; FILE_BYTES_MAX as usize]).unwrap();
        assert_eq!(Disk.read(&path).unwrap().len() as u64, FILE_BYTES_MAX);
        std::fs::write(&path, vec![b'x'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(Disk.read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let missing = Disk.read(&directory.path().join("other")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
