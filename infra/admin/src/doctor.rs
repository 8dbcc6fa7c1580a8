//! Whether a deployment is as it should be: a line for each thing that was looked at.

use crate::error::AdminError;
use crate::output::{Output, Show};
use crate::target::Target;
use crate::vault::VaultArgs;
use clap::Args;
use serde::Serialize;
use theazo_functions::agents::Sandboxes;
use theazo_functions::deployment::{Capability, Deployment};
use theazo_store::{RootProgress, RootRotation, TableHealth, now_ms};

/// How far a clock may be off: AWS refuses signatures from five minutes on, and times of what was written by two clocks
/// stop making sense long before.
const MAX_SKEW_MS: i64 = 5_000;

/// What `doctor` needs to know.
#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    vault: VaultArgs,
}

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Bad,
    /// It is not there to be looked at, as backups of a local stack.
    Unknown,
}

#[derive(Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    detail: String,
}

/// What `doctor` answers.
#[derive(Serialize)]
#[serde(transparent)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Finding { what: what.into(), verdict, detail: detail.into() });
    }

    fn judge(&mut self, what: impl Into<String>, holds: bool, good: &str, bad: &str) {
        let (verdict, detail) = if holds { (Verdict::Good, good) } else { (Verdict::Bad, bad) };
        self.add(what, verdict, detail);
    }

    fn table(&mut self, table: &TableHealth, on_aws: bool) {
        let name = &table.name;
        self.judge(format!("table {name}"), table.active, "there, and active", "not active");
        self.judge(
            format!("expiry of {name}"),
            table.expires,
            "rows expire by `ttl`",
            "rows do not expire: logs, tokens and notes stay for ever",
        );
        if !on_aws {
            return self.add(format!("backups of {name}"), Verdict::Unknown, "a local stack has none");
        }
        self.judge(
            format!("protection of {name}"),
            table.protected,
            "cannot be deleted by mistake",
            "deletion protection is off, as after a restore",
        );
        let recoverable = table.recoverable == Some(true);
        self.judge(
            format!("backups of {name}"),
            recoverable,
            "point-in-time recovery is on",
            "point-in-time recovery is off, as after a restore",
        );
    }
}

impl Doctor {
    /// Looks at everything that this machine can reach.
    pub(crate) async fn run(&self, target: &Target, output: &Output) -> Result<(), AdminError> {
        let mut found = Findings(Vec::new());
        let deployment = self.vault.deployment(target).await?;
        tables(&mut found, &deployment, target.is_aws()).await;
        keys(&mut found, &deployment).await;
        for provider in Sandboxes::of(&deployment).own() {
            let health = provider.health().await;
            let said = if health.message.is_empty() { "answers" } else { &health.message };
            found.judge(format!("provider {}", provider.kind().as_str()), health.healthy, said, said);
        }
        template(&mut found);
        output.show(&found)?;
        let bad = found.0.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
        if bad == 0 { Ok(()) } else { Err(AdminError::Unwell(bad)) }
    }
}

async fn tables(found: &mut Findings, deployment: &Deployment, on_aws: bool) {
    match deployment.table().examine().await {
        Ok(tables) => {
            for table in &tables {
                found.table(table, on_aws);
            }
            match tables[0].ahead_ms {
                Some(ahead) => found.judge(
                    "clock",
                    ahead.abs() <= MAX_SKEW_MS,
                    "as the table's service has it",
                    &format!("this machine's clock is {} s off the service's", ahead / 1000),
                ),
                None => found.add("clock", Verdict::Unknown, "the service does not tell the time"),
            }
        }
        Err(error) => found.add("tables", Verdict::Bad, error.to_string()),
    }
}

async fn keys(found: &mut Findings, deployment: &Deployment) {
    let keys = deployment.keys();
    match keys.active().await {
        Ok(key) => found.add("root key", Verdict::Good, format!("version {} opens", key.version())),
        Err(error) => found.add("root key", Verdict::Bad, error.to_string()),
    }
    let rotation =
        RootRotation::new(deployment.table().clone(), keys.clone(), crate::vault::operator(), keys.cache_ttl());
    match rotation.progressed(now_ms()).await {
        Ok(RootProgress::Idle) => found.add("rotation", Verdict::Good, "none is under way"),
        Ok(_) => found.add("rotation", Verdict::Good, "one is under way; `root-key status` shows how far"),
        Err(error) => found.add("rotation", Verdict::Bad, error.to_string()),
    }
}

/// Whether the template beside this program's source is the one that the source makes.
fn template(found: &mut Findings) {
    match theazo_deploy::made_files() {
        Err(_) => found.add("template", Verdict::Unknown, "its source is not on this machine"),
        Ok(files) => {
            let is_new =
                files.iter().all(|(path, wanted)| std::fs::read_to_string(path).is_ok_and(|now| now == *wanted));
            found.judge(
                "template",
                is_new,
                "as the route table makes it",
                "out of date: run `cargo dev template`, and deploy",
            );
        }
    }
}

impl Show for Findings {
    const HEADER: &'static [&'static str] = &["LOOKED AT", "VERDICT", "DETAIL"];

    fn rows(&self) -> Vec<Vec<&str>> {
        let word = |verdict| match verdict {
            Verdict::Good => "good",
            Verdict::Bad => "BAD",
            Verdict::Unknown => "unknown",
        };
        self.0.iter().map(|finding| vec![&*finding.what, word(finding.verdict), &*finding.detail]).collect()
    }
}
