//! What an agent has at Fly: an app with a network of its own, and in it a volume, an address and a machine, of which
//! `machine` is about. Each is looked for before it is made and again after a lost answer, so that any number of interrupted
//! creates end in one of each.

use super::account::Twice;
use super::failure::{failed, from_answer, not_understood};
use super::machine::{Machine, guest};
use super::{FlyProvider, short};
use crate::ProviderError;
use crate::http::Answer;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::Instant;

/// How long something may take to show that was just made, or to go that was just removed.
pub(super) const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// How long a name that is taken is looked for among our apps: one that is somebody else's never shows there.
const TAKEN_WITHIN: Duration = Duration::from_secs(4);
pub(super) const SETTLE_PAUSE: Duration = Duration::from_millis(250);
/// How often a part is looked for, and asked for, in one create.
pub(super) const ATTEMPTS: u32 = 5;
/// A volume's size in GB, the least there is.
pub(super) const VOLUME_GB: u32 = 1;
/// The name of the volume with an agent's files.
pub(super) const DATA: &str = "data";
/// Most rows in one page, and pages in one list.
const PAGE: usize = 1000;
const PAGES: usize = 100;

/// An app, as far as it matters whose it is.
#[derive(Deserialize)]
pub(super) struct App {
    pub(super) name: String,
    #[serde(default)]
    network: String,
}

#[derive(Deserialize)]
pub(super) struct Volume {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    pub(super) region: String,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    attached_machine_id: Option<String>,
}

#[derive(Deserialize)]
struct Addresses {
    ips: Option<Vec<Assigned>>,
}

#[derive(Deserialize)]
struct Assigned {
    ip: String,
    region: Option<String>,
    shared: Option<bool>,
}

impl Assigned {
    /// A public one that is the app's alone. Shared ones take only what the proxy can read, and the others lead to no
    /// service or not from outside.
    fn dedicated(&self) -> Option<Ipv4Addr> {
        let ip: Ipv4Addr = self.ip.parse().ok()?;
        (self.shared != Some(true) && !ip.is_private() && !ip.is_unspecified()).then_some(ip)
    }

    /// Addresses that connections go out from are those of a region.
    fn is_regional(&self) -> bool {
        self.region.as_deref().is_some_and(|region| !matches!(region, "" | "global"))
    }
}

/// A machine of any app, in a list of all.
#[derive(Deserialize)]
pub(super) struct Listed {
    pub(super) app_name: String,
    pub(super) state: String,
}

#[derive(Deserialize)]
struct AppsPage {
    apps: Option<Vec<App>>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct MachinesPage {
    machines: Option<Vec<Listed>>,
    next_cursor: Option<String>,
    error_regions: Option<Vec<String>>,
}

/// The name of an agent's app. Names at Fly are labels of DNS.
pub(super) fn app_name(agent: &str) -> Result<String, ProviderError> {
    let name = agent.replace('_', "-");
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match name.len() <= 40 && name.starts_with("agt-") && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(failed("name", None, false, "an agent's id that cannot be a name")),
    }
}

/// The agent of an app that this deployment made. The network says it, which was set with the account's token and cannot be
/// changed: what an agent can write at Fly is not believed.
pub(super) fn agent_of(app: &App, deployment: &str) -> Option<String> {
    (app.network == network_name(deployment, &app.name)).then(|| app.name.replacen('-', "_", 1))
}

fn network_name(deployment: &str, app: &str) -> String {
    format!("theazo-{}-{app}", short(deployment))
}

/// Whether a call that makes something may have done so although it failed like this.
fn is_unclear(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Failed { retryable: true, .. } | ProviderError::TimedOut)
}

/// What came of a call that makes something.
pub(super) enum Made {
    /// It did, and says this of it. Lists may not show it yet.
    Surely(Bytes),
    /// It may have.
    Perhaps(ProviderError),
}

/// What came of a call that makes something, unless it surely made nothing.
pub(super) fn made(operation: &'static str, outcome: Result<Answer, ProviderError>) -> Result<Made, ProviderError> {
    let refusal = match outcome {
        Ok(answer) if answer.status < 300 => return Ok(Made::Surely(answer.body)),
        Ok(answer) => from_answer(operation, answer.status, &answer.body),
        Err(error) => error,
    };
    if is_unclear(&refusal) { Ok(Made::Perhaps(refusal)) } else { Err(refusal) }
}

