//! Tokens of agents: made when an agent boots, delivered to its sandbox inside the address that it reports to, and good
//! from the moment it is ready until it pauses or ends. The token's row is written in the transaction that makes the
//! agent ready ([`crate::Agents::become_ready`]) and deleted in the one that ends its run, so that a boot that fails has
//! never had one.

use crate::agents::{BootedSecret, SecretOrigin};
use crate::secrets::{OpenedSecret, seal_for_token};
use crate::table::{Item, TTL, number, ttl_seconds};
use crate::{Agent, StoreError, Table};
use theazo_tenancy::{
    AgentId, CredentialKind, CredentialRecord, IssuedKey, KeyId, Permissions, TenantScope, make_agent_token,
    make_random_bytes,
};
use theazo_vault::SecretValue;
use zeroize::Zeroizing;

/// The variable that an agent finds its address in. A value like a secret's: it is masked under this name.
pub const ENDPOINT_VARIABLE: &str = "THEAZO_ENDPOINT";
/// What the token alone is masked as, where it is shown without its address.
const TOKEN_NAME: &str = "THEAZO_TOKEN";
/// The version of both. They change with every boot, and no names' row counts them.
const OWN_VERSION: u64 = 1;

/// What lies beside an agent on account of its token, besides what it booted with: its address, and the token.
pub(crate) fn own_secrets() -> [BootedSecret; 2] {
    [ENDPOINT_VARIABLE, TOKEN_NAME].map(|name| BootedSecret {
        name: name.to_owned(),
        version: OWN_VERSION,
        origin: SecretOrigin::Session,
        masked: true,
        // Nobody is told of these two, and so not since when they are.
        created_at_ms: 0,
        updated_at_ms: 0,
    })
}

/// Making tokens for agents that boot, and sealing for them.
#[derive(Clone)]
pub struct AgentTokens {
    table: Table,
    deployment: String,
    endpoint: Option<String>,
}

/// Copies for a token, ready to be written.
pub struct TokenSealing(Vec<Item>);

/// A token that is being delivered.
///
/// ```
/// fn count(token: &theazo_store::AgentToken) -> usize {
///     token.values().len()
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn record(token: &theazo_store::AgentToken) -> String {
///     format!("{token:?}")
/// }
/// ```
pub struct AgentToken {
    id: KeyId,
    issued: IssuedKey,
    address: Zeroizing<String>,
}

impl AgentTokens {
    /// Over that table, in the deployment of that name, for agents that reach it at `endpoint` (`http://host:port`).
    pub fn new(table: Table, deployment: impl Into<String>, endpoint: Option<&str>) -> Self {
        Self { table, deployment: deployment.into(), endpoint: endpoint.map(str::to_owned) }
    }

    /// Makes a token for an agent that is booting. Nothing is written. `None` where agents have nothing to report to.
    pub fn make(&self, scope: &TenantScope, agent: &Agent) -> Option<AgentToken> {
        let endpoint = self.endpoint.as_deref()?;
        let issued = make_agent_token(scope.platform(), scope.mode(), &agent.session, &agent.id);
        // Never grown: a longer allocation would leave a copy behind.
        let mut address = Zeroizing::new(String::with_capacity(endpoint.len() + issued.text.len() + 8));
        [endpoint, "/a/", issued.text.as_str()].iter().for_each(|part| address.push_str(part));
        Some(AgentToken { id: KeyId::make(), issued, address })
    }

    /// Seals what an agent is about to boot with, its address among it, for its token. To be kept before the agent takes
    /// calls; the table drops it by itself some time after `gone_by_ms`, should nobody else.
    ///
    /// # Errors
    /// [`StoreError::Vault`].
    pub fn seal(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        token: &AgentToken,
        opened: &[OpenedSecret],
        gone_by_ms: i64,
    ) -> Result<TokenSealing, StoreError> {
        seal_for_token(scope, agent, &self.deployment, &token.issued, opened, gone_by_ms).map(TokenSealing)
    }

    /// Writes what was sealed for an agent's token, if it has one, in place of what was sealed for an earlier one.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn keep(&self, sealed: Option<TokenSealing>) -> Result<(), StoreError> {
        match sealed {
            Some(sealed) => self.table.put_all(sealed.0.into_iter()).await,
            None => Ok(()),
        }
    }
}

impl AgentToken {
    /// The token itself, at the end of the address that the agent reports to.
    pub fn text(&self) -> &str {
        &self.issued.text
    }

    /// What an agent's output is masked with on account of it: its address, which is delivered as well, and the token.
    pub fn values(&self) -> [OpenedSecret; 2] {
        let [endpoint, token] = own_secrets();
        [(endpoint, self.address.as_str()), (token, self.issued.text.as_str())]
            .map(|(booted, text)| OpenedSecret { booted, value: SecretValue::from_text(text.to_string()) })
    }

    /// Notes the token in the row of an agent that is ready now, and gives the token's own row. It is good no longer than
    /// the agent's time.
    pub(crate) fn issue(&self, table: &Table, scope: &TenantScope, agent: &mut Agent) -> Result<Item, StoreError> {
        agent.token = Some(self.id.clone());
        agent.token_hash = Some(hex::encode(self.issued.hash));
        let expires_at_ms = agent.deadline_ms();
        let record = CredentialRecord {
            hash: self.issued.hash,
            id: self.id.clone(),
            kind: CredentialKind::Agent(agent.session.clone(), agent.id.clone()),
            platform: scope.platform().clone(),
            mode: scope.mode(),
            expires_at_ms: Some(expires_at_ms),
            // An agent lists nothing, so there is no cursor to authenticate.
            cursor_key: make_random_bytes(),
            permissions: Permissions { exec: true },
            epoch: 0,
        };
        let mut item = table.credential_item(&scope.new_credential_key(&self.issued), &record)?;
        item.insert(TTL.into(), number(ttl_seconds(expires_at_ms)));
        Ok(item)
    }
}
