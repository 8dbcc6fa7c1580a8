//! Volumes: directories that outlive the machines they are mounted in.

use crate::REGIONS;
use crate::apps::{World, make_id, parse};
use crate::error::{EmulatorError, Refusal};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use time::OffsetDateTime;

pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) size_gb: u64,
    pub(crate) backups: bool,
    pub(crate) retention: u64,
    pub(crate) dir: PathBuf,
    /// The machine that mounts it.
    pub(crate) claimed: Option<String>,
    pub(crate) created: OffsetDateTime,
}

#[derive(Deserialize)]
struct NewVolume {
    name: String,
    region: Option<String>,
    size_gb: Option<u64>,
    auto_backup_enabled: Option<bool>,
    snapshot_retention: Option<u64>,
    source_volume_id: Option<String>,
}

/// The region that is meant: a name, or the nearest where there is none.
pub(crate) fn region(asked: Option<String>) -> Result<String, Refusal> {
    match asked.filter(|asked| !asked.is_empty()) {
        None => Ok(REGIONS.first().copied().unwrap_or_default().to_owned()),
        Some(asked) if REGIONS.contains(&asked.as_str()) => Ok(asked),
        Some(asked) => Err(Refusal::invalid(format!("region {asked} not found"))),
    }
}

impl World {
    pub(crate) fn create_volume(&self, app: &str, body: &[u8]) -> Result<Value, Refusal> {
        let new: NewVolume = parse(body)?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if new.name.is_empty() || new.name.len() > 30 || !new.name.bytes().all(plain) {
            return Err(Refusal::invalid("volume names have 1 to 30 lowercase letters, digits and underscores"));
        }
        let region = region(new.region)?;
        // Before the directory, which nobody would remove.
        let source = self.in_app(app, |app| match new.source_volume_id.filter(|id| !id.is_empty()) {
            None => Ok(None),
            Some(source) => {
                let source = app.volumes.get(&source).ok_or_else(|| Refusal::new(404, "source volume not found"))?;
                if source.region != region {
                    return Err(Refusal::invalid("the source volume is in another region"));
                }
                if new.size_gb.unwrap_or(3) < source.size_gb {
                    return Err(Refusal::invalid("the volume is smaller than its source"));
                }
                let holder = source.claimed.as_ref().and_then(|id| app.machines.get(id)?.run.clone());
                Ok(Some((source.dir.clone(), holder)))
            }
        })?;
        let id = make_id("vol_", 16);
        let volume = Volume {
            dir: self.make_dir(&id)?,
            id: id.clone(),
            name: new.name,
            region,
            size_gb: new.size_gb.unwrap_or(3),
            backups: new.auto_backup_enabled.unwrap_or(true),
            retention: new.snapshot_retention.unwrap_or(5),
            claimed: None,
            created: OffsetDateTime::now_utc(),
        };
        if let Some((source, holder)) = source {
            // It is of one moment.
            let freeze = |frozen| holder.iter().for_each(|run| run.room.freeze(frozen));
            freeze(true);
            let forked = fork(&source, &volume.dir);
            freeze(false);
            forked?;
        }
        let shown = volume.show();
        self.in_app(app, |app| {
            app.volumes.insert(id, volume);
            Ok(shown)
        })
    }

    pub(crate) fn delete_volume(&self, app: &str, id: &str) -> Result<Value, Refusal> {
        let volume = self.in_app(app, |app| {
            let volume = app.volumes.get(id).ok_or_else(|| Refusal::new(404, "volume not found"))?;
            if let Some(machine) = &volume.claimed {
                return Err(Refusal::unmet(format!("volume is attached to machine {machine}")));
            }
            app.volumes.remove(id).ok_or_else(|| Refusal::new(404, "volume not found"))
        })?;
        let mut shown = volume.show();
        shown["state"] = "pending_destroy".into();
        volume.end();
        Ok(shown)
    }
}

/// Copies what a volume has at this moment to one that was just made.
fn fork(from: &Path, to: &Path) -> Result<(), EmulatorError> {
    let copied = Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from.join(".")).arg(to).output();
    match copied {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) => Err(EmulatorError::File { path: to.to_owned(), source: std::io::ErrorKind::Other.into() }),
        Err(source) => Err(EmulatorError::File { path: from.to_owned(), source }),
    }
}

impl Volume {
    pub(crate) fn end(self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