impl FlyProvider {
    pub(super) fn deployment(&self) -> &str {
        &self.account.service.deployment
    }

    /// The agent's app, if it is there and ours.
    pub(super) async fn app(&self, name: &str) -> Result<Option<App>, ProviderError> {
        let found: Option<App> = self.account.get("get app", &format!("/apps/{name}")).await?;
        Ok(found.filter(|app| app.network == network_name(self.deployment(), name)))
    }

    /// Makes the app with its network.
    pub(super) async fn ensure_app(&self, name: &str) -> Result<(), ProviderError> {
        const CREATE: &str = "create app";
        let network = network_name(self.deployment(), name);
        let body = json!({ "name": name, "org_slug": self.settings.organization, "network": network });
        let made = self.account.call(CREATE, Method::POST, "/apps", Some(&body), Twice::Harmless).await;
        let refused = match made {
            Ok(answer) if matches!(answer.status, 200 | 201) => None,
            Ok(answer) => Some(from_answer(CREATE, answer.status, &answer.body)),
            Err(error) => return Err(error),
        };
        // A name that is taken is usually that of an earlier create, or of this call when its answer was lost; and a new app
        // does not show at once.
        let within = match &refused {
            None => SETTLE_WITHIN,
            Some(ProviderError::Failed { retryable: true, .. } | ProviderError::Failed { status: Some(422), .. }) => {
                TAKEN_WITHIN
            }
            Some(_) => Duration::ZERO,
        };
        let until = Instant::now() + within;
        loop {
            let seen = self.app(name).await;
            match seen {
                Ok(Some(_)) => return Ok(()),
                _ if Instant::now() < until => tokio::time::sleep(SETTLE_PAUSE).await,
                Err(error) if refused.is_none() => return Err(error),
                _ => break,
            }
        }
        Err(refused.unwrap_or_else(|| failed(CREATE, None, true, "the app does not show")))
    }

