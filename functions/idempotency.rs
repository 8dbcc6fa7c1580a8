//! Requests that are done once: under one `Idempotency-Key`, a request that was answered is not done again.
//!
//! A note of the request is written before it is done, and its answer after. A request that was refused, or failed and left
//! nothing behind, leaves no note. A note without an answer is of a request that is under way, whose process died, or whose
//! change the table did not confirm: nobody can tell what became of it, so it is not done a second time.
//!
//! A note belongs to the credential that made the request: another key of the same platform, a rotated key's successor
//! among them, starts anew. So a repeat has to come with the key of the first attempt, which works while the keys overlap.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_store::{Note, Noted, Replays};
use theazo_tenancy::Principal;

/// Does a request once, if its caller asks for that. `hidden` names the field of an answer that is shown the first time
/// only.
///
/// # Errors
/// `conflict` for a key that was used with another body, or whose request has no answer yet; then whatever `work` fails
/// with.
pub async fn once(
    call: &Call,
    principal: &Principal,
    replays: &Replays,
    hidden: Option<&str>,
    work: impl Future<Output = Result<Answer, ApiError>>,
) -> Result<Answer, ApiError> {
    let Some(key) = call.idempotency_key()? else { return work.await };
    let scope = principal.scope();
    let note = note(call, &key)?;
    match replays.note(&scope, &note).await? {
        Noted::New => {}
        Noted::Answered { status, body } => return Ok(Answer::again(status, body)),
        Noted::Unanswered => {
            return Err(conflict("the request with this key has no answer yet; what became of it is not known"));
        }
        Noted::Different => return Err(conflict("the key was used for another request")),
    }
    match work.await {
        Ok(answer) => {
            let body = without(&answer, hidden)?;
            if let Err(error) = replays.answer(&scope, &note, answer.status(), body).await {
                // The change is made and its answer is right; a repeat will be told that nothing is known.
                tracing::error!(%error, "an answer was not noted");
            }
            Ok(answer)
        }
        Err(failure) if failure.is_unclear() => Err(failure),
        Err(failure) => {
            if let Err(error) = replays.forget(&scope, &note).await {
                tracing::error!(%error, "a failed request keeps its note");
            }
            Err(failure)
        }
    }
}

fn conflict(why: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Conflict, why).detail("field", "idempotency-key")
}

/// Stands before a credential in the key of a note's digest. HMAC replaces a key longer than its block by the key's hash, and
/// the SHA-256 of a credential alone is where its row lies: keyed with that, every reader of the table could try values out.
const DIGEST_LABEL: &[u8] = b"theazo/idempotency/v1/digest";

/// The note's place: the credential and the key. The digest of route and body is keyed with the credential, which is
/// stored nowhere: whoever reads the table cannot try out values against it. (Who holds the credential and knows the key can
/// learn whether a guess is the body that was sent; but they can also boot an agent that prints the value.)
fn note(call: &Call, key: &str) -> Result<Note, ApiError> {
    let credential = call.credential_text();
    let mut place = Sha256::new();
    for part in [credential.as_bytes(), key.as_bytes()] {
        place.update((part.len() as u64).to_be_bytes());
        place.update(part);
    }
    let secret = Sha256::new().chain_update(DIGEST_LABEL).chain_update(credential).finalize();
    let mut digest = Hmac::<Sha256>::new_from_slice(&secret).map_err(|_| ApiError::internal())?;
    let request = call.request();
    for part in [call.route().name.as_bytes(), request.raw_path.as_bytes(), &request.body] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Ok(Note { place: place.finalize().into(), digest: digest.finalize().into_bytes().into() })
}

/// The answer as it is given again.
fn without(answer: &Answer, hidden: Option<&str>) -> Result<String, ApiError> {
    if answer.body().is_empty() {
        return Ok(String::new());
    }
    let mut value: Value = serde_json::from_slice(answer.body()).map_err(|_| ApiError::internal())?;
    if let (Some(name), Some(fields)) = (hidden, value.as_object_mut()) {
        fields.remove(name);
    }
    Ok(value.to_string())
}
