//! Which of several servers is tried first: one of the own region, then one that is near, then by
//! chance, in proportion to the room that each says it has.
//!
//! It connects to nothing. Chance and not the least load decides among equals, because many clients
//! that lose one server at the same moment look at the same list: they spread, and fill what is left
//! in proportion. Invariant: every candidate stands in the order exactly once, and the same seed gives
//! the same order.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use papertrader_protocol::data::FULL;

use crate::address::Address;

/// Connections that take no longer count as equally near.
const NEAR: Duration = Duration::from_millis(16);

/// A server that may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: Address,
    /// It says that it is in the client's own region.
    pub(crate) is_home: bool,
    /// In thousandths, as the list of workers says.
    pub(crate) load: u32,
}

/// Chance, and what was measured.
#[derive(Debug)]
pub(crate) struct Choice {
    random: u64,
    /// The shortest time that each has taken to accept a connection.
    reached: HashMap<Address, Duration>,
}

impl Choice {
    /// With a seed for chance; without one, it is the system's.
    pub(crate) fn new(seed: Option<u64>) -> Choice {
        let random = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        Choice { random, reached: HashMap::new() }
    }

    /// Takes note of how long a server has taken to accept a connection.
    pub(crate) fn reached(&mut self, address: &Address, took: Duration) {
        let least = self.reached.entry(address.clone()).or_insert(took);
        *least = took.min(*least);
    }

    /// The order in which they are tried.
    pub(crate) fn ordered(&mut self, mut candidates: Vec<Candidate>) -> Vec<Address> {
        let mut ordered = Vec::with_capacity(candidates.len());
        // By chance first; what comes before chance then keeps that order among equals.
        while !candidates.is_empty() {
            let all = candidates.iter().map(room).sum();
            let mut chosen = self.below(all);
            let is_it = |candidate: &Candidate| match chosen.checked_sub(room(candidate)) {
                None => true,
                Some(rest) => {
                    chosen = rest;
                    false
                }
            };
            let index = candidates.iter().position(is_it).unwrap_or(0);
            ordered.push(candidates.swap_remove(index));
        }
        ordered.sort_by_key(|it| (!it.is_home, self.distance(&it.address)));
        ordered.into_iter().map(|candidate| candidate.address).collect()
    }

    /// How far away a server is: 0 is near, or not known yet; each step is twice as far.
    fn distance(&self, address: &Address) -> u32 {
        let took = self.reached.get(address).copied().unwrap_or_default();
        let times = took.as_nanos() / NEAR.as_nanos();
        (times + 1).ilog2()
    }

    /// From 0, less than `end` (SplitMix64).
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

/// What a server has left, in thousandths. One that is full may have a place again.
fn room(candidate: &Candidate) -> u64 {
    u64::from(FULL.saturating_sub(candidate.load).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(port: u16, is_home: bool, load: u32) -> Candidate {
        let address = Address::at(&format!("host:{port}"), false).unwrap();
        Candidate { address, is_home, load }
    }

    fn firsts(choice: &mut Choice, candidates: &[Candidate], clients: usize) -> Vec<usize> {
        let mut counts = vec![0; candidates.len()];
        for _ in 0..clients {
            let order = choice.ordered(candidates.to_vec());
            assert_eq!(order.len(), candidates.len());
            let first = candidates.iter().position(|it| it.address == order[0]).unwrap();
            counts[first] += 1;
        }
        counts
    }

    #[test]
    fn clients_that_lose_one_server_spread_by_the_room_of_the_others() {
        let mut choice = Choice::new(Some(1));
        let equal = [candidate(1, false, 30), candidate(2, false, 30)];
        let counts = firsts(&mut choice, &equal, 1_000);
        assert!(counts.iter().all(|count| (450..550).contains(count)), "{counts:?}");
        let uneven = [candidate(1, false, 900), candidate(2, false, 100)];
        let counts = firsts(&mut choice, &uneven, 1_000);
        assert!((70..130).contains(&counts[0]), "{counts:?}");
        // More than all is all.
        let full = [candidate(1, false, u32::MAX), candidate(2, false, 0)];
        assert!(firsts(&mut choice, &full, 1_000)[0] < 10);
        let both = [candidate(1, false, FULL), candidate(2, false, FULL)];
        let counts = firsts(&mut choice, &both, 1_000);
        assert!(counts.iter().all(|count| (450..550).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_own_region_comes_first_then_what_is_near_then_what_has_room() {
        let mut choice = Choice::new(Some(2));
        let all: Vec<Candidate> =
            (0..6).map(|n| candidate(n + 1, n % 2 == 0, u32::from(n) * 100)).collect();
        for (n, millis) in [(0, 200), (2, 15), (1, 17), (3, 400)] {
            choice.reached(&all[n].address, Duration::from_millis(900));
            choice.reached(&all[n].address, Duration::from_millis(millis));
            choice.reached(&all[n].address, Duration::from_millis(901));
        }
        for _ in 0..100 {
            let order = choice.ordered(all.clone());
            let order: Vec<usize> = order
                .iter()
                .map(|address| all.iter().position(|it| it.address == *address).unwrap())
                .collect();
            // 4 and 5 are not measured, and count as near; so is 2.
            assert!(matches!(order[..2], [2, 4] | [4, 2]), "{order:?}");
            assert_eq!(order[2..], [0, 5, 1, 3], "{order:?}");
        }
    }

    #[test]
    fn chance_is_the_seeds_or_another_for_each_client() {
        let all: Vec<Candidate> = (1..9).map(|port| candidate(port, false, 0)).collect();
        let orders = |seed: Option<u64>| -> Vec<Vec<Address>> {
            let mut choice = Choice::new(seed);
            (0..8).map(|_| choice.ordered(all.clone())).collect()
        };
        assert_eq!(orders(Some(3)), orders(Some(3)));
        assert_ne!(orders(Some(3)), orders(Some(4)));
        assert_ne!(orders(None), orders(None));
        assert!(Choice::new(None).ordered(Vec::new()).is_empty());
    }
}
