//! What an engine lists, read by ourselves, a row at a time: a host is somebody else's machine, and whoever takes its
//! word for how much there is runs out of memory. Of each row only what is needed here is kept, and of a list no more
//! rows than a host can have.

use super::elements::{Elements, Odd};
use super::names;
use super::transport::Transport;
use bollard::errors::Error as EngineError;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;

/// Rows that are kept of one list: networks, of which a host has one for each of its agents, and what one agent has.
const MOST_ROWS: usize = 16 * 1024;
/// The longest of a row's texts that are kept, bytes; what is longer is none of ours. Ids have 64, our labels fewer.
const LONGEST_TEXT: usize = 128;

/// An engine's lists.
pub(super) struct Lists(Arc<Transport>);

/// Our labels.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Labels {
    #[serde(rename = "theazo.deployment", default)]
    deployment: Option<Text>,
    #[serde(rename = "theazo.agent", default)]
    agent: Option<Text>,
    /// Of a forwarder, what it leads to.
    #[serde(rename = "theazo.port", default)]
    port: Option<Text>,
}

/// A text, or nothing in place of one that is too long.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "String")]
struct Text(String);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(if text.len() <= LONGEST_TEXT { text } else { String::new() })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    #[serde(default)]
    id: Text,
    #[serde(default)]
    state: Text,
    #[serde(default)]
    labels: Option<Labels>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Network {
    #[serde(default)]
    id: Text,
    #[serde(default)]
    name: Text,
    /// Whether it leads nowhere.
    #[serde(default)]
    pub(super) internal: bool,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(rename = "IPAM", default)]
    ipam: Option<Ipam>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    #[serde(default)]
    config: Option<Vec<IpamConfig>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    #[serde(default)]
    subnet: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Volume {
    #[serde(default)]
    name: Text,
    #[serde(default)]
    labels: Option<Labels>,
}

/// Something with labels, of which the engine has a list.
pub(super) trait Labelled: DeserializeOwned {
    /// Where, up to the filter.
    const LIST: &'static str;

    /// What the engine knows it by; empty where it does not say so.
    fn id(&self) -> &str;

    fn labels(&self) -> Option<&Labels>;

    /// Which agent of that deployment it was made for.
    fn agent_of(&self, deployment: &str) -> Option<&str> {
        let is_its = |labels: &&Labels| labels.deployment.as_ref().is_some_and(|told| told.0 == deployment);
        self.labels().filter(is_its)?.agent.as_ref().map(|agent| agent.0.as_str())
    }

    /// Whether it was made for that agent.
    fn is_of(&self, deployment: &str, agent: &str) -> bool {
        self.agent_of(deployment) == Some(agent)
    }
}

macro_rules! labelled {
    ($($kind:ty: $id:ident in $list:literal),*) => {
        $(impl Labelled for $kind {
            const LIST: &'static str = $list;

            fn id(&self) -> &str {
                &self.$id.0
            }

            fn labels(&self) -> Option<&Labels> {
                self.labels.as_ref()
            }
        })*
    };
}

labelled!(Container: id in "/containers/json?all=true&", Network: id in "/networks?", Volume: name in "/volumes?");

impl Container {
    /// Whether it runs, or stands still.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state.0.as_str(), "running" | "paused")
    }

    /// Whether it does not run any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state.0.as_str(), "exited" | "dead" | "removing")
    }

    /// Whether it leads to an agent's port.
    pub(super) fn is_forwarder(&self) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.port.is_some())
    }
}

impl Network {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name.0
    }

    /// Its ranges of addresses, as written.
    pub(super) fn subnets(&self) -> impl Iterator<Item = &str> {
        let configs = self.ipam.iter().filter_map(|ipam| ipam.config.as_ref()).flatten();
        configs.filter_map(|config| Some(config.subnet.as_ref()?.0.as_str()))
    }
}

impl Lists {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self(transport)
    }

    /// Hands on what of a kind has the deployment's labels, or an agent's of it; containers that have ended too.
    pub(super) async fn of<T: Labelled>(
        &self,
        deployment: &str,
        agent: Option<&str>,
        take: impl FnMut(T) -> Result<(), NotListed>,
    ) -> Result<(), EngineError> {
        self.each(&format!("{}{}", T::LIST, filter(deployment, agent)), take).await
    }

    /// All networks of the engine.
    pub(super) async fn all_networks(&self) -> Result<Vec<Network>, EngineError> {
        let mut networks = Few::default();
        self.each("/networks", |network| networks.add(network)).await?;
        Ok(networks.0)
    }

    async fn each<T: DeserializeOwned>(
        &self,
        path: &str,
        mut take: impl FnMut(T) -> Result<(), NotListed>,
    ) -> Result<(), EngineError> {
        let mut elements = Elements::default();
        self.0.clone().read(path, |piece| Ok(elements.feed(piece, |element| take(row(element)?))?)).await?;
        Ok(elements.finish().map_err(NotListed::from)?)
    }
}

