//! Copies that an agent's token opens, and nothing else does.

use theazo_vault::{
    Context, Flags, Purpose, RecordHeader, Scope, TokenKey, VaultError, open, open_with_token, seal, seal_for_token,
};

use crate::places::{around, changes_of_a_copy};
use crate::{BASE, COPY, base_key, value};

const TOKEN: &str = "th_agent_one";
const CONTEXT: Context<'static> = Context { purpose: Purpose::TokenCopy, ..COPY };

fn key() -> TokenKey {
    TokenKey::derive(TOKEN, CONTEXT.platform)
}

#[test]
fn a_copy_opens_with_the_token_that_it_was_sealed_for_and_with_no_other() {
    let record = seal_for_token(&key(), &CONTEXT, &value(40)).unwrap();
    assert_eq!(open_with_token(&key(), &CONTEXT, &record).unwrap().expose(), value(40).expose());
    assert_eq!(RecordHeader::parse(&record), Ok(RecordHeader { root_version: 0, platform_key_version: 0 }));
    for token in ["th_agent_two", "th_agent_on", "th_agent_one ", "TH_AGENT_ONE", ""] {
        let other = TokenKey::derive(token, CONTEXT.platform);
        assert_eq!(open_with_token(&other, &CONTEXT, &record).err(), Some(VaultError::NotAuthentic), "{token}");
    }
    let elsewhere = TokenKey::derive(TOKEN, "plt_2");
    assert_eq!(open_with_token(&elsewhere, &CONTEXT, &record).err(), Some(VaultError::WrongPlatform));
    let moved = Context { platform: "plt_2", ..CONTEXT };
    assert_eq!(open_with_token(&elsewhere, &moved, &record).err(), Some(VaultError::NotAuthentic));
}

#[test]
fn a_copy_that_was_moved_or_edited_does_not_open() {
    let record = seal_for_token(&key(), &CONTEXT, &value(40)).unwrap();
    let flags = Flags { mask: !CONTEXT.flags.mask, ..CONTEXT.flags };
    for context in [
        Context { deployment: "staging", ..CONTEXT },
        Context { mode: "test", ..CONTEXT },
        Context { scope: Scope::Agent("agt_2"), ..CONTEXT },
        Context { name: "OTHER", ..CONTEXT },
        Context { version: CONTEXT.version + 1, ..CONTEXT },
        Context { expires_at_ms: Some(1), ..CONTEXT },
        Context { flags, ..CONTEXT },
    ] {
        assert_eq!(open_with_token(&key(), &context, &record).err(), Some(VaultError::NotAuthentic), "{context:?}");
    }
}

/// Every place of a copy, and all that differ from it in one or two ways, each under two tokens.
#[test]
fn a_copy_opens_only_in_the_place_and_with_the_token_it_was_sealed_for() {
    // No key of a platform has a part in it.
    let of_a_platforms_key = |name: &str| matches!(name, "root version" | "platform key version");
    let changes: Vec<_> = changes_of_a_copy().into_iter().filter(|(name, _)| !of_a_platforms_key(name)).collect();
    let places = around(CONTEXT, &changes);
    assert_eq!(places.len(), 1 + 9 + 36, "in none, one and two of nine ways");
    let mut sealed = Vec::new();
    for token in [TOKEN, "th_agent_two"] {
        for (name, place) in &places {
            let key = TokenKey::derive(token, place.context.platform);
            let record = seal_for_token(&key, &place.context, &value(5)).unwrap();
            sealed.push((format!("{name}, {token}"), key, place.context, record));
        }
    }
    for (i, (one, _, _, record)) in sealed.iter().enumerate() {
        for (j, (other, key, context, _)) in sealed.iter().enumerate() {
            assert_eq!(open_with_token(key, context, record).is_ok(), i == j, "sealed as {one}, opened as {other}");
        }
    }
}

#[test]
fn keys_of_platforms_and_of_tokens_do_not_do_each_others_work() {
    let purpose = Some(VaultError::InvalidContext("purpose"));
    assert_eq!(seal(&base_key(), &CONTEXT, &value(40)).err(), purpose);
    for context in [BASE, COPY] {
        assert_eq!(seal_for_token(&key(), &context, &value(40)).err(), purpose);
        let record = seal(&base_key(), &context, &value(40)).unwrap();
        assert!(open_with_token(&key(), &context, &record).is_err());
        assert!(open_with_token(&key(), &CONTEXT, &record).is_err());
    }
    let record = seal_for_token(&key(), &CONTEXT, &value(40)).unwrap();
    assert!(open(&base_key(), &CONTEXT, &record).is_err() && open(&base_key(), &COPY, &record).is_err());
    let platform = Context { scope: Scope::Platform, ..CONTEXT };
    assert_eq!(seal_for_token(&key(), &platform, &value(40)).err(), purpose);
}
