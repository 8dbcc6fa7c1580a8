//! The table itself: typed rows in and out, strongly consistent, and its creation for a local stack.

use crate::ahead::{self, MAX_UNPROVEN_ROWS, MAX_UNPROVEN_WHOLE};
use crate::aws::{Client, DynamoDb};
use crate::error::table_error;
use crate::transaction::back_off;
use crate::{Aws, StoreError, now_ms};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, DeleteRequest, KeySchemaElement, KeyType, KeysAndAttributes,
    PutRequest, ScalarAttributeType, TimeToLiveSpecification, WriteRequest,
};
use futures_util::future::{BoxFuture, try_join_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;
use theazo_tenancy::{CredentialKey, Partition, TableKey};

pub(crate) type Item = HashMap<String, AttributeValue>;

/// The attribute that DynamoDB expires rows by: Unix seconds.
pub(crate) const TTL: &str = "ttl";

/// How long audit entries are kept unless configured otherwise, days.
pub const DEFAULT_AUDIT_DAYS: u32 = 400;
/// What time it is for whoever writes rows, Unix milliseconds.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// A clock of one's own, for tests of what depends on time.
    pub fn new(clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }
}

/// The data table.
#[derive(Clone)]
pub struct Table {
    pub(crate) client: Client<DynamoDb>,
    pub(crate) name: String,
    ledger: String,
    credential_key: Option<Arc<CredentialKey>>,
    audit_days: u32,
    pub(crate) log_retention_ms: i64,
    clock: Clock,
}

/// How long a log entry is kept unless the deployment says otherwise, days.
pub const LOG_RETENTION_DAYS: u32 = 30;

fn days_ms(days: u32) -> i64 {
    i64::from(days) * 24 * 60 * 60 * 1000
}

impl Table {
    /// The table of that name, with the ledger `<name>-ledger` beside it.
    pub fn new(aws: &Aws, name: impl Into<String>) -> Self {
        let name = name.into();
        let ledger = format!("{name}-ledger");
        Self {
            client: aws.dynamodb.clone(),
            name,
            ledger,
            credential_key: None,
            audit_days: DEFAULT_AUDIT_DAYS,
            log_retention_ms: days_ms(LOG_RETENTION_DAYS),
            clock: Clock::new(now_ms),
        }
    }

    /// The same table whose audit entries are kept for that many days, instead of [`DEFAULT_AUDIT_DAYS`]. An entry
    /// that was written with another number of days is dropped when that is over, and shown for as long as this says.
    #[must_use]
    pub fn with_audit_days(self, audit_days: u32) -> Self {
        Self { audit_days, ..self }
    }

    /// How long audit entries are kept, milliseconds.
    pub(crate) fn audit_retention_ms(&self) -> i64 {
        i64::from(self.audit_days) * 24 * 60 * 60 * 1000
    }

    /// The same table with another ledger, as after a restore under a new name.
    #[must_use]
    pub fn with_ledger(self, ledger: impl Into<String>) -> Self {
        Self { ledger: ledger.into(), ..self }
    }

    /// The same table with the key that its credentials are sealed with. Without one, none is made or accepted.
    #[must_use]
    pub fn with_credential_key(self, key: Arc<CredentialKey>) -> Self {
        Self { credential_key: Some(key), ..self }
    }

    /// The same table without it, for those who act for nobody.
    #[must_use]
    pub fn without_credential_key(self) -> Self {
        Self { credential_key: None, ..self }
    }

    pub(crate) fn credential_key(&self) -> Result<&CredentialKey, StoreError> {
        self.credential_key.as_deref().ok_or(StoreError::NoCredentialKey)
    }

    /// The name of the ledger's table.
    pub fn ledger_name(&self) -> &str {
        &self.ledger
    }

    /// The same table with log entries kept for that many days.
    #[must_use]
    pub fn with_log_retention(self, days: u32) -> Self {
        Self { log_retention_ms: days_ms(days), ..self }
    }

    /// The same table by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Unix milliseconds now, by the table's clock.
    pub fn now_ms(&self) -> i64 {
        (self.clock.0)()
    }

    /// The ledger's table.
    pub(crate) fn ledger(&self) -> Self {
        Self { name: self.ledger.clone(), ..self.clone() }
    }

    /// Creates the table and its ledger as the deployment template describes them, unless they exist. For local
    /// stacks.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the engine refuses.
    pub async fn ensure_exists(&self) -> Result<(), StoreError> {
        self.ensure_one().await?;
        self.ledger().ensure_one().await
    }

