//! Limits on guessing passwords, on making accounts and (`orders`) on placing orders. Pure: time is an argument, nothing waits.
//!
//! An attempt is charged when it starts, so that ten thousand at once are as bounded as one after
//! the other, and the charge is given back when the password was right. A refused attempt is not
//! charged and costs no hashing. What is counted:
//!
//! | attempts | growing delays after | forgotten |
//! |---|---|---|
//! | on one name from one place | 5 failures, up to 15 minutes | at the right password |
//! | from one place | 30 failures, up to 1 minute | with time |
//! | on one name from everywhere | 100 failures, up to 1 minute | with time |
//! | through one worker, which could forge addresses | 200 failures, then 20 a second | with time |
//!
//! A place is an address (of IPv6: a /64 network) as one worker sees it. Only its word stands for the
//! address: what it makes up counts against nobody who comes from there through another worker.
//!
//! So that nobody is locked out by an attacker elsewhere, or by one in the same school, the last three
//! do not hold for those who come from a place that the account was logged in from before. These places are kept for each account,
//! the latest 16; at a start they are the addresses that the account's sessions were started
//! from, with the workers that the account is exposed to. A worker gains nothing by forging them: it
//! has seen that account's password already.
//!
//! Names are counted under a keyed hash, whether they exist or not, so that nobody learns from a
//! limit which do. Memory is bounded: each table holds [`Limits::tracked`] counts at most, and when
//! it is full the count that would be forgotten first gives way.

mod count;
mod orders;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use papertrader_core::ids::{AccountId, WorkerId};
use papertrader_core::names::UserName;
use papertrader_core::time::{SECOND, WallTime};
use papertrader_protocol::{Failure, Reason};

use count::{Count, Table};

pub(crate) use orders::OrderRate;

/// Places from which one account was logged in that are remembered.
const PLACES: usize = 16;
/// How often it is said of a worker that too many fail through it.
const SAY_AGAIN: i64 = 60 * SECOND;

/// A delay that grows with failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Failures without any delay.
    pub free: u32,
    /// The delay after one failure more; each further one doubles it.
    pub first: Duration,
    /// The delay never grows beyond this.
    pub longest: Duration,
    /// One failure is forgotten after this time, then another. Zero: there is no limit.
    pub forget: Duration,
}

/// A number of attempts at once, and then one after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Attempts at once; 0 refuses all.
    pub burst: u32,
    /// The interval after which there is room for one more. Zero: there is no limit.
    pub every: Duration,
}

/// All limits of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Log-ins that fail for one name from one address, as one worker sees it. Default: 5, then 1 s doubling up to 15 min;
    /// one is forgotten after 15 min.
    pub login_name_and_address: Backoff,
    /// Log-ins that fail from one address, as one worker sees it. Default: 30, then 1 s doubling up to 1 min; one is
    /// forgotten after 1 min.
    pub login_address: Backoff,
    /// Log-ins that fail for one name, from wherever it was not logged in before. Default: 100,
    /// then 1 s doubling up to 1 min; one is forgotten after 1 min.
    pub login_name: Backoff,
    /// Log-ins that fail through one worker. Default: 200, then 20 a second.
    pub login_worker: Rate,
    /// Registrations from one address, as one worker sees it, whether they succeed or not. Default:
    /// 60, then one in 20 s.
    pub register_address: Rate,
    /// Registrations through one worker, whether they succeed or not. Default: 600, then 2 a second.
    pub register_worker: Rate,
    /// Orders and cancellations of one account, whether they are accepted or not. Default: 1,000,
    /// then one in 20 ms.
    pub orders_account: Rate,
    /// Counts that each table keeps at most, about 150 bytes each. Default: 50,000.
    pub tracked: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        let minute = Duration::from_secs(60);
        let first = Duration::from_secs(1);
        Limits {
            login_name_and_address: Backoff {
                free: 5,
                first,
                longest: 15 * minute,
                forget: 15 * minute,
            },
            login_address: Backoff { free: 30, first, longest: minute, forget: minute },
            login_name: Backoff { free: 100, first, longest: minute, forget: minute },
            login_worker: Rate { burst: 200, every: Duration::from_millis(50) },
            register_address: Rate { burst: 60, every: Duration::from_secs(20) },
            register_worker: Rate { burst: 600, every: Duration::from_millis(500) },
            orders_account: Rate { burst: 1_000, every: Duration::from_millis(20) },
            tracked: 50_000,
        }
    }
}

