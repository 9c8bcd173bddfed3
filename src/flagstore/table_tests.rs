use std::sync::Mutex;

use super::*;
use crate::storage::table::{Contents, Signs};

/// A row that another client replaces before each write.
struct Contended {
    stored: Mutex<TableRow>,
    /// Writes that fail, before one is let through.
    losses: Mutex<usize>,
}

impl Contended {
    fn flags(losses: usize) -> FlagTable<Self> {
        let name = RowName::new(&"ld:features".into(), "a");
        let stored = TableRow { name, value: json(0).into(), revision: 0 };
        let table = Self { stored: Mutex::new(stored), losses: Mutex::new(losses) };
        FlagTable::new(table, Naming { separator: ':', default_prefix: "" }, "ld")
    }
}

fn json(version: u64) -> bytes::Bytes {
    format!(r#"{{"version":{version}}}"#).into()
}

impl Table for Contended {
    fn takes(&self, _name: &RowName, _value: &Value) -> bool {
        true
    }

    async fn read(&self, _: &[Arc<str>], _: Option<&RowName>) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }

    async fn get(&self, names: &[RowName], _: usize) -> Result<Vec<Option<TableRow>>, StoreError> {
        let stored = self.stored.lock().unwrap();
        Ok(names.iter().map(|name| Some(stored.clone()).filter(|it| it.name == *name)).collect())
    }

    async fn write(
        &self,
        writes: &[Write],
        _: Option<&TableRow>,
    ) -> Result<Vec<Written>, StoreError> {
        let (mut stored, mut losses) = (self.stored.lock().unwrap(), self.losses.lock().unwrap());
        let write = |write: &Write| {
            assert_eq!(write.expected.as_ref(), Some(&*stored), "the newest row is expected");
            if *losses > 0 {
                *losses -= 1;
                let version = layout::head(&stored.value.bytes).unwrap().version + 1;
                stored.value = json(version).into();
                return Written::Conflict;
            }
            stored.value = write.value.clone().unwrap_or_default();
            Written::Applied
        };
        Ok(writes.iter().map(write).collect())
    }

    async fn create(&self, _: &NewSet<'_>) -> Result<Created, StoreError> {
        Ok(Created::Impossible)
    }

    async fn signs(&self, _: &[Arc<str>], _: &RowName) -> Result<Signs, StoreError> {
        Ok(Signs { marker: None, counts: None, server: None })
    }
}

#[tokio::test]
async fn a_row_is_judged_anew_after_each_conflict() {
    let check = async |losses, version, expected, stored: u64| {
        let flags = Contended::flags(losses);
        let row = Row { key: ItemKey::new(ItemKind::Flag, "a"), version, json: json(version) };
        assert_eq!(flags.upsert(&[row], None).await.unwrap(), [expected]);
        assert_eq!(flags.table.stored.lock().unwrap().value.bytes, json(stored));
    };
    check(0, 5, Upserted::Written, 5).await;
    check(ATTEMPTS - 1, 99, Upserted::Written, 99).await;
    check(ATTEMPTS, 99, Upserted::Contended, ATTEMPTS as u64).await;
    // The other client has written that version meanwhile.
    check(ATTEMPTS, 3, Upserted::NotNewer, 3).await;
}

#[tokio::test]
async fn a_correction_is_given_up_after_a_conflict() {
    let flags = Contended::flags(1);
    let key = ItemKey::new(ItemKind::Flag, "a");
    let found = StoredRow { key, json: json(0), head: layout::head(&json(0)), revision: 0 };
    let correction = Correction { found, wanted: None };
    assert_eq!(flags.correct(std::slice::from_ref(&correction)).await.unwrap(), [false]);
    assert_eq!(flags.table.stored.lock().unwrap().value.bytes, json(1));
}
