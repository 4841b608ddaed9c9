//! Nothing is told before its time: at every step of a replayed week, every answer is compared
//! with the file and with what was told before.
//!
//! What is expected is made here, from the file's rows and from the prices that were heard step by
//! step, without the servers' code: days that are over are the file's rows; today is what its
//! interval bars add up to, which begin at the file's open, end at the current price and are the
//! file's row when the session closes; hours and months are sums of those.

use std::collections::BTreeMap;

use jiff::civil::Date;
use papertrader_core::bar::Bar;
use papertrader_core::money::{Price, Quantity, Volume};
use papertrader_core::time::{DAY, MarketTime, SECOND};
use papertrader_protocol::data::{
    AssetInfo, AssetList, AssetValue, Bars, History, HistoryKind, Orders, Portfolio, Prediction,
};
use papertrader_protocol::instruction::State;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Instruction, Reason};

use crate::file::{File, date_of, midnight, session};
use crate::peer::Peer;
use crate::scene::{HALF_HOUR, Scene, Setup};

use Instruction as I;

/// The week: AAPL is split two for one before the second session, and a month ends with it.
const FIRST: &str = "2005-02-25";
const SESSIONS: usize = 5;
/// What is asked about; FB is not traded yet.
const SYMBOLS: [&str; 4] = ["AAPL", "GOOG", "IBM", "MSFT"];
/// Far later than anything in the file.
const FAR: &str = "2013-03-02";
/// Before the deployment's start, inside the file.
const RECENT: &str = "2005-02-14";

/// What one client has heard of one symbol.
#[derive(Default)]
struct Heard {
    /// The interval bars of the week, by their start.
    intervals: BTreeMap<MarketTime, Bar>,
}

/// Where the replay stands, by the file and the calendar.
struct Now {
    date: Date,
    /// The number of the step in its session, and the last one.
    step: i64,
    last: i64,
    market: MarketTime,
    /// Where the newest interval bar starts.
    newest: MarketTime,
}

impl Now {
    fn at(date: Date, step: i64, length: i64) -> Now {
        let (open, close) = session(date);
        let span = close.0 - open.0;
        let last = (span + length - 1) / length;
        let time = |step: i64| MarketTime((open.0 + step * length).min(close.0));
        Now { date, step, last, market: time(step), newest: time((step - 1).max(0)) }
    }

    fn is_over(&self) -> bool {
        self.step == self.last
    }
}

/// The sum of some bars, beginning at `start`.
fn sum(start: MarketTime, bars: &[Bar]) -> Bar {
    let first = bars[0];
    let mut sum = Bar { start, ..first };
    for bar in &bars[1..] {
        sum.high = sum.high.max(bar.high);
        sum.low = sum.low.min(bar.low);
        sum.close = bar.close;
        sum.volume = Volume::from_raw(sum.volume.raw() + bar.volume.raw());
    }
    sum
}

/// Bars summed by a key; each sum begins where `start` says.
fn summed(bars: &[Bar], start: impl Fn(MarketTime) -> MarketTime) -> Vec<Bar> {
    let mut groups: BTreeMap<MarketTime, Vec<Bar>> = BTreeMap::new();
    for bar in bars {
        groups.entry(start(bar.start)).or_default().push(*bar);
    }
    groups.iter().map(|(start, bars)| sum(*start, bars)).collect()
}

fn by_day(bars: &[Bar]) -> Vec<Bar> {
    summed(bars, |time| midnight(date_of(time)))
}

fn by_hour(bars: &[Bar]) -> Vec<Bar> {
    summed(bars, |time| MarketTime(time.0.div_euclid(3_600 * SECOND) * 3_600 * SECOND))
}

fn by_month(bars: &[Bar]) -> Vec<Bar> {
    summed(bars, |time| midnight(date_of(time).first_of_month()))
}

