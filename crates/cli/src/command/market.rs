//! `assets`, `quote`, `forecast`, `workers`.

use tokio::task::JoinSet;

use papertrader_client::{Client, ClientError};
use papertrader_core::money::Price;
use papertrader_core::names::Symbol;
use papertrader_protocol::Failure;
use papertrader_protocol::data::{
    AssetInfo, AssetList, FULL, PredictedValue, Prediction, WorkerList,
};

use super::{Context, PLAIN, symbol};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::{change, percent, price, rounded};
use crate::output::table::{Align, Cell, Table, Tone};
use crate::output::thousandths;
use crate::output::time::{Nanos, zone_line};

/// The most rows of a forecast that people are shown.
const FORECAST_ROWS: usize = 10;

pub(super) async fn assets(context: &Context<'_>) -> Result<(), CliError> {
    let session = context.logged_in().await?;
    let list = session.client.asset_list().await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Assets::from(&list));
    }
    output.text(&assets_text(&list, output.colour))
}

fn assets_text(list: &AssetList, colour: bool) -> String {
    let mut table = Table::new(&[
        ("symbol", Align::Left),
        ("name", Align::Left),
        ("kind", Align::Left),
        ("price", Align::Right),
        ("change", Align::Right),
    ]);
    for asset in &list.assets {
        table.row([
            asset.symbol.to_string().into(),
            asset.name.as_str().into(),
            asset.kind.name().into(),
            asset.price.map(price).unwrap_or_else(|| "none".to_owned()).into(),
            changed(asset.previous_close, asset.price),
        ]);
    }
    let ended = if list.ended { "; the prices have come to their end" } else { "" };
    format!("{}\nmarket time {}{ended}\n", table.draw(colour), list.market.local())
}

fn changed(from: Option<Price>, to: Option<Price>) -> Cell {
    match (from, to) {
        (Some(from), Some(to)) => {
            let change = change(from, to);
            Cell::toned(percent(change), Tone::of(change))
        }
        _ => Cell::from(""),
    }
}

pub(super) async fn quote(context: &Context<'_>, symbols: &[String]) -> Result<(), CliError> {
    let symbols: Vec<Symbol> = symbols.iter().map(|text| symbol(text)).collect::<Result<_, _>>()?;
    let session = context.logged_in().await?;
    let ask = |client: Client, symbol| async move { client.asset_info(symbol).await };
    let infos = all(&session.client, &symbols, ask).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Quotes::from(infos.as_slice()));
    }
    output.text(&quotes_text(&infos, output.colour))
}

/// Asks for every symbol at once; the answers come in the order of the symbols. The first failure
/// in that order is the failure of all.
pub(super) async fn all<T: Send + 'static, F>(
    client: &Client,
    symbols: &[Symbol],
    ask: impl Fn(Client, Symbol) -> F,
) -> Result<Vec<T>, ClientError>
where
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (i, symbol) in symbols.iter().enumerate() {
        let asked = ask(client.clone(), *symbol);
        tasks.spawn(async move { (i, asked.await) });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(i, _)| *i);
    let named = |(i, answer): (usize, Result<T, ClientError>)| match (answer, symbols.get(i)) {
        // Of many, people want to know which.
        (Err(ClientError::Refused(failure)), Some(symbol)) => {
            let text = format!("{symbol}: {}", failure.text);
            Err(ClientError::Refused(Failure::new(failure.reason, text)))
        }
        (answer, _) => answer,
    };
    answers.into_iter().map(named).collect()
}

fn quotes_text(infos: &[AssetInfo], colour: bool) -> String {
    let mut table = Table::new(&[
        ("symbol", Align::Left),
        ("price", Align::Right),
        ("change", Align::Right),
        ("open", Align::Right),
        ("high", Align::Right),
        ("low", Align::Right),
        ("volume", Align::Right),
        ("market time", Align::Left),
        ("name", Align::Left),
    ]);
    for info in infos {
        table.row([
            info.symbol.to_string().into(),
            price(info.close).into(),
            changed(info.previous_close, Some(info.close)),
            price(info.open).into(),
            price(info.high).into(),
            price(info.low).into(),
            info.volume.to_string().into(),
            info.time.cell().into(),
            info.name.as_str().into(),
        ]);
    }
    let mut sources: Vec<&str> = infos.iter().map(|info| info.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    format!("{}{}prices: {}\n", table.draw(colour), zone_line(), sources.join("; "))
}

pub(super) async fn forecast(
    context: &Context<'_>,
    asset: &str,
    days: u32,
) -> Result<(), CliError> {
    let symbol = symbol(asset)?;
    let session = context.logged_in().await?;
    let prediction = session.client.predicted(symbol, days).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Forecast::from(&prediction));
    }
    output.text(&forecast_text(&prediction, output.colour))
}

