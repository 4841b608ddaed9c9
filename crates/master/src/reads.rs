//! Answers to data requests: what memory holds at once, what the store holds through a reading
//! thread.
//!
//! Invariants: no answer holds a price later than the market's time that stands in it; only an
//! account's own session sees more than its public part.

use std::sync::Arc;

use papertrader_core::account::Account;
use papertrader_core::bar::{Bar, Resolution, Window, roll_up};
use papertrader_core::ids::{AccountId, InstrumentId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, Quantity};
use papertrader_core::names::{ClientOrderId, Symbol, UserName};
use papertrader_core::order::{OrderRecord, OrderState, Side};
use papertrader_core::time::{DAY, MarketTime, Moment};
use papertrader_market::{PriceSource, SourceError, adjusted_closes, forecast};
use papertrader_protocol::data::{
    Bars, FillLine, History, HistoryKind, HistoryLine, HistoryPrivate, OrderLine, OrderStatus,
    Orders, Portfolio, PortfolioPrivate, PositionLine, PredictedValue, Prediction, UserInfo,
    UserInfoPrivate,
};
use papertrader_protocol::request::{MAX_BARS, Span};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, Reason, transfer};
use papertrader_store::{Found, HistoryRow, InstrumentRow, Profile, StoreError, StoreReader};

use crate::assets::symbol_of;
use crate::bars::Current;
use crate::database::Read;
use crate::driver::{Driver, Event};
use crate::workers::Origin;

/// Lines of history, and orders, that one answer carries at most.
const MAX_LINES: usize = 5_000;
/// Daily closes that a prediction looks back on.
const CLOSES: i64 = 500;

/// Why a read has no answer.
enum Failed {
    /// The request cannot be answered.
    Refused(Reason),
    /// The store or the source failed.
    Store(StoreError),
    Source(SourceError),
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Failed {
        Failed::Refused(reason)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Store(error)
    }
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Failed {
        match error {
            SourceError::HistoryTooLong { .. } => Failed::Refused(Reason::RangeTooLarge),
            error => Failed::Source(error),
        }
    }
}

/// Everything that a reading thread needs to know about an instrument.
struct Subject {
    symbol: Symbol,
    instrument: InstrumentId,
    index: Option<usize>,
    source: Arc<dyn PriceSource>,
    /// The newest bars as they stood at `market`.
    current: Current,
    market: MarketTime,
}

impl Driver {
    fn subject(&self, symbol: Symbol) -> Result<Subject, Reason> {
        let instrument = self.assets.find(symbol).ok_or(Reason::UnknownAsset)?;
        Ok(Subject {
            symbol,
            instrument,
            index: self.assets.index_in_source(instrument),
            source: Arc::clone(self.assets.source()),
            current: self.assets.current(instrument).cloned().unwrap_or_default(),
            market: self.books.head().market,
        })
    }

    /// Whose a name is.
    fn user(&self, name: &UserName) -> Result<(AccountId, &Profile, &Account), Reason> {
        let id = self.accounts.find(name).ok_or(Reason::UnknownUser)?;
        let profile = self.accounts.profile(id).ok_or(Reason::UnknownUser)?;
        let account = self.books.account(id).ok_or(Reason::UnknownUser)?;
        Ok((id, profile, account))
    }

    /// Answers getAssetValueDay, …Week, …Month, …Year, …AllTime and getAssetBars.
    pub(crate) fn read_bars(
        &mut self,
        origin: Origin,
        symbol: Symbol,
        span: Span,
    ) -> Result<(), Reason> {
        let subject = self.subject(symbol)?;
        if span.date().is_some_and(|date| date.start() > subject.market) {
            return Err(Reason::FutureDate);
        }
        let window = span.window();
        // Bars of days that are over never change.
        let is_final = window.to <= subject.market.day_start();
        self.read(origin, is_final, move |reader| {
            let bars = subject.bars(reader, window)?;
            let answer = Bars {
                symbol: subject.symbol,
                resolution: window.resolution,
                interval: subject.source.interval(),
                market: subject.market,
                source: subject.source.label().to_owned(),
                bars,
            };
            Ok(answer.to_bytes())
        })
    }

