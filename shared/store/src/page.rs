//! Pages of a partition, newest first.

use crate::error::table_error;
use crate::table::{Item, from_item};
use crate::{StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use theazo_tenancy::Partition;

/// Queries one page may cost; a sparse filter over a large partition then ends early with a cursor to go on from.
const MAX_QUERIES: usize = 8;

/// Where a page ended: the sort key of its last row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub String);

/// Which page is wanted.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// Rows at most, 1 to 100.
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Position>,
}

/// A page of rows.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where to go on, if there may be more.
    pub next: Option<Position>,
}

/// A filter in the table's own language, over attributes of the rows.
#[derive(Clone, Default)]
pub(crate) struct RowFilter {
    terms: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl RowFilter {
    pub(crate) fn compare(mut self, attribute: &str, operator: &str, value: AttributeValue) -> Self {
        let index = self.terms.len();
        self.terms.push(format!("#f{index} {operator} :f{index}"));
        self.names.insert(format!("#f{index}"), attribute.into());
        self.values.insert(format!(":f{index}"), value);
        self
    }
}

impl Table {
    pub(crate) async fn page<T: DeserializeOwned>(
        &self,
        partition: &Partition,
        request: &PageRequest,
        filter: RowFilter,
    ) -> Result<Page<T>, StoreError> {
        let wanted = request.limit + 1;
        let mut found: Vec<Item> = Vec::new();
        let mut start = request.after.as_ref().map(|after| start_key(partition, &after.0));
        for _ in 0..MAX_QUERIES {
            // With a filter, rows are dropped after they were counted against the limit: read more of them at once.
            let limit = if filter.terms.is_empty() { wanted - found.len() } else { 500 };
            let mut values = filter.values.clone();
            values.insert(":pk".into(), AttributeValue::S(partition.pk().into()));
            let answer = self
                .client
                .query()
                .table_name(&self.name)
                .key_condition_expression("pk = :pk")
                .set_filter_expression((!filter.terms.is_empty()).then(|| filter.terms.join(" AND ")))
                .set_expression_attribute_names((!filter.names.is_empty()).then(|| filter.names.clone()))
                .set_expression_attribute_values(Some(values))
                .consistent_read(true)
                .scan_index_forward(false)
                .limit(i32::try_from(limit).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(table_error("Query"))?;
            found.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if found.len() >= wanted || start.is_none() {
                break;
            }
        }
        let next = if found.len() >= wanted {
            found.truncate(request.limit);
            found.last().and_then(sort_key)
        } else {
            start.as_ref().and_then(sort_key)
        };
        let rows = found.into_iter().map(from_item).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: next.map(Position) })
    }
}

fn start_key(partition: &Partition, sk: &str) -> Item {
    HashMap::from([
        ("pk".to_owned(), AttributeValue::S(partition.pk().into())),
        ("sk".to_owned(), AttributeValue::S(sk.into())),
    ])
}

fn sort_key(item: &Item) -> Option<String> {
    item.get("sk").and_then(|value| value.as_s().ok()).cloned()
}
