//! Sealed records in a shared database: one name space of a [`Table`] (ld-relay v8: autoconfig
//! cache layout).

use std::sync::Arc;

use super::backend::{Backend, Row, Swap, Swapped};
use crate::storage::StoreError;
use crate::storage::table::{Row as TableRow, RowName, Table, Write, Written};

/// The records of one namespace.
#[derive(Debug)]
pub struct RecordTable<T> {
    table: T,
    namespace: Arc<str>,
}

impl<T: Table> RecordTable<T> {
    /// The records under `namespace`, which is taken verbatim.
    pub fn new(table: T, namespace: impl Into<Arc<str>>) -> Self {
        Self { table, namespace: namespace.into() }
    }

    fn name(&self, name: &str) -> RowName {
        RowName::new(&self.namespace, name)
    }

    fn write(&self, swap: &Swap) -> Write {
        let expected = |row: &Row| TableRow {
            name: self.name(&row.name),
            value: row.value.clone().into(),
            revision: row.revision,
        };
        Write {
            name: self.name(&swap.name),
            expected: swap.expected.as_ref().map(expected),
            value: swap.value.clone().map(Into::into),
        }
    }
}

impl<T: Table> Backend for RecordTable<T> {
    async fn read_all(&self) -> Result<Vec<Row>, StoreError> {
        let found = self.table.read(std::slice::from_ref(&self.namespace), None).await?;
        let row = |TableRow { name, value, revision }| {
            Some(Row { name: name.key?.to_string(), value: value.bytes, revision })
        };
        Ok(found.rows.into_iter().filter_map(row).collect())
    }

    async fn swap(&self, swaps: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let writes: Vec<Write> = swaps.iter().map(|swap| self.write(swap)).collect();
        let swapped = |written| match written {
            Written::Applied => Swapped::Applied,
            Written::Conflict | Written::Unguarded => Swapped::Conflict,
            Written::TooLarge => Swapped::TooLarge,
        };
        Ok(self.table.write(&writes, None).await?.into_iter().map(swapped).collect())
    }
}
