//! Flag data in DynamoDB (ld-relay v8: the layout of all SDKs).
//!
//! | | `namespace` (S) | `key` (S) | `version` (N) | `item` (S) |
//! | --- | --- | --- | --- | --- |
//! | flag | `features` | its key | its version | its JSON |
//! | segment | `segments` | its key | its version | its JSON |
//! | marker | `$inited` | `$inited` | | |
//!
//! The marker has an attribute `pilotlight` (S) beside, with its token and note. Other readers do
//! not ask for it.
//!
//! A prefix stands before the namespace, and before the marker's key, with a colon.
//!
//! Each item is written by itself, under the condition that it is newer than what is stored. So
//! there is no fill that a reader sees at once, and the order of rows is kept roughly: segments
//! before flags, and no row more than `IN_FLIGHT` places before its turn. The marker is not
//! looked at while items are written ([`Condition::Marked`] is taken as [`Condition::Always`]):
//! a check in the same breath would make each write a transaction, at twice the price.
//!
//! Futures of the SDK are large, so each is boxed where a call begins.
//!
//! The attribute `version` goes before the version inside the JSON; where it is 0, missing or not a
//! whole number, the JSON counts (go-server-sdk-dynamodb). An item without a whole number there is
//! not as it should be: SDKs and ld-relay would never replace it, or never again.

mod guard;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use bytes::Bytes;
use tokio::time::Instant;

use self::guard::Guard;
use super::backend::{
    Condition, Correction, Filled, FlagBackend, Look, Row, StoredRow, StoredRows, Upserted,
};
use super::batches::{Limits, batches};
use super::layout;
use super::marker::{Marker, Note};
use crate::model::{ItemKey, ItemKind};
use crate::storage::dynamodb::{
    DynamoDbStore, as_part_of_bulk, classify, last_attempt_at, patiently,
};
use crate::storage::join::join_bounded;
use crate::storage::{Meter, StoreError};

/// Requests under way at a time for one environment. At 5 ms each these are 3 000 items a second,
/// about what a young on-demand table takes; a server on the same machine is not faster with more.
/// Transactions of many items would be, but cost twice the capacity, and one item that a peer has
/// written cancels them.
const IN_FLIGHT: usize = 16;

/// Rows of one call: few enough to be repeated several times within its budget. Their bytes are
/// limited by whoever calls.
const BATCH: Limits = Limits { count: 128, bytes: usize::MAX };

/// What an item may measure by ld-relay's rule: 100 bytes plus the lengths of all attribute
/// names and values. The service's own limit is a little higher.
const ITEM_BYTES_MAX: usize = 400_000;
const ITEM_OVERHEAD_BYTES: usize = 100;

/// The longest sort key that the service takes. It takes no empty one either.
const KEY_BYTES_MAX: usize = 1024;

/// Attempts to replace one item that cannot be compared by its attributes alone, where any other
/// write to it gets in the way.
const ATTEMPTS: usize = 10;

const NAMESPACE: &str = "namespace";
const KEY: &str = "key";
const VERSION: &str = "version";
const ITEM: &str = "item";
const MARKER: &str = "$inited";
const NOTE: &str = "pilotlight";

type Attributes = HashMap<String, AttributeValue>;

/// The flag data of one environment in DynamoDB.
#[derive(Debug)]
pub struct DynamoDbFlags {
    store: DynamoDbStore,
    table: String,
    prefix: String,
}

/// How a conditional write ended.
enum Put {
    Applied,
    /// What is stored, if the service tells.
    Refused(Option<Attributes>),
}

impl DynamoDbFlags {
    /// The environment with this prefix in `table`; empty stands for none.
    pub fn new(store: DynamoDbStore, table: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self { store, table: table.into(), prefix: prefix.into() }
    }

