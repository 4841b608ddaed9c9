//! A small exchange that makes batches from a seed, and remembers what must then be stored.
//!
//! It trades through the real books and the real settlement; its memory of orders, marks and
//! journal is the naive one that the stores are compared with. The same seed gives the same
//! batches, in another process too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::books::{Books, InFlight, Rules};
use papertrader_core::ids::{
    AccountId, BatchNumber, InstrumentId, OrderId, SnapshotNumber, WorkerId,
};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::{Order, OrderRecord, OrderRequest, OrderState, Side};
use papertrader_core::settle::{Settlement, settle};
use papertrader_core::snapshot::{Mark, PricePoint, Snapshot, Split};
use papertrader_core::time::{DAY, MarketTime, Moment, SECOND, WallTime};
use papertrader_store::{
    BarRow, Batch, Boot, Change, InstrumentRow, Loaded, NewAccount, PassHash, Profile, SessionKey,
    StoredSession, WorkerRow,
};

/// How many instruments there are.
pub(crate) const INSTRUMENTS: u32 = 4;

/// The exchange and its memory.
pub(crate) struct Trading {
    random: u64,
    guard_random: u64,
    rules: Rules,
    pub(crate) books: Books,
    pub(crate) batch: u64,
    pub(crate) wall: i64,
    market: i64,
    actions: u64,
    pub(crate) records: BTreeMap<OrderId, OrderRecord>,
    pub(crate) marks: BTreeSet<(AccountId, ClientOrderId)>,
    pub(crate) journal: Vec<(JournalEntry, Moment)>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) sessions: BTreeMap<SessionKey, StoredSession>,
    pub(crate) instruments: Vec<InstrumentRow>,
    pub(crate) workers: BTreeMap<WorkerId, WorkerRow>,
    pub(crate) exposures: BTreeSet<(AccountId, WorkerId)>,
    pub(crate) bars: BTreeMap<(InstrumentId, Resolution, MarketTime), Bar>,
    /// By how much the numbers of orders ascend.
    pub(crate) stride: u64,
}

impl Trading {
    pub(crate) fn new(seed: u64) -> Trading {
        Trading {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            guard_random: seed | 1 << 40,
            rules: Rules { max_open_orders: 12, max_price_age: DAY, expire_after_days: 2 },
            books: Books::new(),
            batch: 0,
            wall: 1_000,
            market: 1_000 * DAY,
            actions: 0,
            records: BTreeMap::new(),
            marks: BTreeSet::new(),
            journal: Vec::new(),
            profiles: Vec::new(),
            sessions: BTreeMap::new(),
            instruments: Vec::new(),
            workers: BTreeMap::new(),
            exposures: BTreeSet::new(),
            bars: BTreeMap::new(),
            stride: 1,
        }
    }