fn forecast_text(prediction: &Prediction, colour: bool) -> String {
    let inside = format!("{}%", rounded(i64::from(prediction.confidence) * 1_000_000, 0));
    let mut text = format!(
        "{} at {}, market time {}\nmodel: {}, no advice, from {} daily closes; \
         {inside} of outcomes should lie between low and high\n\n",
        prediction.symbol,
        price(prediction.last),
        prediction.market.local(),
        prediction.model,
        prediction.based_on,
    );
    let mut table = Table::new(&[
        ("market day", Align::Right),
        ("low", Align::Right),
        ("expected", Align::Right),
        ("high", Align::Right),
        ("change", Align::Right),
    ]);
    for value in some(&prediction.values) {
        table.row([
            format!("+{}", value.day).into(),
            price(value.low).into(),
            price(value.expected).into(),
            price(value.high).into(),
            changed(Some(prediction.last), Some(value.expected)),
        ]);
    }
    text += &table.draw(colour);
    text
}

/// At most [`FORECAST_ROWS`] days, evenly spread, with the last.
fn some(values: &[PredictedValue]) -> impl Iterator<Item = &PredictedValue> {
    let step = values.len().div_ceil(FORECAST_ROWS).max(1);
    let last = values.len();
    values
        .iter()
        .enumerate()
        .filter(move |(i, _)| (last - 1 - i).is_multiple_of(step))
        .map(|(_, v)| v)
}

pub(super) async fn workers(context: &Context<'_>) -> Result<(), CliError> {
    let client = context.connect().await?;
    let list = client.worker_list().await?;
    client.close().await;
    let output = context.output;
    if output.json {
        return output.object(&json::Workers::from(&list));
    }
    output.text(&workers_text(&list))
}

fn workers_text(list: &WorkerList) -> String {
    if list.workers.is_empty() {
        return "no workers\n".to_owned();
    }
    let mut table = Table::new(&[
        ("name", Align::Left),
        ("address", Align::Left),
        ("region", Align::Left),
        ("load", Align::Right),
        ("web", Align::Left),
    ]);
    for worker in &list.workers {
        table.row([
            worker.name.as_str().into(),
            // As `--server` takes it: whoever speaks plain TCP has no certificate.
            format!("{}{}", if worker.fingerprint.is_empty() { PLAIN } else { "" }, worker.address)
                .into(),
            worker.region.as_str().into(),
            thousandths(worker.load.min(FULL)).into(),
            worker.web.as_str().into(),
        ]);
    }
    table.draw(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::MarketTime;

    #[test]
    fn a_forecast_says_what_it_is_and_ends_with_the_last_day() {
        let value = |day| PredictedValue {
            day,
            low: "60".parse().unwrap(),
            expected: "66.08".parse().unwrap(),
            high: "70".parse().unwrap(),
        };
        let prediction = Prediction {
            symbol: "AAPL".parse().unwrap(),
            model: "drift".into(),
            based_on: 250,
            confidence: 9500,
            last: "64.78".parse().unwrap(),
            market: MarketTime(0),
            values: (1..=60).map(value).collect(),
        };
        let text = forecast_text(&prediction, false);
        assert!(text.contains("model: drift, no advice"), "{text}");
        assert!(text.contains("95% of outcomes"), "{text}");
        let days: Vec<u32> = some(&prediction.values).map(|value| value.day).collect();
        assert_eq!(days, [6, 12, 18, 24, 30, 36, 42, 48, 54, 60]);
        assert!(text.ends_with("+60  60.00     66.08  70.00  +2.01%\n"), "{text}");
        assert_eq!(some(&[]).count(), 0);
    }
}
