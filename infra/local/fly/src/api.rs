//! Calls by method and path.

use crate::apps::World;
use crate::error::Refusal;
use crate::show;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most rows of one page unless fewer are asked for.
const PAGE: usize = 1000;

/// A call, with everything that decides about it.
pub(crate) struct ApiCall<'a> {
    pub(crate) method: &'a str,
    /// Still encoded, without `/v1`.
    pub(crate) path: &'a str,
    pub(crate) query: &'a [(String, String)],
    pub(crate) body: &'a [u8],
    /// Of the lease that the caller has.
    pub(crate) nonce: Option<&'a str>,
}

/// Status and body of an answer; some have none.
pub(crate) type ApiAnswer = (u16, Option<Value>);

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The pairs of a query.
pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Answers a call.
pub(crate) fn answer(world: &Arc<World>, call: &ApiCall<'_>) -> Result<ApiAnswer, Refusal> {
    let segments: Vec<String> = call.path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let parameter = |name: &str| call.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let is = |name: &str| parameter(name) == Some("true");
    let shown = |value: Value| (200, Some(value));
    let cap = world.with(|state| state.page_cap).unwrap_or(usize::MAX);
    if let (true, ["apps", app, "machines", id, rest @ ..]) = (call.method != "GET", segments.as_slice())
        && !matches!(rest, ["lease" | "exec"])
    {
        world.expect_lease(app, id, call.nonce)?;
    }
    match (call.method, segments.as_slice()) {
        ("GET", ["platform", "regions"]) => Ok(shown(show::regions())),
        ("GET", ["apps"]) => {
            let organization = parameter("org_slug").ok_or_else(|| Refusal::invalid("org_slug is required"))?;
            let apps = world.with(|state| {
                let own = state.apps.iter().filter(|(_, app)| app.organization == organization);
                own.map(|(name, app)| app.show(name)).collect()
            });
            page(apps, "apps", &["name"], parameter("limit"), parameter("cursor"), cap).map(|mut answer| {
                answer["total_apps"] = answer["apps"].as_array().map_or(0, Vec::len).into();
                shown(answer)
            })
        }
        ("POST", ["apps"]) => Ok((201, Some(world.create_app(call.body)?))),
        ("GET", ["apps", app]) => world.in_app(app, |found| Ok(shown(found.show(app)))),
        ("DELETE", ["apps", app]) => world.delete_app(app).map(|()| (202, None)),
        ("GET", ["orgs", organization, "machines"]) => {
            let machines = world.with(|state| {
                let own = state.apps.iter().filter(|(_, app)| app.organization == *organization);
                own.flat_map(|(name, app)| app.machines.values().filter_map(|machine| machine.overview(name))).collect()
            });
            page(machines, "machines", &["app_name", "id"], parameter("limit"), parameter("cursor"), cap).map(
                |mut answer| {
                    answer["error_regions"] = json!([]);
                    shown(answer)
                },
            )
        }
        ("GET", ["apps", app, "ip_assignments"]) => world.in_app(app, |app| {
            Ok(shown(json!({ "ips": app.addresses.iter().map(|address| address.show()).collect::<Vec<_>>() })))
        }),
        ("POST", ["apps", app, "ip_assignments"]) => {
            let assigned = world.assign_address(app, call.body)?;
            world.relay(app);
            Ok(shown(assigned))
        }
        ("DELETE", ["apps", app, "ip_assignments", ip]) => world.release_address(app, ip).map(|()| (204, None)),
        ("GET", ["apps", app, "network_policies"]) => {
            world.in_app(app, |app| Ok(shown(app.policies.values().cloned().collect::<Vec<_>>().into())))
        }
        ("POST", ["apps", app, "network_policies"]) => world.add_policy(app, call.body).map(shown),
        ("GET", ["apps", app, "volumes"]) => world
            .in_app(app, |app| Ok(shown(app.volumes.values().map(|volume| volume.show()).collect::<Vec<_>>().into()))),
        ("POST", ["apps", app, "volumes"]) => world.create_volume(app, call.body).map(shown),
        ("GET", ["apps", app, "volumes", id]) => world.in_app(app, |app| {
            let volume = app.volumes.get(*id).ok_or_else(|| Refusal::new(404, "volume not found"))?;
            Ok(shown(volume.show()))
        }),
        ("DELETE", ["apps", app, "volumes", id]) => world.delete_volume(app, id).map(shown),
        ("GET", ["apps", app, "machines"]) => world.in_app(app, |app| {
            Ok(shown(app.machines.values().map(|machine| machine.show()).collect::<Vec<_>>().into()))
        }),
        ("POST", ["apps", app, "machines"]) => world.create_machine(app, call.body).map(shown),
        ("GET", ["apps", app, "machines", id]) => {
            world.in_app(app, |app| Ok(shown(app.machines.get(*id).ok_or_else(Refusal::no_machine)?.show())))
        }
        ("POST", ["apps", app, "machines", id]) => world.update_machine(app, id, call.body).map(shown),
        ("DELETE", ["apps", app, "machines", id]) => world.destroy_machine(app, id, is("force")).map(shown),
        ("POST", ["apps", app, "machines", id, "start"]) => world.start_machine(app, id).map(shown),
        ("POST", ["apps", app, "machines", id, "stop"]) => world.stop_machine(app, id, call.body).map(shown),
        ("POST", ["apps", app, "machines", id, "suspend"]) => world.suspend_machine(app, id).map(shown),
        ("POST", ["apps", app, "machines", id, "exec"]) => world.exec(app, id, call.body).map(shown),
        ("GET", ["apps", app, "machines", id, "lease"]) => world.lease(app, id).map(shown),
        ("POST", ["apps", app, "machines", id, "lease"]) => {
            world.take_lease(app, id, parameter("ttl"), call.body, call.nonce).map(|lease| (201, Some(lease)))
        }
        ("DELETE", ["apps", app, "machines", id, "lease"]) => world.release_lease(app, id, call.nonce).map(shown),
        ("GET", ["apps", app, "machines", id, "wait"]) => world.wait_for(app, id, call.query).map(shown),
        ("GET", ["apps", app, "machines", id, "events"]) => {
            let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(20);
            world.in_app(app, |app| {
                let machine = app.machines.get(*id).ok_or_else(Refusal::no_machine)?;
                Ok(shown(machine.events(limit).into()))
            })
        }
        _ => Err(Refusal::new(404, "404 page not found")),
    }
}