/// Asks for bars and checks what holds for all of them.
async fn bars(peer: &mut Peer, now: &Now, what: I, arguments: &[&str]) -> Vec<Bar> {
    let request = peer.send(what, arguments).await;
    let packets = peer.packets(request, I::Data).await;
    let is_final = packets.iter().all(|packet| packet.header.is_final);
    let bytes: Vec<u8> = packets.into_iter().flat_map(|packet| packet.data).collect();
    let answer = Bars::from_bytes(&bytes).unwrap();
    if is_final {
        // It may have been kept since it was first asked; then only days that are over are in it.
        assert!(answer.market <= now.market);
        assert!(answer.bars.iter().all(|bar| bar.start < midnight(now.date)));
    } else {
        assert_eq!(answer.market, now.market, "{what:?}");
    }
    assert_eq!(answer.symbol.as_str(), arguments[0]);
    for bar in &answer.bars {
        assert!(bar.start <= now.market, "{what:?} {arguments:?}: {bar:?}");
        assert!(bar.is_consistent());
    }
    assert!(answer.bars.is_sorted_by_key(|bar| bar.start));
    answer.bars
}

struct Week {
    file: File,
    heard: BTreeMap<&'static str, Heard>,
    /// The price of each symbol at each market time, for what refers to it later.
    prices: BTreeMap<(&'static str, MarketTime), Price>,
    dates: Vec<Date>,
    length: i64,
}

impl Week {
    fn new(length: i64) -> Week {
        let file = File::read();
        let first: Date = FIRST.parse().unwrap();
        let dates = file.rows("AAPL").iter().map(|row| row.date).filter(|date| *date >= first);
        let dates: Vec<Date> = dates.take(SESSIONS).collect();
        assert_eq!(dates[SESSIONS - 1].to_string(), "2005-03-03");
        let heard = SYMBOLS.into_iter().map(|symbol| (symbol, Heard::default())).collect();
        Week { file, heard, prices: BTreeMap::new(), dates, length }
    }

    fn steps(&self) -> Vec<Now> {
        let of = |date: &Date| {
            let last = Now::at(*date, 0, self.length).last;
            let date = *date;
            (0..=last).map(move |step| Now::at(date, step, self.length))
        };
        self.dates.iter().flat_map(of).collect()
    }

    /// The days of a symbol that are over, and today as far as it has been heard.
    fn days(&self, symbol: &str, now: &Now) -> Vec<Bar> {
        let rows = self.file.rows(symbol).iter();
        let mut days: Vec<Bar> =
            rows.take_while(|row| row.date < now.date).map(|row| row.bar).collect();
        days.push(self.today(symbol, now));
        days
    }

    fn today(&self, symbol: &str, now: &Now) -> Bar {
        let start = midnight(now.date);
        let intervals: Vec<Bar> =
            self.heard[symbol].intervals.range(start..).map(|(_, bar)| *bar).collect();
        sum(start, &intervals)
    }

    /// The last close before today, in today's units.
    fn previous_close(&self, symbol: &str, now: &Now) -> Option<Price> {
        let rows = self.file.rows(symbol).iter();
        let last = rows.take_while(|row| row.date < now.date).last()?;
        let split = symbol == "AAPL" && now.date.to_string() == "2005-02-28";
        Price::from_raw(last.bar.close.raw() / if split { 2 } else { 1 })
    }

    /// Rows that are not to be known yet must be in no answer: their volumes are numbers that
    /// nothing else has.
    fn assert_holds_nothing_later(&self, now: &Now, bytes: &[u8]) {
        for symbol in SYMBOLS {
            let known = if now.is_over() { now.date } else { now.date.yesterday().unwrap() };
            let rows = self.file.rows(symbol).iter();
            for row in rows.skip_while(|row| row.date <= known).take(SESSIONS + 1) {
                let volume = row.bar.volume.raw().to_be_bytes();
                let found = bytes.windows(8).any(|window| window == volume);
                assert!(!found, "{symbol} of {} is told at {}", row.date, now.date);
            }
        }
    }