    /// Answers getAssetValuePredicted.
    pub(crate) fn read_prediction(
        &mut self,
        origin: Origin,
        symbol: Symbol,
        days: u32,
    ) -> Result<(), Reason> {
        let subject = self.subject(symbol)?;
        let last = self.books.mark(subject.instrument).ok_or(Reason::NoPrice)?.price;
        self.read(origin, false, move |reader| {
            let market = subject.market;
            let to = market.plus_nanos(1);
            // Enough calendar days to hold so many market days.
            let from = market.plus_nanos(-CLOSES * 3 / 2 * DAY);
            let window = Window { resolution: Resolution::Day, from, to };
            let bars = subject.bars(reader, window)?;
            let splits = subject.index.map_or(Vec::new(), |i| subject.source.splits(i, from, to));
            let closes = adjusted_closes(&bars, &splits);
            let forecast = forecast(&closes, days).map_err(|_| Reason::NoForecast)?;
            let values = forecast
                .points
                .iter()
                .map(|point| PredictedValue {
                    day: point.day,
                    low: point.low,
                    expected: point.expected,
                    high: point.high,
                })
                .collect();
            let answer = Prediction {
                symbol: subject.symbol,
                model: forecast.model.to_owned(),
                based_on: forecast.based_on,
                confidence: u16::try_from(forecast.confidence_bp).unwrap_or(u16::MAX),
                last,
                market,
                values,
            };
            Ok(answer.to_bytes())
        })
    }

    /// Answers getUserInfo.
    pub(crate) fn user_info(
        &mut self,
        origin: Origin,
        viewer: AccountId,
        name: &UserName,
    ) -> Result<(), Reason> {
        let (id, profile, account) = self.user(name)?;
        let private = (viewer == id).then(|| UserInfoPrivate {
            email: profile.email.to_string(),
            is_password: profile.pass_hash.is_some(),
            cash: account.cash,
            held_cash: account.held_cash,
            equity: self.books.equity(account),
            granted: account.granted,
            open_orders: account.open_orders,
        });
        let answer = UserInfo { name: profile.name.to_string(), since: profile.since, private };
        self.data(origin, &answer.to_bytes());
        Ok(())
    }

    /// Answers getUserPortfolio.
    pub(crate) fn portfolio(
        &mut self,
        origin: Origin,
        viewer: AccountId,
        name: &UserName,
    ) -> Result<(), Reason> {
        let (id, profile, account) = self.user(name)?;
        let equity = self.books.equity(account);
        let gain = i128::from(equity.cents()) - i128::from(account.granted.cents());
        let granted = i128::from(account.granted.cents()).max(1);
        let return_bp = i64::try_from((gain * 10_000).div_euclid(granted)).unwrap_or(i64::MAX);
        let private = (viewer == id).then(|| {
            let mut positions: Vec<PositionLine> = account
                .positions
                .iter()
                .filter_map(|position| {
                    Some(PositionLine {
                        symbol: self.assets.symbol(position.instrument)?,
                        quantity: position.quantity,
                        held: position.held,
                        cost: position.cost,
                        price: self.books.mark(position.instrument).map(|mark| mark.price),
                        value: self.books.value(position),
                    })
                })
                .collect();
            positions.sort_by_key(|line| line.symbol);
            PortfolioPrivate {
                cash: account.cash,
                held_cash: account.held_cash,
                granted: account.granted,
                equity,
                positions,
            }
        });
        let market = self.books.head().market;
        let name = profile.name.to_string();
        let answer = Portfolio { name, market, return_bp, private };
        self.data(origin, &answer.to_bytes());
        Ok(())
    }

    /// Answers getUserTransactionHistory.
    pub(crate) fn read_history(
        &mut self,
        origin: Origin,
        viewer: AccountId,
        name: &UserName,
    ) -> Result<(), Reason> {
        let (id, profile, _) = self.user(name)?;
        let name = profile.name.to_string();
        if viewer != id {
            self.data(origin, &History { name, private: None }.to_bytes());
            return Ok(());
        }
        let instruments = Arc::clone(self.assets.instruments());
        self.read(origin, false, move |reader| {
            let mut rows = reader.history(id, MAX_LINES + 1)?;
            let more = rows.len() > MAX_LINES;
            rows.truncate(MAX_LINES);
            let lines = rows.iter().filter_map(|row| history_line(row, &instruments)).collect();
            Ok(History { name, private: Some(HistoryPrivate { more, lines }) }.to_bytes())
        })
    }

    /// Answers getUserOrders.
    pub(crate) fn read_orders(
        &mut self,
        origin: Origin,
        viewer: AccountId,
        name: &UserName,
    ) -> Result<(), Reason> {
        let (id, profile, _) = self.user(name)?;
        let name = profile.name.to_string();
        if viewer != id {
            self.data(origin, &Orders { name, more: false, orders: Vec::new() }.to_bytes());
            return Ok(());
        }
        let instruments = Arc::clone(self.assets.instruments());
        self.read(origin, false, move |reader| {
            let mut records = reader.orders(id, MAX_LINES + 1)?;
            let more = records.len() > MAX_LINES;
            records.truncate(MAX_LINES);
            let orders =
                records.iter().filter_map(|record| order_line(record, &instruments)).collect();
            Ok(Orders { name, more, orders }.to_bytes())
        })
    }

