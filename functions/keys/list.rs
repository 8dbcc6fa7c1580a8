//! `GET /v1/api-keys`

use super::show;
use theazo_http::{Answer, ApiError, Call, PageQuery, list_answer};
use theazo_store::ApiKeys;

/// Lists the platform's keys that are good, newest first; a test key sees test keys only.
pub async fn handle(call: Call, keys: ApiKeys) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, keys) = (&call, &keys);
        async move {
            let query = PageQuery::parse(call)?;
            let page = keys.list(&scope, query.request()).await?;
            Ok((query, page))
        }
    };
    let (principal, (query, page)) = call.authenticate_with(read).await?;
    let used = keys.last_used(&principal.scope(), &page.rows).await?;
    list_answer(&call, &principal, &query, page, |key| show(key, used.get(&key.id).copied()))
}