    /// Asks for the newest interval bars and takes them over, if they may be true.
    async fn hear(&mut self, peer: &mut Peer, symbol: &'static str, now: &Now) {
        let row = self.file.row(symbol, now.date).unwrap().bar;
        let today = now.date.to_string();
        let told = bars(peer, now, I::GetAssetValueDay, &[symbol, &today]).await;
        let newest = *told.last().unwrap();
        assert_eq!(newest.start, now.newest);
        if now.step == 0 {
            // Only the opening has happened.
            let open = row.open;
            let volume = Volume::ZERO;
            let start = now.market;
            let opening = Bar { start, open, high: open, low: open, close: open, volume };
            assert_eq!(told, [opening]);
        }
        assert!(row.low <= newest.low && newest.high <= row.high);
        let intervals = &mut self.heard.get_mut(symbol).unwrap().intervals;
        if let Some((_, before)) = intervals.range(midnight(now.date)..now.newest).next_back() {
            assert_eq!(newest.open, before.close);
        }
        intervals.insert(newest.start, newest);
        // What was told before is told again, unchanged.
        let known: Vec<Bar> = intervals.range(midnight(now.date)..).map(|(_, b)| *b).collect();
        assert_eq!(told, known);
        let so_far = sum(midnight(now.date), &told);
        assert_eq!(so_far.open, row.open);
        assert!(so_far.volume <= row.volume);
        if now.is_over() {
            assert_eq!(so_far, row);
        }
        self.prices.insert((symbol, now.market), newest.close);
    }

    async fn check_quotes(&self, peer: &mut Peer, symbol: &'static str, now: &Now) {
        let today = self.today(symbol, now);
        let previous = self.previous_close(symbol, now);
        let info: AssetInfo = peer.data(I::GetAssetInfo, &[symbol]).await;
        let got = (info.open, info.high, info.low, info.close, info.volume);
        assert_eq!(got, (today.open, today.high, today.low, today.close, today.volume));
        assert_eq!((info.time, info.market), (now.market, now.market));
        assert_eq!(info.previous_close, previous);
        let value: AssetValue = peer.data(I::GetAssetValueCurrent, &[symbol]).await;
        assert_eq!((value.price, value.time), (today.close, now.market));
        assert_eq!((value.market, value.previous_close), (now.market, previous));
        assert_eq!(value.snapshot, info.snapshot);
    }

    async fn check_windows(&self, peer: &mut Peer, symbol: &'static str, now: &Now) {
        let days = self.days(symbol, now);
        let months = by_month(&days);
        let since = |bars: &[Bar], from: Date, to: Date| -> Vec<Bar> {
            let inside = |bar: &&Bar| midnight(from) <= bar.start && bar.start <= midnight(to);
            bars.iter().filter(inside).copied().collect()
        };
        let month_ago = now.date.checked_sub(jiff::Span::new().months(1)).unwrap();
        for date in [now.date, now.date.yesterday().unwrap(), month_ago] {
            let text = date.to_string();
            let asked = [symbol, text.as_str()];
            // Six days before, and the date.
            let from = date.checked_sub(jiff::Span::new().days(6)).unwrap();
            let week = bars(peer, now, I::GetAssetValueWeek, &asked).await;
            assert_eq!(week, since(&days, from, date), "{symbol} {text} at {}", now.date);
            let from = date.checked_sub(jiff::Span::new().months(1)).unwrap().tomorrow().unwrap();
            let month = bars(peer, now, I::GetAssetValueMonth, &asked).await;
            assert_eq!(month, since(&days, from, date), "{symbol} {text} at {}", now.date);
            // The month of the date is cut at the date.
            let from = date.first_of_month().checked_sub(jiff::Span::new().months(11)).unwrap();
            let year = bars(peer, now, I::GetAssetValueYear, &asked).await;
            let expected = by_month(&since(&days, from, date));
            assert_eq!(year, expected, "{symbol} {text} at {}", now.date);
            if date != now.date {
                // A past day's steps, derived or heard, are the file's row together.
                let day = bars(peer, now, I::GetAssetValueDay, &asked).await;
                let row = self.file.row(symbol, date).map(|row| row.bar);
                assert_eq!(by_day(&day), row.into_iter().collect::<Vec<Bar>>());
            }
        }
        let all = bars(peer, now, I::GetAssetValueAllTime, &[symbol]).await;
        assert_eq!(all, months);

        let tomorrow = now.date.tomorrow().unwrap().to_string();
        let dated = [
            I::GetAssetValueDay,
            I::GetAssetValueWeek,
            I::GetAssetValueMonth,
            I::GetAssetValueYear,
        ];
        for instruction in dated {
            peer.refused(instruction, &[symbol, &tomorrow], Reason::FutureDate).await;
        }
    }