    /// The last order.
    fn last_order(&self) -> u64 {
        self.records.last_key_value().map_or(0, |(order, _)| order.0)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    /// A later moment.
    pub(crate) fn moment(&mut self) -> Moment {
        self.wall += 1;
        Moment { wall: WallTime(self.wall), market: self.books.head().market }
    }

    /// The next batch, with changes that were already made in memory.
    pub(crate) fn batch_of(&mut self, changes: Vec<Change>) -> Batch {
        self.batch += 1;
        self.wall += 1;
        Batch { number: BatchNumber(self.batch), wall: WallTime(self.wall), changes }
    }

    /// The next batch of the story: first what everything needs, then trading at random.
    pub(crate) fn next_batch(&mut self) -> Batch {
        let mut changes = Vec::new();
        if self.batch == 0 {
            changes.push(self.add_instruments());
            changes.push(self.put_worker(1, "first"));
            for _ in 0..3 {
                changes.push(self.open_account(Cash::from_cents(1_000_000)));
            }
            changes.push(self.settle_something());
            return self.batch_of(changes);
        }
        for _ in 0..1 + self.below(4) {
            match self.below(20) {
                0 => changes.push(self.open_account(Cash::from_cents(1_000_000))),
                1 => changes.push(self.start_session()),
                2 => changes.extend(self.end_session()),
                3 => changes.extend(self.disable_account()),
                4 => changes.extend(self.mark_cancelled()),
                5 | 6 => changes.extend(self.cancel_order()),
                7 => {
                    let number = 1 + self.below(3) as u8;
                    let name = format!("worker-{number}-{}", self.batch);
                    changes.push(self.put_worker(number, &name));
                }
                8..=11 => changes.push(self.settle_something()),
                _ => {
                    for _ in 0..1 + self.below(6) {
                        changes.push(self.place_something());
                    }
                }
            }
        }
        // Of their own seed, so that they change nothing about the trading.
        let random = std::mem::replace(&mut self.random, self.guard_random);
        match self.below(12) {
            0 => changes.extend(self.remove_worker()),
            1..=3 => changes.push(self.set_password()),
            4 => changes.push(self.require_password()),
            5..=7 => changes.push(self.expose()),
            8 | 9 => changes.push(self.use_sessions()),
            _ => {}
        }
        self.guard_random = std::mem::replace(&mut self.random, random);
        self.batch_of(changes)
    }

    /// A batch after which orders are open that wait with a reason, and others without.
    pub(crate) fn leave_orders_open(&mut self) -> Batch {
        let little = Quantity::from_raw(1_000);
        let mut changes = Vec::new();
        for account in [1, 2] {
            changes.push(self.place(AccountId(account), Side::Buy, InstrumentId(1), little));
        }
        changes.push(self.settle(SECOND, false, &[], &[]));
        changes.push(self.place(AccountId(3), Side::Buy, InstrumentId(1), little));
        self.batch_of(changes)
    }

    fn add_instruments(&mut self) -> Change {
        self.instruments = (1..=INSTRUMENTS)
            .map(|id| InstrumentRow {
                id: InstrumentId(id),
                symbol: format!("SYM{id}").parse().unwrap(),
                name: format!("Instrument \u{2116} {id}"),
                kind: id as u8,
            })
            .collect();
        Change::AddInstruments(self.instruments.clone())
    }

    pub(crate) fn put_worker(&mut self, number: u8, name: &str) -> Change {
        let id = WorkerId([number; 16]);
        let boot = |until| Boot { until, compromised: self.batch.is_multiple_of(2) };
        let row = WorkerRow {
            id,
            name: name.to_owned(),
            allowed: "10.0.0.0/8, ::1".to_owned(),
            key: (!self.batch.is_multiple_of(3)).then(|| vec![0, number, 255]),
            booted: match self.batch % 5 {
                0 => Some(boot(None)),
                1 => Some(boot(Some(WallTime(self.wall + 7)))),
                _ => None,
            },
        };
        self.workers.insert(id, row.clone());
        Change::PutWorker(row)
    }

    pub(crate) fn open_account(&mut self, grant: Cash) -> Change {
        let id = self.books.open_account(grant).unwrap();
        let moment = self.moment();
        let profile = Profile {
            name: format!("Trader-{id}").parse().unwrap(),
            email: format!("trader{id}@example.org").parse().unwrap(),
            pass_hash: id.0.is_multiple_of(2).then(|| pass_hash(id, "first")),
            password_due: id.0.is_multiple_of(5),
            since: moment.wall,
        };
        self.profiles.push(profile.clone());
        self.journal.push((JournalEntry::Grant { account: id, cash: grant }, moment));
        Change::OpenAccount(NewAccount { id, profile, grant, moment })
    }

    pub(crate) fn start_session(&mut self) -> Change {
        let mut key = [0; 32];
        for byte in &mut key {
            *byte = self.below(256) as u8;
        }
        let addresses = ["127.0.0.1", "::1", "2001:db8::7", "198.51.100.4"];
        let client: IpAddr = addresses[self.below(4) as usize].parse().unwrap();
        let started = self.moment().wall;
        let session = StoredSession {
            key: SessionKey(key),
            account: self.any_account(),
            expires: WallTime(self.wall + self.below(1_000) as i64 * SECOND),
            expirable: self.below(2) == 0,
            client,
            started,
            used: started,
        };
        self.sessions.insert(session.key, session.clone());
        Change::StartSession(session)
    }

    fn end_session(&mut self) -> Option<Change> {
        let index = self.below(self.sessions.len().max(1) as u64) as usize;
        let key = *self.sessions.keys().nth(index)?;
        self.sessions.remove(&key);
        Some(Change::EndSession(key))
    }

    fn disable_account(&mut self) -> Vec<Change> {
        let account = self.any_account();
        // Rarely, and never the first ones: somebody must go on trading.
        if account.0 <= 3 || self.books.account(account).is_none_or(|found| found.disabled) {
            return Vec::new();
        }
        let open: Vec<OrderId> =
            self.books.open_orders_of(account).iter().map(|open| open.order.id).collect();
        let mut changes: Vec<Change> = open.into_iter().map(|id| self.cancel(id)).collect();
        self.books.disable(account).unwrap();
        changes.push(Change::DisableAccount(account));
        changes
    }

    pub(crate) fn profile(&mut self, account: AccountId) -> &mut Profile {
        &mut self.profiles[account.0 as usize - 1]
    }

    fn set_password(&mut self) -> Change {
        let account = self.any_account();
        let through = (self.below(3) != 0).then(|| self.any_worker());
        let pass_hash = pass_hash(account, &self.batch.to_string());
        let profile = self.profile(account);
        profile.pass_hash = Some(pass_hash.clone());
        profile.password_due = false;
        self.exposures.retain(|(whose, _)| *whose != account);
        self.exposures.extend(through.map(|worker| (account, worker)));
        Change::SetPassword { account, pass_hash, through }
    }

    fn require_password(&mut self) -> Change {
        let account = self.any_account();
        self.profile(account).password_due = true;
        Change::RequirePassword(account)
    }

    fn expose(&mut self) -> Change {
        let (account, worker) = (self.any_account(), self.any_worker());
        self.exposures.insert((account, worker));
        Change::Expose { account, worker }
    }

    /// Uses of sessions: later and earlier ones, and one of a session that is not there.
    fn use_sessions(&mut self) -> Change {
        let mut used = vec![(SessionKey([7; 32]), WallTime(self.wall))];
        let wall = self.moment().wall;
        for (index, session) in self.sessions.values_mut().enumerate() {
            let when = if index % 3 == 0 { WallTime(wall.0 - 500) } else { wall };
            session.used = session.used.max(when);
            used.push((session.key, when));
        }
        Change::UseSessions(used)
    }

    fn remove_worker(&mut self) -> Option<Change> {
        let id = WorkerId([1 + self.below(3) as u8; 16]);
        // Somebody must be left.
        if self.workers.len() < 3 {
            return None;
        }
        self.workers.remove(&id).map(|worker| Change::RemoveWorker(worker.id))
    }

    /// A worker that is, was or will be registered.
    fn any_worker(&mut self) -> WorkerId {
        WorkerId([1 + self.below(3) as u8; 16])
    }

    fn mark_cancelled(&mut self) -> Option<Change> {
        let account = self.any_account();
        let id: ClientOrderId = format!("late-{}", self.below(1_000)).parse().unwrap();
        let moment = self.moment();
        let is_new = self.marks.insert((account, id.clone()));
        is_new.then_some(Change::MarkCancelled { account, client_order_id: id, moment })
    }

    fn cancel_order(&mut self) -> Option<Change> {
        let open: Vec<OrderId> = self.books.open_orders().map(|open| open.order.id).collect();
        let id = *open.get(self.below(open.len().max(1) as u64) as usize)?;
        Some(self.cancel(id))
    }

    pub(crate) fn cancel(&mut self, order: OrderId) -> Change {
        let moment = self.moment();
        self.books.cancel(order).unwrap().unwrap();
        let record = self.records.get_mut(&order).unwrap();
        record.state = OrderState::Cancelled;
        record.decided = Some(moment);
        Change::CancelOrder { order, moment }
    }

    fn any_account(&mut self) -> AccountId {
        AccountId(1 + self.below(u64::from(self.books.next_account().0 - 1)) as u32)
    }

    fn place_something(&mut self) -> Change {
        let account = self.any_account();
        let side = if self.below(5) < 3 { Side::Buy } else { Side::Sell };
        let instrument = InstrumentId(1 + self.below(u64::from(INSTRUMENTS)) as u32);
        let most = if instrument.0 == INSTRUMENTS { 2_000 } else { 1_500_000_000 };
        let quantity = Quantity::from_raw(1 + self.below(most) as i64);
        self.place(account, side, instrument, quantity)
    }

    /// Judges an order and makes its record.
    pub(crate) fn place(
        &mut self,
        account: AccountId,
        side: Side,
        instrument: InstrumentId,
        quantity: Quantity,
    ) -> Change {
        let id = OrderId(self.last_order() + self.stride);
        let received = self.moment();
        let request = OrderRequest {
            account,
            client_order_id: format!("order-{id}").parse().unwrap(),
            side,
            instrument,
            quantity,
        };
        let judged = self.books.judge(&request, &InFlight::default(), &self.rules);
        let head = self.books.head();
        let order = Order {
            id,
            request,
            asked: quantity,
            hold: judged.unwrap_or(Cash::ZERO),
            received,
            seen: SnapshotNumber(head.snapshot),
            day: head.day,
            worker: WorkerId([1; 16]),
            worker_time: WallTime(received.wall.0 - self.below(3) as i64),
            worker_sequence: u64::MAX - self.below(1_000_000),
        };
        let (state, decided) = match judged {
            Ok(_) => {
                self.books.accept(order.clone(), None).unwrap();
                (OrderState::Queued(None), None)
            }
            Err(refusal) => (OrderState::Rejected(refusal), Some(self.moment())),
        };
        let record = OrderRecord { order, state, decided };
        self.records.insert(id, record.clone());
        Change::PlaceOrder(record)
    }

    pub(crate) fn settle_something(&mut self) -> Change {
        let step = if self.below(6) == 0 { DAY } else { 60 * SECOND };
        let open = self.below(5) != 0;
        let mut prices = Vec::new();
        for id in 1..=INSTRUMENTS {
            if self.below(4) != 0 || self.books.head().snapshot == 0 {
                // The last is so dear that what a split cannot divide is worth something.
                let price = match id {
                    INSTRUMENTS => (1 + self.below(9)) * 10_000_000_000_000_000,
                    _ => 1 + self.below(20_000_000_000),
                };
                prices.push((InstrumentId(id), price as i64));
            }
        }
        let mut splits = Vec::new();
        if self.below(4) == 0 {
            let (to, from) = [(2, 1), (3, 2), (1, 10), (7, 3)][self.below(4) as usize];
            splits.push((InstrumentId(1 + self.below(u64::from(INSTRUMENTS)) as u32), to, from));
        }
        self.settle(step, open, &prices, &splits)
    }

    /// Settles at a snapshot `step` of market time later, with these prices and (to, from) splits.
    pub(crate) fn settle(
        &mut self,
        step: i64,
        market_open: bool,
        prices: &[(InstrumentId, i64)],
        splits: &[(InstrumentId, u32, u32)],
    ) -> Change {
        self.market += step;
        let time = MarketTime(self.market);
        let prices: Vec<PricePoint> = prices
            .iter()
            .map(|(instrument, raw)| {
                let price = Price::from_raw(*raw).unwrap();
                let high = Price::from_raw(raw + 7).unwrap();
                let volume = Volume::from_raw(raw.saturating_mul(3));
                let bar = Bar { start: time, open: price, high, low: price, close: price, volume };
                PricePoint { instrument: *instrument, mark: Mark { price, time }, bar }
            })
            .collect();
        let splits = splits
            .iter()
            .map(|(instrument, to, from)| {
                self.actions += 1;
                Split { number: self.actions, instrument: *instrument, to: *to, from: *from }
            })
            .collect();
        let snapshot = Snapshot {
            number: SnapshotNumber(self.books.head().snapshot + 1),
            time,
            market_open,
            ended: false,
            prices,
            splits,
        };
        let now = self.moment().wall;
        let settlement = settle(&self.books, &snapshot, now, &self.rules).unwrap();
        self.remember(&settlement);
        let mut bars = Vec::new();
        for point in &snapshot.prices {
            for resolution in [Resolution::Interval, Resolution::Day] {
                let start = resolution.start_of(point.bar.start);
                let key = (point.instrument, resolution, start);
                let bar = match self.bars.get(&key) {
                    Some(before) => before.merged(&point.bar),
                    None => Bar { start, ..point.bar },
                };
                self.bars.insert(key, bar);
                bars.push(BarRow { instrument: point.instrument, resolution, bar });
            }
        }
        Change::Settle { settlement: settlement.into(), bars }
    }

    fn remember(&mut self, settlement: &Settlement) {
        for decision in &settlement.decisions {
            let record = self.records.get_mut(&decision.order).unwrap();
            record.state = decision.state;
            record.decided = Some(settlement.moment);
        }
        for waiting in &settlement.waiting {
            let record = self.records.get_mut(&waiting.order).unwrap();
            record.state = OrderState::Queued(waiting.reason);
        }
        for rescaled in &settlement.rescaled {
            let record = self.records.get_mut(&rescaled.order).unwrap();
            record.order.request.quantity = rescaled.quantity;
        }
        for entry in &settlement.journal {
            self.journal.push((*entry, settlement.moment));
        }
        self.books.apply(settlement).unwrap();
    }

    /// That what was loaded is exactly what this exchange remembers.
    pub(crate) fn assert_loaded(&self, loaded: &Loaded) {
        assert_eq!(loaded.last_batch, BatchNumber(self.batch));
        assert_eq!(loaded.last_wall, WallTime(if self.batch == 0 { 0 } else { self.wall }));
        assert_eq!(loaded.next_order, OrderId(self.last_order() + 1));
        assert_eq!(loaded.books, self.books);
        assert_eq!(loaded.profiles, self.profiles);
        assert_eq!(loaded.sessions, self.sessions.values().cloned().collect::<Vec<_>>());
        assert_eq!(loaded.instruments, self.instruments);
        assert_eq!(loaded.workers, self.workers.values().cloned().collect::<Vec<_>>());
        assert_eq!(loaded.exposures, self.exposures.iter().copied().collect::<Vec<_>>());
    }
}

fn pass_hash(account: AccountId, which: &str) -> PassHash {
    PassHash(format!("$argon2id$v=19$hash-of-{account}-{which}"))
}
