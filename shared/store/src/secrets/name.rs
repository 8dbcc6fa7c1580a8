//! The rules for a secret's name.

/// Longest name, characters (all ASCII).
const MAX_CHARS: usize = 128;

/// Names that would change how a sandbox's own programs find, load or start code. Canonical form.
const RESERVED: &[&str] = &[
    "PATH",
    "HOME",
    "SHELL",
    "USER",
    "IFS",
    "ENV",
    "BASH_ENV",
    "PS4",
    "PROMPT_COMMAND",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYLIB",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
];

/// The same, by what they begin with: the dynamic loader, Git's transport, and our own variables.
const RESERVED_PREFIXES: &[&str] = &["LD_", "GIT_SSH", "THEAZO_"];

/// A secret's name: as it was written, and as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    display: String,
    canonical: String,
}

/// Why a text is not a secret's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretNameError {
    /// It cannot be an environment variable.
    #[error("must match [A-Za-z_][A-Za-z0-9_]{{0,127}}")]
    Malformed,
    /// It would subvert the sandbox.
    #[error("is reserved: it would change how the sandbox itself works")]
    Reserved,
}

impl SecretName {
    /// The name in a text.
    ///
    /// # Errors
    /// [`SecretNameError`] with the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, SecretNameError> {
        let first_good = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let all_good = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !first_good || !all_good || text.len() > MAX_CHARS {
            return Err(SecretNameError::Malformed);
        }
        let canonical = text.to_ascii_uppercase();
        let reserved = RESERVED.contains(&canonical.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| canonical.starts_with(prefix));
        if reserved {
            return Err(SecretNameError::Reserved);
        }
        Ok(Self { display: text.to_owned(), canonical })
    }

    /// As it was written.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// Uppercase: how it is compared, and what an agent sees.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_variables_keep_their_display_form() {
        for text in [
            "a",
            "_",
            "database_url",
            "HUBSPOT_API_KEY",
            "a1",
            "PATHS",
            "MY_PATH",
            "LDAP",
            "GIT_TOKEN",
            &"x".repeat(128),
        ] {
            let name = SecretName::parse(text).unwrap();
            assert_eq!(name.display(), text);
            assert_eq!(name.canonical(), text.to_ascii_uppercase());
        }
    }

    #[test]
    fn names_that_cannot_be_variables_are_malformed() {
        for text in ["", "1a", "a-b", "a b", "a=b", "a.b", "\u{fc}", "\u{212a}ey", "a\0", &"x".repeat(129)] {
            assert_eq!(SecretName::parse(text), Err(SecretNameError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn names_that_would_subvert_the_sandbox_are_reserved_in_any_case() {
        for text in [
            "PATH",
            "path",
            "Ld_Preload",
            "LD_AUDIT",
            "NODE_OPTIONS",
            "git_ssh_command",
            "GIT_SSH",
            "THEAZO_AGENT_ID",
            "bash_env",
            "GLIBC_TUNABLES",
        ] {
            assert_eq!(SecretName::parse(text), Err(SecretNameError::Reserved), "{text}");
        }
    }
}