/// What happened so far, since the master started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptCounts {
    /// Passwords that were right, at log-ins and changes of passwords.
    pub succeeded: u64,
    /// Passwords that were wrong.
    pub failed: u64,
    /// Log-ins and changes of passwords that were refused by a limit.
    pub refused: u64,
    /// Registrations that were refused by a limit.
    pub registrations_refused: u64,
    /// Wrong passwords by the worker that they came through.
    pub failed_through: BTreeMap<WorkerId, u64>,
}

/// A limit refuses an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany {
    /// When to try again, in seconds, rounded up.
    pub(crate) seconds: u64,
    /// Too many fail through the worker, and that was not said for a while.
    pub(crate) say_of_worker: bool,
}

impl From<TooMany> for Failure {
    fn from(refused: TooMany) -> Failure {
        let (seconds, s) = (refused.seconds, if refused.seconds == 1 { "" } else { "s" });
        let text = format!("too many attempts: try again in {seconds} second{s}");
        Failure::new(Reason::TooManyAttempts, text)
    }
}

/// Where an attempt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the client is, as the worker says.
    pub(crate) client: IpAddr,
    /// Through which worker it came.
    pub(crate) worker: WorkerId,
}

/// An attempt at a password that was charged. It is handed back with how it ended.
#[derive(Debug)]
#[must_use = "a charge that is not handed back counts as a failure"]
pub(crate) struct Attempt {
    /// The name and the place together.
    pair: u64,
    /// The place alone.
    key: u64,
    /// `None` from a place that the account was logged in from: neither the name nor the worker is
    /// charged.
    name: Option<u64>,
    place: Place,
}

/// A registration that was charged.
#[derive(Debug)]
#[must_use = "a charge that is not handed back counts as a registration"]
pub(crate) struct Registration {
    /// The place.
    key: u64,
    worker: WorkerId,
}

/// All counts.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    keys: RandomState,
    pairs: Table,
    addresses: Table,
    names: Table,
    registering: Table,
    workers: HashMap<WorkerId, OfWorker>,
    /// From where an account was logged in, the latest last.
    places: HashMap<AccountId, VecDeque<u64>>,
    counts: AttemptCounts,
}

