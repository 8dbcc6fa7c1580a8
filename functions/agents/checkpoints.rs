//! Checkpoints of running agents: making one, showing it, choosing one to boot from, and removing what is left of those that
//! nobody makes or keeps any more.

use super::{Sandboxes, lifecycle, not_usable, refuse, usable};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode, Fields, format_time};
use theazo_providers::{AgentRef, ProviderError};
use theazo_store::{Agent, Agents, Checkpoint, NewCheckpoint, StoreError, now_ms};
use theazo_tenancy::{CheckpointId, Principal, TenantScope};

/// How long the provider may take. A request answers within 25 s; the rest is for taking back what was made.
const MAKE_TIMEOUT: Duration = Duration::from_secs(18);
/// How long removing may take within a request. What takes longer is left to the scheduled clean-up.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(4);
const MAX_PHASE: usize = 256;
const MAX_METADATA: usize = 16;
/// Of all entries, names and values. They lie in the agent's row.
const MAX_METADATA_BYTES: usize = 2048;

/// A checkpoint as the API shows it.
pub(super) fn show(agent: &Agent, checkpoint: &Checkpoint) -> Value {
    json!({
        "id": checkpoint.id,
        "agentId": agent.id,
        "snapshotId": checkpoint.snapshot,
        "phase": checkpoint.phase,
        "progress": checkpoint.progress,
        "metadata": checkpoint.metadata,
        "createdAt": format_time(checkpoint.created_at_ms),
    })
}

/// What a caller says of a checkpoint.
pub(super) fn parse(fields: &Fields) -> Result<NewCheckpoint, ApiError> {
    let progress = match fields.raw("progress") {
        None => None,
        Some(value) => {
            let progress = value.as_f64().filter(|progress| (0.0..=100.0).contains(progress));
            let progress = progress.ok_or_else(|| ApiError::invalid("progress", "must be a number from 0 to 100"))?;
            // The table's numbers are not as fine as JSON's.
            Some((progress * 100.0).round() / 100.0)
        }
    };
    let metadata = fields.texts("metadata", MAX_METADATA)?.unwrap_or_default();
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA_BYTES {
        return Err(ApiError::invalid("metadata", "must be at most 2 KiB in all"));
    }
    Ok(NewCheckpoint { phase: fields.text("phase", MAX_PHASE)?.map(str::to_owned), progress, metadata })
}

/// The checkpoint that a caller names, if they name one.
pub(super) fn named(fields: &Fields) -> Result<Option<CheckpointId>, ApiError> {
    let name = fields.text("checkpoint", 64)?;
    name.map(|name| CheckpointId::parse(name).map_err(|_| not_there())).transpose()
}

/// The refusal of a checkpoint that the agent does not have.
pub(super) fn not_there() -> ApiError {
    ApiError::invalid("checkpoint", "is none that the agent has")
}