    async fn ensure_one(&self) -> Result<(), StoreError> {
        let key = |name: &str, kind: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        let attribute = |name: &str| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
        };
        let built = (|| {
            Ok::<_, aws_sdk_dynamodb::error::BuildError>(
                self.client
                    .create_table()
                    .table_name(&self.name)
                    .billing_mode(BillingMode::PayPerRequest)
                    .attribute_definitions(attribute("pk")?)
                    .attribute_definitions(attribute("sk")?)
                    .key_schema(key("pk", KeyType::Hash)?)
                    .key_schema(key("sk", KeyType::Range)?),
            )
        })()
        .map_err(|_| StoreError::Corrupt("the table's description"))?;
        match built.send().await {
            Ok(_) => {}
            Err(error) if matches!(error.as_service_error(), Some(CreateTableError::ResourceInUseException(_))) => {
                return Ok(());
            }
            Err(error) => return Err(table_error("CreateTable")(error)),
        }
        let ttl = TimeToLiveSpecification::builder()
            .attribute_name(TTL)
            .enabled(true)
            .build()
            .map_err(|_| StoreError::Corrupt("the table's description"))?;
        self.client
            .update_time_to_live()
            .table_name(&self.name)
            .time_to_live_specification(ttl)
            .send()
            .await
            .map_err(table_error("UpdateTimeToLive"))?;
        Ok(())
    }

    /// Those of these rows that are there, in no particular order. At most 100, a limit of DynamoDB.
    pub(crate) async fn get_many(&self, keys: impl Iterator<Item = TableKey>) -> Result<Vec<Item>, StoreError> {
        let keys = keys.map(|key| {
            Item::from([
                ("pk".to_owned(), AttributeValue::S(key.pk().into())),
                ("sk".to_owned(), AttributeValue::S(key.sk().into())),
            ])
        });
        let keys: Vec<Item> = keys.collect();
        let mut found = Vec::with_capacity(keys.len());
        let mut left = (!keys.is_empty()).then_some(keys);
        for attempt in 0..BATCH_ATTEMPTS {
            let Some(keys) = left else { return Ok(found) };
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let answer = self
                .client
                .batch_get_item()
                .request_items(&self.name, wanted.map_err(|_| StoreError::Corrupt("keys to be read"))?)
                .send()
                .await
                .map_err(table_error("BatchGetItem"))?;
            found.extend(answer.responses.unwrap_or_default().remove(&self.name).unwrap_or_default());
            left = answer.unprocessed_keys.unwrap_or_default().remove(&self.name).map(|rest| rest.keys);
            if left.is_some() {
                back_off(attempt).await;
            }
        }
        Err(StoreError::Contended(BATCH_ATTEMPTS))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, key: &TableKey) -> Result<Option<T>, StoreError> {
        self.get_raw(key).await?.map(from_item).transpose()
    }

    pub(crate) async fn get_raw(&self, key: &TableKey) -> Result<Option<Item>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.name)
            .key("pk", AttributeValue::S(key.pk().into()))
            .key("sk", AttributeValue::S(key.sk().into()))
            .consistent_read(true)
            .send()
            .await
            .map_err(table_error("GetItem"))?;
        Ok(answer.item)
    }

    /// Every row of a partition. For partitions whose size is bounded by a rule of ours.
    pub(crate) async fn query_all(&self, partition: &Partition) -> Result<Vec<Item>, StoreError> {
        self.query_whole(partition, None, None, MAX_UNPROVEN_WHOLE).await
    }

    /// The same where the rows are small: a caller without proof may cause more of them, and waits no further round trip
    /// for the rest.
    pub(crate) async fn query_all_small(&self, partition: &Partition) -> Result<Vec<Item>, StoreError> {
        self.query_whole(partition, None, None, MAX_UNPROVEN_ROWS).await
    }

    /// Every row of a partition whose sort key lies between two, both included. For stretches like those of
    /// [`Table::query_all`].
    pub(crate) async fn query_all_between(
        &self,
        partition: &Partition,
        from: &str,
        to: &str,
    ) -> Result<Vec<Item>, StoreError> {
        self.query_whole(partition, Some((from, to)), None, MAX_UNPROVEN_WHOLE).await
    }

    /// The sort keys of every row of a partition, without the rows. For partitions like those of [`Table::query_all`].
    pub(crate) async fn sort_keys(&self, partition: &Partition) -> Result<Vec<String>, StoreError> {
        let rows = self.query_whole(partition, None, Some("sk"), MAX_UNPROVEN_WHOLE).await?;
        Ok(rows.iter().filter_map(|row| Some(row.get("sk")?.as_s().ok()?.clone())).collect())
    }

    /// Page after page. The one that a caller without proof may cause is short.
    async fn query_whole(
        &self,
        partition: &Partition,
        between: Option<(&str, &str)>,
        only: Option<&str>,
        unproven: usize,
    ) -> Result<Vec<Item>, StoreError> {
        let unproven = i32::try_from(unproven).unwrap_or(i32::MAX);
        let (condition, ends) = match between {
            None => ("pk = :pk", Vec::new()),
            Some((from, to)) => ("pk = :pk AND sk BETWEEN :from AND :to", vec![(":from", from), (":to", to)]),
        };
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let turn = ahead::turn().await;
            let mut request = self
                .client
                .query()
                .table_name(&self.name)
                .key_condition_expression(condition)
                .expression_attribute_values(":pk", AttributeValue::S(partition.pk().into()))
                .set_projection_expression(only.map(str::to_owned))
                .consistent_read(true)
                .set_limit(turn.is_unproven().then_some(unproven))
                .set_exclusive_start_key(start);
            for (name, end) in &ends {
                request = request.expression_attribute_values(*name, AttributeValue::S((*end).to_owned()));
            }
            let answer = turn.spend(Box::pin(request.send())).await.map_err(table_error("Query"))?;
            items.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    pub(crate) async fn delete(&self, key: &TableKey) -> Result<(), StoreError> {
        self.client
            .delete_item()
            .table_name(&self.name)
            .key("pk", AttributeValue::S(key.pk().into()))
            .key("sk", AttributeValue::S(key.sk().into()))
            .send()
            .await
            .map_err(table_error("DeleteItem"))?;
        Ok(())
    }
}

