//! Places on the master's port: who may take one, and how many are taken.
//!
//! It does not know connections, only their addresses.
//!
//! Invariant: addresses that no worker may come from share places of their own, and no address has
//! more than its part of any places, so that neither strangers nor a worker can keep workers out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::PortLimits;

/// Who is connected.
#[derive(Debug)]
pub(crate) struct Places {
    limits: PortLimits,
    taken: Mutex<Taken>,
}

/// How many places are taken, and how many connections got none since the master's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PlaceCounts {
    pub(crate) expected: usize,
    pub(crate) strangers: usize,
    pub(crate) expected_turned_away: u64,
    pub(crate) strangers_turned_away: u64,
}

#[derive(Debug, Default)]
struct Taken {
    counts: PlaceCounts,
    by_address: HashMap<(IpAddr, bool), usize>,
}

/// A connection's place; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    expected: bool,
}

impl Places {
    pub(crate) fn new(limits: PortLimits) -> Places {
        Places { limits, taken: Mutex::default() }
    }

    /// A place for a connection from this address, if there is one.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr, expected: bool) -> Option<Place> {
        let address = customer(address);
        let mut taken = self.taken();
        let own = taken.by_address.get(&(address, expected)).copied().unwrap_or(0);
        let (counts, limits) = (&mut taken.counts, &self.limits);
        let (all, turned_away, most, most_of_one) = match expected {
            true => (
                &mut counts.expected,
                &mut counts.expected_turned_away,
                limits.expected,
                limits.expected_per_address,
            ),
            false => (
                &mut counts.strangers,
                &mut counts.strangers_turned_away,
                limits.strangers,
                limits.strangers_per_address,
            ),
        };
        if *all >= most || own >= most_of_one {
            *turned_away += 1;
            return None;
        }
        *all += 1;
        taken.by_address.insert((address, expected), own + 1);
        Some(Place { places: Arc::clone(self), address, expected })
    }

    /// How many there are of each.
    pub(crate) fn counts(&self) -> PlaceCounts {
        self.taken().counts
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match self.expected {
            true => taken.counts.expected -= 1,
            false => taken.counts.strangers -= 1,
        }
        let key = (self.address, self.expected);
        let left = taken.by_address.get(&key).copied().unwrap_or(0);
        if left > 1 {
            taken.by_address.insert(key, left - 1);
        } else {
            taken.by_address.remove(&key);
        }
    }
}

/// What counts as one address: of IPv6 a /64 network, whose addresses all belong to one customer.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_with_many_addresses_has_the_places_of_one() {
        let limits = PortLimits::default();
        let places = Arc::new(Places::new(limits));
        let take = |text: &str| places.take(text.parse().unwrap(), false);
        let mut held = Vec::new();
        for n in 0..limits.strangers_per_address {
            held.push(take(&format!("2001:db8:0:1::{n:x}")).unwrap());
        }
        assert!(take("2001:db8:0:1:ffff::1").is_none());
        assert!(take("2001:db8:0:2::1").is_some());
        assert!(take("::ffff:192.0.2.1").is_some());
        drop(held);
        assert!(places.taken.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn strangers_cannot_take_the_places_of_workers() {
        let limits = PortLimits { strangers: 40, expected: 300, ..PortLimits::default() };
        let places = Arc::new(Places::new(limits));
        let address = |n: usize| IpAddr::from([10, 0, (n / 256) as u8, (n % 256) as u8]);
        let mut strangers = Vec::new();
        for _ in 0..limits.strangers_per_address {
            strangers.push(places.take(address(0), false).unwrap());
        }
        assert!(places.take(address(0), false).is_none(), "one address has enough");
        for n in strangers.len()..limits.strangers {
            strangers.push(places.take(address(n), false).unwrap());
        }
        assert!(places.take(address(9_999), false).is_none(), "all strangers have enough");
        // Nor can one worker take the places of the others.
        let mut workers = Vec::new();
        for _ in 0..limits.expected_per_address {
            workers.push(places.take(address(1), true).unwrap());
        }
        assert!(places.take(address(1), true).is_none());
        for n in workers.len()..limits.expected {
            workers.push(places.take(address(2 + n / limits.expected_per_address), true).unwrap());
        }
        assert!(places.take(address(9_999), true).is_none());
        let counts = places.counts();
        assert_eq!((counts.expected, counts.strangers), (300, 40));
        assert_eq!((counts.expected_turned_away, counts.strangers_turned_away), (2, 2));
        drop((workers, strangers));
        let counts = places.counts();
        assert_eq!((counts.expected, counts.strangers), (0, 0));
        assert!(places.taken().by_address.is_empty());
    }
}
