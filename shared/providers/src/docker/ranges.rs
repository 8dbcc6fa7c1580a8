//! Which addresses a platform's hosts may have. A platform names them itself, so without this it could have the control
//! plane speak to whatever is next to it: its own loopback services, private networks, the cloud's metadata address.

use super::failure::failed;
use crate::ProviderError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks of version 4 that are nobody's on the internet, and what clouds put at addresses that are (RFC 6890).
const CLOSED_4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// Of version 6 only this is the internet,
const OPEN_6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// and within it not special uses and documentation, nor what leads to an address of version 4.
const CLOSED_6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Where a platform's hosts may be beside the internet. Usually nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostRanges(Vec<(IpAddr, u8)>);

impl HostRanges {
    /// Reads `10.0.0.0/8,fd00::/8`; nothing is no range.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] for what is no list of ranges.
    pub fn parse(text: &str) -> Result<Self, ProviderError> {
        let ranges = text.split(',').map(str::trim).filter(|range| !range.is_empty()).map(|range| {
            let (base, bits) = range.split_once('/')?;
            let (base, bits) = (base.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            let most = if base.is_ipv4() { 32 } else { 128 };
            (bits <= most).then_some((base, bits))
        });
        let ranges: Option<Vec<_>> = ranges.collect();
        ranges.map(Self).ok_or_else(|| failed("ranges of hosts", false, "ranges are written 10.0.0.0/8,fd00::/8"))
    }

    /// Private networks and this machine: what is usual where the control plane runs on a developer's machine.
    pub fn private() -> Self {
        let four = |a, b, bits| (IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), bits);
        Self(vec![four(10, 0, 8), four(127, 0, 8), four(172, 16, 12), four(192, 168, 16), four(198, 18, 15)])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a host may have this address.
    pub(super) fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_on_the_internet(address) || self.0.iter().any(|(base, bits)| lies_in(address, *base, *bits))
    }
}

impl fmt::Display for HostRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (base, bits)) in self.0.iter().enumerate() {
            write!(f, "{}{base}/{bits}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn is_on_the_internet(address: IpAddr) -> bool {
    let closed = match address {
        IpAddr::V4(_) => CLOSED_4.iter().any(|(base, bits)| lies_in(address, IpAddr::V4(*base), *bits)),
        IpAddr::V6(_) => {
            !lies_in(address, IpAddr::V6(OPEN_6.0), OPEN_6.1)
                || CLOSED_6.iter().any(|(base, bits)| lies_in(address, IpAddr::V6(*base), *bits))
        }
    };
    !closed
}

fn lies_in(address: IpAddr, base: IpAddr, bits: u8) -> bool {
    // Shifting all bits out is shifting none in Rust, so the empty prefix is said apart.
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            bits == 0 || (u32::from(address) ^ u32::from(base)) >> (32 - u32::from(bits)) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            bits == 0 || (u128::from(address) ^ u128::from(base)) >> (128 - u32::from(bits)) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(ranges: &str, address: &str) -> bool {
        HostRanges::parse(ranges).unwrap().allow(address.parse().unwrap())
    }

    #[test]
    fn hosts_are_on_the_internet_unless_the_deployment_says_otherwise() {
        for open in ["8.8.8.8", "172.32.0.1", "192.169.0.1", "2a00:1450:4001::1", "::ffff:8.8.8.8"] {
            assert!(allows("", open), "{open}");
        }
        let closed = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "2001:db8::1",
            "ff02::1",
            "::7f00:1",
        ];
        for closed in closed {
            assert!(!allows("", closed), "{closed}");
        }
        assert!(allows("10.0.0.0/8, fd00::/8", "10.255.0.1") && allows("10.0.0.0/8,fd00::/8", "fd12::1"));
        assert!(!allows("10.0.0.0/8", "11.0.0.1") || allows("", "11.0.0.1"));
        assert!(!allows("10.0.0.0/8", "192.168.0.1") && allows("0.0.0.0/0", "127.0.0.1"));
        assert!(HostRanges::private().allow("127.0.0.1".parse().unwrap()));
        assert!(!HostRanges::private().allow("169.254.169.254".parse().unwrap()));
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        for text in ["", "10.0.0.0/8", "10.0.0.0/8,fd00::/8"] {
            assert_eq!(HostRanges::parse(text).unwrap().to_string(), text);
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1", "10.0.0.0/8;11.0.0.0/8"] {
            assert!(HostRanges::parse(bad).is_err(), "{bad}");
        }
    }
}