/// Rows that DynamoDB deletes in one request at most.
const MAX_BATCH: usize = 25;
const BATCH_ATTEMPTS: u32 = 12;

impl Table {
    /// Deletes rows, in no particular order and not all at once. Rows that are not there do not matter.
    ///
    /// The keys are taken before anything is waited for: an iterator that lived on in the future would keep callers that
    /// make it of a closure from being sent between threads (<https://github.com/rust-lang/rust/issues/102211>).
    pub(crate) fn delete_all(&self, keys: impl Iterator<Item = TableKey>) -> BoxFuture<'_, Result<(), StoreError>> {
        let requests = keys.map(|key| {
            let delete = DeleteRequest::builder()
                .key("pk", AttributeValue::S(key.pk().into()))
                .key("sk", AttributeValue::S(key.sk().into()))
                .build();
            delete.map(|delete| WriteRequest::builder().delete_request(delete).build())
        });
        let requests: Result<Vec<_>, _> = requests.collect();
        Box::pin(async move { self.write_all(requests.map_err(|_| StoreError::Corrupt("a deletion"))?).await })
    }

    /// Puts rows, likewise, whatever was there before.
    pub(crate) async fn put_all(&self, items: impl Iterator<Item = Item>) -> Result<(), StoreError> {
        let requests = items.map(|item| {
            let put = PutRequest::builder().set_item(Some(item)).build();
            put.map(|put| WriteRequest::builder().put_request(put).build())
        });
        self.write_all(requests.collect::<Result<_, _>>().map_err(|_| StoreError::Corrupt("a row to be written"))?)
            .await
    }

    async fn write_all(&self, requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        try_join_all(requests.chunks(MAX_BATCH).map(|batch| self.write_batch(batch.to_vec()))).await.map(|_| ())
    }

    async fn write_batch(&self, mut left: Vec<WriteRequest>) -> Result<(), StoreError> {
        for attempt in 0..BATCH_ATTEMPTS {
            let answer = self
                .client
                .batch_write_item()
                .request_items(&self.name, left)
                .send()
                .await
                .map_err(table_error("BatchWriteItem"))?;
            // What the table had no capacity for right now comes back to be sent again.
            left = answer.unprocessed_items.unwrap_or_default().remove(&self.name).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            back_off(attempt).await;
        }
        Err(StoreError::Contended(BATCH_ATTEMPTS))
    }
}

/// A typed row as an item under its key.
pub(crate) fn to_item<T: Serialize>(key: &TableKey, row: &T) -> Result<Item, StoreError> {
    let mut item: Item = serde_dynamo::to_item(row).map_err(|_| StoreError::Corrupt("a row to be written"))?;
    item.insert("pk".into(), AttributeValue::S(key.pk().into()));
    item.insert("sk".into(), AttributeValue::S(key.sk().into()));
    Ok(item)
}

/// An item as a typed row; its key attributes are ignored.
pub(crate) fn from_item<T: DeserializeOwned>(item: Item) -> Result<T, StoreError> {
    serde_dynamo::from_item(item).map_err(|_| StoreError::Corrupt("a row that was read"))
}

pub(crate) fn number(value: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(value.into().to_string())
}

/// A TTL attribute: Unix seconds, never earlier than the millisecond given.
pub(crate) fn ttl_seconds(at_ms: i64) -> i64 {
    at_ms.div_euclid(1000) + 1
}
