//! Pages of a partition, newest first.

use crate::ahead;
use crate::error::table_error;
use crate::table::{Item, from_item};
use crate::{StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use theazo_tenancy::Partition;

/// Queries one page may cost; a sparse filter over a large partition then ends early with a cursor to go on from.
const MAX_QUERIES: usize = 8;
/// Rows that one query with a filter goes through.
const MAX_FILTERED_ROWS: usize = 500;

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
    pub(crate) fn compare(self, attribute: &str, operator: &str, value: AttributeValue) -> Self {
        self.term(attribute, value, |name, value| format!("{name} {operator} {value}"))
    }

    /// Of a list: that the value is in it.
    pub(crate) fn contains(self, attribute: &str, value: AttributeValue) -> Self {
        self.term(attribute, value, |name, value| format!("contains({name}, {value})"))
    }

    fn term(mut self, attribute: &str, value: AttributeValue, write: impl Fn(&str, &str) -> String) -> Self {
        let index = self.terms.len();
        let (name, placeholder) = (format!("#f{index}"), format!(":f{index}"));
        self.terms.push(write(&name, &placeholder));
        self.names.insert(name, attribute.into());
        self.values.insert(placeholder, value);
        self
    }
}

/// The part of a partition that a query goes through, newest first.
#[derive(Clone, Copy, Default)]
pub(crate) struct Span<'a> {
    /// Only what sorts before this.
    pub(crate) before: Option<&'a str>,
    /// Nothing that sorts before this. Not after `before`, or the table refuses.
    pub(crate) from: Option<&'a str>,
}

/// What one query gave.
pub(crate) struct Stretch {
    pub(crate) rows: Vec<Item>,
    /// The sort key to go on from, if the partition may hold more.
    pub(crate) last: Option<String>,
    /// Rows that the query went through, those that a filter dropped with them.
    pub(crate) scanned: usize,
}

impl Table {
    /// One query for at most `wanted` rows, or with a filter for what it lets through of a stretch.
    pub(crate) async fn query_back(
        &self,
        partition: &Partition,
        span: Span<'_>,
        wanted: usize,
        filter: &RowFilter,
    ) -> Result<Stretch, StoreError> {
        // With a filter, rows are dropped after they were counted against the limit: read more of them at once.
        let limit = match (filter.terms.is_empty(), ahead::is_unproven()) {
            (true, false) => wanted,
            (true, true) => wanted.min(ahead::MAX_UNPROVEN_ROWS),
            (false, true) => ahead::MAX_UNPROVEN_ROWS,
            (false, false) => wanted.max(MAX_FILTERED_ROWS),
        };
        let mut values = filter.values.clone();
        values.insert(":pk".into(), AttributeValue::S(partition.pk().into()));
        if let Some(from) = span.from {
            values.insert(":from".into(), AttributeValue::S(from.into()));
        }
        let condition = if span.from.is_some() { "pk = :pk AND sk >= :from" } else { "pk = :pk" };
        let answer = self
            .client
            .query()
            .table_name(&self.name)
            .key_condition_expression(condition)
            .set_filter_expression((!filter.terms.is_empty()).then(|| filter.terms.join(" AND ")))
            .set_expression_attribute_names((!filter.names.is_empty()).then(|| filter.names.clone()))
            .set_expression_attribute_values(Some(values))
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(span.before.map(|before| start_key(partition, before)))
            .send()
            .await
            .map_err(table_error("Query"))?;
        let last = answer.last_evaluated_key.as_ref().and_then(sort_key);
        let scanned = usize::try_from(answer.scanned_count).unwrap_or(0);
        Ok(Stretch { rows: answer.items.unwrap_or_default(), last, scanned })
    }

    pub(crate) async fn page<T: DeserializeOwned>(
        &self,
        partition: &Partition,
        request: &PageRequest,
        filter: RowFilter,
    ) -> Result<Page<T>, StoreError> {
        let wanted = request.limit + 1;
        let mut found: Vec<Item> = Vec::new();
        let mut before = request.after.as_ref().map(|after| after.0.clone());
        for _ in 0..MAX_QUERIES {
            let span = Span { before: before.as_deref(), from: None };
            let stretch = self.query_back(partition, span, wanted - found.len(), &filter).await?;
            found.extend(stretch.rows);
            before = stretch.last;
            if found.len() >= wanted || before.is_none() {
                break;
            }
        }
        let next = if found.len() >= wanted {
            found.truncate(request.limit);
            found.last().and_then(sort_key)
        } else {
            before
        };
        let rows = found.into_iter().map(from_item).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: next.map(Position) })
    }
}

impl Table {
    /// One query for at most `most` rows from one sort key to another, both included, oldest first.
    pub(crate) async fn query_between(
        &self,
        partition: &Partition,
        (from, to): (&str, &str),
        most: usize,
        filter: &RowFilter,
    ) -> Result<Stretch, StoreError> {
        let mut values = filter.values.clone();
        for (name, value) in [(":pk", partition.pk()), (":from", from), (":to", to)] {
            values.insert(name.into(), AttributeValue::S(value.into()));
        }
        let answer = self
            .client
            .query()
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .set_filter_expression((!filter.terms.is_empty()).then(|| filter.terms.join(" AND ")))
            .set_expression_attribute_names((!filter.names.is_empty()).then(|| filter.names.clone()))
            .set_expression_attribute_values(Some(values))
            .consistent_read(true)
            .limit(i32::try_from(most).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(table_error("Query"))?;
        let last = answer.last_evaluated_key.as_ref().and_then(sort_key);
        let scanned = usize::try_from(answer.scanned_count).unwrap_or(0);
        Ok(Stretch { rows: answer.items.unwrap_or_default(), last, scanned })
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
