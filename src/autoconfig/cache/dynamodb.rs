//! The shared cache in DynamoDB: partition key `namespace`, sort key `key` = row name, binary
//! attribute `item` (ld-relay v8: autoconfig cache layout). Rows without a binary `item` are
//! somebody else's and are skipped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use tokio::time::Instant;

use super::backend::{Backend, Row, Swap, Swapped};
use super::batches::{Limits, batches, content_bytes};
use crate::storage::dynamodb::{DynamoDbStore, as_part_of_bulk, classify, patiently};
use crate::storage::join::join_bounded;
use crate::storage::{Meter, StoreError};

/// Requests under way at a time.
const IN_FLIGHT: usize = 16;

/// Swaps of one call: few enough to be repeated several times within its budget.
const BATCH: Limits = Limits { count: 128, bytes: 4 * 1024 * 1024 };

/// What an item may measure by ld-relay's rule: 100 bytes plus the lengths of all attribute
/// names and values. The service's own limit is a little higher.
const ITEM_BYTES_MAX: usize = 400_000;
const ITEM_OVERHEAD_BYTES: usize = 100;

/// Attempts of throttled requests end so long before the budget of the call does, so that their
/// error is reported and not a timeout, which would cost the connection.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);

const NAMESPACE: &str = "namespace";
const KEY: &str = "key";
const ITEM: &str = "item";

type Attributes = HashMap<String, AttributeValue>;

/// One namespace in one table.
#[derive(Debug)]
pub struct DynamoDbCache {
    store: DynamoDbStore,
    table: String,
    namespace: String,
}

impl DynamoDbCache {
    /// The cache in partition `namespace` of `table`.
    pub fn new(
        store: DynamoDbStore,
        table: impl Into<String>,
        namespace: impl Into<String>,
    ) -> Self {
        Self { store, table: table.into(), namespace: namespace.into() }
    }

    /// `None`: larger than ld-relay's rule allows.
    fn measure(&self, swap: &Swap) -> Option<usize> {
        let names = NAMESPACE.len() + KEY.len() + ITEM.len();
        let value = swap.value.as_ref().map_or(0, bytes::Bytes::len);
        let item = ITEM_OVERHEAD_BYTES + names + self.namespace.len() + swap.name.len() + value;
        (item <= ITEM_BYTES_MAX).then(|| content_bytes(swap))
    }

    fn primary_key(&self, name: &str) -> Attributes {
        HashMap::from([
            (NAMESPACE.to_owned(), AttributeValue::S(self.namespace.clone())),
            (KEY.to_owned(), AttributeValue::S(name.to_owned())),
        ])
    }

    /// One page, and where the next one begins.
    async fn page(
        &self,
        client: &Client,
        meter: &Meter,
        from: Option<Attributes>,
    ) -> Result<(Vec<Row>, Option<Attributes>), StoreError> {
        let query = client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#namespace = :namespace")
            .expression_attribute_names("#namespace", NAMESPACE)
            .expression_attribute_values(":namespace", AttributeValue::S(self.namespace.clone()))
            .set_exclusive_start_key(from);
        let asked = as_part_of_bulk(query.customize(), meter.clone()).send().await;
        let output = asked.map_err(classify)?;
        let rows = output.items.unwrap_or_default().into_iter().filter_map(row).collect();
        Ok((rows, output.last_evaluated_key.filter(|key| !key.is_empty())))
    }

    async fn swap_one(
        &self,
        client: &Client,
        swap: &Swap,
        deadline: Instant,
    ) -> Result<Swapped, StoreError> {
        match &swap.value {
            Some(value) => {
                let mut item = self.primary_key(&swap.name);
                item.insert(ITEM.to_owned(), binary(value));
                patiently(deadline, || self.put(client, swap, item.clone())).await
            }
            None => patiently(deadline, || self.delete(client, swap)).await,
        }
    }

