//! `GET /v1/secrets`

use super::listing;
use futures_util::future::try_join;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, SecretNames, SecretOrigin, SecretTarget, now_ms};

/// The platform's secret names, or with `?details=true` everything about them but their values.
pub async fn handle(call: Call, names: SecretNames, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, names, agents) = (&call, &names, &agents);
        async move {
            let details = call.query()?.flag("details")?;
            let holders = async {
                match details {
                    true => agents.unsettled_of_platform(&scope).await,
                    false => Ok(Vec::new()),
                }
            };
            let (own, holders) = try_join(names.load(&scope, &SecretTarget::Platform), holders).await?;
            Ok((details, own, holders))
        }
    };
    let (_, (details, own, holders)) = call.authenticate_with(read).await?;
    if details {
        let mut shown = listing::details(&own, SecretOrigin::Platform, &holders, now_ms());
        shown.extend(listing::deleted(&own, SecretOrigin::Platform, &holders));
        listing::sort(&mut shown);
        return Answer::json(200, &shown);
    }
    Answer::json(200, &listing::names(&own))
}
