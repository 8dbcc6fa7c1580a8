//! The audit trail: every change leaves its entry or does not happen, and the entries can be read.
//!
//! - `changes`: what is written, with what, and never again.
//! - `later`: pauses, later boots, checkpoints and suspensions, each without its entry and with it.
//! - `reading`: pages and filters over the months.

mod changes;
mod later;
mod reading;

use crate::pages::walk;
use crate::support::World;
use theazo_store::{AuditEntry, AuditFilter, AuditLog};
use theazo_tenancy::ReadScope;

/// Every entry that the filter lets through, newest first.
pub async fn trail(world: &World, scope: &ReadScope, filter: &AuditFilter) -> Vec<AuditEntry> {
    let log = AuditLog::new(world.table.clone());
    walk(100, async |page| log.list(scope, filter, &page).await).await.0
}
