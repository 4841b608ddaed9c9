//! `watch`: the prices of some assets, as they change.
//!
//! The server pushes them. An update is a price that is new: another value, or another time.

use std::collections::BTreeMap;

use papertrader_client::Client;
use papertrader_core::names::Symbol;
use papertrader_protocol::data::AssetValue;

use super::{Context, symbol};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::{change, percent, price};
use crate::output::table::Tone;
use crate::output::time::Nanos;

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
    let in_place = output.terminal && !output.json;
    let mut prices = client.watch_prices(symbols).await?;
    let mut board = Board::default();
    let mut left = count.unwrap_or(u64::MAX);
    let mut drawn = 0;
    while left > 0 {
        let news = board.news(prices.next().await?, left);
        left -= news.len() as u64;
        if in_place {
            let values = board.in_order(symbols);
            let lines: String =
                values.iter().map(|value| line(value, output.colour) + "\x1b[K\n").collect();
            // Back to the first line of the last drawing.
            let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
            drawn = values.len();
            output.write(&(up + &lines))?;
            continue;
        }
        for value in news {
            if output.json {
                output.object(&json::Watched::from(&value))?;
            } else {
                output.text(&line(&value, output.colour))?;
            }
        }
    }
    Ok(())
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
}
