//! Platforms.

use crate::error::AdminError;
use crate::output::{Output, Show};
use crate::text;
use clap::Subcommand;
use serde::{Serialize, Serializer};
use theazo_http::format_time;
use theazo_store::{NewPlatform, PageRequest, Platform, Platforms, Table};
use theazo_tenancy::Operator;

/// Platforms read at a time.
const PAGE: usize = 100;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes a platform with a live and a test key, which are shown this once.
    Create {
        /// Its name, for people: 1 to 128 bytes
        #[arg(value_parser = text::name)]
        name: String,
    },
    /// Lists the deployment's platforms, newest first.
    List,
}

/// What `create` answers.
struct Created(NewPlatform);

/// What `list` answers.
#[derive(Serialize)]
#[serde(transparent)]
struct Listed(Vec<Line>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: String,
    name: String,
    created_at: String,
}

/// Platforms of that table, in the operator's name.
#[expect(clippy::disallowed_methods, reason = "this is the operator's tool; whoever reaches the table is the operator")]
pub(crate) fn platforms(table: Table) -> Platforms {
    Platforms::new(table, Operator::assume())
}

pub(crate) async fn run(verb: &Verb, table: Table, output: &Output) -> Result<(), AdminError> {
    let platforms = platforms(table);
    match verb {
        Verb::Create { name } => output.show(&Created(platforms.create(name).await?))?,
        Verb::List => output.show(&list(&platforms).await?)?,
    }
    Ok(())
}

async fn list(platforms: &Platforms) -> Result<Listed, AdminError> {
    let mut lines = Vec::new();
    let mut request = PageRequest { limit: PAGE, after: None };
    loop {
        let page = platforms.list(&request).await?;
        lines.extend(page.rows.into_iter().map(Line::from));
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(Listed(lines)),
        }
    }
}

impl From<Platform> for Line {
    fn from(platform: Platform) -> Self {
        let created_at = format_time(platform.created_at_ms);
        Self { id: platform.id.to_string(), name: platform.name, created_at }
    }
}

impl Serialize for Created {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields<'a> {
            id: &'a str,
            name: &'a str,
            live_key: &'a str,
            test_key: &'a str,
        }
        let Self(NewPlatform { platform, live, test }) = self;
        Fields { id: platform.id.as_str(), name: &platform.name, live_key: &live.text, test_key: &test.text }
            .serialize(serializer)
    }
}

impl Show for Created {
    const HEADER: &'static [&'static str] = &["PLATFORM", "NAME", "ENVIRONMENT", "KEY"];

    fn rows(&self) -> Vec<Vec<&str>> {
        let Self(NewPlatform { platform, live, test }) = self;
        let row = |environment, key| vec![platform.id.as_str(), platform.name.as_str(), environment, key];
        vec![row("live", live.text.as_str()), row("test", test.text.as_str())]
    }

    fn note(&self) -> Option<&'static str> {
        Some("The keys are shown this once and kept nowhere: store them now.")
    }
}

impl Show for Listed {
    const HEADER: &'static [&'static str] = &["PLATFORM", "CREATED", "NAME"];

    fn rows(&self) -> Vec<Vec<&str>> {
        self.0.iter().map(|line| vec![line.id.as_str(), line.created_at.as_str(), line.name.as_str()]).collect()
    }
}
