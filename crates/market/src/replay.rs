//! Replays recorded daily bars, step by step.
//!
//! Every recorded date is one session from 09:30 to 16:00 in New York; steps exist only in
//! sessions, so market time jumps over nights, weekends and holidays. It keeps no position: where
//! the replay stands is the caller's `after`.
//!
//! Invariants: steps and history are functions of the file and the configuration alone; nothing of
//! a day is told before the step that it belongs to.

use std::io::{BufRead, BufReader};
use std::sync::{Mutex, PoisonError};

use flate2::read::GzDecoder;
use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use papertrader_core::bar::{Bar, Resolution, roll_up};
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{DAY, Date, MarketTime, SECOND};

use crate::intraday::{Session, increments};
use crate::noise;
use crate::recorded::{self, Recorded};
use crate::source::{
    InstrumentKind, InstrumentSpec, PriceSource, SourceError, Step, StepPrice, StepSplit,
    check_step, is_usable,
};

/// The recorded prices that come with the program; `data/SOURCES.md` says where they are from.
const BUNDLED: &[u8] = include_bytes!("../../../data/stocks-daily-2000-2013.csv.gz");

/// The most interval bars that one answer from history may be made of.
const MAX_INTERVALS: i64 = 10_000_000;

const LABEL: &str = "replay of recorded daily bars; intraday prices are derived from them";

/// Names for people. A symbol that is not here is its own name.
const NAMES: [(&str, &str); 5] = [
    ("AAPL", "Apple Inc."),
    ("FB", "Facebook, Inc."),
    ("GOOG", "Google Inc."),
    ("IBM", "International Business Machines"),
    ("MSFT", "Microsoft Corporation"),
];

/// What a replay can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayConfig {
    /// The first date that a fresh deployment trades; prices before it are history.
    pub start: Date,
    /// Market time between two steps of a session, in nanoseconds: one second to one day. From 6.5
    /// hours on, a session has its opening and its close only.
    pub step: i64,
    /// Chooses the intraday paths.
    pub seed: u64,
}

impl Default for ReplayConfig {
    /// From 2005-01-03 on, every 30 minutes.
    fn default() -> ReplayConfig {
        let start = Date { year: 2005, month: 1, day: 3 };
        ReplayConfig { start, step: 1_800 * SECOND, seed: 0 }
    }
}

/// The price source that replays recorded daily bars.
#[derive(Debug)]
pub struct Replay {
    config: ReplayConfig,
    specs: Vec<InstrumentSpec>,
    recorded: Vec<Recorded>,
    /// One for each date on which any instrument has a bar, ascending.
    sessions: Vec<Session>,
    /// All splits with their times, by ascending number.
    splits: Vec<(MarketTime, StepSplit)>,
    /// The increments of the session stepped through last: a memo, which answers never depend on.
    current: Mutex<Option<DerivedSession>>,
}

/// The increments of every instrument in one session; `None` for one without a bar on that date.
#[derive(Debug)]
struct DerivedSession {
    position: usize,
    increments: Vec<Option<Vec<Bar>>>,
}

impl Replay {
    /// A replay of the recorded prices that come with the program.
    pub fn bundled(config: ReplayConfig) -> Result<Replay, SourceError> {
        Replay::from_csv(BufReader::new(GzDecoder::new(BUNDLED)), config)
    }

    /// A replay of daily bars in the bundled file's format, uncompressed: a header
    /// `Ticker,Date,Open,High,Low,Close,Volume,Adj Close` and, for each ticker, rows by ascending
    /// date. Prices are as traded, not adjusted for splits; those are found by the adjusted close.
    pub fn from_csv(reader: impl BufRead, config: ReplayConfig) -> Result<Replay, SourceError> {
        check_step(config.step)?;
        if !is_usable(config.start) {
            return Err(SourceError::BadStart { start: config.start });
        }
        let recorded = recorded::read(reader)?;
        let sessions = sessions(&recorded)?;
        let last = sessions.last().map(|session| session.day).ok_or(SourceError::NoRows)?;
        if config.start.start() > last {
            let last = Date::of(last);
            return Err(SourceError::StartAfterEnd { start: config.start, last });
        }
        let specs: Vec<InstrumentSpec> = recorded.iter().map(spec).collect();
        let splits = numbered_splits(&recorded, &sessions);
        tracing::debug!(
            instruments = specs.len(),
            sessions = sessions.len(),
            splits = splits.len(),
            "recorded prices read"
        );
        Ok(Replay { config, specs, recorded, sessions, splits, current: Mutex::new(None) })
    }

