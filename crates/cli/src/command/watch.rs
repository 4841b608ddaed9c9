//! `watch`: the prices of some assets, as they change.
//!
//! The server pushes them. An update is a price that is new: another value, or another time. A worker
//! whose master is away has none: when nothing came for some intervals it is asked whether the snapshots
//! go on, and if they do not, that is said, once.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use papertrader_client::Client;
use papertrader_core::names::Symbol;
use papertrader_protocol::data::AssetValue;

use super::{Context, symbol};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::{change, percent, price};
use crate::output::table::Tone;
use crate::output::time::Nanos;

/// When no new prices are worth a word: after so many intervals, and this long at least.
const STILL: (u32, Duration) = (3, Duration::from_secs(3));

pub(super) async fn watch(
    context: &Context<'_>,
    symbols: &[String],
    count: Option<u64>,
) -> Result<(), CliError> {
    let symbols: Vec<Symbol> = symbols.iter().map(|text| symbol(text)).collect::<Result<_, _>>()?;
    let session = context.logged_in().await?;
    let result = tokio::select! {
        result = follow(context, &session.client, &symbols, count) => result,
        // Whoever watches has seen enough: a good end.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    result?;
    session.finish(context).await
}

async fn follow(
    context: &Context<'_>,
    client: &Client,
    symbols: &[Symbol],
    count: Option<u64>,
) -> Result<(), CliError> {
    let output = context.output;
    let nanos = u64::try_from(client.welcome().interval).unwrap_or(0);
    let patience = (Duration::from_nanos(nanos) * STILL.0).max(STILL.1);
    let in_place = output.terminal && !output.json;
    let mut prices = client.watch_prices(symbols).await?;
    let mut board = Board::default();
    let mut pulse = Pulse::new(patience, Instant::now());
    let mut left = count.unwrap_or(u64::MAX);
    let mut drawn = 0;
    while left > 0 {
        let mut snapshot = 0;
        let values = match timeout(patience, prices.next()).await {
            Ok(values) => values?,
            Err(_) => {
                // Prices may stand still while snapshots go on.
                if let Some(symbol) = symbols.first() {
                    snapshot = client.asset_value(*symbol).await?.snapshot;
                }
                Vec::new()
            }
        };
        snapshot = values.iter().map(|value| value.snapshot).fold(snapshot, u64::max);
        let news = board.news(values, left);
        left -= news.len() as u64;
        if in_place {
            let values = board.in_order(symbols);
            let lines: String =
                values.iter().map(|value| line(value, output.colour) + "\x1b[K\n").collect();
            // Back to the first line of the last drawing.
            let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
            drawn = values.len();
            output.write(&(up + &lines))?;
        } else {
            for value in news {
                if output.json {
                    output.object(&json::Watched::from(&value))?;
                } else {
                    output.text(&line(&value, output.colour))?;
                }
            }
        }
        if let Some(still) = pulse.beats(snapshot, Instant::now()) {
            let text = match still {
                true => {
                    "no new prices come: the servers' master may be away, or the prices have ended; \
                     these are the latest, and watching goes on"
                }
                false => "new prices come again",
            };
            if output.json {
                output.object(&json::Still { still, snapshot, text })?;
            }
            output.notice(text);
            // It stands below what was drawn: that is drawn anew below it.
            drawn = 0;
        }
    }
    Ok(())
}

/// Whether new snapshots come.
struct Pulse {
    patience: Duration,
    snapshot: u64,
    since: Instant,
    still: bool,
}

impl Pulse {
    fn new(patience: Duration, now: Instant) -> Pulse {
        Pulse { patience, snapshot: 0, since: now, still: false }
    }

    /// Takes the number of the latest snapshot; whether they stand still, when that has changed.
    fn beats(&mut self, snapshot: u64, now: Instant) -> Option<bool> {
        if snapshot != self.snapshot {
            (self.snapshot, self.since) = (snapshot, now);
        }
        let still = now.duration_since(self.since) >= self.patience;
        (std::mem::replace(&mut self.still, still) != still).then_some(still)
    }
}

/// The last value of each asset.
#[derive(Default)]
struct Board(BTreeMap<Symbol, AssetValue>);

impl Board {
    /// Takes values, and returns those that are new, at most so many.
    fn news(&mut self, values: Vec<AssetValue>, most: u64) -> Vec<AssetValue> {
        let is_new = |value: &AssetValue| {
            let before = self.0.insert(value.symbol, value.clone());
            before.is_none_or(|before| (before.price, before.time) != (value.price, value.time))
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        values.into_iter().filter(is_new).take(most).collect()
    }

    fn in_order(&self, symbols: &[Symbol]) -> Vec<&AssetValue> {
        symbols.iter().filter_map(|symbol| self.0.get(symbol)).collect()
    }
}

fn line(value: &AssetValue, colour: bool) -> String {
    let moved = value.previous_close.map(|from| change(from, value.price));
    let shown = moved.map(|moved| {
        let text = format!("{:>9}", percent(moved));
        Tone::of(moved).paint(&text, colour)
    });
    format!(
        "{:<8} {:>12} {}  market time {}",
        value.symbol.as_str(),
        price(value.price),
        shown.unwrap_or_else(|| " ".repeat(9)),
        value.time.local()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::MarketTime;

    fn value(symbol: &str, price: &str, time: i64) -> AssetValue {
        AssetValue {
            symbol: symbol.parse().unwrap(),
            price: price.parse().unwrap(),
            time: MarketTime(time),
            previous_close: Some("10".parse().unwrap()),
            snapshot: 1,
            market: MarketTime(time),
        }
    }

    #[test]
    fn only_what_is_new_is_an_update() {
        let mut board = Board::default();
        let first = [value("A", "11", 1), value("B", "9", 1)];
        assert_eq!(board.news(first.to_vec(), 9).len(), 2);
        assert_eq!(board.news(first.to_vec(), 9).len(), 0);
        let next = [value("A", "11", 2), value("B", "9", 1)];
        assert_eq!(board.news(next.to_vec(), 9), [next[0].clone()]);
        let last = [value("A", "12", 3), value("B", "8", 3)];
        assert_eq!(board.news(last.to_vec(), 1), [last[0].clone()]);
        assert!(line(&last[1], false).starts_with("B                8.00   -20.00%  market time"));
    }

    #[test]
    fn what_stands_still_is_said_once_and_what_goes_on_too() {
        let start = Instant::now();
        let mut pulse = Pulse::new(Duration::from_secs(3), start);
        let heard: Vec<Option<bool>> = [(7, 0), (7, 2), (7, 3), (7, 9), (8, 10), (8, 12), (9, 13)]
            .map(|(snapshot, at)| pulse.beats(snapshot, start + Duration::from_secs(at)))
            .into();
        assert_eq!(heard, [None, None, Some(true), None, Some(false), None, None]);
    }
}
