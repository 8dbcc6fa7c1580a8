//! Whether a deployment's tables are as the template makes them: what the operator's `doctor` looks at.

use crate::error::table_error;
use crate::table::TTL;
use crate::{StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TableStatus, TimeToLiveStatus};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};
use std::sync::{Arc, Mutex};

/// What is known of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHealth {
    /// Its name.
    pub name: String,
    /// Whether it can be used now.
    pub active: bool,
    /// Whether rows expire by the attribute that we write.
    pub expires: bool,
    /// Whether it is kept from being deleted by mistake.
    pub protected: bool,
    /// Whether it can be put back to an earlier moment; nothing where the service does not know of that.
    pub recoverable: Option<bool>,
    /// How far this machine's clock is ahead of the service's, milliseconds, by the whole second; nothing where it does
    /// not tell the time.
    pub ahead_ms: Option<i64>,
}

/// Reads the time from an answer.
#[derive(Clone, Debug, Default)]
struct Dated(Arc<Mutex<Option<i64>>>);

impl Intercept for Dated {
    fn name(&self) -> &'static str {
        "Dated"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let at = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok()?.to_millis().ok());
        if let Ok(mut noted) = self.0.lock() {
            *noted = at;
        }
        Ok(())
    }
}

impl Table {
    /// Looks at the data table and at the ledger beside it.
    ///
    /// # Errors
    /// [`StoreError::Table`] when one of them is not there or the service does not answer.
    pub async fn examine(&self) -> Result<[TableHealth; 2], StoreError> {
        Ok([self.examine_one().await?, self.ledger().examine_one().await?])
    }

    async fn examine_one(&self) -> Result<TableHealth, StoreError> {
        let dated = Dated::default();
        let asked = self.client.describe_table().table_name(&self.name).customize().interceptor(dated.clone());
        let described = asked.send().await.map_err(table_error("DescribeTable"))?.table;
        let now = now_ms();
        let served = dated.0.lock().ok().and_then(|at| *at);
        let expiry = self.client.describe_time_to_live().table_name(&self.name).send().await;
        let expiry = expiry.map_err(table_error("DescribeTimeToLive"))?.time_to_live_description;
        let backups = self.client.describe_continuous_backups().table_name(&self.name).send().await;
        let recoverable = match backups.map_err(table_error("DescribeContinuousBackups")) {
            Ok(answer) => Some(
                answer
                    .continuous_backups_description
                    .and_then(|backups| backups.point_in_time_recovery_description)
                    .and_then(|recovery| recovery.point_in_time_recovery_status)
                    == Some(PointInTimeRecoveryStatus::Enabled),
            ),
            // The embedded table has none.
            Err(StoreError::Table { code, .. }) if code == "UnknownOperationException" => None,
            Err(error) => return Err(error),
        };
        Ok(TableHealth {
            name: self.name.clone(),
            active: described.as_ref().is_some_and(|table| table.table_status == Some(TableStatus::Active)),
            expires: expiry.is_some_and(|expiry| {
                expiry.time_to_live_status == Some(TimeToLiveStatus::Enabled)
                    && expiry.attribute_name.as_deref() == Some(TTL)
            }),
            protected: described.and_then(|table| table.deletion_protection_enabled) == Some(true),
            recoverable,
            ahead_ms: served.map(|served| ahead(now, served)),
        })
    }
}

/// How far this machine's clock is ahead of one that tells whole seconds, milliseconds.
fn ahead(now_ms: i64, served_ms: i64) -> i64 {
    let ahead = now_ms - served_ms;
    if (0..1000).contains(&ahead) { 0 } else { ahead }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_not_ahead_within_the_second_that_the_service_tells() {
        for (now_ms, expected) in [(10_000, 0), (10_999, 0), (11_000, 1000), (9_999, -1), (4_000, -6_000)] {
            assert_eq!(ahead(now_ms, 10_000), expected, "{now_ms}");
        }
    }
}