    fn prefixed(&self, name: &str) -> String {
        match self.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}:{name}"),
        }
    }

    fn name(&self, key: &ItemKey) -> Attributes {
        name(self.prefixed(key.kind.store_name()), key.key.to_string())
    }

    fn marker(&self) -> Attributes {
        name(self.prefixed(MARKER), self.prefixed(MARKER))
    }

    fn attributes(&self, row: &Row) -> Attributes {
        let mut attributes = self.name(&row.key);
        // Accepted JSON is text, so nothing is lost here.
        let json = String::from_utf8_lossy(&row.json).into_owned();
        attributes.insert(VERSION.to_owned(), number(row.version));
        attributes.insert(ITEM.to_owned(), AttributeValue::S(json));
        attributes
    }

    /// Whether the database takes the row: its size by ld-relay's rule, and the length of its key.
    fn takes(&self, row: &Row) -> bool {
        let names = NAMESPACE.len() + KEY.len() + VERSION.len() + ITEM.len();
        let namespace = self.prefixed(row.key.kind.store_name());
        let version = row.version.to_string();
        let values = namespace.len() + row.key.key.len() + version.len() + row.json.len();
        let is_key = (1..=KEY_BYTES_MAX).contains(&row.key.key.len());
        is_key && ITEM_OVERHEAD_BYTES + names + values <= ITEM_BYTES_MAX
    }

    async fn look_for_marker(&self) -> Result<Option<Marker>, StoreError> {
        let ask = self.store.call(async |client| {
            let request = client
                .get_item()
                .table_name(&self.table)
                .set_key(Some(self.marker()))
                .consistent_read(true);
            let ask = async || request.clone().send().await.map_err(classify);
            patiently(last_attempt_at(self.store.budgets().call), ask).await
        });
        let output = Box::pin(ask).await?;
        Ok(output.item.map(marked))
    }

    /// All items of a kind, page by page.
    async fn read_kind(&self, kind: ItemKind) -> Result<Vec<StoredRow>, StoreError> {
        let mut rows = Vec::new();
        let mut from = None;
        loop {
            let start = from.take();
            let ask = self.store.metered(async |client, meter| {
                let deadline = last_attempt_at(self.store.budgets().bulk);
                patiently(deadline, || self.page(&client, &meter, kind, start.clone())).await
            });
            let (mut page, next) = Box::pin(ask).await?;
            rows.append(&mut page);
            match next {
                Some(_) => from = next,
                None => return Ok(rows),
            }
        }
    }

    /// One page, and where the next one begins.
    async fn page(
        &self,
        client: &Client,
        meter: &Meter,
        kind: ItemKind,
        from: Option<Attributes>,
    ) -> Result<(Vec<StoredRow>, Option<Attributes>), StoreError> {
        let namespace = AttributeValue::S(self.prefixed(kind.store_name()));
        let query = client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#namespace = :namespace")
            .expression_attribute_names("#namespace", NAMESPACE)
            .expression_attribute_values(":namespace", namespace)
            .set_exclusive_start_key(from);
        let asked = as_part_of_bulk(query.customize(), meter.clone()).send().await;
        let output = asked.map_err(classify)?;
        let items = output.items.unwrap_or_default().into_iter();
        let rows = items.filter_map(|attributes| stored_row(kind, attributes)).collect();
        Ok((rows, output.last_evaluated_key.filter(|key| !key.is_empty())))
    }

    async fn put(
        &self,
        client: &Client,
        attributes: Attributes,
        guard: &Guard<'_>,
    ) -> Result<Put, StoreError> {
        let (condition, names, values) = guard.expression();
        let request = client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(attributes))
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = request.send().await else { return Ok(Put::Applied) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                Ok(Put::Refused(failed.item().cloned()))
            }
            Some(_) | None => Err(classify(error)),
        }
    }

    async fn delete(
        &self,
        client: &Client,
        found: &StoredRow,
        guard: &Guard<'_>,
    ) -> Result<Put, StoreError> {
        let (condition, names, values) = guard.expression();
        let request = client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(self.name(&found.key)))
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = request.send().await else { return Ok(Put::Applied) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(failed)) => {
                Ok(Put::Refused(failed.item().cloned()))
            }
            Some(_) | None => Err(classify(error)),
        }
    }

    async fn upsert_one(
        &self,
        client: &Client,
        row: &Row,
        deadline: Instant,
    ) -> Result<Upserted, StoreError> {
        let attributes = self.attributes(row);
        let put = async |guard: &Guard<'_>| {
            patiently(deadline, || self.put(client, attributes.clone(), guard)).await
        };
        for _ in 0..ATTEMPTS {
            let Put::Refused(stored) = put(&Guard::Newer(row.version)).await? else {
                return Ok(Upserted::Written);
            };
            // Nearly always the stored version is the higher one. What remains are versions that
            // stand in the JSON only, and items that cannot be decoded, which count as version 0.
            let Some(stored) = stored else { return Ok(Upserted::NotNewer) };
            let odd = odd_version(&stored);
            let Some(stored) = stored_row(row.key.kind, stored) else {
                return Ok(Upserted::NotNewer);
            };
            if stored.head.map_or(0, |head| head.version) >= row.version {
                return Ok(Upserted::NotNewer);
            }
            let guard = match &odd {
                Some(odd) => Guard::UnchangedOdd(&stored, odd),
                None => Guard::Unchanged(&stored),
            };
            if let Put::Applied = put(&guard).await? {
                return Ok(Upserted::Written);
            }
        }
        Ok(Upserted::Contended)
    }

    async fn correct_one(
        &self,
        client: &Client,
        correction: &Correction,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let Correction { found, wanted } = correction;
        if wanted.as_ref().is_some_and(|row| !self.takes(row)) {
            return Ok(false);
        }
        let attributes = wanted.as_ref().map(|row| self.attributes(row));
        let carry_out = async |guard: &Guard<'_>| {
            patiently(deadline, async || match &attributes {
                Some(attributes) => self.put(client, attributes.clone(), guard).await,
                None => self.delete(client, found, guard).await,
            })
            .await
        };
        let stored = match carry_out(&Guard::Unchanged(found)).await? {
            Put::Applied => return Ok(true),
            Put::Refused(stored) => stored.unwrap_or_default(),
        };
        // A `version` that is not a whole number is not part of what was found, so it is compared
        // as it is told now.
        let Some(odd) = odd_version(&stored) else { return Ok(false) };
        if stored_row(found.key.kind, stored).as_ref() != Some(found) {
            return Ok(false);
        }
        Ok(matches!(carry_out(&Guard::UnchangedOdd(found, &odd)).await?, Put::Applied))
    }

    /// Does something with each of a few entries, within the budget of one call.
    async fn with_each<'a, E, T, F, Fut>(
        &self,
        entries: Vec<&'a E>,
        work: F,
    ) -> Result<Vec<T>, StoreError>
    where
        E: Sync,
        T: Send,
        F: Fn(Client, &'a E, Instant) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        let work = &work;
        self.store
            .bulk(async move |client: Client| {
                let deadline = last_attempt_at(self.store.budgets().bulk);
                // After one failed, those that have not begun do not: the service is away.
                let failed = AtomicBool::new(false);
                let (failed, client) = (&failed, &client);
                let requests = entries.into_iter().map(|entry| async move {
                    if failed.load(Ordering::Relaxed) {
                        return Err(StoreError::CoolingDown);
                    }
                    let outcome = work(client.clone(), entry, deadline).await;
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                });
                first_error(join_bounded(IN_FLIGHT, requests.collect()).await)
            })
            .await
    }
}

