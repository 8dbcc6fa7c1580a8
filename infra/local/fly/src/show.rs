//! How the API shows what there is. What has no value is left out, as in Go's JSON.

use crate::REGIONS;
use crate::apps::{Address, App, show_time};
use crate::machines::Machine;
use crate::volumes::Volume;
use serde_json::{Value, json};

/// Most events of a machine that are shown unless more are asked for.
const EVENTS: usize = 20;

impl App {
    pub(crate) fn show(&self, name: &str) -> Value {
        json!({
            "id": self.id, "name": name, "network": self.network,
            "status": if self.machines.is_empty() { "pending" } else { "deployed" },
            "machine_count": self.machines.len(), "volume_count": self.volumes.len(),
            "organization": { "name": self.organization, "slug": self.organization },
        })
    }
}

impl Address {
    pub(crate) fn show(&self) -> Value {
        json!({ "ip": self.ip.to_string(), "region": "global", "created_at": show_time(self.created), "shared": false })
    }
}

impl Machine {
    pub(crate) fn show(&self) -> Value {
        let image = self.config["image"].as_str().unwrap_or_default();
        let (name, digest) = image.split_once('@').unwrap_or((image, ""));
        let (registry, repository) = name.split_once('/').unwrap_or(("docker.io", name));
        let (repository, tag) = repository.split_once(':').unwrap_or((repository, "latest"));
        json!({
            "id": self.id, "name": self.name, "region": self.region, "state": self.state,
            "instance_id": self.version, "version": self.version, "private_ip": "fdaa:0:1:a7b:1:2:3:4",
            "config": self.config, "created_at": show_time(self.created), "updated_at": show_time(self.updated),
            "image_ref": { "registry": registry, "repository": repository, "tag": tag, "digest": digest },
            "events": self.events(EVENTS), "host_status": "ok",
        })
    }

    pub(crate) fn events(&self, limit: usize) -> Vec<Value> {
        self.events.iter().take(limit).cloned().collect()
    }

    /// As lists of a whole organization show it.
    pub(crate) fn overview(&self, app: &str) -> Option<Value> {
        let state = self.listed_state()?;
        let mut config = json!({ "image": self.config["image"] });
        for name in ["guest", "metadata"] {
            if let Some(value) = self.config.get(name) {
                config[name] = value.clone();
            }
        }
        Some(json!({
            "id": self.id, "app_name": app, "name": self.name, "region": self.region, "state": state,
            "instance_id": self.version, "version": self.version, "private_ip": "fdaa:0:1:a7b:1:2:3:4",
            "config": config, "created_at": show_time(self.created), "updated_at": show_time(self.updated),
        }))
    }
}

impl Volume {
    pub(crate) fn show(&self) -> Value {
        let mut shown = json!({
            "id": self.id, "name": self.name, "state": "created", "region": self.region, "zone": "1a2b",
            "size_gb": self.size_gb, "encrypted": true, "fstype": "ext4", "created_at": show_time(self.created),
            "auto_backup_enabled": self.backups, "snapshot_retention": self.retention, "host_status": "ok",
        });
        if let Some(machine) = &self.claimed {
            shown["attached_machine_id"] = machine.clone().into();
        }
        shown
    }
}

pub(crate) fn regions() -> Value {
    let row = |code: &&str| json!({ "code": code, "name": code, "deprecated": false, "gateway_available": true });
    json!({ "nearest": REGIONS.first(), "regions": REGIONS.iter().map(row).collect::<Vec<_>>() })
}
