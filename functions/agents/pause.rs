//! `POST /v1/agents/{id}/pause`

use super::{Sandboxes, authenticate, pausing};
use serde_json::json;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, PausedBy};
use theazo_tenancy::CredentialKind;

/// Stops an agent and keeps its files. Idempotent: of one that is paused already, what is kept is shown again.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let (principal, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    let by = match principal.kind() {
        CredentialKind::ApiKey => PausedBy::Platform,
        CredentialKind::Session(_) | CredentialKind::Agent(..) => PausedBy::Session,
    };
    let paused = pausing::pause(&principal.scope(), &agent, by, &agents, &sandboxes).await?;
    let bytes = paused.snapshot.as_ref().and_then(|snapshot| snapshot.bytes);
    Answer::json(
        200,
        &json!({
            "id": paused.snapshot.map(|snapshot| snapshot.id),
            "size": bytes.map_or_else(|| "unknown".to_owned(), format_size),
            "provider": paused.provider,
        }),
    )
}

/// A size for people: `12.4 MB`, in powers of a thousand.
pub(super) fn format_size(bytes: u64) -> String {
    let units = ["KB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_add(50) / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths = tenths.saturating_add(500) / 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::format_size;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KB"),
            (1949, "1.9 KB"),
            (1950, "2.0 KB"),
            (999_949, "999.9 KB"),
            (12_400_000, "12.4 MB"),
            (3_210_000_000, "3.2 GB"),
        ] {
            assert_eq!(format_size(bytes), shown);
        }
        assert!(format_size(u64::MAX).ends_with(" TB"));
    }
}
