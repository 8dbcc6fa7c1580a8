//! Platforms.

use crate::error::AdminError;
use crate::output::{Output, Show, note};
use crate::target::Target;
use crate::vault::{Vault, VaultArgs, operator};
use crate::{key, pages, text};
use clap::Subcommand;
use serde::{Serialize, Serializer};
use theazo_http::format_time;
use theazo_store::{
    DeletionState, DeletionStretch, NewPlatform, Platform, PlatformDeletion, PlatformRotation, PlatformSuspension,
    Platforms, StoreError, Table, now_ms,
};
use theazo_tenancy::{Operator, PlatformId};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes a platform with a live and a test key, which are shown this once.
    Create {
        /// Its name, for people: 1 to 128 bytes
        #[arg(value_parser = text::name)]
        name: String,
    },
    /// Lists the deployment's platforms, newest first, with those whose deletion is not finished.
    List,
    /// Refuses all requests of a platform and has its agents paused, until it is resumed. Nothing is lost.
    Suspend {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
    },
    /// Serves a suspended platform again. It resumes its agents itself.
    Resume {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
    },
    /// Deletes a platform for good: its keys are refused at once, then everything of it goes.
    ///
    /// Its sessions end and their secrets are removed now; the deployment's scheduled clean-up ends its agents and removes
    /// the rest. The audit trail stays until it expires. Repeating the command shows what is left.
    Delete {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
        /// That it is meant
        #[arg(long)]
        yes: bool,
    },
    /// Gives a platform's vault a new key and seals all its values anew under it, without downtime.
    ///
    /// Live and test, its own, its sessions' and what lies beside running agents. Interrupted, it goes on when it is run
    /// again; the deployment's upkeep goes on with it as well.
    RotateKey {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
        #[command(flatten)]
        vault: VaultArgs,
    },
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
    /// When its deletion began.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<String>,
    /// Since when it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended_at: Option<String>,
}

/// What `suspend` and `resume` answer.
#[derive(Serialize)]
struct Standing {
    id: String,
    /// `suspended` or `active`.
    status: &'static str,
}

/// What `delete` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Deletion {
    id: String,
    /// `deleting` or `deleted`.
    status: &'static str,
    /// Agents that are still to be ended.
    agents: usize,
    /// Before when the last rows are not removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip)]
    agents_shown: String,
}

/// What `rotate-key` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    id: String,
    key_version: u32,
    /// Values that this run sealed anew.
    resealed: u64,
    #[serde(skip)]
    shown: [String; 2],
}

/// Platforms of that table, in the operator's name.
#[expect(clippy::disallowed_methods, reason = "this is the operator's tool; whoever reaches the table is the operator")]
pub(crate) fn platforms(table: Table) -> Platforms {
    Platforms::new(table, Operator::assume())
}

#[expect(clippy::disallowed_methods, reason = "this is the operator's tool; whoever reaches the table is the operator")]
fn suspension(table: Table) -> PlatformSuspension {
    PlatformSuspension::new(table, Operator::assume())
}

fn unknown(error: StoreError, platform: &PlatformId) -> AdminError {
    match error {
        StoreError::NotFound => AdminError::UnknownPlatform(platform.clone()),
        other => other.into(),
    }
}

pub(crate) async fn run(verb: &Verb, target: &Target, table: Table, output: &Output) -> Result<(), AdminError> {
    match verb {
        Verb::RotateKey { platform, vault } => {
            output.show(&rotate_key(vault.open(target).await?, platform).await?)?;
        }
        Verb::Create { name } => output.show(&Created(platforms(table).create(name).await?))?,
        Verb::Suspend { platform } => {
            suspension(table).suspend(platform).await.map_err(|error| unknown(error, platform))?;
            output.show(&Standing { id: platform.to_string(), status: "suspended" })?;
        }
        Verb::Resume { platform } => {
            suspension(table).resume(platform).await.map_err(|error| unknown(error, platform))?;
            output.show(&Standing { id: platform.to_string(), status: "active" })?;
        }
        Verb::List => output.show(&list(&platforms(table)).await?)?,
        Verb::Delete { platform, yes } => output.show(&delete(table, platform, *yes).await?)?,
    }
    Ok(())
}

