//! `chart`: the history of an asset, drawn.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use jiff::tz::TimeZone;

use papertrader_client::Progress;
use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::time::{Date, MarketTime, SECOND};
use papertrader_protocol::Reason;
use papertrader_protocol::data::Bars;
use papertrader_protocol::request::Span;

use super::{Context, symbol};
use crate::arguments::{ChartArguments, Range};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::{change, percent, price};
use crate::output::table::Tone;
use crate::output::time::{Nanos, market_date, zone_line};
use crate::output::{Output, chart::Chart};

/// The tallest and widest plot: beyond it a chart gets harder to read.
const LARGEST: (usize, usize) = (160, 30);

pub(super) async fn chart(
    context: &Context<'_>,
    arguments: ChartArguments,
) -> Result<(), CliError> {
    let symbol = symbol(&arguments.symbol)?;
    let wanted = Wanted::read(&arguments)?;
    let session = context.logged_in().await?;
    let span = wanted.span(session.client.welcome().market)?;
    let output = context.output;
    let bar = Packets::new(&output);
    let bars = session.client.bars(symbol, span, |packets| bar.show(packets)).await;
    bar.finish();
    let bars = bars?;
    session.finish(context).await?;
    if output.json {
        return output.object(&json::Bars::new(&bars, span));
    }
    let (width, height) = output.size();
    let size = (width.min(LARGEST.0), height.saturating_sub(6).clamp(5, LARGEST.1));
    output.text(&chart_text(&bars, &title(span), size, output.colour))
}

/// What the arguments ask for, before the market's time is known.
struct Wanted {
    range: Range,
    date: Option<Date>,
    bars: Option<(Resolution, Date, Option<Date>)>,
}

impl Wanted {
    fn read(arguments: &ChartArguments) -> Result<Wanted, CliError> {
        let date = |text: &Option<String>| {
            let parse = |text: &String| Date::parse(text).ok_or(CliError::input(Reason::BadDate));
            text.as_ref().map(parse).transpose()
        };
        let bars = match (&arguments.bars, date(&arguments.from)?) {
            (Some(name), Some(from)) => {
                let resolution = Resolution::from_name(name)
                    .ok_or_else(|| CliError::input(Reason::BadResolution))?;
                Some((resolution, from, date(&arguments.to)?))
            }
            _ => None,
        };
        Ok(Wanted { range: arguments.range, date: date(&arguments.date)?, bars })
    }

    fn span(&self, market: MarketTime) -> Result<Span, CliError> {
        if let Some((resolution, from, to)) = self.bars {
            // Bars that begin up to now.
            let to = to.map_or(market.plus_nanos(SECOND), Date::start);
            if from.start() >= to {
                return Err(CliError::input(Reason::BadRange));
            }
            return Ok(Span::Bars(resolution, from.start(), to));
        }
        let date = self.date.unwrap_or_else(|| market_date(market));
        Ok(match self.range {
            Range::Day => Span::Day(date),
            Range::Week => Span::Week(date),
            Range::Month => Span::Month(date),
            Range::Year => Span::Year(date),
            Range::All => Span::AllTime,
        })
    }
}

fn title(span: Span) -> String {
    match span {
        Span::Day(date) => format!("{date}"),
        Span::Week(date) => format!("week to {date}"),
        Span::Month(date) => format!("month to {date}"),
        Span::Year(date) => format!("year to {date}"),
        Span::AllTime => "all time".to_owned(),
        Span::Bars(_, from, to) => {
            format!("{} to {}", market_date(from), market_date(to.plus_nanos(-1)))
        }
    }
}

fn chart_text(bars: &Bars, title: &str, (width, height): (usize, usize), colour: bool) -> String {
    let resolution = match bars.resolution {
        Resolution::Interval => "interval",
        Resolution::Hour => "hourly",
        Resolution::Day => "daily",
        Resolution::Month => "monthly",
    };
    let (Some(first), Some(last)) = (bars.bars.first(), bars.bars.last()) else {
        return format!("{}, {title}: no {resolution} bars\n", bars.symbol);
    };
    let moved = change(first.open, last.close);
    let mut text = format!(
        "{}, {title}: {} {}\n\n",
        bars.symbol,
        price(last.close),
        Tone::of(moved).paint(&percent(moved), colour)
    );
    let closes: Vec<i64> = bars.bars.iter().map(|bar| bar.close.raw()).collect();
    let middle = bars.bars.get(bars.bars.len() / 2).unwrap_or(last);
    let label = |bar: &Bar| when(bars.resolution, bar.start);
    let labels = [label(first), label(middle), label(last)];
    text += &Chart { closes: &closes, labels, width, height }.draw();
    let high = bars.bars.iter().map(|bar| bar.high).max().unwrap_or(last.high);
    let low = bars.bars.iter().map(|bar| bar.low).min().unwrap_or(last.low);
    let plural = if bars.bars.len() == 1 { "bar" } else { "bars" };
    text += &format!(
        "\n{} {resolution} {plural}, closing prices; high {}, low {}\nprices: {}\n",
        bars.bars.len(),
        price(high),
        price(low),
        bars.source
    );
    if matches!(bars.resolution, Resolution::Hour | Resolution::Interval) {
        text += &zone_line();
    }
    text
}

