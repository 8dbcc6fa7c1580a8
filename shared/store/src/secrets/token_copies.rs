//! Copies of what an agent booted with, sealed for the agent's token: whoever is shown the token opens them, and needs no
//! key of the deployment's for it. What an agent reports of itself is masked with them, by functions that hold no KMS
//! permission. They lie in a partition of their own, which rotations of the deployment's keys pass by; a new boot has
//! a new token and new copies.

use super::copies::{LIST_VERSION, list_name};
use super::{OpenedSecret, ValueRow, copy_context};
use crate::table::{Item, TTL, number, ttl_seconds};
use crate::{Agent, StoreError, Table};
use futures_util::future::try_join;
use std::collections::BTreeMap;
use theazo_tenancy::{AgentId, IssuedKey, ReadScope, TenantScope};
use theazo_vault::{Context, Flags, Purpose, SecretValue, TokenKey};

/// The column that holds the record, where other sealed values have `blob`: a rotation of the deployment's keys, which
/// goes through all of those, could only find that it has no key for these.
const RECORD: &str = "token_blob";

/// Reading the copies that agents' tokens open. It has no way to any other value, and none to write.
#[derive(Clone)]
pub struct TokenCopies {
    table: Table,
    deployment: String,
}

/// An agent and its copies as they lie in the table.
pub struct TokenSealed {
    agent: Option<Agent>,
    rows: Vec<ValueRow>,
}

impl TokenCopies {
    /// Over that table, in the deployment of that name.
    pub fn new(table: Table, deployment: impl Into<String>) -> Self {
        Self { table, deployment: deployment.into() }
    }

    /// Reads an agent and its copies. Nothing is opened.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for another agent than the one whose token it is; [`StoreError::Table`] when the table
    /// does not answer.
    pub async fn load(&self, scope: &ReadScope, agent: &AgentId) -> Result<TokenSealed, StoreError> {
        let (agent_key, partition) = (scope.agent_key(agent)?, scope.token_copies(agent)?);
        let (agent, rows) = try_join(self.table.get(&agent_key), self.table.query_all(&partition)).await?;
        let rows = rows.into_iter().map(|mut item| {
            let record = item.remove(RECORD).ok_or(StoreError::Corrupt("a copy for an agent's token"))?;
            item.insert("blob".into(), record);
            ValueRow::parse(item)
        });
        Ok(TokenSealed { agent, rows: rows.collect::<Result<_, _>>()? })
    }

    /// Opens the copies with the token, names and values, and gives the agent. As with [`super::AgentCopies`], what its row
    /// lists must be vouched for, and all of it that is to be masked must be there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without an agent; [`StoreError::Corrupt`] when a copy is missing or of another version;
    /// [`StoreError::Vault`] when one does not belong where it lies or was sealed for another token.
    pub fn open(
        &self,
        scope: &TenantScope,
        token: &str,
        sealed: TokenSealed,
    ) -> Result<(Agent, BTreeMap<String, SecretValue>), StoreError> {
        let agent = sealed.agent.ok_or(StoreError::NotFound)?;
        let key = TokenKey::derive(token, scope.platform().as_str());
        let open = |name: &str, version: u64| {
            let row = sealed.rows.iter().find(|row| row.name == name && row.version == version);
            let row = row.ok_or(StoreError::Corrupt("a copy for an agent's token is missing"))?;
            let context = context(row, &self.deployment, scope, &agent.id);
            Ok::<_, StoreError>(theazo_vault::open_with_token(&key, &context, &row.blob)?)
        };
        let listed = agent.listed();
        open(&list_name(&listed), LIST_VERSION)?;
        let mut opened = BTreeMap::new();
        for booted in listed.iter().filter(|booted| booted.masked) {
            opened.insert(booted.name.clone(), open(&booted.name, booted.version)?);
        }
        Ok((agent, opened))
    }
}

/// Seals what an agent is about to boot with for its new token, as rows to be written.
pub(crate) fn seal_for_token(
    scope: &TenantScope,
    agent: &AgentId,
    deployment: &str,
    token: &IssuedKey,
    opened: &[OpenedSecret],
    gone_by_ms: i64,
) -> Result<Vec<Item>, StoreError> {
    let key = TokenKey::derive(&token.text, scope.platform().as_str());
    let partition = scope.token_copies(agent)?;
    let vouching = list_name(opened.iter().map(|secret| &secret.booted));
    let empty = SecretValue::from_text(String::new());
    let masked = opened.iter().filter(|secret| secret.booted.masked);
    let masked = masked.map(|secret| (&secret.booted.name, secret.booted.version, &secret.value));
    let sealed =
        masked.chain([(&vouching, LIST_VERSION, &empty)]).map(|(name, version, value)| -> Result<Item, StoreError> {
            let mut row = ValueRow {
                name: name.clone(),
                version,
                expires_at_ms: None,
                flags: Flags { mask: true, inherit: false },
                provider: false,
                blob: Vec::new(),
            };
            row.blob = theazo_vault::seal_for_token(&key, &context(&row, deployment, scope, agent), value)?;
            let mut item = row.item(&partition.row(&row.name));
            if let Some(record) = item.remove("blob") {
                item.insert(RECORD.into(), record);
            }
            item.insert(TTL.into(), number(ttl_seconds(gone_by_ms)));
            Ok(item)
        });
    sealed.collect()
}

fn context<'a>(row: &'a ValueRow, deployment: &'a str, scope: &'a ReadScope, agent: &'a AgentId) -> Context<'a> {
    Context { purpose: Purpose::TokenCopy, ..copy_context(row, deployment, scope, agent) }
}
