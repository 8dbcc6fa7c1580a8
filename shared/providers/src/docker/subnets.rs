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

/// A range of private addresses from which every agent gets a `/29`, and how many may at once.
///
/// The limit is exact whoever makes networks at the same time, because the engine gives no address twice: of those that
/// come for the last place one gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPool {
    range: Subnet,
    places: u64,
}

impl SubnetPool {
    /// The range `base/prefix`.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] if the prefix is not in 8..=29, or `base` has bits behind it.
    pub fn new(base: Ipv4Addr, prefix: u32) -> Result<Self, ProviderError> {
        let subnet = Subnet { first: u32::from(base), prefix };
        if (8..=AGENT_PREFIX).contains(&prefix) && subnet.first & (subnet.size() - 1) == 0 {
            Ok(Self::whole(subnet))
        } else {
            Err(failed("subnet pool", false, "a subnet pool that is not a range of at least 8 addresses"))
        }
    }

    const fn whole(range: Subnet) -> Self {
        Self { range, places: 1 << (AGENT_PREFIX - range.prefix) }
    }

    /// The same with at most so many agents, on the first subnets of the range.
    #[must_use]
    pub fn limited(self, agents: u32) -> Self {
        Self { places: self.places.min(agents.into()), ..self }
    }

    /// Whether an address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.range.overlaps(&Subnet { first: u32::from(address), prefix: 32 })
    }

    /// How many agents may be there at once.
    pub(super) fn places(&self) -> u64 {
        self.places
    }

    /// How many of the places are free.
    pub(super) fn free(&self, used: &[Subnet]) -> u64 {
        let is_free = |place: &u64| self.place(*place).is_some_and(|subnet| !used.iter().any(|o| o.overlaps(&subnet)));
        (0..self.places).filter(is_free).count() as u64
    }

    fn place(&self, place: u64) -> Option<Subnet> {
        let first = self.range.first + u32::try_from(place).ok()? * (1 << (32 - AGENT_PREFIX));
        Some(Subnet { first, prefix: AGENT_PREFIX })
    }

    /// The first free `/29` at or after the place that `start` points to, going round once.
    pub(super) fn pick(&self, start: u64, used: &[Subnet]) -> Option<Subnet> {
        (0..self.places).find_map(|step| {
            let subnet = self.place((start % self.places + step) % self.places)?;
            (!used.iter().any(|other| other.overlaps(&subnet))).then_some(subnet)
        })
    }
}

impl Default for SubnetPool {
    /// `10.213.0.0/16`: 8192 agents on one engine.
    fn default() -> Self {
        Self::whole(Subnet { first: u32::from(Ipv4Addr::new(10, 213, 0, 0)), prefix: 16 })
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
    fn a_limited_pool_has_that_many_places_and_counts_the_free_ones() {
        let pool = SubnetPool::new(Ipv4Addr::new(10, 213, 0, 0), 27).unwrap().limited(2);
        assert_eq!((pool.places(), pool.free(&[])), (2, 2));
        assert_eq!(pool.pick(3, &[]).unwrap().to_string(), "10.213.0.8/29");
        // One beyond the limit takes no place of it.
        assert_eq!(pool.free(&[subnet("10.213.0.16/29"), subnet("10.213.0.0/29")]), 1);
        let full = [subnet("10.213.0.0/29"), subnet("10.213.0.8/29")];
        assert_eq!((pool.free(&full), pool.pick(0, &full)), (0, None));
        assert_eq!(SubnetPool::default().limited(u32::MAX).places(), 8192);
        assert_eq!(SubnetPool::default().limited(0).pick(5, &[]), None);
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
