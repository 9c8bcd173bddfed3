//! Promises about sets that are created at once.

use std::sync::Arc;

use bytes::Bytes;
use pilotlight::testing::storage::table::{Created, NewSet, RowName, Signs, Table, Value, Written};
use tokio::task::JoinSet;

use super::contract::{Creates, Peer, alone};

/// A set in two name spaces. Each row has a mark of its writer.
struct Set {
    spaces: [Arc<str>; 2],
    marker: RowName,
}

impl Set {
    fn new(peer: &impl Peer, name: &str) -> Self {
        let space = |kind| peer.space(&format!("{name}-{kind}")).name;
        Self { spaces: ["one", "two"].map(space), marker: peer.alone(&format!("{name}-marker")) }
    }

    /// The creation of one row in the first space and of `rows` in the second one.
    fn creation(&self, mark: &str, rows: usize) -> NewSet<'_> {
        let value = || Value::from(Bytes::from(mark.to_owned()));
        let first = (RowName::new(&self.spaces[0], "only"), value());
        let second = (0..rows).map(|it| (RowName::new(&self.spaces[1], it.to_string()), value()));
        let rows = std::iter::once(first).chain(second).collect();
        NewSet { spaces: &self.spaces, rows, marker: (self.marker.clone(), value()) }
    }

    /// Numbers of rows in both spaces and of the marker, and the mark that all of them have.
    async fn found(&self, table: &impl Table) -> ([usize; 3], Option<Bytes>) {
        let found = table.read(&self.spaces, Some(&self.marker)).await.unwrap();
        assert_eq!(found.markers[0], found.markers[1], "nothing happens meanwhile");
        let of = |place: usize| {
            let space = &self.spaces[place];
            found.rows.iter().filter(move |row| row.name.space == *space)
        };
        let counts = [of(0).count(), of(1).count(), found.markers.iter().flatten().count() / 2];
        let mut marks: Vec<Bytes> = found.rows.into_iter().map(|row| row.value.bytes).collect();
        marks.extend(found.markers.into_iter().flatten().map(|row| row.value.bytes));
        marks.dedup();
        assert!(marks.len() <= 1, "of one writer: {marks:?}");
        let Signs { marker, counts: counted, .. } =
            table.signs(&self.spaces, &self.marker).await.unwrap();
        let counted = counted.map(|counts| [counts[0] as usize, counts[1] as usize]);
        assert_eq!(counted.unwrap_or([counts[0], counts[1]]), counts[..2]);
        assert_eq!(usize::from(marker.is_some()), counts[2]);
        (counts, marks.pop())
    }
}

pub(super) async fn a_set_is_created_whole_or_not_at_all<P: Peer>(peer: &P) {
    let (table, other) = (peer.table(), peer.table());
    for (name, rows, is_small) in [("set-a", 0, true), ("set-b", 40, true), ("set-c", 2_000, false)]
    {
        let set = Set::new(peer, name);
        let created = table.create(&set.creation("x", rows)).await.unwrap();
        let is_created = match P::CREATES {
            Creates::All => true,
            Creates::Small => is_small,
            Creates::None => false,
        };
        if is_created {
            assert_eq!(created, Created::Done);
            assert_eq!(set.found(&other).await, ([1, rows, 1], Some("x".into())));
            let again = other.create(&set.creation("y", 3)).await.unwrap();
            assert_eq!(again, Created::NotEmpty);
            assert_eq!(set.found(&other).await, ([1, rows, 1], Some("x".into())));
        } else {
            assert_eq!(created, Created::Impossible);
            assert_eq!(set.found(&other).await, ([0, 0, 0], None));
        }
    }
    let set = Set::new(peer, "set-empty");
    let nothing = NewSet { rows: Vec::new(), ..set.creation("x", 0) };
    if table.create(&nothing).await.unwrap() == Created::Done {
        assert_eq!(set.found(&other).await, ([0, 0, 1], Some("x".into())));
    }
    if let Some(longest) = P::LONGEST_VALUE {
        let set = Set::new(peer, "set-long");
        let mut creation = set.creation("x", 2);
        creation.rows[1].1 = Bytes::from(vec![b'x'; longest + 100]).into();
        assert_eq!(table.create(&creation).await.unwrap(), Created::Impossible);
        assert_eq!(set.found(&other).await, ([0, 0, 0], None));
    }
}

pub(super) async fn nothing_is_created_beside_what_is_there<P: Peer>(peer: &P) {
    if P::CREATES == Creates::None {
        return;
    }
    for present in 0..3 {
        let (table, set) = (peer.table(), Set::new(peer, &format!("set-beside-{present}")));
        let name = match set.spaces.get(present) {
            Some(space) => RowName::new(space, "present"),
            None => set.marker.clone(),
        };
        assert_eq!(
            table.write(&[alone(&name, None, Some("p"))], None).await.unwrap(),
            [Written::Applied]
        );
        let before = set.found(&table).await;
        assert_eq!(before.0.iter().sum::<usize>(), 1);
        assert_eq!(table.create(&set.creation("x", 3)).await.unwrap(), Created::NotEmpty);
        assert_eq!(set.found(&table).await, before);
    }
}

pub(super) async fn one_of_many_creations_wins<P: Peer>(peer: &P) {
    if P::CREATES == Creates::None {
        return;
    }
    for round in 0..5 {
        let name = format!("race-create-{round}");
        let mut writers = JoinSet::new();
        for writer in 1..=4 {
            let (table, set) = (peer.table(), Set::new(peer, &name));
            writers.spawn(async move {
                let creation = set.creation(&writer.to_string(), writer);
                (writer, table.create(&creation).await.unwrap())
            });
        }
        let outcomes = writers.join_all().await;
        let winners: Vec<usize> = outcomes
            .iter()
            .filter(|(_, created)| *created == Created::Done)
            .map(|(writer, _)| *writer)
            .collect();
        let [winner] = winners[..] else { panic!("{outcomes:?}") };
        assert!(outcomes.iter().all(|(_, created)| *created != Created::Impossible));
        let expected = ([1, winner, 1], Some(winner.to_string().into()));
        assert_eq!(Set::new(peer, &name).found(&peer.table()).await, expected);
    }
}
