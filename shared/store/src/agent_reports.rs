//! What agents report of themselves: claims, kept apart from all that is measured. A few rows beside an agent, whatever
//! it sends; they go with the agent's record.

use crate::error::table_error;
use crate::table::{TTL, from_item, number, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction};
use crate::usage::models_key;
use crate::{Agent, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Deserialize;
use std::ops::AddAssign;
use theazo_metering::Day;
use theazo_tenancy::{AgentId, Mode, ReadScope, TableKey, TenantScope};

/// How long a report is kept after the last one of its kind: as long as an ended agent, which ends a day later at most.
const KEPT_MS: i64 = 31 * 24 * 60 * 60 * 1000;

/// Most tokens that one report may claim, each way. With the rate limit of tokens no sum of a day overflows.
pub const MAX_CLAIMED_TOKENS: u64 = 100_000_000;
/// Highest cost that one report may claim, micro-cents: 10,000 dollars.
pub const MAX_CLAIMED_COST: u64 = 1_000_000_000_000;

/// Recording and showing reports. It reaches nothing that is measured, limits or stops anything.
#[derive(Clone)]
pub struct AgentReports(Table);

/// One call of a model, as an agent claims it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportedCall {
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// What it cost, micro-cents.
    pub cost: u64,
}

/// All calls of models that an agent has claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ReportedModels {
    /// How many.
    pub calls: u64,
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// What they cost, micro-cents.
    pub cost: u64,
}

/// How far an agent claims to be. Texts were masked before they were written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReportedProgress {
    /// From 0 to 100.
    pub percentage: u8,
    /// What it is doing.
    #[serde(default)]
    pub message: Option<String>,
    /// When it was received, Unix milliseconds.
    pub at_ms: i64,
}

/// What an agent claims to have achieved, as JSON texts that were masked before they were written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReportedResult {
    /// Its output.
    #[serde(default)]
    pub output: Option<String>,
    /// What it has made.
    #[serde(default)]
    pub artifacts: Option<String>,
    /// When it was received, Unix milliseconds.
    pub at_ms: i64,
}

/// Everything that an agent has reported in rows of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Calls of models.
    pub models: Option<ReportedModels>,
    /// How far it is.
    pub progress: Option<ReportedProgress>,
    /// What came of it.
    pub result: Option<ReportedResult>,
}

impl AddAssign for ReportedModels {
    fn add_assign(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cost = self.cost.saturating_add(other.cost);
    }
}

const MODELS: &str = "models";
const PROGRESS: &str = "progress";
const RESULT: &str = "result";

/// Every row that an agent's reports may have.
pub(crate) fn keys(scope: &ReadScope, agent: &AgentId) -> Result<[TableKey; 3], StoreError> {
    let partition = scope.agent_reports(agent)?;
    Ok([MODELS, PROGRESS, RESULT].map(|kind| partition.row(kind)))
}

impl AgentReports {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// Adds a call of a model: to what the agent has claimed, and, unless it is a test agent, to its user's of the day,
    /// both or neither, and once, also where the answer is lost on the way.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn model(&self, scope: &TenantScope, agent: &Agent, claim: &ReportedCall) -> Result<(), StoreError> {
        let add = |text: &str| {
            Expression::new(text)
                .value(":calls", number(1))
                .value(":input", number(claim.input_tokens))
                .value(":output", number(claim.output_tokens))
                .value(":cost", number(claim.cost))
        };
        const ADD: &str = "ADD calls :calls, input_tokens :input, output_tokens :output, cost :cost";
        let ttl = number(ttl_seconds(now_ms() + KEPT_MS));
        let own = add(&format!("SET #ttl = :ttl {ADD}")).name("#ttl", TTL).value(":ttl", ttl);
        let row = scope.agent_reports(&agent.id)?.row(MODELS);
        let mut transaction = Transaction::default().update(&self.0, &row, own, "");
        if scope.mode() == Mode::Live {
            // Reports of usage reach back for ever: that row stays.
            let of_user = models_key(scope, agent, Day::of(self.0.now_ms()))?;
            transaction = transaction.update(&self.0, &of_user, add(ADD), "");
        }
        match transaction.commit(&self.0).await? {
            Committed::Yes => Ok(()),
            // Neither row is there on a condition.
            Committed::Refused { .. } => Err(StoreError::Contended(1)),
        }
    }

    /// Says how far an agent is, in place of what it said before.
    ///
    /// # Errors
    /// As [`AgentReports::model`].
    pub async fn progress(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        percentage: u8,
        message: &str,
    ) -> Result<(), StoreError> {
        let values = [
            (":percentage", number(percentage)),
            (":message", AttributeValue::S(message.into())),
            (":at", number(now_ms())),
        ];
        let set = "SET #ttl = :ttl, percentage = :percentage, message = :message, at_ms = :at";
        self.update(&scope.agent_reports(agent)?.row(PROGRESS), set, values).await
    }

    /// Says what came of an agent's work, likewise.
    ///
    /// # Errors
    /// As [`AgentReports::model`].
    pub async fn result(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        output: Option<&str>,
        artifacts: Option<&str>,
    ) -> Result<(), StoreError> {
        let text = |text: Option<&str>| text.map_or(AttributeValue::Null(true), |text| AttributeValue::S(text.into()));
        let values = [(":output", text(output)), (":artifacts", text(artifacts)), (":at", number(now_ms()))];
        let set = "SET #ttl = :ttl, #output = :output, artifacts = :artifacts, at_ms = :at";
        self.update(&scope.agent_reports(agent)?.row(RESULT), set, values).await
    }

    /// All that an agent has reported so far.
    ///
    /// # Errors
    /// As [`AgentReports::model`].
    pub async fn of_agent(&self, scope: &ReadScope, agent: &AgentId) -> Result<Reports, StoreError> {
        let mut reports = Reports::default();
        for row in self.0.query_all(&scope.agent_reports(agent)?).await? {
            match row.get("sk").and_then(|sk| sk.as_s().ok()).map(String::as_str) {
                Some(MODELS) => reports.models = Some(from_item(row)?),
                Some(PROGRESS) => reports.progress = Some(from_item(row)?),
                Some(RESULT) => reports.result = Some(from_item(row)?),
                _ => return Err(StoreError::Corrupt("a report of an unknown kind")),
            }
        }
        Ok(reports)
    }

    async fn update<const N: usize>(
        &self,
        key: &TableKey,
        update: &str,
        values: [(&str, AttributeValue); N],
    ) -> Result<(), StoreError> {
        let mut request = self
            .0
            .client
            .update_item()
            .table_name(&self.0.name)
            .key("pk", AttributeValue::S(key.pk().into()))
            .key("sk", AttributeValue::S(key.sk().into()))
            .update_expression(update)
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":ttl", number(ttl_seconds(now_ms() + KEPT_MS)));
        if update.contains("#output") {
            request = request.expression_attribute_names("#output", "output");
        }
        for (placeholder, value) in values {
            request = request.expression_attribute_values(placeholder, value);
        }
        request.send().await.map(|_| ()).map_err(table_error("UpdateItem"))
    }
}
