//! `GET /v1/audit`

use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, PageQuery, QueryParams, format_time, list_answer, parse_time_ms};
use theazo_store::{AuditEntry, AuditFilter, AuditLog, SecretName};
use theazo_tenancy::{KeyId, SessionId};

/// A page of the platform's audit trail, newest first.
pub async fn handle(call: Call, log: AuditLog) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, log) = (&call, &log);
        async move {
            let filter = read_filter(&call.query()?)?;
            let page = PageQuery::parse(call)?;
            let entries = log.list(&scope, &filter, page.request()).await?;
            Ok((page, entries))
        }
    };
    let (principal, (page, entries)) = call.authenticate_with(read).await?;
    list_answer(&call, &principal, &page, entries, show)
}

/// `since` is the first moment that is shown, `until` the first that is not, so that ranges side by side have no entry
/// in common.
fn read_filter(query: &QueryParams) -> Result<AuditFilter, ApiError> {
    Ok(AuditFilter {
        secret: query.one_of("secret", |text| SecretName::parse(text).ok())?,
        session: query.one_of("session", |text| SessionId::parse(text).ok())?,
        key: query.one_of("key", |text| KeyId::parse(text).ok())?,
        since_ms: query.one_of("since", parse_time_ms)?,
        until_ms: query.one_of("until", parse_time_ms)?,
    })
}

/// An entry as the API shows it.
fn show(entry: &AuditEntry) -> Value {
    json!({
        "id": entry.id,
        "timestamp": format_time(entry.at_ms),
        "principal": entry.principal,
        "keyId": entry.key,
        "action": entry.action,
        "names": entry.names,
        "sessionId": entry.session,
        "agentId": entry.agent,
        "outcome": entry.outcome,
        "sourceIp": entry.source_ip,
        "requestId": entry.request,
    })
}