    /// What this replay was told.
    pub fn config(&self) -> &ReplayConfig {
        &self.config
    }

    /// The increments of one day of an instrument.
    fn derived(
        &self,
        recorded: &Recorded,
        day: &Bar,
        session: &Session,
    ) -> Result<Vec<Bar>, SourceError> {
        let key = noise::extended_by_text(self.config.seed, recorded.symbol.as_str());
        let key = noise::extended(key, session.day.day_number() as u64);
        increments(key, day, session, self.config.step)
            .ok_or(SourceError::PriceOutOfRange { symbol: recorded.symbol })
    }

    fn derived_session(&self, position: usize) -> Result<DerivedSession, SourceError> {
        let derive = |recorded: &Recorded| match self.sessions.get(position) {
            Some(session) => day_of(recorded, session.day)
                .map(|day| self.derived(recorded, day, session))
                .transpose(),
            None => Ok(None),
        };
        let increments = self.recorded.iter().map(derive).collect::<Result<_, _>>()?;
        Ok(DerivedSession { position, increments })
    }

    fn session_of(&self, day: MarketTime) -> Option<&Session> {
        let at = self.sessions.binary_search_by_key(&day, |session| session.day).ok()?;
        self.sessions.get(at)
    }

    /// What the steps of a day told before `to`, as interval bars.
    fn intervals(
        &self,
        recorded: &Recorded,
        day: &Bar,
        to: MarketTime,
    ) -> Result<Vec<Bar>, SourceError> {
        let Some(session) = self.session_of(day.start) else { return Ok(Vec::new()) };
        if session.open >= to {
            return Ok(Vec::new());
        }
        let mut bars = self.derived(recorded, day, session)?;
        // The opening increment has no extent; increment k ends at the time of step k.
        let told = (0..).zip(&bars).take_while(|(number, _)| {
            *number == 0 || session.step_time(*number, self.config.step) <= to
        });
        let told = told.count();
        bars.truncate(told);
        Ok(roll_up(&bars, Resolution::Interval))
    }
}

impl PriceSource for Replay {
    fn label(&self) -> &str {
        LABEL
    }

    fn instruments(&self) -> &[InstrumentSpec] {
        &self.specs
    }

    fn start(&self) -> MarketTime {
        // No session reaches over midnight UTC, so that this is before the date's opening and after
        // the close before it.
        self.config.start.start()
    }

    fn interval(&self) -> i64 {
        self.config.step
    }

    fn next(&self, after: MarketTime) -> Result<Option<Step>, SourceError> {
        let position = self.sessions.partition_point(|session| session.close <= after);
        let Some(session) = self.sessions.get(position).copied() else { return Ok(None) };
        let Some(number) = session.step_after(after, self.config.step) else { return Ok(None) };
        let time = session.step_time(number, self.config.step);

        // A memo that a panic left behind is as good as none.
        let memo = || self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = memo().take();
        let derived = match kept {
            Some(current) if current.position == position => current,
            _ => self.derived_session(position)?,
        };
        let increment = |bars: &Option<Vec<Bar>>| {
            let at = usize::try_from(number).ok()?;
            bars.as_ref()?.get(at).copied()
        };
        let price = |(index, bars)| {
            let bar: Bar = increment(bars)?;
            Some(StepPrice { index, mark: Mark { price: bar.close, time }, bar })
        };
        let prices = derived.increments.iter().enumerate().filter_map(price).collect();
        *memo() = Some(derived);

        let first = self.splits.partition_point(|(at, _)| *at <= after);
        let until = self.splits.partition_point(|(at, _)| *at <= time);
        let splits = self.splits.get(first..until).unwrap_or_default();
        Ok(Some(Step {
            time,
            market_open: true,
            ended: time == session.close && position + 1 == self.sessions.len(),
            prices,
            splits: splits.iter().map(|(_, split)| *split).collect(),
        }))
    }

