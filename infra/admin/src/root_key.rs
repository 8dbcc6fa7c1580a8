//! The deployment's root key: rotating it, looking at it, and retiring its old versions.

use crate::TIMEOUT;
use crate::error::AdminError;
use crate::output::{Output, Show, note};
use crate::target::Target;
use crate::vault::{Vault, VaultArgs, operator};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::time::Duration;
use theazo_http::format_time;
use theazo_store::{
    DEFAULT_BACKUP_WINDOW, PlatformStatus, Retirement, RootProgress, RootRotation, RootStatus, StoreError,
    VersionStatus, now_ms,
};

/// How often a wait says how long it still is.
const TELL_EVERY_MS: i64 = 30_000;
const DAY_SECONDS: u64 = 24 * 60 * 60;

#[derive(Args)]
pub(crate) struct RootKey {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes the first root key of a deployment that has none yet; nothing where there is one.
    ///
    /// To be run once, after the table and the KMS key were made and before anything is sealed; refused where values are
    /// sealed and their root key is missing. The key is made and wrapped by KMS: nobody ever sees it.
    Init,
    /// Makes a new version of the root key and seals every value anew under it, without downtime.
    ///
    /// Waits twice as long as functions keep keys in memory, and says what it does. Interrupted, it goes on when it is run
    /// again; the deployment's upkeep goes on with it as well.
    Rotate,
    /// Shows the versions, how many values lie under each, and how far rotations are: of the root key and of platforms'
    /// keys.
    Status,
    /// Deletes an old version from the table, where nothing is under it any more.
    ///
    /// Refused while a value is under it, while it is in use or a rotation is under way, and until backups from when it
    /// was in use are gone. A backup that is kept longer than --backup-days says holds the version itself, wrapped by the
    /// KMS key, beside the values that were under it: retiring does not close it.
    Retire {
        /// The version's number
        version: u32,
        /// How many days backups are kept; two cache lives are waited for in any case
        #[arg(long, value_name = "N", default_value_t = DEFAULT_BACKUP_WINDOW.as_secs() / DAY_SECONDS)]
        backup_days: u64,
        /// That it is meant
        #[arg(long)]
        yes: bool,
    },
}

/// What `rotate` and `status` answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    rotation: Rotation,
    versions: Vec<Version>,
    /// Values whose record cannot be read, or names a version that there is not.
    unreadable: u64,
    /// Values that did not open where they lie.
    unopened: u64,
    unopened_places: Vec<String>,
    /// Platforms whose own key is being rotated.
    platforms: Vec<OfPlatform>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfPlatform {
    platform_id: String,
    /// The version that its values are being sealed anew under.
    key_version: u32,
    resealed: u64,
    /// When the last piece was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    worked_at: Option<String>,
    /// When a walk over all its values ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    walked_at: Option<String>,
    unopened: u64,
    unopened_places: Vec<String>,
    /// Whether only values that do not open are in the way of its end.
    stuck: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    /// `idle`, `published`, `switched` or `resealing`.
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// When it can go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    continues_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: u32,
    /// `active`, `published` or `replaced`.
    state: &'static str,
    values: u64,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_at: Option<String>,
    /// From when on it may be retired, if backups are kept for 35 days and no value is under it.
    #[serde(skip_serializing_if = "Option::is_none")]
    retirable_at: Option<String>,
    #[serde(skip)]
    shown: [String; 2],
}

/// What `retire` answers.
#[derive(Serialize)]
struct Retired {
    version: u32,
    status: &'static str,
    #[serde(skip)]
    shown: String,
}

impl RootKey {
    pub(crate) async fn run(&self, target: &Target, output: &Output) -> Result<(), AdminError> {
        let Vault { table, keys } = self.vault.open(target).await?;
        let life = keys.cache_ttl();
        let rotation = RootRotation::new(table, keys, operator(), life);
        if matches!(self.verb, Verb::Init) {
            let made = step(rotation.init()).await?;
            note(if made { "The root key was made." } else { "There is a root key; nothing was changed." });
        }
        match self.verb {
            Verb::Rotate => rotate(&rotation).await?,
            Verb::Init | Verb::Status => {}
            Verb::Retire { version, yes: false, .. } => {
                return Err(AdminError::Unconfirmed(format!("deletes version {version} of the root key for good")));
            }
            Verb::Retire { version, backup_days, yes: true } => {
                let window = Duration::from_secs(backup_days.saturating_mul(DAY_SECONDS));
                return retire(&rotation, version, window, output).await;
            }
        }
        let status = Status::from(rotation.status(now_ms()).await?);
        output.show(&status)?;
        status.explain();
        Ok(())
    }
}

