//! No type that holds a plaintext or a key can be printed, copied or serialised: checked for each type and each trait
//! when this compiles. (That a doctest fails to compile says little: it may do so for any reason.)

use serde::{Serialize, de::DeserializeOwned};
use std::fmt::{Debug, Display};
use std::ops::Deref;

/// Fails to compile when the type has the trait: then two implementations of `Probe` fit and `_` is ambiguous.
macro_rules! assert_lacks {
    ($type:ty: $($bound:path),+) => { $(
        const _: fn() = || {
            trait Probe<Marker> { fn probe() {} }
            impl<T: ?Sized> Probe<()> for T {}
            struct Has;
            impl<T: ?Sized + $bound> Probe<Has> for T {}
            <$type as Probe<_>>::probe();
        };
    )+ };
}

macro_rules! assert_opaque {
    ($($type:ty),+ $(,)?) => { $(
        assert_lacks!($type: Debug, Display, Clone, Serialize, DeserializeOwned, Deref, AsRef<[u8]>, AsRef<str>);
    )+ };
}

assert_opaque!(
    theazo_vault::SecretValue,
    theazo_vault::RootKey,
    theazo_vault::PlatformKey,
    theazo_vault::TokenKey,
    theazo_store::NewSecret,
    theazo_store::OpenedSecret,
    theazo_store::AgentToken,
    theazo_providers::Environment,
    theazo_providers::OpenPort,
    theazo_providers::docker::PortKey,
    theazo_redaction::Redactor,
    theazo_redaction::Stream<'static>,
    theazo_redaction::Masked<'static>,
    theazo_tenancy::IssuedKey,
    theazo_tenancy::CredentialKey,
);

// What a request carries: its headers have credentials, its body secrets, its path and its query tokens.
assert_lacks!(theazo_functions::Incoming: Debug, Display, Serialize);
assert_lacks!(theazo_http::Request: Debug, Display, Serialize);
assert_lacks!(theazo_http::Call: Debug, Display, Serialize);
assert_lacks!(theazo_http::QueryParams: Debug, Display, Serialize, Deref);
assert_lacks!(theazo_http::Fields: Debug, Display, Serialize, Deref);

// Holds root keys in memory; its clones share them.
assert_lacks!(theazo_store::KeyRing: Debug, Display, Serialize, DeserializeOwned, Deref);

/// The probes find the traits where there are any: each of these types has one of them.
#[test]
fn the_traits_are_what_they_are_called() {
    fn has<T: Debug + Clone + Serialize + DeserializeOwned + Display + Deref + AsRef<[u8]> + AsRef<str>>() {}
    has::<String>();
}
