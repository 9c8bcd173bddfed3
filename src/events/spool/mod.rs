//! Batches on disk, sealed, until LaunchDarkly takes them.
//!
//! ```text
//! events/<destination>-<number>.events      a segment: records of one destination, oldest first
//! record                                    length, number of events, sealed batch
//! ```
//!
//! A segment is written to its end only, and removed as a whole once all of its batches are sent or
//! they are too old. Whoever is killed while writing leaves a record that is cut off: it is left out
//! at the next start. All functions block.

pub(in crate::events) mod record;
pub(in crate::events) mod task;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::record::{Frame, Name};
use super::batch::Batch;
use super::lines::SegmentId;
use super::post::Destination;
use crate::sealing::KeyRing;

/// Bytes at which a segment is closed.
const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// Namespace of the keys and of the names.
const NAMESPACE: &str = "events";

/// Limits of a spool.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Age of events.
    pub age: Duration,
}

/// Events that are lost, because of a limit or because they cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolLoss {
    /// Removed to make room for newer ones.
    pub no_room: u64,
    /// Too old.
    pub expired: u64,
    /// In records that do not open: cut, altered or moved.
    pub unreadable: u64,
}

/// Batches on disk.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    ring: KeyRing,
    limits: SpoolLimits,
    /// Segments of each destination, oldest first.
    segments: BTreeMap<Destination, VecDeque<Segment>>,
    next: SegmentId,
    bytes: u64,
    loss: SpoolLoss,
    /// Files that no configured key opens. They stay until they are too old.
    foreign: usize,
}

#[derive(Debug)]
struct Segment {
    id: SegmentId,
    path: PathBuf,
    bytes: u64,
    events: u64,
    /// The file, as long as it is being written.
    file: Option<File>,
    /// True once it was given out.
    is_loaded: bool,
}

impl Spool {
    /// Opens the spool in a directory, and finds what an earlier run has left.
    pub fn open(directory: &Path, ring: &KeyRing, limits: SpoolLimits) -> io::Result<Self> {
        let folder = directory.join("events");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut spool = Self {
            folder,
            ring: ring.within(NAMESPACE),
            limits,
            segments: BTreeMap::new(),
            next: 1,
            bytes: 0,
            loss: SpoolLoss::default(),
            foreign: 0,
        };
        spool.find()?;
        Ok(spool)
    }

    /// The destinations of which it holds batches.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        self.segments.keys()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of events in all segments.
    pub fn events(&self) -> u64 {
        self.segments.values().flatten().map(|segment| segment.events).sum()
    }

    /// Number of files that no configured key opens.
    pub fn foreign(&self) -> usize {
        self.foreign
    }

    /// What was lost since the last call.
    pub fn take_loss(&mut self) -> SpoolLoss {
        std::mem::take(&mut self.loss)
    }

    /// Seals under these keys from now on.
    pub fn set_ring(&mut self, ring: &KeyRing) {
        self.ring = ring.within(NAMESPACE);
    }

    /// Writes batches of one destination. When it returns, they are on the disk.
    pub fn append(&mut self, destination: &Destination, batches: &[Batch]) -> io::Result<()> {
        let mut at = 0;
        while at < batches.len() {
            let (written, name) = self.writable(destination)?;
            let mut records = Vec::new();
            let (begun, mut events) = (at, 0);
            while at < batches.len() && (at == begun || records.len() < SEGMENT_BYTES_MAX as usize)
            {
                let batch = &batches[at];
                let place = name.record(written + records.len() as u64);
                let sealed = record::seal(self.ring.current(), &place, batch);
                Frame::of(batch.count, &sealed).write(&mut records, &sealed);
                events += batch.count as u64;
                at += 1;
            }
            if let Err(error) = self.write(destination, &records, events) {
                // What is left of it is cut off by the next reader.
                self.close(destination);
                return Err(error);
            }
        }
        self.make_room();
        Ok(())
    }

    /// The oldest segment of a destination that was not given out, with its batches.
    pub fn load(
        &mut self,
        destination: &Destination,
        now: SystemTime,
    ) -> io::Result<Option<(SegmentId, Vec<Batch>)>> {
        loop {
            let Some(segments) = self.segments.get_mut(destination) else { return Ok(None) };
            let Some(segment) = segments.iter_mut().find(|segment| !segment.is_loaded) else {
                return Ok(None);
            };
            segment.file = None;
            let content = fs::read(&segment.path)?;
            let name = Name::of(&segment.path).ok_or(io::ErrorKind::InvalidData)?;
            let batches = record::read(&content, &name, &self.ring);
            let (id, held) = (segment.id, segment.events);
            let found: u64 = batches.iter().map(|batch| batch.count as u64).sum();
            self.loss.unreadable += held.saturating_sub(found);
            let is_young = |batch: &Batch| {
                now.duration_since(batch.created).is_ok_and(|age| age <= self.limits.age)
                    || batch.created > now
            };
            let (young, old): (Vec<_>, Vec<_>) = batches.into_iter().partition(is_young);
            self.loss.expired += old.iter().map(|batch| batch.count as u64).sum::<u64>();
            if young.is_empty() {
                self.delete(id)?;
                continue;
            }
            segment.is_loaded = true;
            return Ok(Some((id, young)));
        }
    }

