//! `watch`: the prices of some assets, as they change.
//!
//! Every interval of the server all symbols are asked at once. An update is a price that is new:
//! another value, or another time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

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
    let mut ticks = interval(Duration::from_nanos(nanos).max(SHORTEST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let in_place = output.terminal && !output.json;
    let mut seen = Seen::default();
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
            continue;
        }
        for value in news {
            if output.json {
                output.object(&json::Watched::from(value))?;
            } else {
                output.text(&line(value, output.colour))?;
            }
        }
    }
    Ok(())
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