/// What is counted for a worker. There are no more of these than workers that were registered.
#[derive(Debug, Default)]
struct OfWorker {
    failures: Option<Count>,
    registrations: Option<Count>,
    said: Option<WallTime>,
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Limiter {
        let table = || Table::new(limits.tracked);
        Limiter {
            limits,
            keys: RandomState::new(),
            pairs: table(),
            addresses: table(),
            names: table(),
            registering: table(),
            workers: HashMap::new(),
            places: HashMap::new(),
            counts: AttemptCounts::default(),
        }
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> &AttemptCounts {
        &self.counts
    }

    /// Charges an attempt at a name's password, or says when to try again. `account` is whose name
    /// it is, if it is anybody's.
    pub(crate) fn attempt(
        &mut self,
        name: &UserName,
        account: Option<AccountId>,
        place: Place,
        now: WallTime,
    ) -> Result<Attempt, TooMany> {
        let Limits { login_name_and_address, login_address, login_name, login_worker, .. } =
            self.limits;
        let name = name.key();
        let key = self.key_of(place);
        let pair = self.keys.hash_one((&name, key));
        let name = self.keys.hash_one(name);
        let is_familiar = account.is_some_and(|account| self.is_familiar(account, place));

        let mut wait = login_name_and_address.wait(self.pairs.get(pair, now), now);
        let mut by_worker = 0;
        if !is_familiar {
            let by_place = login_address.wait(self.addresses.get(key, now), now);
            let of_worker = self.workers.entry(place.worker).or_default();
            by_worker = login_worker.wait(of_worker.failures, now);
            let by_name = login_name.wait(self.names.get(name, now), now);
            wait = wait.max(by_place).max(by_name).max(by_worker);
        }
        if wait > 0 {
            self.counts.refused += 1;
            return Err(self.refusal(wait, by_worker > 0, place.worker, now));
        }
        self.pairs.charge(pair, login_name_and_address.cost(), now);
        self.addresses.charge(key, login_address.cost(), now);
        if !is_familiar {
            self.names.charge(name, login_name.cost(), now);
            let of_worker = self.workers.entry(place.worker).or_default();
            of_worker.failures = login_worker.cost().charge(of_worker.failures, now);
        }
        Ok(Attempt { pair, key, name: (!is_familiar).then_some(name), place })
    }

    /// The password was right, and whose it is.
    pub(crate) fn succeeded(&mut self, attempt: Attempt, account: AccountId, now: WallTime) {
        self.counts.succeeded += 1;
        self.remember(account, attempt.place);
        self.pairs.clear(attempt.pair);
        self.give_back(attempt, now);
    }

    /// The password was wrong: the charge stays.
    pub(crate) fn failed(&mut self, attempt: Attempt) {
        self.counts.failed += 1;
        *self.counts.failed_through.entry(attempt.place.worker).or_default() += 1;
    }

    /// Nobody found out whether the password was right.
    pub(crate) fn give_back(&mut self, attempt: Attempt, now: WallTime) {
        self.pairs.give_back(attempt.pair, self.limits.login_name_and_address.cost(), now);
        self.addresses.give_back(attempt.key, self.limits.login_address.cost(), now);
        if let Some(name) = attempt.name {
            self.names.give_back(name, self.limits.login_name.cost(), now);
            let of_worker = self.workers.entry(attempt.place.worker).or_default();
            let cost = self.limits.login_worker.cost();
            of_worker.failures = of_worker.failures.and_then(|count| cost.give_back(count, now));
        }
    }

    /// Charges a registration, or says when to try again.
    pub(crate) fn registration(
        &mut self,
        place: Place,
        now: WallTime,
    ) -> Result<Registration, TooMany> {
        let Limits { register_address, register_worker, .. } = self.limits;
        let key = self.key_of(place);
        let by_place = register_address.wait(self.registering.get(key, now), now);
        let of_worker = self.workers.entry(place.worker).or_default();
        let by_worker = register_worker.wait(of_worker.registrations, now);
        let wait = by_place.max(by_worker);
        if wait > 0 {
            self.counts.registrations_refused += 1;
            return Err(self.refusal(wait, by_worker > 0, place.worker, now));
        }
        of_worker.registrations = register_worker.cost().charge(of_worker.registrations, now);
        self.registering.charge(key, register_address.cost(), now);
        Ok(Registration { key, worker: place.worker })
    }

    /// A registration was not even tried.
    pub(crate) fn give_registration_back(&mut self, charge: Registration, now: WallTime) {
        let Limits { register_address, register_worker, .. } = self.limits;
        self.registering.give_back(charge.key, register_address.cost(), now);
        let of_worker = self.workers.entry(charge.worker).or_default();
        let count = of_worker.registrations;
        of_worker.registrations =
            count.and_then(|count| register_worker.cost().give_back(count, now));
    }

    /// Notes from where an account was logged in.
    pub(crate) fn remember(&mut self, account: AccountId, place: Place) {
        let place = self.key_of(place);
        let places = self.places.entry(account).or_default();
        places.retain(|other| *other != place);
        if places.len() >= PLACES {
            places.pop_front();
        }
        places.push_back(place);
    }

    fn is_familiar(&self, account: AccountId, place: Place) -> bool {
        let place = self.key_of(place);
        self.places.get(&account).is_some_and(|places| places.contains(&place))
    }

    /// The same for all addresses of a place.
    fn key_of(&self, place: Place) -> u64 {
        self.keys.hash_one((place.worker, network(place.client)))
    }

    fn refusal(&mut self, wait: i64, by_worker: bool, worker: WorkerId, now: WallTime) -> TooMany {
        let of_worker = self.workers.entry(worker).or_default();
        let is_due = of_worker.said.is_none_or(|said| said.plus_nanos(SAY_AGAIN) <= now);
        let say_of_worker = by_worker && is_due;
        if say_of_worker {
            of_worker.said = Some(now);
        }
        let seconds = wait.unsigned_abs().div_ceil(SECOND.unsigned_abs());
        TooMany { seconds, say_of_worker }
    }
}

/// What counts as one address: an IPv4 address, or a /64 network of IPv6, whose addresses all belong
/// to one customer.
fn network(address: IpAddr) -> (bool, u64) {
    match address.to_canonical() {
        IpAddr::V4(address) => (false, u64::from(address.to_bits())),
        IpAddr::V6(address) => (true, (address.to_bits() >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const ALICE: AccountId = AccountId(1);

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    fn place(client: &str, worker: u8) -> Place {
        Place { client: client.parse().unwrap(), worker: WorkerId([worker; 16]) }
    }

    /// An address of its own for each number.
    fn nth(number: u32) -> Place {
        Place { client: IpAddr::V4(number.into()), worker: WorkerId([1; 16]) }
    }

    fn at(seconds: f64) -> WallTime {
        WallTime((seconds * SECOND as f64) as i64)
    }

    fn fails(limiter: &mut Limiter, who: &str, place: Place, now: WallTime) {
        let attempt = limiter.attempt(&name(who), None, place, now).unwrap();
        limiter.failed(attempt);
    }

    /// Failures that a guesser gets through who tries again as soon as each refusal says.
    fn greedy(limits: Limits, seconds: i64, mut who: impl FnMut(u32) -> (UserName, Place)) -> u32 {
        let mut limiter = Limiter::new(limits);
        let (mut now, mut tries) = (WallTime(0), 0);
        while now.0 < seconds * SECOND {
            let (name, place) = who(tries);
            match limiter.attempt(&name, None, place, now) {
                Ok(attempt) => {
                    limiter.failed(attempt);
                    tries += 1;
                }
                Err(refused) => now = now.plus_nanos(refused.seconds as i64 * SECOND),
            }
        }
        tries
    }

    #[test]
    fn the_delay_grows_from_a_second_to_the_longest() {
        let mut limiter = Limiter::new(Limits::default());
        let mut now = WallTime(0);
        let mut delays = Vec::new();
        for _ in 0..19 {
            match limiter.attempt(&name("alice"), None, nth(1), now) {
                Ok(attempt) => {
                    limiter.failed(attempt);
                    delays.push(0);
                }
                Err(refused) => {
                    delays.push(refused.seconds);
                    now = now.plus_nanos(refused.seconds as i64 * SECOND);
                }
            }
        }
        let waits: Vec<u64> = delays.into_iter().filter(|delay| *delay > 0).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64]);
        // Long after, all is forgotten.
        now = now.plus_nanos(86_400 * SECOND);
        for _ in 0..5 {
            fails(&mut limiter, "alice", nth(1), now);
        }
        limiter.attempt(&name("alice"), None, nth(1), now).unwrap_err();
    }

    #[test]
    fn a_guesser_gets_few_tries_a_day() {
        let limits = Limits::default();
        let one = greedy(limits, 86_400, |_| (name("alice"), nth(1)));
        assert!((90..130).contains(&one), "{one} at one name from one address");
        let many_names = greedy(limits, 3_600, |n| (name(&format!("user{n}")), nth(1)));
        assert!((80..110).contains(&many_names), "{many_names} from one address in an hour");
        let many_places = greedy(limits, 3_600, |n| (name("alice"), nth(n)));
        assert!((150..180).contains(&many_places), "{many_places} at one name in an hour");
        let forged = greedy(limits, 60, |n| (name(&format!("user{n}")), nth(n)));
        assert!((1_300..1_500).contains(&forged), "{forged} through one worker in a minute");
    }

    #[test]
    fn attempts_at_once_are_as_bounded_as_one_after_the_other() {
        let mut limiter = Limiter::new(Limits::default());
        let now = at(1.0);
        let mut charged = Vec::new();
        for _ in 0..10_000 {
            charged.extend(limiter.attempt(&name("alice"), Some(ALICE), nth(1), now));
        }
        assert_eq!(charged.len(), 5);
        // Somebody else at the same name, and at another from the same address.
        fails(&mut limiter, "alice", nth(2), now);
        fails(&mut limiter, "bob", nth(1), now);
        assert_eq!(limiter.counts().refused, 9_995);
    }

    #[test]
    fn whoever_was_logged_in_from_there_gets_in_whatever_others_try() {
        let mut limiter = Limiter::new(Limits::default());
        let (home, now) = (place("192.0.2.7", 1), at(1.0));
        let attempt = limiter.attempt(&name("alice"), Some(ALICE), home, now).unwrap();
        limiter.succeeded(attempt, ALICE, now);
        // From everywhere, through every worker.
        for number in 0..10_000 {
            let worker = WorkerId([(number % 4) as u8; 16]);
            let place = Place { worker, ..nth(number) };
            if let Ok(attempt) = limiter.attempt(&name("Alice"), Some(ALICE), place, now) {
                limiter.failed(attempt);
            }
        }
        let elsewhere = [place("192.0.2.8", 1), place("192.0.2.7", 2)];
        for place in elsewhere {
            limiter.attempt(&name("alice"), Some(ALICE), place, now).unwrap_err();
        }
        // A neighbour at home has used up what the address allows to one name, and no more.
        fails(&mut limiter, "other", place("192.0.2.7", 9), now);
        let attempt = limiter.attempt(&name("ALICE"), Some(ALICE), home, now).unwrap();
        limiter.succeeded(attempt, ALICE, now);
        // But somebody who guesses from home is a guesser.
        for _ in 0..5 {
            let attempt = limiter.attempt(&name("alice"), Some(ALICE), home, now).unwrap();
            limiter.failed(attempt);
        }
        limiter.attempt(&name("alice"), Some(ALICE), home, now).unwrap_err();
    }

    #[test]
    fn what_a_worker_makes_up_of_an_address_counts_at_no_other() {
        let mut limiter = Limiter::new(Limits::default());
        let (home, made_up, now) = (place("192.0.2.7", 1), place("192.0.2.7", 2), at(1.0));
        for _ in 0..5 {
            fails(&mut limiter, "alice", made_up, now);
        }
        limiter.attempt(&name("alice"), Some(ALICE), made_up, now).unwrap_err();
        for number in 0..25 {
            fails(&mut limiter, &format!("user{number}"), made_up, now);
        }
        limiter.attempt(&name("bob"), None, made_up, now).unwrap_err();
        for _ in 0..60 {
            let _stays = limiter.registration(made_up, now).unwrap();
        }
        limiter.registration(made_up, now).unwrap_err();
        let attempt = limiter.attempt(&name("alice"), Some(ALICE), home, now).unwrap();
        limiter.succeeded(attempt, ALICE, now);
        let _stays = limiter.registration(home, now).unwrap();
    }

    #[test]
    fn one_in_the_same_school_does_not_lock_the_others_out() {
        let mut limiter = Limiter::new(Limits::default());
        let (school, now) = (place("192.0.2.7", 1), at(1.0));
        let attempt = limiter.attempt(&name("alice"), Some(ALICE), school, now).unwrap();
        limiter.succeeded(attempt, ALICE, now);
        for number in 0..30 {
            fails(&mut limiter, &format!("user{number}"), school, now);
        }
        limiter.attempt(&name("bob"), None, school, now).unwrap_err();
        let attempt = limiter.attempt(&name("alice"), Some(ALICE), school, now).unwrap();
        limiter.succeeded(attempt, ALICE, now);
        // It is no way to guess hers.
        for _ in 0..5 {
            let attempt = limiter.attempt(&name("alice"), Some(ALICE), school, now).unwrap();
            limiter.failed(attempt);
        }
        limiter.attempt(&name("alice"), Some(ALICE), school, now).unwrap_err();
    }

    #[test]
    fn the_latest_places_are_remembered() {
        let mut limiter = Limiter::new(Limits::default());
        for number in 0..20 {
            limiter.remember(ALICE, nth(number));
        }
        limiter.remember(ALICE, nth(4));
        limiter.remember(ALICE, nth(20));
        let known: Vec<u32> = (0..30).filter(|n| limiter.is_familiar(ALICE, nth(*n))).collect();
        let expected: Vec<u32> = [4].into_iter().chain(6..=20).collect();
        assert_eq!(known, expected);
        assert!(!limiter.is_familiar(AccountId(2), nth(20)));
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_a_network_of_ipv6() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("0.0.0.0"), of("::"));
    }

    #[test]
    fn registrations_are_bounded_by_address_and_by_worker() {
        let mut limiter = Limiter::new(Limits::default());
        let now = at(1.0);
        for _ in 0..60 {
            let _stays = limiter.registration(nth(1), now).unwrap();
        }
        let refused = limiter.registration(nth(1), now).unwrap_err();
        assert_eq!(refused.seconds, 20);
        // What was not tried is not counted.
        let charge = limiter.registration(nth(2), now).unwrap();
        limiter.give_registration_back(charge, now);
        for number in 0..540 {
            let _stays = limiter.registration(nth(2 + number), now).unwrap();
        }
        let refused = limiter.registration(nth(1_000), now).unwrap_err();
        assert_eq!((refused.seconds, refused.say_of_worker), (1, true));
        let _other = limiter.registration(place("::1", 2), now).unwrap();
        let later = now.plus_nanos(20 * SECOND);
        let _stays = limiter.registration(nth(1), later).unwrap();
        limiter.registration(nth(1), later).unwrap_err();
        assert_eq!(limiter.counts().registrations_refused, 3);
    }

    #[test]
    fn of_a_worker_through_which_too_many_fail_it_is_said_once_a_minute() {
        let mut limiter = Limiter::new(Limits::default());
        let mut said = 0;
        for second in 0..120 {
            for number in 0..300 {
                let who = (name(&format!("u{number}-{second}")), nth(second * 1_000 + number));
                match limiter.attempt(&who.0, None, who.1, at(f64::from(second))) {
                    Ok(attempt) => limiter.failed(attempt),
                    Err(refused) => said += u32::from(refused.say_of_worker),
                }
            }
        }
        assert_eq!(said, 2);
        let failed = limiter.counts().failed;
        assert!((2_500..2_700).contains(&failed), "{failed}");
        assert_eq!(limiter.counts().failed_through[&WorkerId([1; 16])], failed);
    }

    #[test]
    fn limits_can_be_switched_off() {
        let zero = Duration::ZERO;
        let none = Backoff { free: 0, first: zero, longest: zero, forget: zero };
        let all = Rate { burst: 0, every: zero };
        let limits = Limits {
            login_name_and_address: none,
            login_address: none,
            login_name: none,
            login_worker: all,
            register_address: all,
            register_worker: all,
            orders_account: all,
            tracked: 0,
        };
        assert_eq!(limits.tracked, 0);
        let mut limiter = Limiter::new(limits);
        for _ in 0..1_000 {
            fails(&mut limiter, "alice", nth(1), WallTime(0));
            let _stays = limiter.registration(nth(1), WallTime(0)).unwrap();
        }
        let closed = Rate { burst: 0, every: Duration::from_secs(5) };
        let mut limiter = Limiter::new(Limits { register_worker: closed, ..limits });
        assert_eq!(limiter.registration(nth(1), WallTime(0)).unwrap_err().seconds, 5);
    }

    /// What somebody does, and how much time passes before.
    #[derive(Debug, Clone)]
    struct Step {
        name: u8,
        place: u8,
        worker: u8,
        end: u8,
        after: i64,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let after = prop_oneof![3 => Just(0), 2 => 0..2 * SECOND, 1 => 0..2_000 * SECOND];
        let step = (0..4_u8, 0..6_u8, 0..2_u8, 0..4_u8, after)
            .prop_map(|(name, place, worker, end, after)| Step { name, place, worker, end, after });
        vec(step, 0..200)
    }

    /// Small limits, so that all of them are met.
    fn small() -> Limits {
        let backoff = |free, longest| Backoff {
            free,
            first: Duration::from_millis(700),
            longest: Duration::from_secs(longest),
            forget: Duration::from_secs(30),
        };
        Limits {
            login_name_and_address: backoff(2, 100),
            login_address: backoff(5, 10),
            login_name: backoff(8, 10),
            login_worker: Rate { burst: 12, every: Duration::from_millis(1_300) },
            tracked: 4,
            ..Limits::default()
        }
    }

    type State = ([Table; 3], Vec<(WorkerId, Option<Count>)>);

    fn state(limiter: &Limiter) -> State {
        let tables = [&limiter.pairs, &limiter.addresses, &limiter.names];
        let mut workers: Vec<_> =
            limiter.workers.iter().map(|(id, worker)| (*id, worker.failures)).collect();
        workers.retain(|(_, failures)| failures.is_some());
        workers.sort_by_key(|(id, _)| *id);
        (tables.map(Table::clone), workers)
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_a_refusal_tells_the_truth_and_costs_nothing(steps in steps()) {
            let mut limiter = Limiter::new(small());
            let mut now = WallTime(0);
            for Step { name, place, worker, end, after } in steps {
                now = now.plus_nanos(after);
                let name = self::name(&format!("user{name}"));
                let worker = WorkerId([worker; 16]);
                let place = Place { worker, ..nth(u32::from(place)) };
                let before = state(&limiter);
                // Whether the name is anybody's changes nothing before the first success.
                let account = (end == 0).then_some(ALICE);
                match limiter.attempt(&name, account, place, now) {
                    Ok(attempt) => match end {
                        1 => limiter.give_back(attempt, now),
                        _ => limiter.failed(attempt),
                    },
                    Err(refused) => {
                        prop_assert_eq!(state(&limiter), before);
                        prop_assert!((1..=100).contains(&refused.seconds));
                        let then = now.plus_nanos(refused.seconds as i64 * SECOND);
                        let again = limiter.attempt(&name, account, place, then);
                        prop_assert!(again.is_ok());
                        if let Ok(attempt) = again {
                            limiter.failed(attempt);
                        }
                        now = then;
                    }
                }
                for table in state(&limiter).0 {
                    prop_assert!(table.counts.len() <= 4);
                    let ends = table.counts.iter().map(|(key, count)| (count.clear_at, *key));
                    prop_assert_eq!(ends.collect::<BTreeSet<_>>(), table.by_end);
                }
            }
        }

        #[test]
        fn what_is_given_back_was_never_taken(steps in steps()) {
            let mut limiter = Limiter::new(Limits { tracked: 1_000, ..small() });
            let mut now = WallTime(0);
            for Step { name, place, worker, end, after } in steps {
                now = now.plus_nanos(after);
                let name = self::name(&format!("user{name}"));
                let place = Place { worker: WorkerId([worker; 16]), ..nth(u32::from(place)) };
                let forgotten = |state: &State| -> Vec<_> {
                    let counts = state.0.iter().map(|table| {
                        let mut ends: Vec<WallTime> =
                            table.counts.values().map(|count| count.clear_at).collect();
                        ends.retain(|end| *end > now);
                        ends.sort();
                        ends
                    });
                    let workers = state.1.iter().filter_map(|(_, count)| *count);
                    let workers = workers.map(|c| c.clear_at).filter(|end| *end > now).collect();
                    counts.chain([workers]).collect()
                };
                let before = forgotten(&state(&limiter));
                let Ok(attempt) = limiter.attempt(&name, None, place, now) else { continue };
                if end == 0 {
                    limiter.failed(attempt);
                } else {
                    limiter.give_back(attempt, now);
                    prop_assert_eq!(forgotten(&state(&limiter)), before);
                }
            }
        }
    }

    #[test]
    fn in_a_full_table_what_would_be_forgotten_first_gives_way() {
        let mut limiter = Limiter::new(Limits { tracked: 100, ..Limits::default() });
        for _ in 0..5 {
            fails(&mut limiter, "alice", nth(0), at(0.0));
        }
        for number in 1..200 {
            fails(&mut limiter, &format!("user{number}"), nth(number), at(0.5));
        }
        limiter.attempt(&name("alice"), None, nth(0), at(0.9)).unwrap_err();
        assert_eq!(limiter.pairs.counts.len(), 100);
    }

    #[test]
    fn the_words_say_when_to_try_again() {
        let words = |seconds| Failure::from(TooMany { seconds, say_of_worker: false });
        assert_eq!(words(1).text, "too many attempts: try again in 1 second");
        assert_eq!(words(60).text, "too many attempts: try again in 60 seconds");
        assert_eq!(words(2).reason, Reason::TooManyAttempts);
    }
}