    /// Removes a segment.
    pub fn delete(&mut self, id: SegmentId) -> io::Result<()> {
        let mut removed = None;
        for segments in self.segments.values_mut() {
            if let Some(place) = segments.iter().position(|segment| segment.id == id) {
                removed = segments.remove(place);
            }
        }
        self.segments.retain(|_, segments| !segments.is_empty());
        let Some(segment) = removed else { return Ok(()) };
        self.bytes -= segment.bytes;
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The bytes of the segment that is being written, and the name of its file.
    fn writable(&mut self, destination: &Destination) -> io::Result<(u64, Name)> {
        let is_open = |segment: &Segment| {
            segment.file.is_some() && segment.bytes < SEGMENT_BYTES_MAX && !segment.is_loaded
        };
        let last = self.segments.get(destination).and_then(VecDeque::back);
        if !last.is_some_and(is_open) {
            self.close(destination);
            let name = Name::new(self.ring.current(), destination, self.next);
            let path = self.folder.join(name.file());
            let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
            File::open(&self.folder)?.sync_all()?;
            let segment = Segment {
                id: self.next,
                path,
                bytes: 0,
                events: 0,
                file: Some(file),
                is_loaded: false,
            };
            self.next += 1;
            self.segments.entry(destination.clone()).or_default().push_back(segment);
        }
        let segment = self.segments.get(destination).and_then(VecDeque::back);
        let segment = segment.ok_or(io::ErrorKind::NotFound)?;
        let name = Name::of(&segment.path).ok_or(io::ErrorKind::InvalidData)?;
        Ok((segment.bytes, name))
    }

    fn write(&mut self, destination: &Destination, records: &[u8], events: u64) -> io::Result<()> {
        let segment = self.segments.get_mut(destination).and_then(VecDeque::back_mut);
        let segment = segment.ok_or(io::ErrorKind::NotFound)?;
        let file = segment.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(records)?;
        file.sync_data()?;
        segment.bytes += records.len() as u64;
        segment.events += events;
        self.bytes += records.len() as u64;
        Ok(())
    }

    /// Ends the segment that is being written; removes it if nothing was.
    fn close(&mut self, destination: &Destination) {
        let Some(segments) = self.segments.get_mut(destination) else { return };
        if let Some(last) = segments.back_mut() {
            last.file = None;
            if last.bytes == 0 {
                let _ = fs::remove_file(&last.path);
                segments.pop_back();
            }
        }
    }

    /// Removes the oldest segments until the rest fits.
    fn make_room(&mut self) {
        while self.bytes > self.limits.bytes {
            let oldest = self.segments.values().flatten().filter(|segment| !segment.is_loaded);
            let Some((id, events)) =
                oldest.min_by_key(|segment| segment.id).map(|it| (it.id, it.events))
            else {
                return;
            };
            self.loss.no_room += events;
            if self.delete(id).is_err() {
                return;
            }
        }
    }

    /// Finds the segments of an earlier run.
    fn find(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if let Some(name) = Name::of(&path) {
                found.push((name, path));
            }
        }
        found.sort_by_key(|(name, _)| name.number());
        for (name, path) in found {
            self.next = self.next.max(name.number() + 1);
            let content = fs::read(&path)?;
            let Some(destination) = record::destination(&content, &name, &self.ring) else {
                self.set_aside(&path, &content);
                continue;
            };
            let events = record::frames(&content).map(|(_, frame, _)| frame.events()).sum();
            let bytes = content.len() as u64;
            self.bytes += bytes;
            let segment =
                Segment { id: name.number(), path, bytes, events, file: None, is_loaded: false };
            self.segments.entry(destination).or_default().push_back(segment);
        }
        self.make_room();
        Ok(())
    }

    /// Leaves a file whose first record does not open, until it is too old: its key may come back.
    fn set_aside(&mut self, path: &Path, content: &[u8]) {
        let modified = fs::metadata(path).and_then(|found| found.modified()).ok();
        let age = modified.and_then(|at| at.elapsed().ok());
        let is_empty = record::frames(content).next().is_none();
        if is_empty || age.is_some_and(|age| age > self.limits.age) {
            self.loss.expired += record::frames(content).map(|(_, it, _)| it.events()).sum::<u64>();
            let _ = fs::remove_file(path);
        } else {
            self.foreign += 1;
        }
    }
}

#[cfg(test)]
mod tests;
