//! What `--json` prints: one struct per object, its fields documented in `docs/cli.md`.
//!
//! A field that was published keeps its name and meaning. Amounts, prices, quantities and per
//! cents are decimal strings; times are RFC 3339 in UTC; what does not apply is null, never
//! missing.

use serde::Serialize;

use papertrader_core::bar::Bar;
use papertrader_core::money::Price;
use papertrader_protocol::Fingerprint;
use papertrader_protocol::data;
use papertrader_protocol::request::Span;
use papertrader_protocol::returns::{FilledOrder, SessionGrant, side_name};

use super::money::{average, change, gain_on};
use super::time::Nanos;

/// A failure.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject {
    error: ErrorDetail,
}

#[derive(Debug, Serialize)]
struct ErrorDetail {
    code: String,
    text: String,
}

impl ErrorObject {
    pub(crate) fn new(code: &str, text: String) -> ErrorObject {
        ErrorObject { error: ErrorDetail { code: code.to_owned(), text } }
    }
}

/// `register` and `logout`.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    pub(crate) user: String,
}

/// `login`.
#[derive(Debug, Serialize)]
pub(crate) struct Login {
    user: String,
    expires: String,
    server: String,
    deployment: String,
    password_due: Option<bool>,
}

impl Login {
    pub(crate) fn new(
        grant: &SessionGrant,
        server: String,
        deployment: String,
        password_due: Option<bool>,
    ) -> Login {
        let (user, expires) = (grant.name.clone(), grant.expires.rfc3339());
        Login { user, expires, server, deployment, password_due }
    }
}

/// `cancel`.
#[derive(Debug, Serialize)]
pub(crate) struct Cancelled {
    pub(crate) client_order_id: String,
    pub(crate) order: Option<u64>,
}

/// At what an order was done.
#[derive(Debug, Serialize)]
pub(crate) struct Fill {
    quantity: String,
    price: String,
    amount: String,
    market_time: Option<String>,
    wall_time: Option<String>,
}

impl From<&FilledOrder> for Fill {
    fn from(fill: &FilledOrder) -> Fill {
        Fill {
            quantity: fill.quantity.to_string(),
            price: fill.price.to_string(),
            amount: fill.amount.to_string(),
            market_time: Some(fill.market.rfc3339()),
            wall_time: Some(fill.wall.rfc3339()),
        }
    }
}

/// `buy` and `sell`.
#[derive(Debug, Serialize)]
pub(crate) struct Placed {
    pub(crate) state: &'static str,
    pub(crate) order: u64,
    pub(crate) client_order_id: String,
    pub(crate) side: &'static str,
    pub(crate) symbol: String,
    pub(crate) quantity: String,
    pub(crate) hold: Option<String>,
    pub(crate) waiting: Option<String>,
    pub(crate) fill: Option<Fill>,
}

/// `orders`.
#[derive(Debug, Serialize)]
pub(crate) struct Orders {
    user: String,
    more: bool,
    orders: Vec<Order>,
}

#[derive(Debug, Serialize)]
struct Order {
    order: u64,
    client_order_id: String,
    side: &'static str,
    symbol: String,
    quantity: String,
    state: &'static str,
    reason: Option<String>,
    hold: String,
    fill: Option<Fill>,
    received_time: String,
    received_market_time: String,
    decided_time: Option<String>,
    decided_market_time: Option<String>,
}

impl From<&data::Orders> for Orders {
    fn from(orders: &data::Orders) -> Orders {
        let order = |line: &data::OrderLine| Order {
            order: line.order,
            client_order_id: line.client_order_id.clone(),
            side: side_name(line.side),
            symbol: line.symbol.to_string(),
            quantity: line.quantity.to_string(),
            state: line.status.name(),
            reason: not_empty(&line.reason),
            hold: line.hold.to_string(),
            fill: line.fill.as_ref().map(|fill| Fill {
                quantity: fill.quantity.to_string(),
                price: fill.price.to_string(),
                amount: fill.amount.to_string(),
                market_time: line.decided_market.map(Nanos::rfc3339),
                wall_time: line.decided.map(Nanos::rfc3339),
            }),
            received_time: line.received.rfc3339(),
            received_market_time: line.received_market.rfc3339(),
            decided_time: line.decided.map(Nanos::rfc3339),
            decided_market_time: line.decided_market.map(Nanos::rfc3339),
        };
        Orders {
            user: orders.name.clone(),
            more: orders.more,
            orders: orders.orders.iter().map(order).collect(),
        }
    }
}