    /// getAssetBars with an end in the far future, and with one in the midst of things.
    async fn check_ranges(&self, peer: &mut Peer, symbol: &'static str, now: &Now) {
        let days = self.days(symbol, now);
        let day = bars(peer, now, I::GetAssetBars, &[symbol, "day", "2000-03-01", FAR]).await;
        assert_eq!(day, days);
        let month = bars(peer, now, I::GetAssetBars, &[symbol, "month", "2000-03-01", FAR]).await;
        assert_eq!(month, by_month(&days));

        let recent: Date = RECENT.parse().unwrap();
        let expected: Vec<Bar> =
            days.iter().filter(|bar| bar.start >= midnight(recent)).copied().collect();
        let interval = bars(peer, now, I::GetAssetBars, &[symbol, "interval", RECENT, FAR]).await;
        assert_eq!(by_day(&interval), expected);
        let start = midnight(self.dates[0]);
        let heard: Vec<Bar> = self.heard[symbol].intervals.values().copied().collect();
        let told: Vec<Bar> = interval.iter().filter(|b| b.start >= start).copied().collect();
        assert_eq!(told, heard);
        let hour = bars(peer, now, I::GetAssetBars, &[symbol, "hour", RECENT, FAR]).await;
        assert_eq!(hour, by_hour(&interval));

        // To the largest time there is, and to just after the newest bar began.
        let end = i64::MAX.to_string();
        let asked = [symbol, "interval", FIRST, end.as_str()];
        assert_eq!(bars(peer, now, I::GetAssetBars, &asked).await, heard);
        let just_after = (now.newest.0 + 1).to_string();
        let asked = [symbol, "interval", FIRST, just_after.as_str()];
        assert_eq!(bars(peer, now, I::GetAssetBars, &asked).await, heard);
        let newest = now.newest.0.to_string();
        if *FIRST != date_of(now.newest).to_string() || now.step > 1 {
            let asked = [symbol, "interval", FIRST, newest.as_str()];
            let told = bars(peer, now, I::GetAssetBars, &asked).await;
            assert_eq!(told, heard[..heard.len() - 1]);
        }
        // Nothing at all of what lies ahead.
        let ahead = (now.market.0 + 1).to_string();
        for resolution in ["interval", "hour", "day", "month"] {
            let asked = [symbol, resolution, ahead.as_str(), FAR];
            assert_eq!(bars(peer, now, I::GetAssetBars, &asked).await, []);
        }
    }

    async fn check_prediction(&self, peer: &mut Peer, symbol: &'static str, now: &Now) {
        let prediction: Prediction = peer.data(I::GetAssetValuePredicted, &[symbol, "10"]).await;
        let days = self.days(symbol, now);
        assert_eq!((prediction.market, prediction.last), (now.market, days.last().unwrap().close));
        assert!(prediction.based_on as usize <= days.len());
        for value in &prediction.values {
            assert!(value.low <= value.expected && value.expected <= value.high);
        }
    }

    async fn check_lists(&self, peer: &mut Peer, now: &Now) {
        let list: AssetList = peer.data(I::GetAssetList, &[]).await;
        assert_eq!((list.market, list.ended), (now.market, false));
        for line in &list.assets {
            match SYMBOLS.into_iter().find(|symbol| *symbol == line.symbol.as_str()) {
                Some(symbol) => {
                    assert_eq!(line.price, Some(self.prices[&(symbol, now.market)]));
                    assert_eq!(line.time, Some(now.market));
                    assert_eq!(line.previous_close, self.previous_close(symbol, now));
                }
                None => {
                    assert_eq!(line.symbol.as_str(), "FB");
                    assert_eq!((line.price, line.time, line.previous_close), (None, None, None));
                }
            }
        }
        // What is not traded yet has no history, and no future.
        peer.refused(I::GetAssetInfo, &["FB"], Reason::NoPrice).await;
        peer.refused(I::GetAssetValueCurrent, &["FB"], Reason::NoPrice).await;
        peer.refused(I::GetAssetValuePredicted, &["FB", "1"], Reason::NoPrice).await;
        assert_eq!(bars(peer, now, I::GetAssetValueAllTime, &["FB"]).await, []);
        for resolution in ["interval", "hour", "day", "month"] {
            let asked = ["FB", resolution, "2000-03-01", FAR];
            assert_eq!(bars(peer, now, I::GetAssetBars, &asked).await, []);
        }
    }