/// What follows the cursor, in the order of those fields, which is what the cursor is made of: what comes and goes between two
/// pages moves nothing else.
fn page(
    all: Vec<Value>,
    name: &str,
    order: &[&str],
    limit: Option<&str>,
    cursor: Option<&str>,
    cap: usize,
) -> Result<Value, Refusal> {
    let number = |text: Option<&str>, otherwise| text.map_or(Ok(otherwise), str::parse);
    let limit: usize = number(limit, PAGE).map_err(|_| Refusal::invalid("limit is not a number"))?;
    let place = |shown: &Value| order.iter().map(|field| shown[field].as_str().unwrap_or_default()).collect::<String>();
    let mut rest: Vec<(String, Value)> = all.into_iter().map(|shown| (place(&shown), shown)).collect();
    rest.retain(|(place, _)| cursor.is_none_or(|cursor| place.as_str() > cursor));
    rest.sort_by(|(one, _), (other, _)| one.cmp(other));
    let limit = limit.min(cap);
    let next =
        (rest.len() > limit).then(|| rest.get(limit.saturating_sub(1)).map(|(place, _)| place.clone())).flatten();
    let shown: Vec<Value> = rest.into_iter().take(limit).map(|(_, shown)| shown).collect();
    let mut answer = json!({ name: shown });
    if let Some(next) = next {
        answer["next_cursor"] = next.into();
    }
    Ok(answer)
}
