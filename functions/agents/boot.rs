//! Booting: what every agent goes through that is made, resumed or restarted, once its row says so. Its sandbox gets the
//! opened secrets, the copies that mask its output are kept beside it, and its row learns how it went. After a boot that
//! failed, nothing of it stays.

use super::sandboxes::{Place, PlaceAgain};
use super::{Sandboxes, failure, lifecycle, moving};
use futures_util::future::{BoxFuture, join, try_join, try_join3};
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{AgentRef, Environment, ProviderError, ProviderKind, Sandbox, SandboxSpec};
use theazo_store::{
    Agent, AgentCopies, AgentStatus, AgentToken, AgentTokens, Agents, BootedSecret, ENDPOINT_VARIABLE, Intent,
    OpenedSecret, SealedSecrets, SecretOpener,
};
use theazo_tenancy::{ReadScope, TenantScope};
use theazo_vault::SecretValue;
use tokio::time::Instant;

/// How long the provider may take. A request answers within 25 s; the rest is for taking back what was made.
const BOOT_TIMEOUT: Duration = Duration::from_secs(18);
/// When taking back what was made is left to the scheduled clean-up, counted from the request's beginning.
const ANSWER_WITHIN: Duration = Duration::from_secs(24);
/// With less time than that, no further boot is begun.
const LEAST_BOOT_TIME: Duration = Duration::from_secs(12);
/// With less time than that, a failed boot is not tried at another provider.
const LEAST_FALLBACK_TIME: Duration = Duration::from_secs(6);
/// What is left of a request's time for taking back what was made.
const UNDO_TIME: Duration = Duration::from_secs(2);
/// How long after an agent's time is over the table may keep its copies, should nobody have removed them.
const COPIES_OUTLIVE_MS: i64 = 24 * 60 * 60 * 1000;

/// What an adapter calls the kind of isolation that a sandbox got.
const ISOLATION: &str = "isolation";

/// What no name of a secret begins with.
const OWN_PREFIX: &str = "THEAZO_";

/// Boots agents within one request.
pub(crate) struct Boot {
    agents: Agents,
    copies: AgentCopies,
    tokens: AgentTokens,
    sandboxes: Sandboxes,
    answer_by: Instant,
}

/// Names and versions of what was opened, for the agent's row.
pub(super) fn booted_with(opened: &[OpenedSecret]) -> Vec<BootedSecret> {
    opened.iter().map(|secret| secret.booted.clone()).collect()
}

impl Boot {
    /// From the beginning of a request, whose time counts from now.
    pub(crate) fn begin(agents: Agents, copies: AgentCopies, tokens: AgentTokens, sandboxes: Sandboxes) -> Self {
        Self { agents, copies, tokens, sandboxes, answer_by: Instant::now() + ANSWER_WITHIN }
    }

    /// Whether there is time left for another boot, of several within one request.
    ///
    /// # Errors
    /// `timeout`, which asks for the call to be repeated.
    pub(crate) fn expect_time(&self) -> Result<(), ApiError> {
        match Instant::now() + LEAST_BOOT_TIME < self.answer_by {
            true => Ok(()),
            false => Err(ApiError::new(ErrorCode::Timeout, "not all agents have booted yet; the call can be repeated")),
        }
    }

    /// Whether there is time left to try another provider.
    pub(super) fn may_fall_back(&self) -> bool {
        Instant::now() + LEAST_FALLBACK_TIME < self.answer_by
    }

    /// The agents' rows.
    pub(super) fn agents(&self) -> &Agents {
        &self.agents
    }

    /// Where an agent boots again. To be asked before that is recorded: one whose provider is not to be had stays as it is.
    ///
    /// # Errors
    /// As [`Sandboxes::place_again`].
    pub(super) async fn place_again(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        intent: Intent,
    ) -> Result<PlaceAgain, ApiError> {
        self.sandboxes.place_again(scope, agent, intent).await
    }