/// `portfolio`.
#[derive(Debug, Serialize)]
pub(crate) struct Portfolio {
    user: String,
    market_time: String,
    return_percent: String,
    cash: Option<String>,
    held_cash: Option<String>,
    granted: Option<String>,
    equity: Option<String>,
    positions: Option<Vec<Position>>,
}

#[derive(Debug, Serialize)]
struct Position {
    symbol: String,
    quantity: String,
    held: String,
    cost: String,
    average_cost: Option<String>,
    price: Option<String>,
    value: String,
    gain: Option<String>,
    gain_percent: Option<String>,
}

impl From<&data::Portfolio> for Portfolio {
    fn from(portfolio: &data::Portfolio) -> Portfolio {
        let private = portfolio.private.as_ref();
        let position = |line: &data::PositionLine| {
            let gain = line.price.and_then(|_| line.value.minus(line.cost));
            Position {
                symbol: line.symbol.to_string(),
                quantity: line.quantity.to_string(),
                held: line.held.to_string(),
                cost: line.cost.to_string(),
                average_cost: average(line.cost, line.quantity).map(text),
                price: line.price.map(text),
                value: line.value.to_string(),
                gain: gain.map(text),
                gain_percent: gain.and_then(|gain| gain_on(gain, line.cost)).map(percent),
            }
        };
        Portfolio {
            user: portfolio.name.clone(),
            market_time: portfolio.market.rfc3339(),
            return_percent: percent(portfolio.return_bp),
            cash: private.map(|p| p.cash.to_string()),
            held_cash: private.map(|p| p.held_cash.to_string()),
            granted: private.map(|p| p.granted.to_string()),
            equity: private.map(|p| p.equity.to_string()),
            positions: private.map(|p| p.positions.iter().map(position).collect()),
        }
    }
}

/// `history`.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    user: String,
    more: Option<bool>,
    lines: Option<Vec<HistoryLine>>,
}

#[derive(Debug, Serialize)]
struct HistoryLine {
    kind: &'static str,
    order: Option<u64>,
    client_order_id: Option<String>,
    side: Option<&'static str>,
    symbol: Option<String>,
    quantity: String,
    price: Option<String>,
    amount: String,
    reason: Option<String>,
    wall_time: String,
    market_time: String,
}

impl From<&data::History> for History {
    fn from(history: &data::History) -> History {
        let line = |line: &data::HistoryLine| HistoryLine {
            kind: line.kind.name(),
            order: line.order,
            client_order_id: not_empty(&line.client_order_id),
            side: line.side.map(side_name),
            symbol: line.symbol.map(text),
            quantity: line.quantity.to_string(),
            price: line.price.map(text),
            amount: line.amount.to_string(),
            reason: not_empty(&line.reason),
            wall_time: line.wall.rfc3339(),
            market_time: line.market.rfc3339(),
        };
        History {
            user: history.name.clone(),
            more: history.private.as_ref().map(|p| p.more),
            lines: history.private.as_ref().map(|p| p.lines.iter().map(line).collect()),
        }
    }
}

/// `user`.
#[derive(Debug, Serialize)]
pub(crate) struct User {
    user: String,
    since: String,
    email: Option<String>,
    has_password: Option<bool>,
    cash: Option<String>,
    held_cash: Option<String>,
    equity: Option<String>,
    granted: Option<String>,
    open_orders: Option<u32>,
}

impl From<&data::UserInfo> for User {
    fn from(user: &data::UserInfo) -> User {
        let private = user.private.as_ref();
        User {
            user: user.name.clone(),
            since: user.since.rfc3339(),
            email: private.map(|p| p.email.clone()),
            has_password: private.map(|p| p.is_password),
            cash: private.map(|p| p.cash.to_string()),
            held_cash: private.map(|p| p.held_cash.to_string()),
            equity: private.map(|p| p.equity.to_string()),
            granted: private.map(|p| p.granted.to_string()),
            open_orders: private.map(|p| p.open_orders),
        }
    }
}

/// `assets`.
#[derive(Debug, Serialize)]
pub(crate) struct Assets {
    market_time: String,
    snapshot: u64,
    ended: bool,
    assets: Vec<Asset>,
}

