//! Small subnets for agents' networks, carved out of one range.
//!
//! The engine's own address pools give about 30 networks and then fail; with explicit subnets hundreds are fine,
//! and of several simultaneous creations with one subnet exactly one succeeds (measured on Docker 20.10).

use super::failure::failed;
use crate::ProviderError;
use std::fmt;
use std::net::Ipv4Addr;

/// Prefix length of an agent's subnet: 8 addresses, of which the bridge and the container use one each.
const AGENT_PREFIX: u32 = 29;

/// A range of private addresses from which every agent gets a `/29`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPool(Subnet);

impl SubnetPool {
    /// The range `base/prefix`.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] if the prefix is not in 8..=29, or `base` has bits behind it.
    pub fn new(base: Ipv4Addr, prefix: u32) -> Result<Self, ProviderError> {
        let subnet = Subnet { first: u32::from(base), prefix };
        if (8..=AGENT_PREFIX).contains(&prefix) && subnet.first & (subnet.size() - 1) == 0 {
            Ok(Self(subnet))
        } else {
            Err(failed("subnet pool", false, "a subnet pool that is not a range of at least 8 addresses"))
        }
    }

    /// Whether an address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.overlaps(&Subnet { first: u32::from(address), prefix: 32 })
    }

    /// The first free `/29` at or after the place that `start` points to, going round once.
    pub(super) fn pick(&self, start: u64, used: &[Subnet]) -> Option<Subnet> {
        let slots = 1u64 << (AGENT_PREFIX - self.0.prefix);
        (0..slots).find_map(|step| {
            let slot = (start % slots + step) % slots;
            let first = self.0.first + u32::try_from(slot).ok()? * (1 << (32 - AGENT_PREFIX));
            let subnet = Subnet { first, prefix: AGENT_PREFIX };
            (!used.iter().any(|other| other.overlaps(&subnet))).then_some(subnet)
        })
    }
}

impl Default for SubnetPool {
    /// `10.213.0.0/16`: 8192 agents on one engine.
    fn default() -> Self {
        Self(Subnet { first: u32::from(Ipv4Addr::new(10, 213, 0, 0)), prefix: 16 })
    }
}

/// An IPv4 subnet. The prefix is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    first: u32,
    prefix: u32,
}

impl Subnet {
    /// Reads `a.b.c.d/prefix`; `None` for anything else, IPv6 included.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u32 = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
        let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
        Some(Self { first: address & (u32::MAX << (32 - prefix)), prefix })
    }

    /// The host's address on a network with this subnet: the first one.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 1)
    }

    fn size(&self) -> u32 {
        1 << (32 - self.prefix)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let last = |subnet: &Self| subnet.first + (subnet.size() - 1);
        self.first <= last(other) && other.first <= last(self)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::parse(text).unwrap()
    }

    #[test]
    fn a_free_subnet_is_found_beyond_used_ones_and_around_the_end() {
        let pool = SubnetPool::new(Ipv4Addr::new(10, 213, 0, 0), 27).unwrap();
        assert_eq!(pool.pick(0, &[]).unwrap().to_string(), "10.213.0.0/29");
        assert_eq!(pool.pick(7, &[]).unwrap().to_string(), "10.213.0.24/29");
        assert_eq!(pool.pick(3, &[subnet("10.213.0.24/29")]).unwrap().to_string(), "10.213.0.0/29");
        assert_eq!(pool.pick(0, &[subnet("10.213.0.0/28")]).unwrap().to_string(), "10.213.0.16/29");
        assert_eq!(pool.pick(5, &[subnet("10.0.0.0/8")]), None);
        assert_eq!(pool.pick(u64::MAX, &[subnet("192.168.0.0/16")]).unwrap().to_string(), "10.213.0.24/29");
    }

    #[test]
    fn the_default_pool_has_8192_subnets() {
        let pool = SubnetPool::default();
        assert_eq!(pool.pick(8191, &[]).unwrap().to_string(), "10.213.255.248/29");
        assert_eq!(pool.pick(8192, &[]).unwrap().to_string(), "10.213.0.0/29");
    }

    #[test]
    fn pools_that_are_no_range_are_refused() {
        assert!(SubnetPool::new(Ipv4Addr::new(10, 213, 0, 1), 16).is_err());
        assert!(SubnetPool::new(Ipv4Addr::new(10, 213, 0, 0), 30).is_err());
        assert!(SubnetPool::new(Ipv4Addr::new(0, 0, 0, 0), 0).is_err());
    }

    #[test]
    fn subnets_are_read_with_their_host_bits_cleared() {
        assert_eq!(subnet("172.17.3.9/16").to_string(), "172.17.0.0/16");
        assert_eq!(subnet("10.213.0.24/29").gateway(), Ipv4Addr::new(10, 213, 0, 25));
        for bad in ["", "10.0.0.0", "10.0.0.0/0", "10.0.0.0/33", "fd00::/64", "x/8"] {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
    }
}
