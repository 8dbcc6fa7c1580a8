//! Whose an agent is. A sandbox is found by its agent's id alone, so a row that somebody has put elsewhere would give it to
//! somebody else: each row, the short ones too, has a tag of where it belongs, under the credential key. Whoever has that
//! key reads no other row as an agent. The scheduled functions do not have it, and look after what any row says.

use super::{Agent, Agents};
use crate::table::from_item;
use crate::{StoreError, Table};
use theazo_tenancy::{AgentId, AgentPlace, Mode, Partition, PlatformId, ReadScope, SessionScope};

/// Agents that still have something at their provider, or may. Without instructions, tools and metadata, so that it
/// stays one read.
#[derive(Debug)]
pub struct Unsettled {
    /// The agents.
    pub agents: Vec<Agent>,
    /// Whether there are rows that are nobody's: they were not written there by this deployment, or under another credential
    /// key.
    pub has_strangers: bool,
}

/// The tag of an agent of that session.
pub(super) fn seal(table: &Table, scope: &SessionScope, agent: &AgentId) -> Result<String, StoreError> {
    let place = AgentPlace { platform: scope.platform(), mode: scope.mode(), session: scope.id(), agent };
    Ok(hex::encode(table.credential_key()?.seal_agent(place)))
}

impl Agents {
    /// Whether the row is of an agent of that platform's, as far as we can know.
    pub(super) fn is_owned(&self, platform: &PlatformId, mode: Mode, agent: &Agent) -> bool {
        let Ok(key) = self.0.credential_key() else { return true };
        let tag = hex::decode(&agent.tag).unwrap_or_default();
        let place = AgentPlace { platform, mode, session: &agent.session, agent: &agent.id };
        let is_owned = key.is_agents(place, &tag);
        if !is_owned {
            tracing::error!(agent = %agent.id, "an agent's row is not one that this deployment wrote there");
        }
        is_owned
    }

    /// And of that session's.
    pub(super) fn is_owned_by(&self, scope: &SessionScope, agent: &Agent) -> bool {
        agent.session == *scope.id() && self.is_owned(scope.platform(), scope.mode(), agent)
    }

    /// A session's agents that have not settled.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn unsettled_of_session(&self, scope: &SessionScope) -> Result<Vec<Agent>, StoreError> {
        Ok(self.left_of_session(scope).await?.agents)
    }

    /// The same, for those who have to know whether that is all there is to look after.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn left_of_session(&self, scope: &SessionScope) -> Result<Unsettled, StoreError> {
        self.unsettled(&scope.live_agents(), |agent| self.is_owned_by(scope, agent)).await
    }

    /// The platform's agents that have not settled.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn unsettled_of_platform(&self, scope: &ReadScope) -> Result<Vec<Agent>, StoreError> {
        let all = scope.platform_wide()?;
        let is_owned = |agent: &Agent| self.is_owned(all.platform(), all.mode(), agent);
        Ok(self.unsettled(&all.live_agents(), is_owned).await?.agents)
    }

    async fn unsettled(
        &self,
        partition: &Partition,
        is_owned: impl Fn(&Agent) -> bool,
    ) -> Result<Unsettled, StoreError> {
        let rows = self.0.query_all_small(partition).await?;
        let mut agents = rows.into_iter().map(from_item).collect::<Result<Vec<Agent>, _>>()?;
        let all = agents.len();
        agents.retain(is_owned);
        Ok(Unsettled { has_strangers: agents.len() < all, agents })
    }
}
