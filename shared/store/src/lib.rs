//! The one table, a file per noun, and the root keys that KMS wraps.
//!
//! This crate owns what is written where, under which condition, and in which transaction. It knows nothing of HTTP.
//! Each noun's type is a *capability*: a function that is handed [`SecretNames`] can list names and has no way to a
//! value; [`SecretSealer`] writes values and [`SecretOpener`] reads them. Reads take a [`theazo_tenancy::ReadScope`],
//! writes a [`theazo_tenancy::TenantScope`], and both make every key.

mod agent_reports;
mod agent_tokens;
mod agents;
mod ahead;
mod api_keys;
mod audit;
mod aws;
mod aws_tls;
mod counters;
mod credentials;
mod deletion;
mod error;
mod health;
mod ledger;
mod limits;
mod logs;
mod metrics;
mod orphans;
mod page;
mod platforms;
mod provider_configs;
mod replays;
mod restore;
mod roles;
mod root_keys;
mod rotation;
mod secrets;
mod session_tokens;
mod sessions;
mod simulated_disk;
mod suspension;
mod table;
mod transaction;
mod trips;
mod usage;
mod work;

pub use agent_reports::{
    AgentReports, MAX_CLAIMED_COST, MAX_CLAIMED_TOKENS, ReportedCall, ReportedModels, ReportedProgress, ReportedResult,
    Reports,
};
pub use agent_tokens::{AgentToken, AgentTokens, ENDPOINT_VARIABLE, TokenSealing};
pub use agents::{
    Agent, AgentFilter, AgentStatus, Agents, BOOT_GRACE_MS, BootedSecret, CHECKPOINT_GRACE_MS, Checkpoint,
    CheckpointState, DEAD_HOST_AFTER, Intent, LastCheckpoint, LeftOn, MAX_CHECKPOINTS, NewAgent, NewCheckpoint,
    NextBoot, PauseReason, PausedBy, SecretOrigin, Silence, Snapshot, StopAttempt, Unreachable, Unsettled,
};
pub use ahead::{Ahead, MAX_UNPROVEN_CALLS};
pub use api_keys::{ApiKey, ApiKeys, NewApiKey};
pub use audit::{AuditAction, AuditEntry, AuditFilter, AuditLog, AuditOutcome};
pub use aws::{Aws, AwsEndpoints, aws_config};
pub use counters::Counters;
pub use credentials::{Admission, Credentials, RateLimits};
pub use deletion::{DeletionState, DeletionStretch, PlatformDeletion};
pub use error::{KmsFailure, StoreError};
pub use health::TableHealth;
pub use ledger::Deleted;
pub use limits::{CostPeriod, Currency, Figures, LimitChanges, Limits, MaxCost, MaxDuration, PeriodCosts, Reached};
pub use logs::{
    LATE_MS, LogEntry, LogFilter, LogLevel, LogQueue, LogSource, LogTail, LogWriter, Logs, MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES, NewLog, Pending, SETTLE_MS, Tailed,
};
pub use metrics::{HOUR_MS, METRICS_KEPT_DAYS, Measure, Measured, Measurement, Measurements, Metrics, Quantiles};
pub use orphans::{OWNERLESS_MS, OrphanNotes, OwnerName, Ownerless};
pub use page::{Page, PageRequest, Position};
pub use platforms::{NewPlatform, Platform, Platforms};
pub use provider_configs::{ProviderAccess, ProviderConfig, ProviderConfigs, ProviderCredentials, ProviderSettings};
pub use replays::{Note, Noted, Replays};
pub use restore::{Replay, ReplayMode, Restore, Tally};
pub use roles::{MayCall, as_function, carried, enforce_roles, pieces_as_function};
pub use root_keys::{KeyRing, KeyRingConfig, is_kms_key_arn};
pub use rotation::{
    DEFAULT_BACKUP_WINDOW, PlatformRotation, PlatformStatus, PlatformWalk, Retirement, RootProgress, RootRotation,
    RootStatus, VersionStatus,
};
pub use secrets::{
    AgentCopies, ExpectCredential, MAX_NAMES_PER_CALL, MAX_NAMES_PER_SCOPE, MAX_SCOPE_BYTES, MAX_VALUE_BYTES,
    NewSecret, OpenedSecret, ScopeNames, ScopeState, SealedCopies, SealedCopy, SealedSecrets, SecretEntry, SecretName,
    SecretNameError, SecretNames, SecretOpener, SecretSealer, SecretSelection, SecretTarget, TokenCopies, TokenSealed,
};
pub use session_tokens::SessionTokens;
pub use sessions::{NewSession, Session, SessionChanges, SessionEnvironment, SessionFilter, SessionStatus, Sessions};
pub use simulated_disk::{DiskIndex, SimulatedDisks};
pub use suspension::PlatformSuspension;
pub use table::{Clock, DEFAULT_AUDIT_DAYS, LOG_RETENTION_DAYS, Table};
pub use trips::{RoundTrips, count_round_trips};
pub use usage::{Days, OfPayer, Payer, Sum, Usage, unbooked};
pub use work::{Work, WorkItem};

/// Unix milliseconds now, by the wall clock.
pub fn now_ms() -> i64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