    /// The account: bought at the second step of the week, before the split.
    async fn check_account(&self, peer: &mut Peer, now: &Now, bought: MarketTime) {
        let portfolio: Portfolio = peer.data(I::GetUserPortfolio, &["alice"]).await;
        assert_eq!(portfolio.market, now.market);
        let private = portfolio.private.unwrap();
        for line in &private.positions {
            let symbol = SYMBOLS.into_iter().find(|s| *s == line.symbol.as_str()).unwrap();
            let price = self.prices[&(symbol, now.market)];
            assert_eq!(line.price, Some(price));
            let value =
                i128::from(price.raw()) * i128::from(line.quantity.raw()) / 100_000_000_000_000;
            assert_eq!(i128::from(line.value.cents()), value);
            let split = symbol == "AAPL" && now.date > self.dates[0];
            let expected = Quantity::from_units(if split { 20 } else { 10 }).unwrap();
            assert_eq!(line.quantity, expected);
        }
        let history: History = peer.data(I::GetUserTransactionHistory, &["alice"]).await;
        let mut kinds = Vec::new();
        for line in history.private.unwrap().lines {
            assert!(line.market <= now.market);
            kinds.push(line.kind);
            if let (HistoryKind::Buy, Some(symbol)) = (line.kind, line.symbol) {
                let symbol = SYMBOLS.into_iter().find(|s| *s == symbol.as_str()).unwrap();
                assert_eq!(line.market, bought);
                assert_eq!(line.price, Some(self.prices[&(symbol, bought)]));
            }
        }
        let splits = kinds.iter().filter(|kind| **kind == HistoryKind::Split).count();
        assert_eq!(splits, usize::from(now.date > self.dates[0]));
        let fills = kinds.iter().filter(|kind| **kind == HistoryKind::Buy).count();
        assert_eq!(fills, if now.market >= bought { 2 } else { 0 });
        let orders: Orders = peer.data(I::GetUserOrders, &["alice"]).await;
        for order in orders.orders {
            assert!(order.received_market <= now.market);
            assert!(order.decided_market.is_none_or(|time| time <= now.market));
        }
    }

