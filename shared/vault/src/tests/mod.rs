//! Tests that need what the crate keeps private: the primitives' wrappers, the deterministic seal, the refusal steps.

mod golden;
mod steps;
mod vectors;

use crate::{PlatformKey, RootKey, SecretValue};

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

assert_lacks!(SecretValue: std::fmt::Debug, std::fmt::Display, Clone, AsRef<[u8]>, std::ops::Deref);
assert_lacks!(RootKey: std::fmt::Debug, std::fmt::Display, Clone, AsRef<[u8]>, std::ops::Deref);
assert_lacks!(PlatformKey: std::fmt::Debug, std::fmt::Display, Clone, AsRef<[u8]>, std::ops::Deref);
