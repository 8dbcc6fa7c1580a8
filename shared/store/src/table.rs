//! The table itself: typed rows in and out, strongly consistent, and its creation for a local stack.

use crate::error::table_error;
use crate::{Aws, StoreError};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveSpecification,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use theazo_tenancy::{Partition, TableKey};

pub(crate) type Item = HashMap<String, AttributeValue>;

/// The attribute that DynamoDB expires rows by: Unix seconds.
pub(crate) const TTL: &str = "ttl";

/// The data table.
#[derive(Clone)]
pub struct Table {
    pub(crate) client: aws_sdk_dynamodb::Client,
    pub(crate) name: String,
}

impl Table {
    /// The table of that name.
    pub fn new(aws: &Aws, name: impl Into<String>) -> Self {
        Self { client: aws.dynamodb.clone(), name: name.into() }
    }

    /// Creates the table as the deployment template describes it, unless it exists. For local stacks.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the engine refuses.
    pub async fn ensure_exists(&self) -> Result<(), StoreError> {
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
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let answer = self
                .client
                .query()
                .table_name(&self.name)
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", AttributeValue::S(partition.pk().into()))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(table_error("Query"))?;
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