fn row<T: DeserializeOwned>(element: &[u8]) -> Result<T, NotListed> {
    serde_json::from_slice(element).map_err(|_| NotListed("a row that was not understood"))
}

/// Rows that are kept, of which there cannot be many.
#[derive(Debug)]
pub(super) struct Few<T>(pub(super) Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Few<T> {
    /// # Errors
    /// When there are too many.
    pub(super) fn add(&mut self, row: T) -> Result<(), NotListed> {
        if self.0.len() == MOST_ROWS {
            return Err(NotListed("a list of too many rows"));
        }
        self.0.push(row);
        Ok(())
    }
}

/// Why a list was not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotListed(pub(super) &'static str);

impl From<Odd> for NotListed {
    fn from(odd: Odd) -> Self {
        match odd {
            Odd::TooLong => Self("a row that is too long"),
            Odd::NoList => Self("a list that has no end"),
        }
    }
}

impl From<NotListed> for EngineError {
    fn from(NotListed(reason): NotListed) -> Self {
        Self::IOError { err: io::Error::other(reason) }
    }
}

/// The query of a list with our labels.
fn filter(deployment: &str, agent: Option<&str>) -> String {
    let mut wanted = vec![format!("{}={deployment}", names::DEPLOYMENT_LABEL)];
    wanted.extend(agent.map(|agent| format!("{}={agent}", names::AGENT_LABEL)));
    let filters = serde_json::json!({ "label": wanted }).to_string();
    format!("filters={}", utf8_percent_encode(&filters, NON_ALPHANUMERIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, NotListed> {
        let (mut elements, mut rows) = (Elements::default(), Few::default());
        elements.feed(text.as_bytes(), |element| rows.add(row(element)?))?;
        elements.finish()?;
        Ok(rows.0)
    }

    #[test]
    fn of_a_row_only_what_is_needed_is_read_and_the_rest_may_be_anything() {
        let text = r#"[{"Id":"a","State":"running","Names":["/x"],"Mounts":[{}],"Labels":{"theazo.deployment":"d",
            "theazo.agent":"agt_1","other":"x"}},{"Id":"b","State":"exited","Labels":{"theazo.deployment":"d",
            "theazo.agent":"agt_1","theazo.port":"3000"}},{"Labels":null},{}]"#;
        let [agent, forwarder, bare, empty] = rows::<Container>(text).unwrap().try_into().unwrap();
        assert!(agent.is_running() && !agent.has_ended() && !agent.is_forwarder() && agent.is_of("d", "agt_1"));
        assert!(!forwarder.is_running() && forwarder.has_ended() && forwarder.is_forwarder());
        assert!(!agent.is_of("e", "agt_1") && !agent.is_of("d", "agt_2"));
        assert!(bare.agent_of("d").is_none() && empty.id().is_empty());
        let network: Network =
            serde_json::from_str(r#"{"Id":"n","IPAM":{"Config":[{"Subnet":"10.0.0.0/29"},{}]},"Internal":true}"#)
                .unwrap();
        assert_eq!(network.subnets().collect::<Vec<_>>(), ["10.0.0.0/29"]);
        let none: Network = serde_json::from_str(r#"{"Id":"n","IPAM":{"Config":null}}"#).unwrap();
        assert!(none.subnets().next().is_none() && !none.internal);
        let volumes: Vec<Volume> = rows(r#"{"Volumes":[{"Name":"v","Labels":null}],"Warnings":["w"]}"#).unwrap();
        assert_eq!(volumes[0].id(), "v");
        assert!(rows::<Volume>(r#"{"Volumes":null,"Warnings":null}"#).unwrap().is_empty());
        let name = |bytes: usize| format!("[{{\"Name\":\"{}\"}}]", "n".repeat(bytes));
        assert_eq!(rows::<Volume>(&name(LONGEST_TEXT)).unwrap()[0].id().len(), LONGEST_TEXT);
        assert_eq!(rows::<Volume>(&name(LONGEST_TEXT + 1)).unwrap()[0].id(), "");
        assert_eq!(rows::<Volume>(r#"[{"Name":5}]"#).unwrap_err(), NotListed("a row that was not understood"));
    }

    #[test]
    fn a_list_of_more_rows_than_a_host_can_have_is_refused() {
        let text = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(rows::<Container>(&text(MOST_ROWS)).unwrap().len(), MOST_ROWS);
        assert_eq!(rows::<Container>(&text(MOST_ROWS + 1)).unwrap_err(), NotListed("a list of too many rows"));
    }

    #[test]
    fn a_filter_survives_its_way_through_a_query() {
        let query = filter("a \"deployment\" & more", Some("agt_1"));
        assert!(!query.contains(['"', ' ', '&']), "{query}");
        let decoded =
            percent_encoding::percent_decode_str(query.strip_prefix("filters=").unwrap()).decode_utf8().unwrap();
        let told: serde_json::Value = serde_json::from_str(&decoded).unwrap();
        assert_eq!(told["label"][0], "theazo.deployment=a \"deployment\" & more");
        assert_eq!(told["label"][1], "theazo.agent=agt_1");
    }
}