    async fn put(
        &self,
        client: &Client,
        swap: &Swap,
        item: Attributes,
    ) -> Result<Swapped, StoreError> {
        let request = client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition(swap))
            .expression_attribute_names("#item", ITEM)
            .set_expression_attribute_values(condition_values(swap));
        match request.send().await {
            Ok(_) => Ok(Swapped::Applied),
            Err(SdkError::ServiceError(error))
                if matches!(error.err(), PutItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(Swapped::Conflict)
            }
            Err(error) => Err(classify(error)),
        }
    }

    async fn delete(&self, client: &Client, swap: &Swap) -> Result<Swapped, StoreError> {
        let request = client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(self.primary_key(&swap.name)))
            .condition_expression(condition(swap))
            .expression_attribute_names("#item", ITEM)
            .set_expression_attribute_values(condition_values(swap));
        match request.send().await {
            Ok(_) => Ok(Swapped::Applied),
            Err(SdkError::ServiceError(error))
                if matches!(error.err(), DeleteItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(Swapped::Conflict)
            }
            Err(error) => Err(classify(error)),
        }
    }

    async fn swap_batch(
        &self,
        client: &Client,
        swaps: &[&Swap],
    ) -> Result<Vec<Swapped>, StoreError> {
        let deadline = deadline(self.store.budgets().bulk);
        // After one failed, those that have not begun do not: the service is away.
        let failed = AtomicBool::new(false);
        let failed = &failed;
        let requests = swaps
            .iter()
            .map(|swap| async move {
                if failed.load(Ordering::Relaxed) {
                    return Err(StoreError::CoolingDown);
                }
                let outcome = self.swap_one(client, swap, deadline).await;
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                outcome
            })
            .collect();
        let mut outcomes = Vec::with_capacity(swaps.len());
        let mut first_error = None;
        for outcome in join_bounded(IN_FLIGHT, requests).await {
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                // Those that did not begin have nothing to tell.
                Err(StoreError::CoolingDown) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(outcomes), Err)
    }
}

impl Backend for DynamoDbCache {
    async fn read_all(&self) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut from = None;
        loop {
            let start = from.take();
            let (mut page, next) = self
                .store
                .metered(async |client, meter| {
                    let deadline = deadline(self.store.budgets().bulk);
                    patiently(deadline, || self.page(&client, &meter, start.clone())).await
                })
                .await?;
            rows.append(&mut page);
            match next {
                Some(_) => from = next,
                None => return Ok(rows),
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Row>, StoreError> {
        let output = self
            .store
            .call(async |client| {
                let request = client
                    .get_item()
                    .table_name(&self.table)
                    .set_key(Some(self.primary_key(name)))
                    .consistent_read(true);
                let ask = async || request.clone().send().await.map_err(classify);
                patiently(deadline(self.store.budgets().call), ask).await
            })
            .await?;
        Ok(output.item.and_then(row))
    }

    async fn swap(&self, swaps: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let mut outcomes = vec![Swapped::TooLarge; swaps.len()];
        for batch in batches(swaps, BATCH, |swap| self.measure(swap)) {
            let done = self
                .store
                .bulk(async |client| self.swap_batch(&client, &batch.swaps).await)
                .await?;
            batch.record(&mut outcomes, done);
        }
        Ok(outcomes)
    }
}

/// When the last attempt of a call must have begun.
fn deadline(budget: Duration) -> Instant {
    Instant::now() + budget.saturating_sub(DEADLINE_MARGIN)
}

fn row(mut attributes: Attributes) -> Option<Row> {
    match (attributes.remove(KEY), attributes.remove(ITEM)) {
        (Some(AttributeValue::S(name)), Some(AttributeValue::B(value))) => {
            Some(Row { name, value: value.into_inner().into(), revision: 0 })
        }
        (Some(_) | None, Some(_) | None) => None,
    }
}

fn binary(value: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

/// A row without `item` counts as absent here as it does when reading.
fn condition(swap: &Swap) -> &'static str {
    match &swap.expected {
        Some(_) => "#item = :expected",
        None => "attribute_not_exists(#item)",
    }
}

fn condition_values(swap: &Swap) -> Option<Attributes> {
    let expected = swap.expected.as_ref()?;
    Some(HashMap::from([(":expected".to_owned(), binary(&expected.value))]))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::dynamodb::{DynamoDbDialer, DynamoDbSettings};
    use crate::storage::fail_fast::{Budgets, FailFast};

    #[test]
    fn the_size_rule_is_ld_relays() {
        let dialer = DynamoDbDialer::new(DynamoDbSettings::default());
        let store = FailFast::new("dynamodb", dialer, Budgets::default());
        let cache = DynamoDbCache::new(store, "table", "ns");
        let check = |value_bytes: usize, fits: bool| {
            let value = Some(Bytes::from(vec![0; value_bytes]));
            let swap = Swap { name: "env:a".to_owned(), expected: None, value };
            assert_eq!(cache.measure(&swap).is_some(), fits, "{value_bytes}");
        };
        // Namespace, row name and value together: 399 884.
        check(399_884 - 2 - 5, true);
        check(399_884 - 2 - 5 + 1, false);
        check(0, true);
    }

    #[test]
    fn rows_of_others_are_skipped() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let with = |item: Option<AttributeValue>| {
            let mut attributes = HashMap::from([(KEY.to_owned(), text("env:a"))]);
            attributes.extend(item.map(|item| (ITEM.to_owned(), item)));
            row(attributes)
        };
        assert_eq!(with(None), None);
        assert_eq!(with(Some(text("{}"))), None);
        assert_eq!(with(Some(binary(b"\0"))).unwrap().value, Bytes::from_static(b"\0"));
    }
}
