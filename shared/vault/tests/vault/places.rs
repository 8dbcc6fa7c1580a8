//! A record opens in the place it was sealed for, and in no other.

use theazo_vault::{Context, PlatformKey, Purpose, Scope, VaultError, open, seal};

use crate::{BASE, COPY, base_key, key_of, value};

/// One way in which a record's place can differ.
pub(crate) type Change = fn(&mut Place);

/// Where a record is sealed or opened.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) context: Context<'static>,
    root_version: u32,
    key_version: u32,
}

impl Place {
    fn key(&self) -> PlatformKey {
        key_of(self.context.platform, self.root_version, self.key_version)
    }
}

/// What can differ between two records of a platform or a session.
const CHANGES: [(&str, Change); 13] = [
    ("deployment", |place| place.context.deployment = "staging"),
    ("platform", |place| place.context.platform = "plt_2"),
    ("mode", |place| place.context.mode = "test"),
    ("session", |place| place.context.scope = Scope::Session("ses_2")),
    ("scope", |place| place.context.scope = Scope::Platform),
    ("purpose", |place| place.context.purpose = Purpose::ProviderCredential),
    ("name", |place| place.context.name = "DATABASE_URL_2"),
    ("version", |place| place.context.version = 2),
    ("expiry", |place| place.context.expires_at_ms = Some(0)),
    ("mask", |place| place.context.flags.mask ^= true),
    ("inherit", |place| place.context.flags.inherit ^= true),
    ("root version", |place| place.root_version = 2),
    ("platform key version", |place| place.key_version = 2),
];

/// What can differ between two copies beside agents: as above, but for the scope and the purpose, which only an agent's
/// copy has.
pub(crate) fn changes_of_a_copy() -> Vec<(&'static str, Change)> {
    let agent: (&str, Change) = ("agent", |place| place.context.scope = Scope::Agent("agt_2"));
    let others = CHANGES.into_iter().filter(|(name, _)| !matches!(*name, "session" | "scope" | "purpose"));
    others.chain([agent]).collect()
}

/// A place, and those that differ from it in one or two ways.
pub(crate) fn around(context: Context<'static>, changes: &[(&'static str, Change)]) -> Vec<(String, Place)> {
    let base = Place { context, root_version: 1, key_version: 1 };
    let kind = context.purpose;
    let mut places = vec![(format!("{kind:?}"), base)];
    for (i, (one, change)) in changes.iter().enumerate() {
        let mut place = base;
        change(&mut place);
        places.push((format!("{kind:?} with another {one}"), place));
        for (other, further) in &changes[i + 1..] {
            let mut place = place;
            further(&mut place);
            places.push((format!("{kind:?} with another {one} and {other}"), place));
        }
    }
    places
}

#[test]
fn a_record_opens_only_in_the_place_it_was_sealed_for() {
    let mut places = around(BASE, &CHANGES);
    // Another session and then no session is no session: that one place is in the list twice.
    places.retain(|(name, _)| !name.ends_with("another session and scope"));
    places.extend(around(COPY, &changes_of_a_copy()));
    // A place, n that differ in one way and n (n - 1) / 2 that differ in two: for n = 13 without that one, and for n = 11.
    assert_eq!(places.len(), (1 + 13 + 78 - 1) + (1 + 11 + 55));

    let keys: Vec<PlatformKey> = places.iter().map(|(_, place)| place.key()).collect();
    for (i, (sealed, place)) in places.iter().enumerate() {
        let record = seal(&keys[i], &place.context, &value(5)).unwrap();
        for (j, (opened, other)) in places.iter().enumerate() {
            let result = open(&keys[j], &other.context, &record);
            assert_eq!(result.is_ok(), i == j, "sealed as {sealed}, opened as {opened}");
        }
    }
}

#[test]
fn a_copy_beside_an_agent_opens_neither_as_a_secret_nor_beside_another_agent() {
    let key = base_key();
    let secret = Context { scope: Scope::Session("ses_1"), purpose: Purpose::AgentSecret, ..COPY };
    let credential = Context { scope: Scope::Platform, purpose: Purpose::ProviderCredential, ..COPY };
    let other = Context { scope: Scope::Agent("ses_2"), ..COPY };
    let contexts = [COPY, secret, credential, other];
    for (i, sealed) in contexts.iter().enumerate() {
        let record = seal(&key, sealed, &value(5)).unwrap();
        for (j, opened) in contexts.iter().enumerate() {
            let expected = (i != j).then_some(VaultError::NotAuthentic);
            assert_eq!(open(&key, opened, &record).err(), expected, "{sealed:?} as {opened:?}");
        }
    }
}

#[test]
fn a_record_moved_to_another_session_does_not_open() {
    let key = base_key();
    let record = seal(&key, &BASE, &value(5)).unwrap();
    for scope in [Scope::Platform, Scope::Session("ses_2"), Scope::Session("ses_"), Scope::Session("ses_10")] {
        assert_eq!(open(&key, &Context { scope, ..BASE }, &record).err(), Some(VaultError::NotAuthentic), "{scope:?}");
    }
}

#[test]
fn a_provider_credential_never_opens_as_an_agents_secret() {
    let key = base_key();
    let credential = Context { scope: Scope::Platform, purpose: Purpose::ProviderCredential, ..BASE };
    let secret = Context { purpose: Purpose::AgentSecret, ..credential };
    let record = seal(&key, &credential, &value(5)).unwrap();
    assert_eq!(open(&key, &secret, &record).err(), Some(VaultError::NotAuthentic));
    let record = seal(&key, &secret, &value(5)).unwrap();
    assert_eq!(open(&key, &credential, &record).err(), Some(VaultError::NotAuthentic));
}

#[test]
fn an_earlier_record_put_under_a_later_version_does_not_open() {
    let key = base_key();
    let earlier = seal(&key, &BASE, &value(5)).unwrap();
    assert_eq!(open(&key, &Context { version: 2, ..BASE }, &earlier).err(), Some(VaultError::NotAuthentic));
}

#[test]
fn an_edited_expiry_does_not_open() {
    let key = base_key();
    let at = |expires_at_ms| Context { expires_at_ms, ..BASE };
    let times = [None, Some(0), Some(1), Some(-1), Some(i64::MAX), Some(i64::MIN)];
    for sealed in times {
        let record = seal(&key, &at(sealed), &value(5)).unwrap();
        for opened in times {
            assert_eq!(open(&key, &at(opened), &record).is_ok(), sealed == opened, "{sealed:?} {opened:?}");
        }
    }
}

#[test]
fn texts_that_trade_bytes_with_their_neighbours_are_told_apart() {
    let key = key_of("AB", 1, 1);
    let with = |deployment, scope, name| Context { deployment, platform: "AB", scope, name, ..BASE };
    let contexts = [
        with("X", Scope::Session("SN"), "N"),
        with("X", Scope::Session("S"), "NN"),
        with("N", Scope::Session("S"), "X"),
        with("X", Scope::Session("\0"), "N"),
        with("X", Scope::Platform, "N"),
    ];
    for (i, sealed) in contexts.iter().enumerate() {
        let record = seal(&key, sealed, &value(5)).unwrap();
        for (j, opened) in contexts.iter().enumerate() {
            assert_eq!(open(&key, opened, &record).is_ok(), i == j, "{sealed:?} {opened:?}");
        }
    }
}