    /// Every kind of answer, as bytes, holds no number of a row that is not to be known yet.
    async fn check_bytes(&self, peer: &mut Peer, now: &Now) {
        let mut asked: Vec<(I, Vec<String>)> = vec![
            (I::GetAssetList, vec![]),
            (I::GetUserInfo, vec!["alice".into()]),
            (I::GetUserPortfolio, vec!["alice".into()]),
            (I::GetUserTransactionHistory, vec!["alice".into()]),
            (I::GetUserOrders, vec!["alice".into()]),
        ];
        let today = now.date.to_string();
        for symbol in SYMBOLS {
            let one = |what: I, more: &[&str]| {
                let all = std::iter::once(&symbol).chain(more).map(|text| (*text).to_owned());
                (what, all.collect::<Vec<String>>())
            };
            asked.push(one(I::GetAssetInfo, &[]));
            asked.push(one(I::GetAssetValueCurrent, &[]));
            asked.push(one(I::GetAssetValueAllTime, &[]));
            asked.push(one(I::GetAssetValuePredicted, &["60"]));
            for what in [I::GetAssetValueDay, I::GetAssetValueMonth, I::GetAssetValueYear] {
                asked.push(one(what, &[&today]));
            }
            for resolution in ["interval", "hour", "day", "month"] {
                asked.push(one(I::GetAssetBars, &[resolution, RECENT, FAR]));
            }
        }
        let mut all = Vec::new();
        for (what, arguments) in &asked {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let request = peer.send(*what, &arguments).await;
            let bytes = peer.bytes(request, I::Data).await;
            self.assert_holds_nothing_later(now, &bytes);
            all.extend(bytes);
        }
        if now.is_over() {
            // The same search finds what is to be known now: it can fail.
            for symbol in SYMBOLS {
                let row = self.file.row(symbol, now.date).unwrap().bar;
                let volume = row.volume.raw().to_be_bytes();
                assert!(all.windows(8).any(|window| window == volume), "{symbol}");
            }
        }
    }
}

/// Plays the week; after each step everything is asked and compared.
async fn play(length: i64) {
    let mut scene = Scene::start(Setup { start: FIRST, step: length, ..Setup::default() }).await;
    let mut orders = scene.trader(0, "alice").await;
    let mut peer = scene.peer(0).await;
    peer.resume(orders.session).await;
    peer.switch(State::DataTransfer).await;
    let mut week = Week::new(length);
    let steps = week.steps();
    let bought = steps[1].market;
    for (number, now) in steps.iter().enumerate() {
        match number {
            0 => {}
            1 => {
                // Filled at the step that follows, so that portfolio and history have something.
                let (aapl, _) = orders.place(I::PurchaseAsset, "AAPL", "10", "one").await;
                let (ibm, _) = orders.place(I::PurchaseAsset, "IBM", "10", "two").await;
                scene.tick().await;
                for request in [aapl, ibm] {
                    assert_eq!(orders.fill(request).await.market, bought);
                }
            }
            _ => {
                scene.tick().await;
            }
        }
        assert_eq!(scene.market, now.market);
        for symbol in SYMBOLS {
            week.hear(&mut peer, symbol, now).await;
            week.check_quotes(&mut peer, symbol, now).await;
            week.check_windows(&mut peer, symbol, now).await;
            week.check_ranges(&mut peer, symbol, now).await;
            week.check_prediction(&mut peer, symbol, now).await;
        }
        week.check_lists(&mut peer, now).await;
        week.check_account(&mut peer, now, bought).await;
        week.check_bytes(&mut peer, now).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_week_in_half_hours_tells_nothing_before_its_time() {
    play(HALF_HOUR).await;
}

#[tokio::test]
async fn a_week_of_openings_and_closes_tells_nothing_before_its_time() {
    play(DAY).await;
}

/// What is asked while a step is under way; each answer says its market time.
fn questions(today: &str) -> Vec<(I, Vec<String>)> {
    let mut questions: Vec<(I, Vec<&str>)> =
        vec![(I::GetAssetList, vec![]), (I::GetUserPortfolio, vec!["alice"])];
    for symbol in ["AAPL", "MSFT"] {
        questions.extend([
            (I::GetAssetInfo, vec![symbol]),
            (I::GetAssetValueDay, vec![symbol, today]),
            (I::GetAssetValueYear, vec![symbol, today]),
            (I::GetAssetValueAllTime, vec![symbol]),
            (I::GetAssetValuePredicted, vec![symbol, "10"]),
            (I::GetAssetBars, vec![symbol, "interval", FIRST, FAR]),
            (I::GetAssetBars, vec![symbol, "hour", FIRST, FAR]),
            (I::GetAssetBars, vec![symbol, "day", FIRST, FAR]),
            (I::GetAssetBars, vec![symbol, "month", "2004-01-01", FAR]),
            (I::GetAssetValueCurrent, vec![symbol]),
        ]);
    }
    let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
    questions.into_iter().map(|(what, words)| (what, owned(words))).collect()
}

/// The market time that an answer says it is of.
fn market_of(what: I, bytes: &[u8]) -> MarketTime {
    match what {
        I::GetAssetInfo => AssetInfo::from_bytes(bytes).unwrap().market,
        I::GetAssetValueCurrent => AssetValue::from_bytes(bytes).unwrap().market,
        I::GetAssetList => AssetList::from_bytes(bytes).unwrap().market,
        I::GetUserPortfolio => Portfolio::from_bytes(bytes).unwrap().market,
        I::GetAssetValuePredicted => Prediction::from_bytes(bytes).unwrap().market,
        _ => Bars::from_bytes(bytes).unwrap().market,
    }
}

/// The answers to all questions, all asked at once.
async fn ask_all(peer: &mut Peer, asked: &[(I, Vec<String>)]) -> Vec<(MarketTime, Vec<u8>)> {
    let mut requests = Vec::new();
    for (what, arguments) in asked {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        requests.push(peer.send(*what, &arguments).await);
    }
    let mut answers = Vec::new();
    for (request, (what, _)) in requests.into_iter().zip(asked) {
        let bytes = peer.bytes(request, I::Data).await;
        answers.push((market_of(*what, &bytes), bytes));
    }
    answers
}

/// Asks again and again until a step is told in every answer.
async fn ask_through(
    mut peer: Peer,
    asked: Vec<(I, Vec<String>)>,
    until: MarketTime,
) -> (Peer, Vec<Vec<(MarketTime, Vec<u8>)>>) {
    let mut rounds = Vec::new();
    loop {
        let answers = ask_all(&mut peer, &asked).await;
        let is_through = answers.iter().all(|(market, _)| *market >= until);
        rounds.push(answers);
        if is_through {
            return (peer, rounds);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_while_a_step_is_under_way_are_of_one_time() {
    let setup = Setup { start: FIRST, workers: 2, ..Setup::default() };
    let mut scene = Scene::start(setup).await;
    let mut orders = scene.trader(0, "alice").await;
    let mut quiet = scene.peer(0).await;
    quiet.resume(orders.session).await;
    quiet.switch(State::DataTransfer).await;
    let mut askers = Vec::new();
    for number in 0..6 {
        let mut peer = scene.peer(number % 2).await;
        peer.resume(orders.session).await;
        peer.switch(State::DataTransfer).await;
        askers.push(peer);
    }
    let mut week = Week::new(HALF_HOUR);
    // Over the first night, with its split.
    let steps = week.steps();
    let steps = &steps[..18];
    // The one answer to each question at each time.
    let mut truth: Vec<BTreeMap<MarketTime, Vec<u8>>> = Vec::new();
    let mut before_it_was_over = 0;
    for (number, now) in steps.iter().enumerate() {
        // Only today's questions: those about a day that is over may be of any time since.
        let asked = questions(&now.date.to_string());
        truth.resize(asked.len(), BTreeMap::new());
        let mut heard = Vec::new();
        if number > 0 && now.step > 0 {
            let (request, _) =
                orders.place(I::PurchaseAsset, "MSFT", "1", &now.market.0.to_string()).await;
            // What is known of the time before, with the order in place.
            for (known, (market, bytes)) in truth.iter_mut().zip(ask_all(&mut quiet, &asked).await)
            {
                known.insert(market, bytes);
            }
            let mut asking = tokio::task::JoinSet::new();
            for peer in askers.drain(..) {
                asking.spawn(ask_through(peer, asked.clone(), now.market));
            }
            scene.start_tick().await;
            while let Some(done) = asking.join_next().await {
                let (peer, rounds) = done.unwrap();
                askers.push(peer);
                heard.extend(rounds);
            }
            scene.wait_for_market().await;
            orders.fill(request).await;
        } else if number > 0 {
            scene.tick().await;
        }
        assert_eq!(scene.market, now.market);
        for symbol in SYMBOLS {
            week.hear(&mut quiet, symbol, now).await;
            week.check_quotes(&mut quiet, symbol, now).await;
        }
        let days = I::GetAssetBars;
        let told = bars(&mut quiet, now, days, &["MSFT", "day", "2000-03-01", FAR]).await;
        assert_eq!(told, week.days("MSFT", now));
        for (known, (market, bytes)) in truth.iter_mut().zip(ask_all(&mut quiet, &asked).await) {
            assert_eq!(market, now.market);
            known.insert(market, bytes);
        }
        // Each answer that came meanwhile is the answer of the time that it names.
        for answers in heard {
            for ((known, (what, arguments)), (market, bytes)) in
                truth.iter().zip(&asked).zip(answers)
            {
                let expected = known.get(&market);
                let expected =
                    expected.unwrap_or_else(|| panic!("{what:?}: no such time {market:?}"));
                assert!(*expected == bytes, "{what:?} {arguments:?} at {market:?}");
                before_it_was_over += usize::from(market < now.market);
            }
        }
    }
    // Some were asked before the step was over, or nothing was tried.
    assert!(before_it_was_over > 0);
    scene.end().await;
}
