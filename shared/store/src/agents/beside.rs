//! What lies beside an agent's rows while it runs: its token's row, and the copies that its output is masked with.

use super::{Agent, BootedSecret};
use crate::agent_tokens::own_secrets;
use theazo_tenancy::{TableKey, TenantScope};

impl Agent {
    /// What its copies are of: all that it booted with, and its own address and token as long as it has one.
    pub(crate) fn listed(&self) -> Vec<BootedSecret> {
        let own = self.token.iter().flat_map(|_| own_secrets());
        self.secrets.iter().cloned().chain(own).collect()
    }

    /// Forgets its token, and gives the token's row, which is to be deleted.
    pub(super) fn take_token(&mut self, scope: &TenantScope) -> Option<TableKey> {
        let key = self.token_key(scope);
        (self.token, self.token_hash) = (None, None);
        key
    }

    /// Its token's row.
    pub(crate) fn token_key(&self, scope: &TenantScope) -> Option<TableKey> {
        let mut hash = [0; 32];
        hex::decode_to_slice(self.token_hash.as_ref()?, &mut hash).ok()?;
        Some(scope.credential_key_of(&hash))
    }
}
