//! How many clients there are: of all, and of each address.
//!
//! Invariant: a [`Seat`] is counted in both from the moment it is taken until it is dropped, so
//! that no address has more of them than it may.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a client has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are too many clients.
    All,
    /// Too many of them come from this address.
    Address,
}

/// The places.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl Seats {
    /// A place for a client at `address`, if no more than `most` are taken with it, and no more
    /// than `most_per_address` from there.
    pub(crate) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        most: usize,
        most_per_address: usize,
    ) -> Result<Seat, Full> {
        let network = network(address);
        let mut taken = self.lock();
        if taken.all >= most {
            return Err(Full::All);
        }
        let here = taken.by_network.entry(network).or_default();
        // An entry that was just made is used: the bounds are above zero.
        if *here >= most_per_address {
            return Err(Full::Address);
        }
        *here += 1;
        taken.all += 1;
        Ok(Seat { seats: Arc::clone(self), network })
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().all
    }

    /// The critical sections only move numbers: a panic cannot leave them half done.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place among those that are let in; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    network: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all -= 1;
        if let Some(here) = taken.by_network.get_mut(&self.network) {
            *here -= 1;
            if *here == 0 {
                taken.by_network.remove(&self.network);
            }
        }
    }
}

/// What counts as one address: who has one of IPv6 has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_and_what_is_dropped_is_free() {
        let seats = Arc::new(Seats::default());
        let take = |address: &str| seats.take(address.parse().unwrap(), 5, 2);
        let one = take("10.0.0.1").unwrap();
        let two = take("::ffff:10.0.0.1").unwrap();
        assert_eq!(take("10.0.0.1").unwrap_err(), Full::Address);
        let three = take("2001:db8::1").unwrap();
        let four = take("2001:db8::ffff:0:0:2").unwrap();
        assert_eq!(take("2001:db8::3").unwrap_err(), Full::Address);
        let five = take("2001:db8:0:1::3").unwrap();
        assert_eq!(take("10.0.0.3").unwrap_err(), Full::All);
        assert_eq!(seats.taken(), 5);
        drop((one, three));
        let again = take("10.0.0.1").unwrap();
        drop((two, four, five, again));
        assert_eq!(seats.taken(), 0);
        assert!(seats.lock().by_network.is_empty());
    }
}
