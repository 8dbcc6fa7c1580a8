//! Whether a deployment is as it should be: a line for each thing that was looked at.

use crate::error::AdminError;
use crate::output::{Output, Show};
use crate::provider;
use crate::stack::Stack;
use crate::target::Target;
use crate::vault::VaultArgs;
use clap::Args;
use serde::{Serialize, Serializer};
use std::path::PathBuf;
use theazo_deploy::DeployError;
use theazo_functions::deployment::Deployment;
use theazo_store::{RootProgress, RootRotation, TableHealth, now_ms};

/// How far a clock may be off: AWS refuses signatures from five minutes on, and times of what was written by two clocks
/// stop making sense long before.
const MAX_SKEW_MS: i64 = 5_000;

/// What `doctor` needs to know.
#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    vault: VaultArgs,
    /// The deployment's stack on AWS: also look at its roles and resources, and at the template that it was made of. Takes
    /// minutes, and a caller who may read all of its resources, as whoever deploys it may
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
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

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    detail: String,
}

/// What `doctor` answers. Comparing a stack takes minutes, so people see each line when it is known.
struct Findings<'o> {
    all: Vec<Finding>,
    output: &'o Output,
    /// What came of writing lines.
    written: std::io::Result<()>,
}

/// Widths of the columns before the last: the longest names of a table's lines, and the longest verdict.
const WIDTHS: [usize; 3] = [34, 7, 0];

impl<'o> Findings<'o> {
    fn to(output: &'o Output) -> Self {
        Self { all: Vec::new(), output, written: output.line(Self::HEADER, &WIDTHS) }
    }

    fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        let finding = Finding { what: what.into(), verdict, detail: detail.into() };
        if self.written.is_ok() {
            self.written = self.output.line(&finding.cells(), &WIDTHS);
        }
        self.all.push(finding);
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
        let deployment = self.vault.deployment(target).await?;
        let mut found = Findings::to(output);
        tables(&mut found, &deployment, target.is_aws()).await;
        keys(&mut found, &deployment).await;
        providers(&mut found, &deployment).await;
        let made = template(&mut found, theazo_deploy::made_files());
        match &self.stack {
            Some(name) => stack(&mut found, name, made.as_deref()).await,
            None if target.is_aws() => {
                found.add("roles and resources", Verdict::Unknown, "`--stack NAME` says whose to look at");
            }
            None => found.add("roles and resources", Verdict::Unknown, "a local stack has none"),
        }
        output.whole(&found)?;
        let bad = found.all.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
        found.written?;
        if bad == 0 { Ok(()) } else { Err(AdminError::Unwell(bad)) }
    }
}

async fn tables(found: &mut Findings<'_>, deployment: &Deployment, on_aws: bool) {
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

async fn keys(found: &mut Findings<'_>, deployment: &Deployment) {
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

/// The deployment's own providers, and the accounts that platforms have configured.
async fn providers(found: &mut Findings<'_>, deployment: &Deployment) {
    match provider::list(deployment, None).await {
        Ok(listed) if listed.0.is_empty() => found.add("providers", Verdict::Unknown, "none is configured"),
        Ok(listed) => {
            for line in &listed.0 {
                let said = if line.message.is_empty() { "answers" } else { &line.message };
                found.judge(line.named(), line.healthy, said, said);
            }
        }
        Err(error) => found.add("providers", Verdict::Bad, error.to_string()),
    }
}

/// What a stack is made of, and whether it is still so.
async fn stack(found: &mut Findings<'_>, name: &str, made: Option<&str>) {
    let stack = Stack::named(name).await;
    let what = format!("template of {name}");
    match (stack.metadata().await, made.and_then(theazo_deploy::digest_of)) {
        (Err(error), _) => found.add(what, Verdict::Bad, error),
        (Ok(_), None) => found.add(what, Verdict::Unknown, "the source to compare it with is not on this machine"),
        (Ok(metadata), Some(digest)) => {
            found.judge(what, metadata.contains(digest), "the one beside this source", "another one: deploy");
        }
    }
    match stack.drift().await {
        Err(error) => found.add(format!("resources of {name}"), Verdict::Bad, error),
        Ok(drift) => {
            for (kind, changed) in [("roles", &drift.roles), ("resources", &drift.others)] {
                let what = format!("{kind} of {name}");
                match (&drift.incomplete, changed.is_empty()) {
                    (_, false) => {
                        found.add(what, Verdict::Bad, format!("not as its template has them: {}", changed.join(", ")));
                    }
                    (Some(reason), true) => found.add(what, Verdict::Unknown, format!("not compared: {reason}")),
                    (None, true) => found.add(what, Verdict::Good, "as its template has them"),
                }
            }
        }
    }
}

/// Whether the template beside this program's source is the one that the source makes; gives the latter.
fn template(found: &mut Findings<'_>, made: Result<Vec<(PathBuf, String)>, DeployError>) -> Option<String> {
    match made {
        Err(_) => {
            found.add("template", Verdict::Unknown, "its source is not on this machine");
            None
        }
        Ok(files) => {
            let is_new =
                files.iter().all(|(path, wanted)| std::fs::read_to_string(path).is_ok_and(|now| now == *wanted));
            found.judge(
                "template",
                is_new,
                "as the route table makes it",
                "out of date: run `cargo dev template`, and deploy",
            );
            files.into_iter().find(|(path, _)| path.ends_with("template.yaml")).map(|(_, wanted)| wanted)
        }
    }
}

impl Finding {
    fn cells(&self) -> [&str; 3] {
        let verdict = match self.verdict {
            Verdict::Good => "good",
            Verdict::Bad => "BAD",
            Verdict::Unknown => "unknown",
        };
        [&self.what, verdict, &self.detail]
    }
}

impl Serialize for Findings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl Show for Findings<'_> {
    const HEADER: &'static [&'static str] = &["LOOKED AT", "VERDICT", "DETAIL"];

    fn rows(&self) -> Vec<Vec<&str>> {
        self.all.iter().map(|finding| finding.cells().to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_out_of_date_when_any_file_is_not_what_the_source_makes() {
        let folder = std::env::temp_dir().join(format!("theazo-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (template_file, manifest) = (folder.join("template.yaml"), folder.join("Cargo.toml"));
        std::fs::write(&template_file, "made").unwrap();
        std::fs::write(&manifest, "made too").unwrap();
        let made = |template: &str, other: &str| {
            Ok(vec![(template_file.clone(), template.to_owned()), (manifest.clone(), other.to_owned())])
        };
        let output = Output::json();
        let judged = |made| {
            let mut found = Findings::to(&output);
            let template = template(&mut found, made);
            assert_eq!((found.all.len(), &*found.all[0].what), (1, "template"));
            (found.all[0].verdict, template)
        };
        assert_eq!(judged(made("made", "made too")), (Verdict::Good, Some("made".into())));
        assert_eq!(judged(made("made anew", "made too")), (Verdict::Bad, Some("made anew".into())));
        assert_eq!(judged(made("made", "made anew")), (Verdict::Bad, Some("made".into())));
        let gone = theazo_deploy::DeployError::NoMark("none");
        assert_eq!(judged(Err(gone)), (Verdict::Unknown, None));
        std::fs::remove_file(&manifest).unwrap();
        assert_eq!(judged(made("made", "made too")).0, Verdict::Bad);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