/// One step, which takes seconds at most; an endpoint that never answers must not hang the command.
async fn step<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, AdminError> {
    Ok(tokio::time::timeout(TIMEOUT, work).await.map_err(|_| AdminError::TimedOut(TIMEOUT))??)
}

/// Begins a rotation, or goes on with the one under way, and stays until it is over.
async fn rotate(rotation: &RootRotation) -> Result<(), AdminError> {
    if step(rotation.progressed(now_ms())).await? != RootProgress::Idle {
        note("A rotation is under way; going on with it.");
    }
    let mut progress = step(rotation.begin(now_ms())).await?;
    note("Interrupting this is safe: run it again and it goes on.");
    loop {
        match progress {
            RootProgress::Published { version, switch_at_ms } => {
                wait(switch_at_ms, &format!("until every instance can read version {version}")).await;
            }
            RootProgress::Switched { version, reseal_at_ms } => {
                wait(reseal_at_ms, &format!("until nobody seals under an older version than {version}")).await;
            }
            RootProgress::Resealing { resealed, unopened, .. } => {
                note(&format!("Sealing anew: {resealed} values so far{}", apart_from(unopened)));
            }
            RootProgress::Finished { version, resealed, unopened } => {
                let rest = apart_from(unopened);
                note(&format!("Version {version} is in use; {resealed} values were sealed anew under it{rest}"));
                return Ok(());
            }
            // The deployment's own upkeep was faster.
            RootProgress::Idle => return Ok(()),
        }
        progress = step(rotation.advance(now_ms())).await?;
    }
}

fn apart_from(unopened: u64) -> String {
    if unopened == 0 { ".".into() } else { format!("; {unopened} do not open where they lie and were left alone.") }
}

/// Waits until a moment by the wall clock, and tells how long it still is.
async fn wait(until_ms: i64, why: &str) {
    loop {
        let left_ms = until_ms - now_ms();
        if left_ms <= 0 {
            return;
        }
        // Rounded up, so that nobody reads 0 s.
        let seconds = left_ms.saturating_add(999) / 1000;
        note(&format!("Waiting {} min {:02} s {why}", seconds / 60, seconds % 60));
        let span_ms = u64::try_from(left_ms.min(TELL_EVERY_MS)).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(span_ms)).await;
    }
}

async fn retire(rotation: &RootRotation, version: u32, window: Duration, output: &Output) -> Result<(), AdminError> {
    let why = match rotation.retire(version, window, now_ms()).await? {
        Retirement::Retired => {
            output.show(&Retired { version, status: "retired", shown: version.to_string() })?;
            return Ok(());
        }
        Retirement::Unknown => "there is no such version".into(),
        Retirement::Active => "values are sealed with it now".into(),
        Retirement::UnderWay => "a rotation is under way; `cargo admin root-key rotate` finishes it".into(),
        Retirement::InUse(values) => {
            format!(
                "{values} values are still under it; `cargo admin root-key rotate` seals anew what opens, and \
                 `cargo admin root-key status` names what does not"
            )
        }
        Retirement::TooEarly(until_ms) => {
            format!("backups from when it was in use may be kept until {}", format_time(until_ms))
        }
        Retirement::Changed => "the root keys were being changed at the same time; try again".into(),
    };
    Err(AdminError::NotRetired { version, why })
}

