//! The archive's file: its stamp, its content, and events when it changes.

use std::fs::{File, Metadata};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::watch;

use super::{Archive, ArchiveError, Stamp};

/// What the file system says about the file.
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    std::fs::metadata(path).map(|found| stamp_of(&found))
}

fn stamp_of(found: &Metadata) -> Stamp {
    Stamp { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() }
}

/// Reads the file. The stamp is that of the file that was read. Blocks.
pub fn read(path: &Path) -> Result<(Stamp, Archive), ArchiveError> {
    let file = File::open(path).map_err(ArchiveError::Unreadable)?;
    let found = file.metadata().map_err(ArchiveError::Unreadable)?;
    if !found.is_file() {
        // A pipe could block for ever.
        let problem = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(ArchiveError::Unreadable(problem));
    }
    Archive::read(BufReader::new(file)).map(|archive| (stamp_of(&found), archive))
}

/// Events of the folder in which the file is: a file there may be what the path's link leads to.
pub struct FolderEvents {
    /// Dropping it ends the events.
    _watcher: notify::RecommendedWatcher,
    changed: watch::Receiver<()>,
}

impl FolderEvents {
    /// Follows the folder of a file.
    pub fn of(path: &Path) -> notify::Result<Self> {
        let (sender, changed) = watch::channel(());
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // After an error something may have been missed.
                if event.is_ok_and(|event| is_reading(event.kind)) {
                    return;
                }
                sender.send_replace(());
            })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        watcher.watch(folder.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher, changed })
    }

    /// Waits for the next event. Safe to cancel.
    pub async fn next(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// True for events that a look at a file causes itself.
fn is_reading(event: EventKind) -> bool {
    let wrote = EventKind::Access(AccessKind::Close(AccessMode::Write));
    event.is_access() && event != wrote
}
