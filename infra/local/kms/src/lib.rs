//! A small, persistent emulator of AWS KMS for the local stack and for tests.
//!
//! It speaks the KMS wire protocol (`POST /`, `x-amz-target: TrentService.<Operation>`, JSON 1.1), so the unmodified
//! AWS SDKs talk to it. What a caller's safety rests on is enforced: encryption contexts, key states, key identity,
//! the integrity of ciphertexts, size limits. Everything lives in one JSON file that is on disk before an answer
//! leaves (see `disk`).
//!
//! Not emulated: request signatures and IAM, grants, key policies, tags, multi-Region keys, imported material,
//! asymmetric keys, HMAC keys other than `HMAC_256`, dry runs, and the passing of time for automatic rotation (the
//! period is stored and reported, material changes on demand only). A request that asks for a missing feature that
//! would change its outcome is refused; policies, tags and grant tokens are accepted and have no effect.
//!
//! The key material lies in the file unencrypted. The emulator is for development and never for real secrets.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

mod check;
mod ciphertext;
mod clock;
mod disk;
mod error;
mod ids;
mod operations;
mod random;
mod server;
mod state;
mod store;
mod wire;

pub use error::EmulatorError;

/// A KMS with its file open.
///
/// While it exists no other emulator can open the same file: a lock beside it (`<file>.lock`) is held, because two
/// writers would silently drop each other's keys.
pub struct Emulator {
    store: Arc<store::Store>,
}

impl Emulator {
    /// Opens the state file at `path`, creating it (mode 0600) when it is missing. Its directory must exist.
    ///
    /// # Errors
    /// [`EmulatorError::Damaged`] when the file cannot be trusted in full, [`EmulatorError::InUse`] when another
    /// emulator has it open, [`EmulatorError::File`] when the file system refuses.
    pub fn open(path: &Path) -> Result<Self, EmulatorError> {
        Ok(Self { store: Arc::new(store::Store::open(path)?) })
    }

    /// Answers the ARN of the key behind `alias` (such as `alias/theazo`); when the alias is missing, a symmetric
    /// key and the alias are created together, in one write. Blocks for that write.
    ///
    /// The state of an existing key is not looked at: a disabled key stays disabled, and using it is what fails.
    ///
    /// # Errors
    /// [`EmulatorError::Refused`] when the alias is not a valid name, [`EmulatorError::File`] when the write fails.
    pub fn ensure_key(&self, alias: &str) -> Result<String, EmulatorError> {
        operations::ensure_key(&self.store, alias)
    }

    /// Serves KMS requests on `listener` until `shutdown` completes and the requests under way are answered.
    ///
    /// Signatures are not verified: bind to a loopback address.
    ///
    /// # Errors
    /// [`EmulatorError::Serve`] when the listener fails.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), EmulatorError> {
        server::serve(self.store, listener, shutdown).await
    }
}
