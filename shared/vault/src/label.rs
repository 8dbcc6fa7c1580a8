//! Every label that separates one use of a key from another.

/// The `info` prefix of a key derivation: one label per purpose, and no other text is ever used as one.
///
/// Changing the text of a label makes every record sealed under it unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// Root key to platform key.
    PlatformKey,
    /// Platform key to the key of one record that an agent may get.
    AgentSecretKey,
    /// Platform key to the commitment of one record that an agent may get.
    AgentSecretCommitment,
    /// Platform key to the key of one record that only a provider adapter may get.
    ProviderCredentialKey,
    /// Platform key to the commitment of one record that only a provider adapter may get.
    ProviderCredentialCommitment,
    /// Platform key to the key of one copy kept beside a booted agent.
    AgentCopyKey,
    /// Platform key to the commitment of one copy kept beside a booted agent.
    AgentCopyCommitment,
    /// An agent's token to the key of the copies that the token opens.
    TokenKey,
    /// Token key to the key of one such copy.
    TokenCopyKey,
    /// Token key to the commitment of one such copy.
    TokenCopyCommitment,
}

impl Label {
    /// Every label, for the test that holds them distinct and prefix-free.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 10] = [
        Self::PlatformKey,
        Self::AgentSecretKey,
        Self::AgentSecretCommitment,
        Self::ProviderCredentialKey,
        Self::ProviderCredentialCommitment,
        Self::AgentCopyKey,
        Self::AgentCopyCommitment,
        Self::TokenKey,
        Self::TokenCopyKey,
        Self::TokenCopyCommitment,
    ];

    /// The label as it enters a derivation, ASCII.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::PlatformKey => "theazo/vault/v1/platform-key",
            Self::AgentSecretKey => "theazo/vault/v1/agent-secret/record-key",
            Self::AgentSecretCommitment => "theazo/vault/v1/agent-secret/commitment",
            Self::ProviderCredentialKey => "theazo/vault/v1/provider-credential/record-key",
            Self::ProviderCredentialCommitment => "theazo/vault/v1/provider-credential/commitment",
            Self::AgentCopyKey => "theazo/vault/v1/agent-copy/record-key",
            Self::AgentCopyCommitment => "theazo/vault/v1/agent-copy/commitment",
            Self::TokenKey => "theazo/vault/v1/token-key",
            Self::TokenCopyKey => "theazo/vault/v1/token-copy/record-key",
            Self::TokenCopyCommitment => "theazo/vault/v1/token-copy/commitment",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Label;

    #[test]
    fn labels_are_distinct_and_none_begins_another() {
        for (i, one) in Label::ALL.iter().enumerate() {
            for (j, other) in Label::ALL.iter().enumerate() {
                assert!(i == j || !other.text().starts_with(one.text()), "{one:?} begins {other:?}");
            }
        }
    }

    #[test]
    fn the_list_of_labels_is_complete() {
        // A new variant fails to compile here until it has a place in `ALL`.
        for (place, label) in Label::ALL.iter().enumerate() {
            let expected = match label {
                Label::PlatformKey => 0,
                Label::AgentSecretKey => 1,
                Label::AgentSecretCommitment => 2,
                Label::ProviderCredentialKey => 3,
                Label::ProviderCredentialCommitment => 4,
                Label::AgentCopyKey => 5,
                Label::AgentCopyCommitment => 6,
                Label::TokenKey => 7,
                Label::TokenCopyKey => 8,
                Label::TokenCopyCommitment => 9,
            };
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn labels_are_printable_ascii() {
        for label in Label::ALL {
            assert!(label.text().bytes().all(|byte| byte.is_ascii_graphic()), "{label:?}");
        }
    }
}
