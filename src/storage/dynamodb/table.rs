//! Rows in a DynamoDB table with the partition key `namespace` and the sort key `key`.
//!
//! | | `namespace` | `key` | content |
//! | --- | --- | --- | --- |
//! | row of a name space, as text | the name space | its key | `item` (S), `version` (N) |
//! | row of a name space, as bytes | the name space | its key | `item` (B) |
//! | row outside of name spaces | its name | its name | `pilotlight` (S) |
//!
//! Each row is written by its own request, under the condition that each attribute is as it was
//! read. Transactions of many rows would cost twice the capacity, and one row that another relay
//! has written cancels them. So no set is created atomically, and the guard is not checked. The
//! order of writes is kept roughly: no row is written more than `IN_FLIGHT` places early.
//!
//! Futures of the SDK are large, so each is boxed at the beginning of a call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use tokio::time::Instant;

use super::{DynamoDbStore, as_part_of_bulk, classify, last_attempt_at, patiently};
use crate::storage::join::join_bounded;
use crate::storage::table::{
    Contents, Created, Limits, Load, NewSet, Row, RowName, Signs, Table, Value, Write, Written,
    batches, get_one, read_between_markers, taken,
};
use crate::storage::{Meter, StoreError};

/// Concurrent requests. At 5 ms each these are 3 000 rows a second, about the capacity of a new
/// on-demand table; a server on the same machine is not faster with more.
const IN_FLIGHT: usize = 16;

/// Rows of one call: few enough to be repeated several times within its budget.
const BATCH: Limits = Limits { count: 128, bytes: 4 * 1024 * 1024 };

/// The size of an item by ld-relay's rule: 100 bytes plus the lengths of all attribute names and
/// values. The service's own limit is a little higher.
const ITEM_BYTES_MAX: usize = 400_000;
const ITEM_OVERHEAD_BYTES: usize = 100;

/// The longest sort key that the service accepts. It does not accept an empty one either.
const KEY_BYTES_MAX: usize = 1024;

const NAMESPACE: &str = "namespace";
const KEY: &str = "key";
const VERSION: &str = "version";
const ITEM: &str = "item";
/// The content of a row outside of name spaces. Other programs write such a row without it.
const ALONE: &str = "pilotlight";

type Attributes = HashMap<String, AttributeValue>;

/// The form of rows in name spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text, with a version. A row that lacks either is read without it.
    Text,
    /// Bytes. A row without bytes belongs to another program and is treated as absent.
    Binary,
}

/// The rows of one DynamoDB table.
#[derive(Debug)]
pub struct DynamoDbTable {
    store: DynamoDbStore,
    table: String,
    form: Form,
}

impl DynamoDbTable {
    /// The rows of `table`.
    pub fn new(store: DynamoDbStore, table: impl Into<String>, form: Form) -> Self {
        Self { store, table: table.into(), form }
    }

    /// The form of a row. A row outside of name spaces is always text.
    fn form_of(&self, name: &RowName) -> Form {
        if name.key.is_some() { self.form } else { Form::Text }
    }

    fn item(&self, name: &RowName, value: &Value) -> Attributes {
        let content = match self.form_of(name) {
            // Accepted JSON is text, so nothing is lost here.
            Form::Text => text(&String::from_utf8_lossy(&value.bytes)),
            Form::Binary => binary(&value.bytes),
        };
        let mut item = primary_key(name);
        item.insert(content_attribute(name).to_owned(), content);
        let version = value.version.as_deref().filter(|_| self.form_of(name) == Form::Text);
        item.extend(version.map(|version| (VERSION.to_owned(), number(version))));
        item
    }

    /// The row with these attributes, if it is one.
    fn row(&self, name: RowName, mut attributes: Attributes) -> Option<Row> {
        let content = attributes.remove(content_attribute(&name));
        let version = match attributes.remove(VERSION) {
            Some(AttributeValue::N(number)) if name.key.is_some() => Some(number.into()),
            Some(_) | None => None,
        };
        let value = match (self.form_of(&name), content) {
            (Form::Binary, Some(AttributeValue::B(bytes))) => {
                Bytes::from(bytes.into_inner()).into()
            }
            (Form::Binary, Some(_) | None) => return None,
            (Form::Text, Some(AttributeValue::S(text))) => Value { bytes: text.into(), version },
            (Form::Text, Some(_) | None) => Value { bytes: Bytes::new(), version },
        };
        Some(Row { name, value, revision: 0 })
    }

