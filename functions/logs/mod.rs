//! Log entries: pages of them, and streams that follow.

pub mod list;
mod live;
pub mod stream;

pub(crate) use live::{Live, Subject, last_event_id};

use serde_json::{Value, json};
use theazo_http::{ApiError, QueryParams, format_time, parse_time_ms};
use theazo_store::{LogEntry, LogFilter, LogLevel};
use theazo_tenancy::{AgentId, SessionId};

/// Longest text to search for, characters.
const MAX_SEARCH: usize = 256;

/// The filters of lists and streams. `level` is exactly that level. `since` is the first moment that is shown, `until`
/// the first that is not, so that ranges side by side have no entry in common. `search` is part of a message, whatever
/// its case.
pub(crate) fn read_filter(query: &QueryParams) -> Result<LogFilter, ApiError> {
    let search = query.get("search").filter(|text| !text.is_empty());
    if search.is_some_and(|text| text.chars().count() > MAX_SEARCH) {
        return Err(ApiError::invalid("search", "must be at most 256 characters"));
    }
    Ok(LogFilter {
        session: query.one_of("sessionId", |text| SessionId::parse(text).ok())?,
        agent: query.one_of("agentId", |text| AgentId::parse(text).ok())?,
        level: query.one_of("level", LogLevel::parse)?,
        search: search.map(str::to_owned),
        since_ms: query.one_of("since", parse_time_ms)?,
        until_ms: query.one_of("until", parse_time_ms)?,
    })
}

/// An entry as the API shows it.
pub(crate) fn show(entry: &LogEntry) -> Value {
    let mut shown = json!({
        "id": entry.id,
        "timestamp": format_time(entry.at_ms),
        "level": entry.level,
        "source": entry.source,
        "agentId": entry.agent,
        "sessionId": entry.session,
        "userId": entry.user_id,
        "provider": entry.provider,
        "message": entry.message,
    });
    let metadata = entry.metadata.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(metadata) = metadata {
        shown["metadata"] = metadata;
    }
    if let Some(trace) = &entry.trace {
        shown["traceId"] = trace.as_str().into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_to_search_for_is_measured_in_characters_whatever_their_bytes() {
        for letter in ["x", "%C3%BC", "%F0%9F%98%80"] {
            let read = |count| read_filter(&QueryParams::parse(&format!("search={}", letter.repeat(count))).unwrap());
            let taken = read(MAX_SEARCH).unwrap().search.unwrap();
            assert_eq!(taken.chars().count(), MAX_SEARCH);
            let refusal = read(MAX_SEARCH + 1).err().map(|refusal| refusal.to_json()).unwrap_or_default();
            assert!(refusal.contains(r#""field":"search""#), "{refusal}");
        }
    }
}
