//! What agents report of themselves, from inside their sandboxes. All of it is a claim of code that may be hostile: it is
//! bounded, masked with the copies that the agent's own token opens, and it changes nothing but what is shown of it.

pub mod complete;
pub mod log;
pub mod model;
pub mod progress;
pub mod span;

use serde_json::{Map, Number, Value, json};
use theazo_http::{ApiError, Call, Fields};
use theazo_redaction::{Masked, Redactor};
use theazo_store::{Agent, StoreError, TokenCopies};
use theazo_tenancy::{AgentId, CredentialKind, ReadScope, SessionId, TenantScope};

/// Largest body of a report, bytes.
const MAX_BODY: usize = 64 * 1024;
/// Largest JSON of a report that is kept, bytes. Masking can make a text longer than it was.
const MAX_KEPT: usize = 96 * 1024;

/// A report whose sender is proven, with the means to mask it.
struct Report {
    scope: TenantScope,
    agent: Agent,
    fields: Fields,
    redactor: Redactor,
}

impl Report {
    /// Authenticates the agent and reads what it sends. The ids in the body must be those of the token; foreign, absent and
    /// malformed ones get one answer.
    async fn receive(call: &Call, copies: &TokenCopies) -> Result<Self, ApiError> {
        let read = |scope: ReadScope| async move {
            let body = &call.request().body;
            if body.len() > MAX_BODY {
                return Err(ApiError::invalid("body", "must be at most 64 KiB"));
            }
            let fields = call.request().fields(false)?;
            let agent = fields.raw("agentId").and_then(Value::as_str).and_then(|id| AgentId::parse(id).ok());
            let agent = agent.ok_or_else(|| not_own("agentId"))?;
            let sealed = copies.load(&scope, &agent).await.map_err(|error| match error {
                StoreError::NotFound => not_own("agentId"),
                other => other.into(),
            })?;
            Ok((fields, agent, sealed))
        };
        let (principal, (fields, claimed, sealed)) = call.authenticate_with(read).await?;
        let CredentialKind::Agent(session, own) = principal.kind() else { return Err(ApiError::internal()) };
        if claimed != *own {
            return Err(not_own("agentId"));
        }
        let claimed = fields.raw("sessionId").and_then(Value::as_str).and_then(|id| SessionId::parse(id).ok());
        if claimed.as_ref() != Some(session) {
            return Err(not_own("sessionId"));
        }
        check_time(&fields, "timestamp")?;
        let scope = principal.scope();
        let (agent, values) = copies.open(&scope, call.credential_text(), sealed)?;
        let redactor = Redactor::new(values.iter().map(|(name, value)| Masked { name, value }));
        Ok(Self { scope, agent, fields, redactor })
    }

    /// A text without values of the agent's secrets.
    fn mask(&self, text: &str) -> String {
        self.redactor.redact_text(text)
    }

    /// JSON without them, in names as in values. A number that spells one becomes a text.
    fn mask_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.mask(text).into(),
            Value::Number(number) => self.mask_number(number),
            Value::Array(items) => items.iter().map(|item| self.mask_json(item)).collect(),
            Value::Object(entries) => {
                let masked = entries.iter().map(|(name, value)| (self.mask(name), self.mask_json(value)));
                Value::Object(masked.collect::<Map<_, _>>())
            }
            Value::Null | Value::Bool(_) => value.clone(),
        }
    }

    fn mask_number(&self, number: &Number) -> Value {
        let text = number.to_string();
        let masked = self.mask(&text);
        if masked == text { Value::Number(number.clone()) } else { masked.into() }
    }

    /// A field of any JSON, masked, as text; what is too large is replaced by a note that says so.
    fn kept(&self, name: &str) -> Option<String> {
        let text = self.mask_json(self.fields.raw(name)?).to_string();
        match text.len() {
            0..=MAX_KEPT => Some(text),
            bytes => Some(json!({ "omitted": "too large", "bytes": bytes }).to_string()),
        }
    }
}

fn not_own(field: &str) -> ApiError {
    ApiError::invalid(field, "must be the id of the agent, or of its session, that the endpoint belongs to")
}

/// A moment as clients write it, in ISO 8601 or in milliseconds. Nothing depends on what an agent says of the time.
fn check_time(fields: &Fields, name: &str) -> Result<(), ApiError> {
    match fields.raw(name) {
        Some(Value::String(text)) if text.len() > 64 => Err(ApiError::invalid(name, "must be at most 64 bytes")),
        None | Some(Value::String(_) | Value::Number(_)) => Ok(()),
        Some(_) => Err(ApiError::invalid(name, "must be a time")),
    }
}

/// A number that is not negative and not above `max`.
fn amount(fields: &Fields, name: &str, max: f64) -> Result<Option<f64>, ApiError> {
    let Some(value) = fields.raw(name) else { return Ok(None) };
    let amount = value.as_f64().filter(|amount| (0.0..=max).contains(amount));
    amount.map(Some).ok_or_else(|| ApiError::invalid(name, &format!("must be a number from 0 to {max}")))
}