#[derive(Debug, Serialize)]
struct Asset {
    symbol: String,
    name: String,
    kind: &'static str,
    price: Option<String>,
    previous_close: Option<String>,
    change_percent: Option<String>,
    time: Option<String>,
}

impl From<&data::AssetList> for Assets {
    fn from(list: &data::AssetList) -> Assets {
        let asset = |line: &data::AssetLine| Asset {
            symbol: line.symbol.to_string(),
            name: line.name.clone(),
            kind: line.kind.name(),
            price: line.price.map(text),
            previous_close: line.previous_close.map(text),
            change_percent: line.price.and_then(|price| change_percent(line.previous_close, price)),
            time: line.time.map(Nanos::rfc3339),
        };
        Assets {
            market_time: list.market.rfc3339(),
            snapshot: list.snapshot,
            ended: list.ended,
            assets: list.assets.iter().map(asset).collect(),
        }
    }
}

/// `quote`.
#[derive(Debug, Serialize)]
pub(crate) struct Quotes {
    quotes: Vec<Quote>,
}

#[derive(Debug, Serialize)]
struct Quote {
    symbol: String,
    name: String,
    kind: &'static str,
    source: String,
    price: String,
    open: String,
    high: String,
    low: String,
    volume: String,
    previous_close: Option<String>,
    change_percent: Option<String>,
    time: String,
    snapshot: u64,
    market_time: String,
}

impl From<&[data::AssetInfo]> for Quotes {
    fn from(infos: &[data::AssetInfo]) -> Quotes {
        let quote = |info: &data::AssetInfo| Quote {
            symbol: info.symbol.to_string(),
            name: info.name.clone(),
            kind: info.kind.name(),
            source: info.source.clone(),
            price: info.close.to_string(),
            open: info.open.to_string(),
            high: info.high.to_string(),
            low: info.low.to_string(),
            volume: info.volume.to_string(),
            previous_close: info.previous_close.map(text),
            change_percent: change_percent(info.previous_close, info.close),
            time: info.time.rfc3339(),
            snapshot: info.snapshot,
            market_time: info.market.rfc3339(),
        };
        Quotes { quotes: infos.iter().map(quote).collect() }
    }
}

/// A line of `watch`.
#[derive(Debug, Serialize)]
pub(crate) struct Watched {
    symbol: String,
    price: String,
    previous_close: Option<String>,
    change_percent: Option<String>,
    time: String,
    snapshot: u64,
    market_time: String,
}

impl From<&data::AssetValue> for Watched {
    fn from(value: &data::AssetValue) -> Watched {
        Watched {
            symbol: value.symbol.to_string(),
            price: value.price.to_string(),
            previous_close: value.previous_close.map(text),
            change_percent: change_percent(value.previous_close, value.price),
            time: value.time.rfc3339(),
            snapshot: value.snapshot,
            market_time: value.market.rfc3339(),
        }
    }
}

/// `chart`.
#[derive(Debug, Serialize)]
pub(crate) struct Bars {
    symbol: String,
    resolution: &'static str,
    from: Option<String>,
    to: Option<String>,
    market_time: String,
    source: String,
    bars: Vec<BarObject>,
}

#[derive(Debug, Serialize)]
struct BarObject {
    start: String,
    open: String,
    high: String,
    low: String,
    close: String,
    volume: String,
}

impl Bars {
    /// `span` is what was asked for; all time has no ends.
    pub(crate) fn new(bars: &data::Bars, span: Span) -> Bars {
        let window = (span != Span::AllTime).then(|| span.window());
        let bar = |bar: &Bar| BarObject {
            start: bar.start.rfc3339(),
            open: bar.open.to_string(),
            high: bar.high.to_string(),
            low: bar.low.to_string(),
            close: bar.close.to_string(),
            volume: bar.volume.to_string(),
        };
        Bars {
            symbol: bars.symbol.to_string(),
            resolution: bars.resolution.name(),
            from: window.map(|window| window.from.rfc3339()),
            to: window.map(|window| window.to.rfc3339()),
            market_time: bars.market.rfc3339(),
            source: bars.source.clone(),
            bars: bars.bars.iter().map(bar).collect(),
        }
    }
}

/// `forecast`.
#[derive(Debug, Serialize)]
pub(crate) struct Forecast {
    symbol: String,
    model: String,
    based_on: u32,
    confidence_percent: String,
    last: String,
    market_time: String,
    values: Vec<ForecastValue>,
}