    /// Makes something in an app that may not show everywhere yet.
    pub(super) async fn make(
        &self,
        operation: &'static str,
        path: &str,
        body: &Value,
        twice: Twice,
    ) -> Result<Answer, ProviderError> {
        let until = Instant::now() + SETTLE_WITHIN;
        loop {
            let answer = self.account.call(operation, Method::POST, path, Some(body), twice).await?;
            if answer.status != 404 || Instant::now() >= until {
                return Ok(answer);
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// What the agent may connect to outside. Before the machine: it holds from its next boot on. A policy only ever
    /// allows ports, and what one without any means Fly does not say, so TCP port 1 stays open, to any address: whoever
    /// listens there can be connected to.
    pub(super) async fn ensure_policy(&self, app: &str, internet: bool) -> Result<(), ProviderError> {
        const POLICY: &str = "set network policy";
        if internet {
            return Ok(());
        }
        let path = format!("/apps/{app}/network_policies");
        let there: Option<Option<Vec<Value>>> = self.account.get(POLICY, &path).await?;
        if there.flatten().is_some_and(|there| there.iter().any(|policy| policy["name"] == "theazo-no-egress")) {
            return Ok(());
        }
        let rule = json!({ "action": "allow", "direction": "egress", "ports": [{ "protocol": "tcp", "port": 1 }] });
        let body = json!({ "name": "theazo-no-egress", "selector": { "all": true }, "rules": [rule] });
        let answer = self.make(POLICY, &path, &body, Twice::Harmless).await?;
        if answer.status < 300 { Ok(()) } else { Err(from_answer(POLICY, answer.status, &answer.body)) }
    }

    /// Makes the app's address, a public one of its own: only such a one takes connections that the proxy leaves alone.
    pub(super) async fn ensure_address(&self, app: &str) -> Result<(), ProviderError> {
        const ADDRESS: &str = "assign address";
        let path = format!("/apps/{app}/ip_assignments");
        let mut refusal = None;
        for attempt in 0..ATTEMPTS {
            if self.address(app).await?.is_some() {
                return Ok(());
            }
            settle(attempt).await;
            match made(ADDRESS, self.make(ADDRESS, &path, &json!({ "type": "v4" }), Twice::Makes).await)? {
                Made::Surely(_) => return Ok(()),
                Made::Perhaps(error) => refusal = Some(error),
            }
        }
        let missing = || refusal.unwrap_or_else(|| failed(ADDRESS, None, true, "the address does not show"));
        self.address(app).await?.map(|_| ()).ok_or_else(missing)
    }

    /// The app's own public addresses. The first counts; all lead to the same machine.
    async fn addresses(&self, app: &str) -> Result<Vec<Ipv4Addr>, ProviderError> {
        let found: Option<Addresses> = self.account.get("get address", &format!("/apps/{app}/ip_assignments")).await?;
        let found = found.and_then(|found| found.ips).unwrap_or_default();
        let own = found.iter().filter_map(|assigned| Some((assigned.is_regional(), assigned.dedicated()?)));
        let mut own: Vec<(bool, Ipv4Addr)> = own.collect();
        own.sort_unstable();
        Ok(own.into_iter().map(|(_, ip)| ip).collect())
    }

    pub(super) async fn address(&self, app: &str) -> Result<Option<IpAddr>, ProviderError> {
        Ok(self.addresses(app).await?.first().copied().map(IpAddr::V4))
    }

    /// All volumes of the app, checkpoints among them: of several of a name, all who look choose the same first.
    pub(super) async fn volumes(&self, app: &str) -> Result<Vec<Volume>, ProviderError> {
        const LIST: &str = "list volumes";
        let found: Option<Option<Vec<Volume>>> = self.account.get(LIST, &format!("/apps/{app}/volumes")).await?;
        let mut found = found.flatten().unwrap_or_default();
        found.retain(|volume| !volume.state.contains("destroy"));
        found.sort_by_key(|volume| (volume.attached_machine_id.is_none(), volume.id.clone()));
        Ok(found)
    }

    async fn volume(&self, app: &str) -> Result<Option<(String, String)>, ProviderError> {
        let own = self.volumes(app).await?.into_iter().find(|volume| volume.name == DATA);
        Ok(own.map(|volume| (volume.id, volume.region)))
    }

    /// Makes the volume: its id, and the region that it and so the machine is in.
    pub(super) async fn ensure_volume(&self, app: &str, region: &str) -> Result<(String, String), ProviderError> {
        const CREATE: &str = "create volume";
        let body = json!({
            "name": DATA, "region": region, "size_gb": VOLUME_GB, "compute": guest(),
            // What is kept is kept on the volume alone. The service keeps no copy for less than a day.
            "auto_backup_enabled": false, "snapshot_retention": 1,
        });
        let path = format!("/apps/{app}/volumes");
        let mut refusal = None;
        for attempt in 0..ATTEMPTS {
            if let Some(chosen) = self.volume(app).await? {
                return Ok(chosen);
            }
            settle(attempt).await;
            match made(CREATE, self.make(CREATE, &path, &body, Twice::Makes).await)? {
                Made::Surely(answer) => match serde_json::from_slice::<Volume>(&answer) {
                    Ok(volume) => return Ok((volume.id, volume.region)),
                    Err(_) => refusal = Some(not_understood(CREATE)),
                },
                Made::Perhaps(error) => refusal = Some(error),
            }
        }
        let missing = || refusal.unwrap_or_else(|| failed(CREATE, None, true, "the volume does not show"));
        self.volume(app).await?.ok_or_else(missing)
    }

    /// Removes what creates at the same moment, or calls that were done twice, made beside what the machine uses. A create
    /// that would use it finds that the machine is there already.
    pub(super) async fn tidy(&self, app: &str, machine: &Machine) -> Result<(), ProviderError> {
        let volumes = async {
            // One whose host does not answer does not say.
            let Some(used) = machine.volume() else { return Ok(()) };
            for surplus in self.volumes(app).await? {
                if surplus.name == DATA
                    && surplus.id != used
                    && surplus.attached_machine_id.is_none_or(|id| id.is_empty())
                {
                    let path = format!("/apps/{app}/volumes/{}", super::encode(&surplus.id));
                    self.delete("delete volume", &path).await?;
                }
            }
            Ok(())
        };
        let addresses = async {
            for surplus in self.addresses(app).await?.iter().skip(1) {
                self.delete("release address", &format!("/apps/{app}/ip_assignments/{surplus}")).await?;
            }
            Ok(())
        };
        tokio::try_join!(volumes, addresses).map(|_| ())
    }

    pub(super) async fn delete(&self, operation: &'static str, path: &str) -> Result<(), ProviderError> {
        let answer = self.account.call(operation, Method::DELETE, path, None, Twice::Harmless).await?;
        match answer.status {
            200..=299 | 404 => Ok(()),
            status => Err(from_answer(operation, status, &answer.body)),
        }
    }

    /// Removes the app, and with it machine, volume and address, and looks until it is gone.
    pub(super) async fn remove(&self, name: &str) -> Result<(), ProviderError> {
        let until = Instant::now() + SETTLE_WITHIN;
        let (mut told, mut unseen) = (false, 0);
        loop {
            if self.app(name).await?.is_none() {
                unseen += 1;
                // Once is not believed, see `presence`, but of what was told to go.
                if told || unseen >= 2 {
                    return Ok(());
                }
            } else if Instant::now() >= until {
                return Err(failed("delete app", None, true, "the app stays"));
            } else {
                self.delete("delete app", &format!("/apps/{name}?force=true")).await?;
                if !std::mem::replace(&mut told, true) {
                    continue;
                }
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// All apps of the organization that are ours.
    pub(super) async fn apps(&self) -> Result<Vec<App>, ProviderError> {
        let (first, pages) = self.list_apps().await?;
        // What is made or removed between two pages may push another app past both, and an app that is missing is taken for
        // gone. One page is as of one moment.
        let second = if pages > 1 { self.list_apps().await?.0 } else { Vec::new() };
        let mut names = BTreeSet::new();
        Ok(first.into_iter().chain(second).filter(|app| names.insert(app.name.clone())).collect())
    }

    /// One list of them, and how many pages it had.
    async fn list_apps(&self) -> Result<(Vec<App>, usize), ProviderError> {
        const LIST: &str = "list apps";
        let (mut all, mut cursor) = (Vec::new(), String::new());
        for pages in 1..=PAGES {
            let path = format!("/apps?org_slug={}&limit={PAGE}{cursor}", self.settings.organization);
            let page: Option<AppsPage> = self.account.get(LIST, &path).await?;
            let page = page.ok_or_else(|| failed(LIST, Some(404), false, "there is no such organization"))?;
            all.extend(
                page.apps.unwrap_or_default().into_iter().filter(|app| agent_of(app, self.deployment()).is_some()),
            );
            match page.next_cursor.filter(|next| !next.is_empty()) {
                Some(next) => cursor = format!("&cursor={}", super::encode(&next)),
                None => return Ok((all, pages)),
            }
        }
        Err(failed(LIST, None, false, "a list without an end"))
    }

    /// All machines of the organization, as they were a moment ago.
    pub(super) async fn all_machines(&self) -> Result<Vec<Listed>, ProviderError> {
        const LIST: &str = "list machines";
        let (mut all, mut cursor) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let path = format!("/orgs/{}/machines?summary=true&limit={PAGE}{cursor}", self.settings.organization);
            let page: Option<MachinesPage> = self.account.get(LIST, &path).await?;
            let page = page.ok_or_else(|| failed(LIST, Some(404), false, "there is no such organization"))?;
            if page.error_regions.is_some_and(|regions| !regions.is_empty()) {
                return Err(failed(LIST, None, true, "not all regions answer"));
            }
            all.extend(page.machines.unwrap_or_default());
            match page.next_cursor.filter(|next| !next.is_empty()) {
                Some(next) => cursor = format!("&cursor={}", super::encode(&next)),
                None => return Ok(all),
            }
        }
        Err(failed(LIST, None, false, "a list without an end"))
    }
}

/// Waits before all attempts but the first, longer each time: lists lag behind.
pub(super) async fn settle(attempt: u32) {
    if attempt > 0 {
        tokio::time::sleep(SETTLE_PAUSE * (1 << (attempt - 1).min(3))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_public_address_of_the_apps_own_is_taken() {
        let dedicated = |shown: Value| serde_json::from_value::<Assigned>(shown).unwrap().dedicated();
        let own = Some(Ipv4Addr::new(137, 66, 1, 2));
        assert_eq!(dedicated(json!({ "ip": "137.66.1.2", "region": "global", "shared": false })), own);
        assert_eq!(dedicated(json!({ "ip": "137.66.1.2", "region": null, "shared": null })), own);
        assert_eq!(dedicated(json!({ "ip": "66.241.1.2", "shared": true })), None);
        for other in ["2a09:8280:1::1", "fdaa:0:1:0:1::2", "172.19.0.3", "no address", ""] {
            assert_eq!(dedicated(json!({ "ip": other })), None, "{other}");
        }
    }
}