    /// Answers getOrder.
    pub(crate) fn read_order(
        &mut self,
        origin: Origin,
        viewer: AccountId,
        client_order_id: ClientOrderId,
    ) -> Result<(), Reason> {
        let instruments = Arc::clone(self.assets.instruments());
        self.read(origin, false, move |reader| match reader.order(viewer, &client_order_id)? {
            Some(Found::Order(record)) => {
                let line = order_line(&record, &instruments).ok_or(Reason::OrderNotFound)?;
                Ok(line.to_bytes())
            }
            Some(Found::Mark) => Err(Reason::OrderCancelled.into()),
            None => Err(Reason::OrderNotFound.into()),
        })
    }

    /// Says data at once.
    fn data(&mut self, origin: Origin, data: &[u8]) {
        let header = data_header(origin, false);
        self.workers.say(origin.link, |out| {
            transfer::encode(header, data, out);
        });
    }

    /// Lets a reading thread make the answer.
    fn read(
        &mut self,
        origin: Origin,
        is_final: bool,
        make: impl FnOnce(&mut dyn StoreReader) -> Result<Vec<u8>, Failed> + Send + 'static,
    ) -> Result<(), Reason> {
        let events = self.events.clone();
        let run = Box::new(move |reader: &mut dyn StoreReader| {
            let mut bytes = Vec::new();
            let reason = match make(reader) {
                Ok(data) if data.len() > transfer::MAX_TRANSFER => Some(Reason::RangeTooLarge),
                Ok(data) => {
                    transfer::encode(data_header(origin, is_final), &data, &mut bytes);
                    None
                }
                Err(Failed::Refused(reason)) => Some(reason),
                Err(Failed::Store(error)) => {
                    papertrader_node::error!(%error, "a read failed");
                    Some(Reason::Unavailable)
                }
                Err(Failed::Source(error)) => {
                    papertrader_node::error!(%error, "the price source has no history");
                    Some(Reason::Unavailable)
                }
            };
            if let Some(reason) = reason {
                Return::Failed(Instruction::DataFail, reason.into())
                    .put(origin.request, &mut bytes);
            }
            // The driver is gone only when the master ends.
            let _ = events.blocking_send(Event::Answer(origin.link, bytes));
        });
        self.submit_read(Read { origin, run })
    }

    /// Hands a read over. If too many wait, another worker's may lose its place.
    pub(crate) fn submit_read(&mut self, read: Read) -> Result<(), Reason> {
        let own = read.origin.worker;
        match self.readers.submit(read) {
            None => {}
            Some(left) if left.worker == own => return Err(Reason::Busy),
            Some(left) => {
                self.followers.ended(left.link, left.request);
                self.refuse(left, Reason::Busy);
            }
        }
        Ok(())
    }
}

fn data_header(origin: Origin, is_final: bool) -> Header {
    let instruction = Instruction::Data;
    let header = Header::new(instruction.message_type(), instruction as u16, origin.request);
    Header { is_final, ..header }
}

impl Subject {
    /// The bars of a window, with nothing later than the subject's market time.
    fn bars(&self, reader: &mut dyn StoreReader, window: Window) -> Result<Vec<Bar>, Failed> {
        let to = window.to.min(self.market.plus_nanos(1));
        let from = window.from;
        if from >= to {
            return Ok(Vec::new());
        }
        let bars = match window.resolution {
            Resolution::Interval | Resolution::Hour => {
                // What was before the deployment began is not stored: the source knows it.
                let start = self.source.start();
                let mut bars = match self.index {
                    Some(index) if from < start => {
                        self.source.history(index, window.resolution, from, to.min(start))?
                    }
                    _ => Vec::new(),
                };
                bars.extend(self.known(reader, window.resolution, from.max(start), to)?);
                bars
            }
            Resolution::Day => self.known(reader, Resolution::Day, from, to)?,
            Resolution::Month => {
                // The last month ends with the window, which may cut it: its days say what it holds.
                let last = Resolution::Month.start_of(to.plus_nanos(-1));
                let mut bars = self.known(reader, Resolution::Month, from, last)?;
                let days = self.known(reader, Resolution::Day, last.max(from), to)?;
                let cut = roll_up(&days, Resolution::Month);
                bars.extend(cut.into_iter().filter(|bar| bar.start >= from));
                bars
            }
        };
        if bars.len() > MAX_BARS {
            return Err(Reason::RangeTooLarge.into());
        }
        Ok(bars)
    }