/// Makes a checkpoint of a running agent.
///
/// # Errors
/// `conflict` for an agent that does not run, stops meanwhile, or of which another is being made, and where its provider
/// does not keep files alone; `provider_error`. Nothing of it is left then, or that is noted for the scheduled clean-up.
pub(super) async fn make(
    principal: &Principal,
    agent: &Agent,
    new: NewCheckpoint,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Value, ApiError> {
    let scope = principal.scope();
    let (provider, sandbox) = usable(principal, agent, sandboxes).await?;
    let (agent, id) = match agents.begin_checkpoint(&scope, &agent.id, new).await {
        Err(StoreError::Conflict(why)) => {
            let now = agents.get(&scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
            let busy = || ApiError::new(ErrorCode::Conflict, why);
            return Err(if now.takes_calls() { busy() } else { not_usable(&now) });
        }
        other => other?,
    };
    let made = tokio::time::timeout(MAKE_TIMEOUT, provider.checkpoint(&sandbox, id.as_str())).await;
    let made = made.unwrap_or(Err(ProviderError::TimedOut));
    // What nobody waits for any more may still come about.
    let may_come = matches!(made, Err(ProviderError::TimedOut | ProviderError::Failed { .. }));
    let failure = match made {
        Ok(kept) => match agents.finish_checkpoint(&scope, &agent.id, &id, kept.bytes).await {
            Ok(now) => {
                let made = now.kept_checkpoint(&id).map(|made| show(&now, made));
                // The oldest, of which there are too many now.
                remove_left_over(&scope, &now, agents, sandboxes, None).await;
                return made.ok_or_else(ApiError::internal);
            }
            Err(StoreError::Conflict(why)) => ApiError::new(ErrorCode::Conflict, why),
            Err(error) => error.into(),
        },
        Err(error @ ProviderError::SandboxGone) => refuse("path", error, principal, &agent, agents, sandboxes).await,
        Err(error) => {
            let what = "no checkpoint was made";
            let (entry, told) = lifecycle::refused(&agent, "provider.checkpoint_failed", what, &error);
            sandboxes.note(&scope, entry);
            told
        }
    };
    if let Err(error) = agents.give_up_checkpoint(&scope, &agent.id, &id, may_come).await {
        tracing::warn!(agent = %agent.id, %error, "a checkpoint that failed is not given up yet");
        return Err(failure);
    }
    take_back(&scope, &agent, &id, agents, sandboxes).await;
    Err(failure)
}

/// Removes what was made of a checkpoint that came to nothing, and what its agent, if it is over by now, kept for it.
async fn take_back(
    scope: &TenantScope,
    agent: &Agent,
    checkpoint: &CheckpointId,
    agents: &Agents,
    sandboxes: &Sandboxes,
) {
    let taken = async {
        remove(scope, agent, checkpoint, agents, sandboxes).await?;
        match agents.get(scope, &agent.id).await? {
            Some(now) if now.status.is_over() && !now.sandbox_gone => {
                lifecycle::clear(scope, &now, agents, sandboxes).await.map(|_| ())
            }
            _ => Ok(()),
        }
    };
    if let Err(error) = in_time(taken).await {
        tracing::warn!(agent = %agent.id, ?error, "a checkpoint that failed is not removed yet");
    }
}

/// Removes what no process makes and no agent keeps any more: with `grace_ms`, also what was begun so long ago and never
/// finished. Gives how many are gone for good, and how many could not be removed.
pub(crate) async fn remove_left_over(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
    grace_ms: Option<i64>,
) -> (usize, usize) {
    let now = now_ms();
    let left = agent.checkpoints.iter().filter(|checkpoint| checkpoint.is_left_over(now, grace_ms.unwrap_or(i64::MAX)));
    let removals = left.map(|checkpoint| async move {
        let given_up = async {
            let may_come = checkpoint.may_come_late(now);
            agents.give_up_checkpoint(scope, &agent.id, &checkpoint.id, may_come).await?;
            remove(scope, agent, &checkpoint.id, agents, sandboxes).await
        };
        in_time(given_up).await
    });
    let outcomes = join_all(removals).await;
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        tracing::warn!(agent = %agent.id, ?error, "a checkpoint is not removed yet");
    }
    let gone = outcomes.iter().filter(|outcome| matches!(outcome, Ok(true))).count();
    (gone, outcomes.iter().filter(|outcome| outcome.is_err()).count())
}

async fn in_time<T>(removal: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let late = |_| ApiError::new(ErrorCode::Timeout, "the compute provider is busy");
    tokio::time::timeout(REMOVE_TIMEOUT, removal).await.map_err(late)?
}

/// Removes a checkpoint that was given up, at its provider and then, unless it may come about yet, in the row. Whether it is
/// gone from there.
async fn remove(
    scope: &TenantScope,
    agent: &Agent,
    checkpoint: &CheckpointId,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<bool, ApiError> {
    if let Some(provider) = sandboxes.removing(scope, agent).await? {
        let sandbox = AgentRef { agent: agent.id.to_string() };
        let removed = provider.remove_checkpoint(&sandbox, checkpoint.as_str()).await;
        removed.map_err(|error| super::failure::to_api(&agent.provider, &error))?;
    }
    let left = agents.forget_checkpoint(scope, &agent.id, checkpoint).await?;
    Ok(left.checkpoints.iter().all(|there| there.id != *checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::support::fields;

    #[test]
    fn what_is_said_of_a_checkpoint_is_bounded_and_named() {
        for (body, field) in [
            (json!({ "phase": "x".repeat(257) }), "phase"),
            (json!({ "phase": 5 }), "phase"),
            (json!({ "progress": 100.1 }), "progress"),
            (json!({ "progress": -1 }), "progress"),
            (json!({ "progress": "5" }), "progress"),
            (json!({ "metadata": { "a": 5 } }), "metadata.a"),
            (json!({ "metadata": { "a": "x".repeat(1000), "b": "x".repeat(1000), "c": "x".repeat(100) } }), "metadata"),
        ] {
            let Err(refusal) = parse(&fields(&body)) else { panic!("{body} was taken") };
            let told: Value = serde_json::from_str(&refusal.to_json()).unwrap();
            assert_eq!(
                (refusal.code(), &told["details"]["field"]),
                (ErrorCode::InvalidRequest, &json!(field)),
                "{body}"
            );
        }
        let Ok(taken) = parse(&fields(&json!({ "phase": "p", "progress": 33.333_33, "metadata": { "a": "b" } })))
        else {
            panic!("it is as it may be")
        };
        assert_eq!((taken.phase.as_deref(), taken.progress, taken.metadata.len()), (Some("p"), Some(33.33), 1));
        assert!(parse(&fields(&json!({}))).is_ok_and(|nothing| nothing.progress.is_none()));
    }
}
