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
    /// False while the archive cannot be used, or these flags in it: they are what it said before.
    pub is_current: bool,
}

/// The flags of one environment, followed as the archive changes.
#[derive(Debug)]
pub struct ArchivedFlags {
    environment: Arc<str>,
    sets: watch::Receiver<Arc<ArchivedSets>>,
    /// The revision that was given last.
    given: Option<u64>,
    /// True while that is what the archive says.
    is_live: bool,
}

impl ArchivedFlags {
    /// Follows the flags of an environment.
    pub(super) fn new(environment: Arc<str>, sets: watch::Receiver<Arc<ArchivedSets>>) -> Self {
        Self { environment, sets, given: None, is_live: false }
    }

    /// The next event. Safe to cancel.
    pub(super) async fn recv(&mut self) -> SourceEvent {
        loop {
            let found = self.sets.borrow_and_update().get(&self.environment).cloned();
            if let Some(set) = found {
                let is_news = self.given != Some(set.revision);
                if is_news || (set.is_current && !self.is_live) {
                    (self.given, self.is_live) = (Some(set.revision), true);
                    let data = (*set.data).clone();
                    return SourceEvent::Everything { connection: set.revision, data };
                }
                if self.is_live && !set.is_current {
                    self.is_live = false;
                    return SourceEvent::Lost { failure: None };
                }
            }
            tokio::select! {
                changed = self.sets.changed() => if changed.is_err() {
                    // The process is ending.
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(ALIVE_INTERVAL), if self.is_live => {
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
        ArchivedSet { revision, data: Arc::new(data), is_current: true }
    }

    fn sets(of: &[(&str, u64)]) -> Arc<ArchivedSets> {
        Arc::new(of.iter().map(|(id, revision)| (Arc::from(*id), set(*revision))).collect())
    }

    /// Follows one environment; `expect` takes an event in short.
    struct Bench {
        sender: watch::Sender<Arc<ArchivedSets>>,
        flags: ArchivedFlags,
    }

    impl Bench {
        fn new() -> Self {
            let (sender, receiver) = watch::channel(Arc::<ArchivedSets>::default());
            Self { sender, flags: ArchivedFlags::new("e1".into(), receiver) }
        }

        async fn expect(&mut self, expected: &str) {
            let waited = tokio::time::timeout(3 * ALIVE_INTERVAL, self.flags.recv()).await;
            let shown = match waited {
                Ok(SourceEvent::Everything { connection, data }) => {
                    assert_eq!(data.flags.get("f").unwrap().version, connection);
                    connection.to_string()
                }
                Ok(SourceEvent::Alive) => "alive".to_owned(),
                Ok(SourceEvent::Lost { failure: None }) => "lost".to_owned(),
                Ok(event) => panic!("{event:?}"),
                Err(_) => "nothing".to_owned(),
            };
            assert_eq!(shown, expected);
        }

        /// Says whether all sets are what the archive says.
        fn current(&self, is_current: bool) {
            self.sender.send_modify(|sets| {
                Arc::make_mut(sets).values_mut().for_each(|set| set.is_current = is_current);
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everything_comes_when_it_changes_and_signs_of_life_between() {
        let mut bench = Bench::new();
        bench.expect("nothing").await;
        bench.sender.send_replace(sets(&[("e1", 4), ("e2", 7)]));
        bench.expect("4").await;
        bench.expect("alive").await;
        bench.sender.send_replace(sets(&[("e1", 4), ("e2", 8)]));
        bench.expect("alive").await;
        bench.sender.send_replace(sets(&[("e1", 9)]));
        bench.expect("9").await;
        bench.sender.send_replace(sets(&[]));
        bench.expect("alive").await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_archive_no_longer_says_is_not_live() {
        let mut bench = Bench::new();
        bench.sender.send_replace(sets(&[("e1", 4)]));
        bench.expect("4").await;
        bench.current(false);
        bench.expect("lost").await;
        bench.expect("nothing").await;
        // The same again, and something new.
        bench.current(true);
        bench.expect("4").await;
        bench.expect("alive").await;
        bench.current(false);
        bench.expect("lost").await;
        bench.sender.send_replace(sets(&[("e1", 5)]));
        bench.expect("5").await;
        bench.expect("alive").await;
        // An environment that starts while its flags cannot be used serves them anyway.
        let mut late = Bench::new();
        late.sender.send_replace(sets(&[("e1", 4)]));
        late.current(false);
        late.expect("4").await;
        late.expect("lost").await;
    }
}
