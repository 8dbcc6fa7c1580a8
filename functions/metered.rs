//! What a caller is shown of what was metered.

use serde_json::{Value, json};
use theazo_metering::to_cents;
use theazo_tenancy::{Mode, Principal};

/// Of test keys nothing is metered. Their limits count all the same, so that they are reached as live ones are.
pub(crate) struct Metered(Mode);

impl Metered {
    pub(crate) fn of(principal: &Principal) -> Self {
        Self(principal.scope().mode())
    }

    /// Micro-cents as the API shows money.
    pub(crate) fn money(&self, microcents: i64) -> Value {
        json!({ "amount": to_cents(self.ms(microcents)), "currency": "usd" })
    }

    /// Milliseconds of compute, or any other figure.
    pub(crate) fn ms(&self, ms: i64) -> i64 {
        match self.0 {
            Mode::Live => ms,
            Mode::Test => 0,
        }
    }
}
