//! Rotation: of the root key, which seals every platform's values in the end, and of one platform's key.
//!
//! # The operator's procedure
//!
//! `cargo admin root-key rotate` carries a rotation of the root key through; interrupted, it goes on when it is run
//! again, and the deployment's upkeep goes on with it by itself. Its steps:
//!
//! 1. *Publish.* KMS vouches for the active row, makes a new key, and its row is written, once and for ever. Nothing is
//!    sealed with it yet.
//! 2. *Wait a cache life*, so that whoever reads finds the version before anything is written with it.
//! 3. *Switch.* KMS encrypts the version's row anew as the active row, which replaces the old one on condition that it is
//!    the one that was read.
//! 4. *Wait a cache life.* Until then an instance may go on sealing with the old key from its memory.
//! 5. *Seal anew.* Passes over the table open every value that names an older version and seal it for the same place,
//!    on condition that nobody has written it since. A pass that finds none is the last one.
//!
//! `cargo admin root-key status` shows the versions, how many values lie under each, and values that do not open where
//! they lie: damaged or moved by someone with access to the table. They are reported and left alone.
//! `cargo admin root-key retire VERSION` deletes an old version from the table, when no value there names it and the time
//! is over from which a backup could bring one back. From then on nothing that lies in the table is under it. It does not
//! close backups: one from when the version was in use holds the version's row as well, still wrapped by the KMS key, so
//! whoever may restore it and use that key opens what is in it, until the backup's own time is over.
//!
//! `cargo admin platform rotate-key PLATFORM` gives one platform a new key: a new salt and version in one write, after
//! which everything that writes under the old key is refused and begins again with the new one; then the platform's
//! values are sealed anew, piece by piece, and the old salt is forgotten when a walk over all of them finds none that
//! needs it. What lies in backups is as it was: they hold the old salt beside the old values.
//!
//! # What holds at every moment
//!
//! Every value opens, because the key that its record names stays until no record names it; whoever read a record just
//! before it was sealed anew reads it again. No write is lost, because sealing anew replaces exactly the record that it
//! opened. Any step may be interrupted or done twice, by anyone, at the same time.
//!
//! - `state` says where a rotation of the root key stands, `root` carries it on, `retire` ends versions.
//! - `platform` rotates a platform's key.
//! - `reseal` seals rows anew, for both.

mod platform;
mod reseal;
mod retire;
mod root;
mod state;

pub use platform::{PlatformRotation, PlatformWalk};
pub use retire::{DEFAULT_BACKUP_WINDOW, Retirement};
pub use root::{PlatformStatus, RootProgress, RootRotation, RootStatus, VersionStatus};