#[derive(Debug, Serialize)]
struct ForecastValue {
    day: u32,
    low: String,
    expected: String,
    high: String,
}

impl From<&data::Prediction> for Forecast {
    fn from(prediction: &data::Prediction) -> Forecast {
        let value = |value: &data::PredictedValue| ForecastValue {
            day: value.day,
            low: value.low.to_string(),
            expected: value.expected.to_string(),
            high: value.high.to_string(),
        };
        Forecast {
            symbol: prediction.symbol.to_string(),
            model: prediction.model.clone(),
            based_on: prediction.based_on,
            confidence_percent: percent(i64::from(prediction.confidence)),
            last: prediction.last.to_string(),
            market_time: prediction.market.rfc3339(),
            values: prediction.values.iter().map(value).collect(),
        }
    }
}

/// `watch`, when new prices stop coming, and when they come again.
#[derive(Debug, Serialize)]
pub(crate) struct Still<'a> {
    pub(crate) still: bool,
    pub(crate) snapshot: u64,
    pub(crate) text: &'a str,
}

/// `workers`.
#[derive(Debug, Serialize)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug, Serialize)]
struct Worker {
    name: String,
    address: String,
    web: Option<String>,
    fingerprint: Option<String>,
    region: Option<String>,
    load: u32,
}

impl From<&data::WorkerList> for Workers {
    fn from(list: &data::WorkerList) -> Workers {
        let worker = |line: &data::WorkerLine| Worker {
            name: line.name.clone(),
            address: line.address.clone(),
            web: not_empty(&line.web),
            fingerprint: not_empty(&line.fingerprint),
            region: not_empty(&line.region),
            load: line.load,
        };
        Workers { workers: list.workers.iter().map(worker).collect() }
    }
}

/// `trust`.
#[derive(Debug, Serialize)]
pub(crate) struct Trusted {
    server: String,
    fingerprint: String,
    before: Option<String>,
}

impl Trusted {
    pub(crate) fn new(server: String, now: Fingerprint, before: Option<Fingerprint>) -> Trusted {
        Trusted { server, fingerprint: now.to_string(), before: before.map(text) }
    }
}

fn text(value: impl ToString) -> String {
    value.to_string()
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn change_percent(from: Option<Price>, to: Price) -> Option<String> {
    from.map(|from| percent(change(from, to)))
}

/// Hundredths of a per cent as a decimal: `-0.05`.
fn percent(basis_points: i64) -> String {
    let sign = if basis_points < 0 { "-" } else { "" };
    let magnitude = basis_points.unsigned_abs();
    format!("{sign}{}.{:02}", magnitude / 100, magnitude % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::MarketTime;

    #[test]
    fn others_see_null_where_the_private_part_is() {
        let portfolio = data::Portfolio {
            name: "alice".into(),
            market: MarketTime(0),
            return_bp: -5,
            private: None,
        };
        assert_eq!(
            serde_json::to_string(&Portfolio::from(&portfolio)).unwrap(),
            "{\"user\":\"alice\",\"market_time\":\"1970-01-01T00:00:00Z\",\
             \"return_percent\":\"-0.05\",\"cash\":null,\"held_cash\":null,\"granted\":null,\
             \"equity\":null,\"positions\":null}"
        );
    }

    #[test]
    fn a_position_adds_up() {
        let portfolio = data::Portfolio {
            name: "alice".into(),
            market: MarketTime(0),
            return_bp: 0,
            private: Some(data::PortfolioPrivate {
                cash: "99352.20".parse().unwrap(),
                held_cash: Default::default(),
                granted: "100000".parse().unwrap(),
                equity: "99990".parse().unwrap(),
                positions: vec![data::PositionLine {
                    symbol: "AAPL".parse().unwrap(),
                    quantity: "10".parse().unwrap(),
                    held: Default::default(),
                    cost: "647.80".parse().unwrap(),
                    price: Some("63.78".parse().unwrap()),
                    value: "637.80".parse().unwrap(),
                }],
            }),
        };
        let object = serde_json::to_value(Portfolio::from(&portfolio)).unwrap();
        assert_eq!(
            object["positions"][0],
            serde_json::json!({
                "symbol": "AAPL", "quantity": "10", "held": "0", "cost": "647.80",
                "average_cost": "64.78", "price": "63.78", "value": "637.80",
                "gain": "-10.00", "gain_percent": "-1.54",
            })
        );
    }
}