    fn history(
        &self,
        index: usize,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
    ) -> Result<Vec<Bar>, SourceError> {
        let recorded = self.recorded.get(index).ok_or(SourceError::UnknownInstrument { index })?;
        let fine = matches!(resolution, Resolution::Interval | Resolution::Hour);
        // The first day that can be part of a bar which starts at or after `from`.
        let first = recorded.days.partition_point(|day| {
            if fine {
                day.start.plus_nanos(DAY) <= from
            } else {
                resolution.start_of(day.start) < from
            }
        });
        let until = recorded.days.partition_point(|day| day.start < to);
        let days = recorded.days.get(first..until).unwrap_or_default();
        if fine {
            // No session is longer than a day.
            let a_day = DAY / self.config.step + 1;
            let intervals = i64::try_from(days.len()).unwrap_or(i64::MAX).saturating_mul(a_day);
            if intervals > MAX_INTERVALS {
                return Err(SourceError::HistoryTooLong { max: MAX_INTERVALS });
            }
        }
        let mut bars = Vec::new();
        for day in days {
            let whole = self.session_of(day.start).is_some_and(|session| session.close <= to);
            if whole && !fine {
                bars.push(*day);
            } else {
                bars.extend(self.intervals(recorded, day, to)?);
            }
        }
        let mut bars = roll_up(&bars, resolution);
        bars.retain(|bar| bar.start >= from);
        Ok(bars)
    }

    fn splits(
        &self,
        index: usize,
        from: MarketTime,
        to: MarketTime,
    ) -> Vec<(MarketTime, u32, u32)> {
        let wanted = |(time, split): &&(MarketTime, StepSplit)| {
            split.index == index && from <= *time && *time < to
        };
        let splits = self.splits.iter().filter(wanted);
        splits.map(|(time, split)| (*time, split.to, split.from)).collect()
    }
}

fn spec(recorded: &Recorded) -> InstrumentSpec {
    let symbol = recorded.symbol;
    let known = NAMES.iter().find(|(known, _)| *known == symbol.as_str());
    let name = known.map_or(symbol.as_str(), |(_, name)| name).to_owned();
    InstrumentSpec { symbol, name, kind: InstrumentKind::Stock }
}

fn day_of(recorded: &Recorded, day: MarketTime) -> Option<&Bar> {
    let at = recorded.days.binary_search_by_key(&day, |bar| bar.start).ok()?;
    recorded.days.get(at)
}

/// The sessions of all recorded dates.
fn sessions(recorded: &[Recorded]) -> Result<Vec<Session>, SourceError> {
    let mut days: Vec<MarketTime> =
        recorded.iter().flat_map(|r| r.days.iter().map(|bar| bar.start)).collect();
    days.sort_unstable();
    days.dedup();
    // The bundled rules, so that every machine replays the same times.
    let new_york = TimeZoneDatabase::bundled().get("America/New_York").ok();
    let place = |day: MarketTime| {
        let date = Date::of(day);
        let session = new_york.as_ref().and_then(|zone| {
            let open = in_zone(zone, date, 9, 30)?;
            let close = in_zone(zone, date, 16, 0)?;
            Some(Session { day, open, close })
        });
        session.ok_or(SourceError::Session { date })
    };
    days.into_iter().map(place).collect()
}

fn in_zone(zone: &TimeZone, date: Date, hour: i8, minute: i8) -> Option<MarketTime> {
    let year = i16::try_from(date.year).ok()?;
    let (month, day) = (i8::try_from(date.month).ok()?, i8::try_from(date.day).ok()?);
    let civil = civil::DateTime::new(year, month, day, hour, minute, 0, 0).ok()?;
    let nanos = zone.to_timestamp(civil).ok()?.as_nanosecond();
    i64::try_from(nanos).ok().map(MarketTime)
}

/// All splits, at the openings of their dates, numbered from 1 by (time, symbol).
fn numbered_splits(recorded: &[Recorded], sessions: &[Session]) -> Vec<(MarketTime, StepSplit)> {
    let mut splits = Vec::new();
    for (index, recorded) in recorded.iter().enumerate() {
        for (at, to, from) in &recorded.splits {
            let day = recorded.days.get(*at).map(|bar| bar.start);
            let session = day.and_then(|day| {
                sessions.binary_search_by_key(&day, |s| s.day).ok().and_then(|at| sessions.get(at))
            });
            if let Some(session) = session {
                let split = StepSplit { number: 0, index, to: *to, from: *from };
                splits.push((session.open, split));
            }
        }
    }
    // The instruments are in order of their symbols, so the index orders as the symbol does.
    splits.sort_by_key(|(time, split)| (*time, split.index));
    for (number, (_, split)) in (1..).zip(&mut splits) {
        split.number = number;
    }
    splits
}
