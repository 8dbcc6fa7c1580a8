//! Transactions: several conditional writes that all happen or none, retried while others are in the way.

use crate::error::code_of;
use crate::table::{Item, to_item};
use crate::{StoreError, Table};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, ConditionCheck, Delete, Put, TransactWriteItem, Update};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;
use theazo_tenancy::TableKey;

/// Most writes in one transaction, a limit of DynamoDB.
pub(crate) const MAX_WRITES: usize = 100;

const CONFLICT_ATTEMPTS: u32 = 12;

/// A condition or update with the names and values it speaks of.
#[derive(Clone, Default)]
pub(crate) struct Expression {
    text: String,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Expression {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(crate) fn text(self, text: &str) -> Self {
        Self { text: text.into(), ..self }
    }

    pub(crate) fn name(mut self, placeholder: &str, name: &str) -> Self {
        self.names.insert(placeholder.into(), name.into());
        self
    }

    pub(crate) fn value(mut self, placeholder: &str, value: AttributeValue) -> Self {
        self.values.insert(placeholder.into(), value);
        self
    }

    /// The text, the names and the values that it speaks of.
    pub(crate) fn into_parts(self) -> (String, HashMap<String, String>, HashMap<String, AttributeValue>) {
        (self.text, self.names, self.values)
    }
}

/// What became of a transaction that was not refused for a reason of the service's.
#[must_use]
pub(crate) enum Committed {
    /// All writes happened.
    Yes,
    /// None did, because the condition of the write with this index did not hold. The row as it was, where it exists.
    Refused { write: usize, row: Option<Item> },
}

/// Conditional writes that happen together. Indices follow the order in which writes were added.
#[derive(Clone, Default)]
pub(crate) struct Transaction(Vec<TransactWriteItem>);

fn key_item(key: &TableKey) -> Item {
    HashMap::from([
        ("pk".to_owned(), AttributeValue::S(key.pk().into())),
        ("sk".to_owned(), AttributeValue::S(key.sk().into())),
    ])
}

fn some<K, V>(map: HashMap<K, V>) -> Option<HashMap<K, V>> {
    (!map.is_empty()).then_some(map)
}

impl Transaction {
    /// Puts a typed row; `condition` empty for none.
    pub(crate) fn put<T: Serialize>(
        self,
        table: &Table,
        key: &TableKey,
        row: &T,
        condition: Expression,
    ) -> Result<Self, StoreError> {
        let item = to_item(key, row)?;
        Ok(self.put_item(table, item, condition))
    }

    pub(crate) fn put_item(mut self, table: &Table, item: Item, condition: Expression) -> Self {
        let put = Put::builder()
            .table_name(&table.name)
            .set_item(Some(item))
            .set_condition_expression((!condition.text.is_empty()).then_some(condition.text))
            .set_expression_attribute_names(some(condition.names))
            .set_expression_attribute_values(some(condition.values))
            .return_values_on_condition_check_failure("ALL_OLD".into())
            .build()
            .expect("table name and item are set");
        self.0.push(TransactWriteItem::builder().put(put).build());
        self
    }

    /// Puts a row that must not exist yet.
    pub(crate) fn put_new<T: Serialize>(self, table: &Table, key: &TableKey, row: &T) -> Result<Self, StoreError> {
        self.put(table, key, row, Expression::new("attribute_not_exists(pk)"))
    }

    pub(crate) fn update(mut self, table: &Table, key: &TableKey, update: Expression, condition: &str) -> Self {
        let update = Update::builder()
            .table_name(&table.name)
            .set_key(Some(key_item(key)))
            .update_expression(update.text)
            .set_condition_expression((!condition.is_empty()).then(|| condition.to_owned()))
            .set_expression_attribute_names(some(update.names))
            .set_expression_attribute_values(some(update.values))
            .return_values_on_condition_check_failure("ALL_OLD".into())
            .build()
            .expect("table name, key and update are set");
        self.0.push(TransactWriteItem::builder().update(update).build());
        self
    }

    pub(crate) fn delete(mut self, table: &Table, key: &TableKey, condition: Expression) -> Self {
        let delete = Delete::builder()
            .table_name(&table.name)
            .set_key(Some(key_item(key)))
            .set_condition_expression((!condition.text.is_empty()).then_some(condition.text))
            .set_expression_attribute_names(some(condition.names))
            .set_expression_attribute_values(some(condition.values))
            .return_values_on_condition_check_failure("ALL_OLD".into())
            .build()
            .expect("table name and key are set");
        self.0.push(TransactWriteItem::builder().delete(delete).build());
        self
    }

    pub(crate) fn check(mut self, table: &Table, key: &TableKey, condition: Expression) -> Self {
        let check = ConditionCheck::builder()
            .table_name(&table.name)
            .set_key(Some(key_item(key)))
            .condition_expression(condition.text)
            .set_expression_attribute_names(some(condition.names))
            .set_expression_attribute_values(some(condition.values))
            .return_values_on_condition_check_failure("ALL_OLD".into())
            .build()
            .expect("table name, key and condition are set");
        self.0.push(TransactWriteItem::builder().condition_check(check).build());
        self
    }

    /// These writes and then those of another.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// How many writes it has: the index of the next.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Carries the transaction out. Conflicts with other transactions are retried with jitter. The SDK repeats a
    /// request whose answer was lost under the same token, so it never writes twice.
    pub(crate) async fn commit(self, table: &Table) -> Result<Committed, StoreError> {
        debug_assert!(self.0.len() <= MAX_WRITES);
        for attempt in 0..CONFLICT_ATTEMPTS {
            // A fresh token each time: a token remembers the outcome of its first use, a refusal included.
            let token = hex::encode(theazo_tenancy::make_random_bytes::<16>());
            let answer = table
                .client
                .transact_write_items()
                .set_transact_items(Some(self.0.clone()))
                .client_request_token(token)
                .send()
                .await;
            let error = match answer {
                Ok(_) => return Ok(Committed::Yes),
                Err(error) => error,
            };
            match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                    let reasons = canceled.cancellation_reasons();
                    let refused = reasons.iter().position(|reason| reason.code() == Some("ConditionalCheckFailed"));
                    if let Some(write) = refused {
                        let row = reasons.get(write).and_then(|reason| reason.item.clone());
                        return Ok(Committed::Refused { write, row: row.filter(|row| !row.is_empty()) });
                    }
                    let passing = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];
                    let Some(reason) = reasons.iter().filter_map(|reason| reason.code()).find(|code| *code != "None")
                    else {
                        return Err(StoreError::Table { operation: "TransactWriteItems", code: "canceled".into() });
                    };
                    if !passing.contains(&reason) {
                        return Err(StoreError::Table { operation: "TransactWriteItems", code: reason.into() });
                    }
                }
                Some(TransactWriteItemsError::TransactionInProgressException(_)) => {}
                _ => return Err(StoreError::Table { operation: "TransactWriteItems", code: code_of(&error) }),
            }
            back_off(attempt).await;
        }
        Err(StoreError::Contended(CONFLICT_ATTEMPTS))
    }
}

/// Waits a random part of a span that doubles with each attempt, at most half a second.
pub(crate) async fn back_off(attempt: u32) {
    let span_us = (4_000_u64 << attempt.min(7)).min(500_000);
    let [a, b, c, d] = theazo_tenancy::make_random_bytes();
    let wait = u64::from(u32::from_be_bytes([a, b, c, d])) * span_us / u64::from(u32::MAX);
    tokio::time::sleep(Duration::from_micros(wait)).await;
}
