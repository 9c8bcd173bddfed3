//! Flags from an archive as a source: each time those of an environment change, all of them come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::SourceEvent;
use crate::model::DataSet;

/// Interval of signs of life. A relay corrects a shared store only while its source gives them.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The flags of all environments of an archive, by environment ID.
pub type ArchivedSets = BTreeMap<Arc<str>, ArchivedSet>;

/// The flags of one environment.
#[derive(Clone, Debug)]
pub struct ArchivedSet {
    /// Number that changes with the flags.
    pub revision: u64,
    /// The flags.
    pub data: Arc<DataSet>,
}

/// The flags of one environment, followed as the archive changes.
#[derive(Debug)]
pub struct ArchivedFlags {
    environment: Arc<str>,
    sets: watch::Receiver<Arc<ArchivedSets>>,
    /// The revision that was given last.
    given: Option<u64>,
}

impl ArchivedFlags {
    /// Follows the flags of an environment.
    pub(super) fn new(environment: Arc<str>, sets: watch::Receiver<Arc<ArchivedSets>>) -> Self {
        Self { environment, sets, given: None }
    }

    /// The next event. Safe to cancel.
    pub(super) async fn recv(&mut self) -> SourceEvent {
        loop {
            let found = self.sets.borrow_and_update().get(&self.environment).cloned();
            if let Some(set) = found
                && self.given != Some(set.revision)
            {
                self.given = Some(set.revision);
                let data = (*set.data).clone();
                return SourceEvent::Everything { connection: set.revision, data };
            }
            tokio::select! {
                changed = self.sets.changed() => if changed.is_err() {
                    // The process is ending.
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(ALIVE_INTERVAL), if self.given.is_some() => {
                    return SourceEvent::Alive;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Item, ItemKey, ItemKind};

    fn set(revision: u64) -> ArchivedSet {
        let mut data = DataSet::default();
        let item = Arc::new(Item::live(revision, "{}"));
        data.upsert(&ItemKey::new(ItemKind::Flag, "f"), item);
        ArchivedSet { revision, data: Arc::new(data) }
    }

    fn sets(of: &[(&str, u64)]) -> Arc<ArchivedSets> {
        Arc::new(of.iter().map(|(id, revision)| (Arc::from(*id), set(*revision))).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn everything_comes_when_it_changes_and_signs_of_life_between() {
        let (sender, receiver) = watch::channel(Arc::<ArchivedSets>::default());
        let mut flags = ArchivedFlags::new("e1".into(), receiver);
        let nothing = tokio::time::timeout(3 * ALIVE_INTERVAL, flags.recv()).await;
        assert!(nothing.is_err(), "it does not live before it has flags: {nothing:?}");

        let mut expect = async |expected: Option<u64>| match (flags.recv().await, expected) {
            (SourceEvent::Everything { connection, data }, Some(revision)) => {
                assert_eq!(connection, revision);
                assert_eq!(data.flags.get("f").unwrap().version, revision);
            }
            (SourceEvent::Alive, None) => {}
            (event, expected) => panic!("{event:?}, expected {expected:?}"),
        };
        sender.send_replace(sets(&[("e1", 4), ("e2", 7)]));
        expect(Some(4)).await;
        expect(None).await;
        sender.send_replace(sets(&[("e1", 4), ("e2", 8)]));
        expect(None).await;
        sender.send_replace(sets(&[("e1", 9)]));
        expect(Some(9)).await;
        sender.send_replace(sets(&[]));
        expect(None).await;
    }
}
