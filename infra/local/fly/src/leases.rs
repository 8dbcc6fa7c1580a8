//! Leases: whoever has a machine's is the only one to change it, until it gives it back or its time is over.

use crate::apps::{World, make_id, parse};
use crate::error::Refusal;
use crate::machines::Machine;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The header that a lease's holder comes with.
pub(crate) const NONCE: &str = "fly-machine-lease-nonce";
/// How long one is good for unless it is said, and at most, seconds.
const USUAL: i64 = 120;
const LONGEST: i64 = 3600;

pub(crate) struct Lease {
    nonce: String,
    expires: OffsetDateTime,
    description: String,
}

#[derive(Deserialize)]
struct NewLease {
    ttl: Option<i64>,
    #[serde(default)]
    description: String,
}

fn until(ttl: Option<i64>) -> Result<OffsetDateTime, Refusal> {
    let seconds = ttl.unwrap_or(USUAL);
    if !(1..=LONGEST).contains(&seconds) {
        return Err(Refusal::invalid("ttl is out of range"));
    }
    Ok(OffsetDateTime::now_utc() + time::Duration::seconds(seconds))
}

impl Machine {
    fn lease_now(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| lease.expires > OffsetDateTime::now_utc())
    }

    /// Refuses whoever has not the lease that there is.
    pub(crate) fn expect_lease(&self, nonce: Option<&str>) -> Result<(), Refusal> {
        match self.lease_now() {
            Some(lease) if nonce != Some(lease.nonce.as_str()) => {
                Err(Refusal::new(409, "aborted: lease currently held by theazo@emulator"))
            }
            _ => Ok(()),
        }
    }

    /// Gives whoever makes the machine its lease, and what it is known by.
    pub(crate) fn lease_for(&mut self, ttl: i64) -> Result<String, Refusal> {
        let lease = Lease { nonce: make_id("", 12), expires: until(Some(ttl))?, description: String::new() };
        let nonce = lease.nonce.clone();
        self.lease = Some(lease);
        Ok(nonce)
    }

    fn show_lease(&self) -> Result<Value, Refusal> {
        let lease = self.lease_now().ok_or_else(|| Refusal::new(404, "lease not found"))?;
        Ok(json!({
            "nonce": lease.nonce, "expires_at": lease.expires.unix_timestamp(), "owner": "theazo@emulator",
            "description": lease.description, "version": self.version,
        }))
    }
}

impl World {
    pub(crate) fn lease(&self, app: &str, id: &str) -> Result<Value, Refusal> {
        self.machine(app, id, |machine| machine.show_lease())
    }

    /// A new lease, or with its nonce the same for longer.
    pub(crate) fn take_lease(
        &self,
        app: &str,
        id: &str,
        query_ttl: Option<&str>,
        body: &[u8],
        nonce: Option<&str>,
    ) -> Result<Value, Refusal> {
        let NewLease { ttl, description } = parse(body)?;
        let query_ttl = query_ttl.map(str::parse).transpose().map_err(|_| Refusal::invalid("ttl is no number"))?;
        let expires = until(ttl.or(query_ttl))?;
        self.machine(app, id, |machine| {
            machine.expect_lease(nonce)?;
            match machine.lease_now() {
                Some(lease) => {
                    machine.lease = Some(Lease { nonce: lease.nonce.clone(), expires, description });
                }
                None => machine.lease = Some(Lease { nonce: make_id("", 12), expires, description }),
            }
            machine.show_lease()
        })
    }

    pub(crate) fn release_lease(&self, app: &str, id: &str, nonce: Option<&str>) -> Result<Value, Refusal> {
        self.machine(app, id, |machine| {
            machine.lease_now().ok_or_else(|| Refusal::new(404, "lease not found"))?;
            machine.expect_lease(nonce)?;
            machine.lease = None;
            Ok(json!({ "ok": true }))
        })
    }

    /// Refuses a change of a machine that somebody else has leased.
    pub(crate) fn expect_lease(&self, app: &str, id: &str, nonce: Option<&str>) -> Result<(), Refusal> {
        self.machine(app, id, |machine| machine.expect_lease(nonce))
    }
}