    async fn get_one(
        &self,
        client: &Client,
        name: &RowName,
        deadline: Instant,
    ) -> Result<Option<Row>, StoreError> {
        let request = client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.set_key(Some(primary_key(name)));
        let ask = async || request.clone().send().await.map_err(classify);
        let output = patiently(deadline, ask).await?;
        Ok(output.item.and_then(|attributes| self.row(name.clone(), attributes)))
    }

    /// All rows of a name space, page by page.
    async fn read_space(&self, space: &Arc<str>) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut from = None;
        loop {
            let start = from.take();
            let ask = self.store.metered(async |client, meter| {
                let deadline = last_attempt_at(self.store.budgets().bulk);
                patiently(deadline, || self.page(&client, &meter, space, start.clone())).await
            });
            let (mut page, next) = Box::pin(ask).await?;
            rows.append(&mut page);
            match next {
                Some(_) => from = next,
                None => return Ok(rows),
            }
        }
    }

    /// One page, and the start of the next one.
    async fn page(
        &self,
        client: &Client,
        meter: &Meter,
        space: &Arc<str>,
        from: Option<Attributes>,
    ) -> Result<(Vec<Row>, Option<Attributes>), StoreError> {
        let query = client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#namespace = :namespace")
            .expression_attribute_names("#namespace", NAMESPACE)
            .expression_attribute_values(":namespace", text(space))
            .set_exclusive_start_key(from);
        let asked = as_part_of_bulk(query.customize(), meter.clone()).send().await;
        let output = asked.map_err(classify)?;
        let row = |attributes: Attributes| {
            let Some(AttributeValue::S(key)) = attributes.get(KEY) else { return None };
            self.row(RowName::new(space, &**key), attributes)
        };
        let rows = output.items.unwrap_or_default().into_iter().filter_map(row).collect();
        Ok((rows, output.last_evaluated_key.filter(|key| !key.is_empty())))
    }

    /// The condition of a write, with exactly the names and values that it uses.
    fn condition(&self, write: &Write) -> Condition {
        let content = content_attribute(&write.name);
        let form = self.form_of(&write.name);
        let mut condition = Condition::default();
        let Some(Row { value, .. }) = &write.expected else {
            let absent = if form == Form::Binary { content } else { KEY };
            condition.add("attribute_not_exists(#absent)", &[("#absent", absent)], []);
            return condition;
        };
        let names = [("#content", content)];
        match form {
            Form::Binary => {
                condition.add("#content = :content", &names, [(":content", binary(&value.bytes))]);
                return condition;
            }
            Form::Text if value.bytes.is_empty() => condition.add(
                "attribute_exists(#key) AND \
                 (NOT attribute_type(#content, :string) OR #content = :empty)",
                &[names[0], ("#key", KEY)],
                [(":string", text("S")), (":empty", text(""))],
            ),
            Form::Text => {
                let content = text(&String::from_utf8_lossy(&value.bytes));
                condition.add("#content = :content", &names, [(":content", content)]);
            }
        }
        if write.name.key.is_none() {
            return condition;
        }
        let names = [("#version", VERSION)];
        match &value.version {
            Some(version) => {
                condition.add("#version = :version", &names, [(":version", number(version))]);
            }
            None => {
                let is_no_number = "NOT attribute_type(#version, :number)";
                condition.add(is_no_number, &names, [(":number", text("N"))]);
            }
        }
        condition
    }

    async fn write_one(
        &self,
        client: &Client,
        write: &Write,
        deadline: Instant,
    ) -> Result<Written, StoreError> {
        let Condition { text, names, values } = self.condition(write);
        let values = Some(values).filter(|values| !values.is_empty());
        let put = client
            .put_item()
            .table_name(&self.table)
            .set_item(write.value.as_ref().map(|value| self.item(&write.name, value)))
            .condition_expression(&text)
            .set_expression_attribute_names(Some(names.clone()))
            .set_expression_attribute_values(values.clone());
        let delete = client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(primary_key(&write.name)))
            .condition_expression(&text)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(values);
        let request = async || {
            let (code, error) = if write.value.is_some() {
                let Err(error) = put.clone().send().await else { return Ok(Written::Applied) };
                (error.code().map(str::to_owned), classify(error))
            } else {
                let Err(error) = delete.clone().send().await else { return Ok(Written::Applied) };
                (error.code().map(str::to_owned), classify(error))
            };
            match code.as_deref() {
                Some("ConditionalCheckFailedException") => Ok(Written::Conflict),
                Some(_) | None => Err(error),
            }
        };
        patiently(deadline, request).await
    }

    /// Runs `work` for each of a few entries, within the budget of one call.
    async fn with_each<'a, E, T, F, Fut>(
        &self,
        load: Load,
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
        let budgets = self.store.budgets();
        let budget = if load == Load::Small { budgets.call } else { budgets.bulk };
        let all = async move |client: Client| {
            let deadline = last_attempt_at(budget);
            // After a failure, requests that have not begun are not sent: the service is
            // unavailable.
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
        };
        Box::pin(load.run(&self.store, all)).await
    }
}