impl Status {
    /// What the operator must know besides.
    fn explain(&self) {
        match (&self.rotation, self.rotation.version) {
            (Rotation { phase: "idle", .. }, _) | (_, None) => {}
            (Rotation { phase, continues_at, .. }, Some(version)) => {
                let when = continues_at.as_ref().map(|at| format!(" It can go on at {at}.")).unwrap_or_default();
                note(&format!("A rotation to version {version} is under way ({phase}).{when}"));
            }
        }
        if self.unreadable > 0 {
            note(&format!("{} sealed values name no version that there is.", self.unreadable));
        }
        if self.unopened > 0 {
            note(&format!(
                "{} sealed values did not open where they lie (damaged or moved), among them:",
                self.unopened
            ));
            tell_places(&self.unopened_places);
        }
        for OfPlatform { platform_id, key_version, resealed, worked_at, unopened, unopened_places, stuck, .. } in
            &self.platforms
        {
            let when = worked_at.as_ref().map(|at| format!(", last at {at}")).unwrap_or_default();
            note(&format!(
                "The key of {platform_id} is being rotated to version {key_version}: {resealed} values sealed anew so \
                 far{when}."
            ));
            if *unopened > 0 {
                let end = if *stuck { ", and only they are in the way of its end" } else { "" };
                note(&format!("  {unopened} of its values do not open where they lie{end}. Among them:"));
                tell_places(unopened_places);
            }
        }
    }
}

fn tell_places(places: &[String]) {
    places.iter().for_each(|place| note(&format!("    {}", place.escape_debug())));
}

impl From<PlatformStatus> for OfPlatform {
    fn from(status: PlatformStatus) -> Self {
        Self {
            platform_id: status.platform.to_string(),
            key_version: status.key_version,
            resealed: status.resealed,
            worked_at: status.touched_at_ms.map(format_time),
            walked_at: status.walked_at_ms.map(format_time),
            unopened: status.unopened,
            unopened_places: status.unopened_places,
            stuck: status.stuck,
        }
    }
}

impl From<RootStatus> for Status {
    fn from(status: RootStatus) -> Self {
        let (phase, version, continues_at) = match status.rotation {
            RootProgress::Idle | RootProgress::Finished { .. } => ("idle", None, None),
            RootProgress::Published { version, switch_at_ms } => ("published", Some(version), Some(switch_at_ms)),
            RootProgress::Switched { version, reseal_at_ms } => ("switched", Some(version), Some(reseal_at_ms)),
            RootProgress::Resealing { version, .. } => ("resealing", Some(version), None),
        };
        Self {
            rotation: Rotation { phase, version, continues_at: continues_at.map(format_time) },
            versions: status.versions.into_iter().map(Version::from).collect(),
            unreadable: status.unreadable,
            unopened: status.unopened,
            unopened_places: status.unopened_places,
            platforms: status.platforms.into_iter().map(OfPlatform::from).collect(),
        }
    }
}

impl From<VersionStatus> for Version {
    fn from(one: VersionStatus) -> Self {
        let state = match (one.active, one.replaced_at_ms) {
            (true, _) => "active",
            (false, None) => "published",
            (false, Some(_)) => "replaced",
        };
        let window_ms = i64::try_from(DEFAULT_BACKUP_WINDOW.as_millis()).unwrap_or(i64::MAX);
        Self {
            version: one.version,
            state,
            values: one.values,
            created_at: format_time(one.created_at_ms),
            replaced_at: one.replaced_at_ms.map(format_time),
            retirable_at: one.replaced_at_ms.map(|at| format_time(at.saturating_add(window_ms))),
            shown: [one.version.to_string(), one.values.to_string()],
        }
    }
}

impl Show for Status {
    const HEADER: &'static [&'static str] = &["VERSION", "STATE", "VALUES", "PUBLISHED", "REPLACED", "RETIRABLE FROM"];

    fn rows(&self) -> Vec<Vec<&str>> {
        self.versions
            .iter()
            .map(|one| {
                let [version, values] = &one.shown;
                let replaced = one.replaced_at.as_deref().unwrap_or("-");
                let retirable = one.retirable_at.as_deref().unwrap_or("-");
                vec![version, one.state, values, &*one.created_at, replaced, retirable]
            })
            .collect()
    }
}

impl Show for Retired {
    const HEADER: &'static [&'static str] = &["VERSION", "STATE"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![&*self.shown, self.status]]
    }

    fn note(&self) -> Option<&'static str> {
        Some(
            "Nothing in the table is under it any more. A backup from when it was in use holds it too, wrapped by the KMS key: \
             until the last of those is gone, whoever may restore one and use that key can open what is in it.",
        )
    }
}