/// All outcomes, or the first error that tells something: what did not begin does not.
fn first_error<T>(outcomes: Vec<Result<T, StoreError>>) -> Result<Vec<T>, StoreError> {
    let mut done = Vec::with_capacity(outcomes.len());
    let mut first = None;
    for outcome in outcomes {
        match outcome {
            Ok(outcome) => done.push(outcome),
            Err(StoreError::CoolingDown) => {}
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.map_or(Ok(done), Err)
}

fn name(namespace: String, key: String) -> Attributes {
    HashMap::from([
        (NAMESPACE.to_owned(), AttributeValue::S(namespace)),
        (KEY.to_owned(), AttributeValue::S(key)),
    ])
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn stored_row(kind: ItemKind, mut attributes: Attributes) -> Option<StoredRow> {
    let Some(AttributeValue::S(key)) = attributes.remove(KEY) else { return None };
    let json = match attributes.remove(ITEM) {
        Some(AttributeValue::S(json)) => Bytes::from(json),
        Some(_) | None => Bytes::new(),
    };
    let version: Option<u64> = match attributes.remove(VERSION) {
        Some(AttributeValue::N(number)) => number.parse().ok(),
        Some(_) | None => None,
    };
    let mut head = layout::head(&json);
    if let Some(head) = &mut head {
        head.version = version.filter(|version| *version != 0).unwrap_or(head.version);
        head.respell |= version.is_none();
    }
    Some(StoredRow { key: ItemKey::new(kind, key), json, head, revision: 0 })
}

/// The number in the attribute `version`, as text, if it is not a whole number from 0 on.
fn odd_version(attributes: &Attributes) -> Option<String> {
    let number = attributes.get(VERSION)?.as_n().ok()?;
    number.parse::<u64>().is_err().then(|| number.clone())
}

impl FlagBackend for DynamoDbFlags {
    async fn read(&self) -> Result<StoredRows, StoreError> {
        // The marker before the items: it was the last that was written.
        let mut marker = self.look_for_marker().await?;
        let kinds = ItemKind::ALL.map(|kind| self.read_kind(kind));
        let mut rows = Vec::new();
        for of_kind in join_bounded(kinds.len(), kinds.into()).await {
            rows.append(&mut of_kind?);
        }
        if let Some(before) = marker {
            // And after them: what was wiped out while it was read is not complete.
            marker = self.look_for_marker().await?.filter(|after| after.is_same_set(&before));
        }
        Ok(StoredRows { marker, rows })
    }

    async fn look(&self) -> Result<Look, StoreError> {
        Ok(Look { marker: self.look_for_marker().await?, counts: None, server: None })
    }

    async fn fill(&self, _rows: &[Row], _note: &Note) -> Result<Filled, StoreError> {
        Ok(Filled::Impossible)
    }

    async fn upsert(
        &self,
        rows: &[Row],
        _condition: Condition<'_>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut outcomes = vec![Upserted::TooLarge; rows.len()];
        for kind in ItemKind::ALL {
            let sizes = rows
                .iter()
                .map(|row| (row.key.kind == kind && self.takes(row)).then_some(row.json.len()));
            for places in batches(sizes, BATCH) {
                let batch = places.iter().map(|place| &rows[*place]).collect();
                let upsert = |client: Client, row, deadline| async move {
                    self.upsert_one(&client, row, deadline).await
                };
                let done = self.with_each(batch, upsert).await?;
                for (place, outcome) in places.into_iter().zip(done) {
                    outcomes[place] = outcome;
                }
            }
        }
        Ok(outcomes)
    }

    async fn correct(&self, corrections: &[Correction]) -> Result<Vec<bool>, StoreError> {
        let mut outcomes = Vec::with_capacity(corrections.len());
        for batch in corrections.chunks(BATCH.count) {
            let correct = |client: Client, correction, deadline| async move {
                self.correct_one(&client, correction, deadline).await
            };
            outcomes.append(&mut self.with_each(batch.iter().collect(), correct).await?);
        }
        Ok(outcomes)
    }

    async fn mark(&self, found: Option<&Marker>, note: &Note) -> Result<Marker, StoreError> {
        let value = note.value(found);
        let mut attributes = self.marker();
        let text = String::from_utf8_lossy(&value).into_owned();
        attributes.insert(NOTE.to_owned(), AttributeValue::S(text));
        let guard = match found {
            None => Guard::Absent,
            Some(found) => Guard::Marked(found),
        };
        let put = self.store.call(async |client| {
            let deadline = last_attempt_at(self.store.budgets().call);
            patiently(deadline, || self.put(&client, attributes.clone(), &guard)).await
        });
        match Box::pin(put).await? {
            Put::Applied => Ok(Marker::read(value, 0)),
            Put::Refused(Some(stored)) => Ok(marked(stored)),
            Put::Refused(None) => {
                Err(StoreError::Refused("the marker was removed meanwhile".into()))
            }
        }
    }
}

/// The marker with these attributes.
fn marked(mut attributes: Attributes) -> Marker {
    let value = match attributes.remove(NOTE) {
        Some(AttributeValue::S(text)) => Bytes::from(text),
        Some(_) | None => Bytes::new(),
    };
    Marker::read(value, 0)
}

#[cfg(test)]
#[path = "dynamodb_tests.rs"]
mod tests;
