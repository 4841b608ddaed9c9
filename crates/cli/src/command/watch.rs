//! `watch`: the prices of some assets, as they change.
//!
//! Every interval of the server all symbols are asked at once. An update is a price that is new:
//! another value, or another time. A worker whose master is away goes on giving the latest prices that
//! it has: when none are new for some intervals, that is said, once.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use papertrader_client::Client;
use papertrader_core::names::Symbol;
use papertrader_protocol::data::AssetValue;

use super::market::all;
use super::{Context, symbol};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::{change, percent, price};
use crate::output::table::Tone;
use crate::output::time::Nanos;

/// Never more often than this, whatever the server's interval is.
const SHORTEST: Duration = Duration::from_millis(200);
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
    let every = Duration::from_nanos(nanos).max(SHORTEST);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let in_place = output.terminal && !output.json;
    let mut seen = Seen::default();
    let mut pulse = Pulse::new((every * STILL.0).max(STILL.1), Instant::now());
    let mut left = count.unwrap_or(u64::MAX);
    let mut drawn = false;
    while left > 0 {
        ticks.tick().await;
        let ask = |client: Client, symbol| async move { client.asset_value(symbol).await };
        let values = all(client, symbols, ask).await?;
        let news = seen.news(&values, left);
        left -= news.len() as u64;
        if in_place {
            let lines: String =
                values.iter().map(|value| line(value, output.colour) + "\x1b[K\n").collect();
            // Back to the first line of the last drawing.
            let up = if drawn { format!("\x1b[{}A", values.len()) } else { String::new() };
            output.write(&(up + &lines))?;
            drawn = true;
        } else {
            for value in news {
                if output.json {
                    output.object(&json::Watched::from(value))?;
                } else {
                    output.text(&line(value, output.colour))?;
                }
            }
        }
        let snapshot = values.iter().map(|value| value.snapshot).max().unwrap_or(0);
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
            drawn = false;
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

/// The last price of each symbol.
#[derive(Default)]
struct Seen(HashMap<Symbol, (i64, i64)>);

impl Seen {
    /// Those that are new, at most so many.
    fn news<'a>(&mut self, values: &'a [AssetValue], most: u64) -> Vec<&'a AssetValue> {
        let is_new = |value: &&AssetValue| {
            let now = (value.price.raw(), value.time.0);
            self.0.insert(value.symbol, now) != Some(now)
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        values.iter().filter(is_new).take(most).collect()
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
    fn what_stands_still_is_said_once_and_what_goes_on_too() {
        let start = Instant::now();
        let mut pulse = Pulse::new(Duration::from_secs(3), start);
        let heard: Vec<Option<bool>> = [(7, 0), (7, 2), (7, 3), (7, 9), (8, 10), (8, 12), (9, 13)]
            .map(|(snapshot, at)| pulse.beats(snapshot, start + Duration::from_secs(at)))
            .into();
        assert_eq!(heard, [None, None, Some(true), None, Some(false), None, None]);
    }

    #[test]
    fn only_what_is_new_is_an_update() {
        let mut seen = Seen::default();
        let first = [value("A", "11", 1), value("B", "9", 1)];
        assert_eq!(seen.news(&first, 9).len(), 2);
        assert_eq!(seen.news(&first, 9).len(), 0);
        let next = [value("A", "11", 2), value("B", "9", 1)];
        assert_eq!(seen.news(&next, 9), [&next[0]]);
        let last = [value("A", "12", 3), value("B", "8", 3)];
        assert_eq!(seen.news(&last, 1), [&last[0]]);
        assert!(line(&last[1], false).starts_with("B                8.00   -20.00%  market time"));
    }
}