    /// Finished bars from the store and the newest one from memory, which start in `[from, to)`.
    /// What the store has learned since the market time of this subject is not looked at.
    fn known(
        &self,
        reader: &mut dyn StoreReader,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
    ) -> Result<Vec<Bar>, Failed> {
        let Some(newest) = self.current.newest(resolution) else { return Ok(Vec::new()) };
        let until = to.min(newest.start);
        let mut bars = if from < until {
            reader.bars(self.instrument, resolution, from, until, MAX_BARS + 1)?
        } else {
            Vec::new()
        };
        if from <= newest.start && newest.start < to {
            bars.push(*newest);
        }
        Ok(bars)
    }
}

fn history_line(row: &HistoryRow, instruments: &[InstrumentRow]) -> Option<HistoryLine> {
    match row {
        HistoryRow::Order(record) => {
            let request = &record.order.request;
            let Moment { wall, market } = record.decided?;
            let mut line = HistoryLine {
                kind: HistoryKind::Rejected,
                order: Some(record.order.id.0),
                client_order_id: request.client_order_id.to_string(),
                side: Some(request.side),
                symbol: symbol_of(instruments, request.instrument),
                quantity: request.quantity,
                price: None,
                amount: Cash::ZERO,
                reason: String::new(),
                wall,
                market,
            };
            match record.state {
                OrderState::Queued(_) => return None,
                OrderState::Filled(fill) => {
                    line.quantity = fill.quantity;
                    line.price = Some(fill.price);
                    (line.kind, line.amount) = match request.side {
                        Side::Buy => (HistoryKind::Buy, fill.amount.negated()?),
                        Side::Sell => (HistoryKind::Sell, fill.amount),
                    };
                }
                OrderState::Rejected(refusal) => {
                    line.reason = Reason::from(refusal).code().to_owned();
                }
                OrderState::Cancelled => line.kind = HistoryKind::Cancelled,
                OrderState::Expired => {
                    line.kind = HistoryKind::Expired;
                    line.reason = Reason::OrderExpired.code().to_owned();
                }
            }
            Some(line)
        }
        HistoryRow::Journal(entry, moment) => {
            let (kind, instrument, quantity, amount) = match *entry {
                JournalEntry::Grant { cash, .. } => {
                    (HistoryKind::Grant, None, Quantity::ZERO, cash)
                }
                JournalEntry::Split { instrument, quantity, cash, .. } => {
                    (HistoryKind::Split, Some(instrument), quantity, cash)
                }
            };
            Some(HistoryLine {
                kind,
                order: None,
                client_order_id: String::new(),
                side: None,
                symbol: instrument.and_then(|id| symbol_of(instruments, id)),
                quantity,
                price: None,
                amount,
                reason: String::new(),
                wall: moment.wall,
                market: moment.market,
            })
        }
    }
}

pub(crate) fn order_line(record: &OrderRecord, instruments: &[InstrumentRow]) -> Option<OrderLine> {
    let order = &record.order;
    let request = &order.request;
    let (status, reason, fill) = match record.state {
        OrderState::Queued(waiting) => {
            (OrderStatus::Queued, waiting.map_or("", |reason| reason.code()), None)
        }
        OrderState::Filled(fill) => (OrderStatus::Filled, "", Some(fill)),
        OrderState::Rejected(refusal) => {
            (OrderStatus::Rejected, Reason::from(refusal).code(), None)
        }
        OrderState::Cancelled => (OrderStatus::Cancelled, "", None),
        OrderState::Expired => (OrderStatus::Expired, Reason::OrderExpired.code(), None),
    };
    let queued = status == OrderStatus::Queued;
    Some(OrderLine {
        order: order.id.0,
        client_order_id: request.client_order_id.to_string(),
        side: request.side,
        symbol: symbol_of(instruments, request.instrument)?,
        quantity: request.quantity,
        hold: if queued { order.hold } else { Cash::ZERO },
        status,
        reason: reason.to_owned(),
        fill: fill.map(|fill| FillLine {
            quantity: fill.quantity,
            price: fill.price,
            amount: fill.amount,
            snapshot: fill.snapshot.0,
        }),
        received: order.received.wall,
        received_market: order.received.market,
        decided: record.decided.map(|moment| moment.wall),
        decided_market: record.decided.map(|moment| moment.market),
    })
}