/// Begins a rotation, or goes on with the one under way, and walks until no value needs the old key.
async fn rotate_key(vault: Vault, platform: &PlatformId) -> Result<Rotated, AdminError> {
    let rotation = PlatformRotation::new(vault.table, vault.keys, operator());
    let key_version = rotation.begin(platform).await.map_err(|error| unknown(error, platform))?;
    note(&format!(
        "Version {key_version} of its key is in use. Interrupting this is safe: run it again and it goes on."
    ));
    let mut resealed = 0;
    loop {
        let walk = rotation.walk(platform, now_ms()).await?;
        resealed += walk.resealed;
        if walk.finished {
            let (id, resealed_shown) = (platform.to_string(), resealed.to_string());
            return Ok(Rotated { id, key_version, resealed, shown: [key_version.to_string(), resealed_shown] });
        }
        if walk.stuck {
            let places = walk.unopened_places.iter().map(|place| place.escape_debug().to_string()).collect();
            return Err(AdminError::Stuck { platform: platform.clone(), values: walk.unopened, places });
        }
        note(&format!("Sealed anew: {resealed} values so far."));
    }
}

async fn delete(table: Table, platform: &PlatformId, yes: bool) -> Result<Deletion, AdminError> {
    if !yes {
        let what = format!("deletes {platform} for good, with its keys, sessions, agents and secrets");
        return Err(AdminError::Unconfirmed(what));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the operator's tool; whoever reaches the table is the operator"
    )]
    let deletion = PlatformDeletion::new(table, Operator::assume());
    deletion.begin(platform).await.map_err(|error| unknown(error, platform))?;
    note("It takes no calls any more. Removing what it has: interrupting this is safe, the schedule goes on with it.");
    let (mut ended, mut removed) = (0, 0);
    let tell = |stretch| match stretch {
        DeletionStretch::Ended(more) => {
            ended += more;
            note(&format!("{ended} sessions have ended and have no secrets any more."));
        }
        DeletionStretch::Removed(more) => {
            removed += more;
            note(&format!("{removed} sessions are removed."));
        }
    };
    let (status, agents, not_before) = match deletion.advance_telling(platform, now_ms(), tell).await? {
        DeletionState::UnderWay { agents, until_ms } => ("deleting", agents, Some(format_time(until_ms))),
        DeletionState::Gone => ("deleted", 0, None),
    };
    Ok(Deletion { id: platform.to_string(), status, agents, not_before, agents_shown: agents.to_string() })
}

async fn list(platforms: &Platforms) -> Result<Listed, AdminError> {
    let platforms = pages::all(async |request| platforms.list(request).await).await?;
    Ok(Listed(platforms.into_iter().map(Line::from).collect()))
}

impl From<Platform> for Line {
    fn from(platform: Platform) -> Self {
        let created_at = format_time(platform.created_at_ms);
        let deleted_at = platform.deleted_at_ms.map(format_time);
        let suspended_at = platform.suspended_at_ms.map(format_time);
        Self { id: platform.id.to_string(), name: platform.name, created_at, deleted_at, suspended_at }
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
    const HEADER: &'static [&'static str] = &["PLATFORM", "CREATED", "STATUS", "NAME"];

    fn rows(&self) -> Vec<Vec<&str>> {
        let status = |line: &Line| match (&line.deleted_at, &line.suspended_at) {
            (Some(_), _) => "deleting",
            (None, Some(_)) => "suspended",
            (None, None) => "active",
        };
        self.0.iter().map(|line| vec![&*line.id, &*line.created_at, status(line), &*line.name]).collect()
    }
}

impl Show for Standing {
    const HEADER: &'static [&'static str] = &["PLATFORM", "STATUS"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![&self.id, self.status]]
    }

    fn note(&self) -> Option<&'static str> {
        Some(match self.status {
            "suspended" => {
                "Its requests are refused as of now. Its agents are paused within two minutes, where their provider can; \
                 others run until their time is over."
            }
            _ => "Its requests are served again. Agents that the suspension has paused stay so until it resumes them.",
        })
    }
}

impl Show for Deletion {
    const HEADER: &'static [&'static str] = &["PLATFORM", "STATUS", "AGENTS LEFT", "NOT FINISHED BEFORE"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![&self.id, self.status, &self.agents_shown, self.not_before.as_deref().unwrap_or("-")]]
    }

    fn note(&self) -> Option<&'static str> {
        self.not_before.is_some().then_some(
            "Its keys are refused, its sessions are over and their secrets are gone. The deployment's scheduled clean-up ends \
             its agents and removes the rest; until then `cargo admin platform list` shows it as deleting.",
        )
    }
}

impl Show for Rotated {
    const HEADER: &'static [&'static str] = &["PLATFORM", "KEY VERSION", "SEALED ANEW"];

    fn rows(&self) -> Vec<Vec<&str>> {
        let [version, resealed] = &self.shown;
        vec![vec![&self.id, version, resealed]]
    }
}