    /// Where at a provider a new agent goes. To be asked before it is recorded: one that cannot boot leaves no row.
    ///
    /// # Errors
    /// As [`Sandboxes::place`].
    pub(super) async fn place(&self, scope: &TenantScope, kind: ProviderKind) -> Result<Place, ApiError> {
        self.sandboxes.place(scope, kind).await
    }

    /// Where an agent may run whose creator named no provider, the first before the next.
    ///
    /// # Errors
    /// As [`Sandboxes::usual`].
    pub(super) async fn usual(&self, scope: &ReadScope) -> Result<Vec<ProviderKind>, ApiError> {
        self.sandboxes.usual(scope).await
    }

    /// Boots an agent whose row says `booting` with the names of `opened`, and gives it as it then is: ready.
    ///
    /// # Errors
    /// `provider_error`; `conflict` when somebody ended the agent meanwhile, or removed a secret of it. The boot is taken
    /// back by then, or that is left on the work list.
    pub(super) fn finish<'a>(
        &'a self,
        scope: &'a TenantScope,
        agent: Agent,
        opener: &'a SecretOpener,
        sealed: &'a SealedSecrets,
        opened: Vec<OpenedSecret>,
    ) -> BoxFuture<'a, Result<Agent, ApiError>> {
        Box::pin(async move {
            let token = self.tokens.make(scope, &agent);
            let ready = match self.make(scope, &agent, opener, sealed, opened, token.as_ref()).await {
                Ok(sandbox) => {
                    let this_boot = |now: &Agent| now.boots == agent.boots && now.moving_to == agent.moving_to;
                    let ready = self.agents.become_ready(scope, &agent.id, token.as_ref(), this_boot, |agent| {
                        agent.region = sandbox.region.clone();
                        agent.isolation = sandbox.details.get(ISOLATION).cloned();
                    });
                    ready.await.map_err(ApiError::from)
                }
                Err(failure) => Err(failure),
            };
            match ready {
                Ok(ready) => {
                    self.leave(scope, &agent, &ready).await;
                    Ok(ready)
                }
                Err(failure) => {
                    let ended = self.undo(scope, &agent, &failure).await;
                    // Someone who ended the agent took its sandbox away; that is no fault of the provider's.
                    Err(if ended { ended_meanwhile() } else { failure })
                }
            }
        })
    }

    /// Makes the sandbox with its environment and, side by side, writes the copies that its output and what it reports are
    /// masked with: they are there before the agent takes its first call.
    fn make<'a>(
        &'a self,
        scope: &'a TenantScope,
        agent: &'a Agent,
        opener: &'a SecretOpener,
        sealed: &'a SealedSecrets,
        mut opened: Vec<OpenedSecret>,
        token: Option<&'a AgentToken>,
    ) -> BoxFuture<'a, Result<Sandbox, ApiError>> {
        Box::pin(async move {
            let spec = SandboxSpec {
                agent: agent.id.to_string(),
                session: agent.session.to_string(),
                platform: scope.platform().to_string(),
                lifetime: Duration::from_millis(u64::try_from(agent.lifetime_ms()).unwrap_or(0)),
                internet: agent.internet,
                region: agent.region.clone(),
            };
            let gone_by_ms = agent.deadline_ms().saturating_add(COPIES_OUTLIVE_MS);
            opened.extend(token.into_iter().flat_map(AgentToken::values));
            // Before anything is stopped or made, all side by side.
            let stands = async { Ok(opener.confirm(scope, &agent.session, &agent.secrets).await?) };
            let copies = async { Ok(self.copies.seal(scope, &agent.id, sealed, &opened, gone_by_ms).await?) };
            let ((provider, mover), (), copies) =
                try_join3(self.sandboxes.to_boot(scope, agent), stands, copies).await?;
            let for_token = match token {
                Some(token) => Some(self.tokens.seal(scope, &agent.id, token, &opened, gone_by_ms)?),
                None => None,
            };
            let environment = environment(agent, opened);
            let give_up_at = (Instant::now() + BOOT_TIMEOUT).min(self.answer_by - UNDO_TIME);
            if agent.intent == Some(Intent::Restarting) {
                let sandbox = AgentRef { agent: agent.id.to_string() };
                let stopped = tokio::time::timeout_at(give_up_at, provider.stop(&sandbox)).await;
                match stopped.unwrap_or(Err(ProviderError::TimedOut)) {
                    // One that cannot be stopped is made anew as it runs: its processes end, its environment is replaced.
                    Ok(_) | Err(ProviderError::CannotPause) => {}
                    Err(error) => return Err(failure::to_api(&agent.provider, &error)),
                }
                // What it ran with until now; what it shall run with is written below.
                self.agents.drop_copies(scope, &agent.id).await?;
            }
            let created = async {
                let created = async {
                    if let Some(mover) = mover {
                        mover.carry(&spec, agent).await?;
                    }
                    match (&agent.restores, agent.intent) {
                        (Some(checkpoint), _) => provider.restore(&spec, &environment, checkpoint.as_str()).await,
                        (None, None) => provider.create(&spec, &environment).await,
                        (None, Some(_)) => provider.resume(&spec, &environment).await,
                    }
                };
                tokio::time::timeout_at(give_up_at, created).await.unwrap_or(Err(ProviderError::TimedOut))
            };
            let kept = try_join(self.copies.keep(copies), self.tokens.keep(for_token));
            let (kept, created) = join(kept, created).await;
            kept?;
            created.map_err(|error| failure::to_api(&agent.provider, &error))
        })
    }

    /// Removes what an agent that has moved has where it was. What is left of it is in its row, for the scheduled clean-up.
    async fn leave(&self, scope: &TenantScope, before: &Agent, ready: &Agent) {
        let Some(host) = before.host.as_deref().filter(|host| !ready.lives_on(host)) else { return };
        let left = tokio::time::timeout_at(self.answer_by, moving::leave(scope, ready, host, &self.sandboxes));
        match left.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(agent = %ready.id, host, ?error, "a host is not cleared yet"),
            Err(_) => tracing::warn!(agent = %ready.id, host, "a host is not cleared in time"),
        }
    }

    /// Takes a failed boot back: the caller's answer is an error, so nothing of it may stay. What cannot be removed now
    /// stays on the work list. Whether it failed because somebody else had ended the agent.
    fn undo<'a>(&'a self, scope: &'a TenantScope, agent: &'a Agent, failure: &'a ApiError) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let undone = lifecycle::take_back(scope, agent, Some(failure), &self.agents, &self.sandboxes);
            match tokio::time::timeout_at(self.answer_by, undone).await {
                Ok(Ok(agent)) => agent.status == AgentStatus::Completed,
                Err(_) => {
                    tracing::error!(agent = %agent.id, "a failed boot could not be taken back in time");
                    false
                }
                Ok(Err(error)) => {
                    tracing::error!(agent = %agent.id, ?error, "a failed boot could not be taken back yet");
                    false
                }
            }
        })
    }
}

/// The agent's own variables, then its secrets under their canonical, uppercase names.
fn environment(agent: &Agent, opened: Vec<OpenedSecret>) -> Environment {
    let mut environment = Environment::default();
    environment.set("THEAZO_AGENT_ID", SecretValue::from_text(agent.id.to_string()));
    environment.set("THEAZO_SESSION_ID", SecretValue::from_text(agent.session.to_string()));
    // A token is delivered inside the address that it is good at, and not by itself.
    let own = |name: &str| !name.starts_with(OWN_PREFIX) || name == ENDPOINT_VARIABLE;
    for secret in opened.into_iter().filter(|secret| own(&secret.booted.name)) {
        environment.set(secret.booted.name, secret.value);
    }
    environment
}

fn ended_meanwhile() -> ApiError {
    ApiError::new(ErrorCode::Conflict, "the agent was ended while it booted")
}