/// Days and months are the market's own, in UTC; shorter bars are shown in the user's zone.
fn when(resolution: Resolution, start: MarketTime) -> String {
    match resolution {
        Resolution::Month => start.shown("%Y-%m", TimeZone::UTC),
        Resolution::Day => start.shown("%Y-%m-%d", TimeZone::UTC),
        Resolution::Hour | Resolution::Interval => start.shown("%m-%d %H:%M", TimeZone::system()),
    }
}

/// How far a transfer of more than one packet is.
struct Packets(Option<ProgressBar>);

impl Packets {
    fn new(output: &Output) -> Packets {
        if !output.notes || output.json {
            return Packets(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("packet {pos} of {len} {bar:30}") {
            bar.set_style(style);
        }
        Packets(Some(bar))
    }

    fn show(&self, packets: Progress) {
        let Some(bar) = &self.0 else { return };
        if packets.max > 1 {
            if bar.is_hidden() {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_length(u64::from(packets.max));
            bar.set_position(u64::from(packets.received));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> ChartArguments {
        use crate::arguments::{Arguments, ClientCommand, Command};
        let words = format!("papertrader chart AAPL {text}");
        let arguments =
            <Arguments as clap::Parser>::try_parse_from(words.split_whitespace()).unwrap();
        let Command::Client(ClientCommand::Chart(chart)) = arguments.command else { panic!() };
        chart
    }

    fn span(text: &str) -> Result<Span, CliError> {
        let market = Date::parse("2005-03-01").unwrap().start().plus_nanos(5);
        Wanted::read(&arguments(text))?.span(market)
    }

    #[test]
    fn the_window_ends_with_the_markets_date_or_the_one_given() {
        let date = |text| Date::parse(text).unwrap();
        assert_eq!(span("").unwrap(), Span::Month(date("2005-03-01")));
        assert_eq!(span("--range year").unwrap(), Span::Year(date("2005-03-01")));
        assert_eq!(span("--range day --date 2004-12-31").unwrap(), Span::Day(date("2004-12-31")));
        assert_eq!(span("--range all").unwrap(), Span::AllTime);
        let from = date("2000-01-03").start();
        let day = Resolution::Day;
        assert_eq!(
            span("--bars day --from 2000-01-03").unwrap(),
            Span::Bars(day, from, date("2005-03-01").start().plus_nanos(5 + SECOND))
        );
        assert_eq!(
            span("--bars day --from 2000-01-03 --to 2000-01-04").unwrap(),
            Span::Bars(day, from, date("2000-01-04").start())
        );
        for (bad, code) in [
            ("--date 2005-02-30", "badDate"),
            ("--bars week --from 2000-01-03", "badResolution"),
            ("--bars day --from 2006-01-01", "badRange"),
        ] {
            assert_eq!(span(bad).unwrap_err().code(), code, "{bad}");
        }
    }

    fn bars(closes: &[&str]) -> Bars {
        let bar = |(i, close): (usize, &&str)| Bar {
            start: Date::new(2005, i as u8 + 1, 1).unwrap().start(),
            open: closes[0].parse().unwrap(),
            high: close.parse().unwrap(),
            low: closes[0].parse().unwrap(),
            close: close.parse().unwrap(),
            volume: Default::default(),
        };
        Bars {
            symbol: "AAPL".parse().unwrap(),
            resolution: Resolution::Month,
            interval: 1,
            market: MarketTime(0),
            source: "recorded daily bars".into(),
            bars: closes.iter().enumerate().map(bar).collect(),
        }
    }

    #[test]
    fn a_chart_says_what_it_shows() {
        let text = chart_text(&bars(&["10", "12", "15"]), "year to 2005-03-01", (60, 6), false);
        assert!(text.starts_with("AAPL, year to 2005-03-01: 15.00 +50.00%\n"), "{text}");
        assert!(text.contains("2005-01") && text.contains("2005-03"), "{text}");
        assert!(text.contains("\n3 monthly bars, closing prices; high 15.00, low 10.00\n"));
        assert!(text.ends_with("prices: recorded daily bars\n"));
        let none = chart_text(&bars(&[]), "all time", (60, 6), false);
        assert_eq!(none, "AAPL, all time: no monthly bars\n");
    }
}