impl Table for DynamoDbTable {
    const KEEPS_VERSIONS: bool = true;
    const READS_ONE_BY_ONE: bool = true;

    fn takes(&self, name: &RowName, value: &Value) -> bool {
        let key = name.key.as_ref().unwrap_or(&name.space);
        let mut bytes = ITEM_OVERHEAD_BYTES + NAMESPACE.len() + KEY.len();
        bytes += name.space.len() + key.len() + content_attribute(name).len() + value.bytes.len();
        bytes += value.version.as_ref().map_or(0, |version| VERSION.len() + version.len());
        (1..=KEY_BYTES_MAX).contains(&key.len()) && bytes <= ITEM_BYTES_MAX
    }

    async fn read(
        &self,
        spaces: &[Arc<str>],
        marker: Option<&RowName>,
    ) -> Result<Contents, StoreError> {
        let reads = spaces.iter().map(|space| self.read_space(space)).collect();
        read_between_markers(self, marker, reads).await
    }

    async fn get(&self, names: &[RowName], bytes: usize) -> Result<Vec<Option<Row>>, StoreError> {
        let mut rows = Vec::with_capacity(names.len());
        let load = Load::of(names.len(), bytes);
        for batch in names.chunks(BATCH.count) {
            let get = async |client: Client, name: &RowName, deadline| {
                self.get_one(&client, name, deadline).await
            };
            rows.append(&mut self.with_each(load, batch.iter().collect(), get).await?);
        }
        Ok(rows)
    }

    async fn write(
        &self,
        writes: &[Write],
        _guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        let mut outcomes = vec![Written::TooLarge; writes.len()];
        let sizes = taken(self, writes).map(|(place, write)| (place, write.content_bytes()));
        for places in batches(sizes, BATCH) {
            let batch: Vec<&Write> = places.iter().map(|place| &writes[*place]).collect();
            let bytes = batch.iter().map(|write| write.content_bytes()).sum();
            let write = async |client: Client, write: &Write, deadline| {
                self.write_one(&client, write, deadline).await
            };
            let done = self.with_each(Load::of(batch.len(), bytes), batch, write).await?;
            for (place, outcome) in places.into_iter().zip(done) {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn create(&self, _set: &NewSet<'_>) -> Result<Created, StoreError> {
        Ok(Created::Impossible)
    }

    async fn signs(&self, _spaces: &[Arc<str>], marker: &RowName) -> Result<Signs, StoreError> {
        let marker = get_one(self, Some(marker)).await?;
        Ok(Signs { marker, counts: None, server: None })
    }
}

/// A condition expression of parts that must all hold.
#[derive(Debug, Default)]
struct Condition {
    text: String,
    names: HashMap<String, String>,
    values: Attributes,
}

impl Condition {
    fn add<const N: usize>(
        &mut self,
        text: &str,
        names: &[(&str, &str)],
        values: [(&str, AttributeValue); N],
    ) {
        if !self.text.is_empty() {
            self.text.push_str(" AND ");
        }
        self.text.push_str(text);
        self.names.extend(names.iter().map(|(sign, name)| ((*sign).into(), (*name).into())));
        self.values.extend(values.into_iter().map(|(sign, value)| (sign.to_owned(), value)));
    }
}

/// All outcomes, or the first error other than `CoolingDown`, which marks requests that were not
/// sent.
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

fn content_attribute(name: &RowName) -> &'static str {
    if name.key.is_some() { ITEM } else { ALONE }
}

fn primary_key(name: &RowName) -> Attributes {
    HashMap::from([
        (NAMESPACE.to_owned(), text(&name.space)),
        (KEY.to_owned(), text(name.key.as_ref().unwrap_or(&name.space))),
    ])
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: &str) -> AttributeValue {
    AttributeValue::N(number.to_owned())
}

fn binary(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
