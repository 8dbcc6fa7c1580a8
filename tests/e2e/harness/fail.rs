//! Agents that end by themselves, without the wait for it.

use super::own_deployment;
use theazo_functions::agents::{Sandboxes, lifecycle};
use theazo_functions::deployment::Capability;
use theazo_store::{AgentStatus, Agents};
use theazo_tenancy::{AgentId, Mode, Operator, PlatformId};

/// Has an agent on the shared stack fail, as when its sandbox is lost: what is to go of it is gone then.
pub async fn fail_agent(platform: &PlatformId, mode: Mode, agent: &str) {
    end_agent(platform, mode, agent, AgentStatus::Failed).await;
}

/// The same with another end.
#[expect(clippy::disallowed_methods, reason = "reconciling acts for every tenant")]
pub async fn end_agent(platform: &PlatformId, mode: Mode, agent: &str, status: AgentStatus) {
    let (deployment, scope) = (&own_deployment(), Operator::assume().tenant(platform, mode));
    let (agents, sandboxes) = (Agents::of(deployment), Sandboxes::of(deployment));
    let agent = agents.get(&scope, &AgentId::parse(agent).unwrap()).await.unwrap().unwrap();
    lifecycle::end(&scope, &agent, status, &agents, &sandboxes).await.unwrap();
}
