//! `buy`, `sell`, `portfolio`, `history`, `orders`, `cancel`.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use papertrader_client::{ClientError, PlacedOrder, new_order_id};
use papertrader_core::money::Quantity;
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::Side;
use papertrader_protocol::data::{
    History, HistoryKind, HistoryLine, HistoryPrivate, OrderLine, Orders, Portfolio,
    PortfolioPrivate,
};
use papertrader_protocol::returns::{FilledOrder, side_name};
use papertrader_protocol::{Failure, Reason};

use super::{Context, symbol};
use crate::arguments::OrderArguments;
use crate::error::CliError;
use crate::hint::Hints;
use crate::output::json;
use crate::output::money::{average, exact_price, gain_on, money, percent, price, signed_money};
use crate::output::table::{Align, Cell, Table, Tone};
use crate::output::time::{Nanos, zone_line};

pub(super) async fn order(
    context: &Context<'_>,
    side: Side,
    arguments: OrderArguments,
) -> Result<(), CliError> {
    let symbol = symbol(&arguments.symbol)?;
    let quantity = quantity(&arguments.quantity)?;
    let id = match &arguments.id {
        Some(id) => client_order_id(id)?,
        None => new_order_id(),
    };
    let session = context.logged_in().await?;
    let mut order = session.client.order(side, symbol, quantity, id).await?;
    let wait = (!arguments.no_wait).then(|| Duration::from_secs(arguments.wait));
    if let (Some(queued), Some(_)) = (order.queued(), wait) {
        let until = match queued.waiting.as_str() {
            "-" => "it fills at the next price".to_owned(),
            reason => format!("it waits ({reason})"),
        };
        context.output.note(&format!("order {} queued; {until}", queued.order));
    }
    let fill = tokio::select! {
        fill = outcome(&mut order, wait) => fill?,
        // It ends the waiting, not the order: what stands is said as after `--no-wait`.
        _ = tokio::signal::ctrl_c() => None,
    };
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&placed(&order, fill.as_ref()));
    }
    output.text(&order_line(&order, fill.as_ref(), context.hints))
}

/// The fill, or `None` if the time is over and the order is still open. An accepted order cannot
/// be lost, so trouble on the way to it is waited out.
async fn outcome(
    order: &mut PlacedOrder,
    wait: Option<Duration>,
) -> Result<Option<FilledOrder>, CliError> {
    if order.queued().is_none() {
        // It was done when it was asked about: this does not wait.
        return Ok(Some(order.outcome().await?));
    }
    let Some(wait) = wait else { return Ok(None) };
    let until = Instant::now() + wait;
    loop {
        match timeout_at(until, order.outcome()).await {
            Ok(Ok(fill)) => return Ok(Some(fill)),
            Err(_) => return Ok(None),
            // Nobody here may ask about it any more, but it is queued all the same.
            Ok(Err(ClientError::OutcomeUnknown { cause, .. })) if needs_login(&cause) => {
                return Ok(None);
            }
            Ok(Err(
                ClientError::ConnectionLost { .. }
                | ClientError::NoServer { .. }
                | ClientError::OutcomeUnknown { .. },
            )) => {}
            Ok(Err(error)) => return Err(error.into()),
        }
    }
}

/// Whether nobody is told before a new log-in, or a new password.
fn needs_login(error: &ClientError) -> bool {
    let ClientError::Refused(failure) = error else { return false };
    matches!(
        failure.reason,
        Reason::SessionRequired
            | Reason::SessionUnknown
            | Reason::SessionExpired
            | Reason::NotAuthorized
            | Reason::PasswordChangeRequired
    )
}

fn placed(order: &PlacedOrder, fill: Option<&FilledOrder>) -> json::Placed {
    let queued = order.queued();
    let text = |from_queued: Option<String>, from_fill: Option<String>| {
        from_queued.or(from_fill).unwrap_or_default()
    };
    let filled = fill.is_some();
    json::Placed {
        state: if filled { "filled" } else { "queued" },
        order: fill.map(|f| f.order).or(queued.map(|q| q.order)).unwrap_or_default(),
        client_order_id: order.client_order_id().to_string(),
        side: side_name(order.side()),
        symbol: text(queued.map(|q| q.symbol.to_string()), fill.map(|f| f.symbol.to_string())),
        quantity: text(
            fill.map(|f| f.quantity.to_string()),
            queued.map(|q| q.quantity.to_string()),
        ),
        hold: queued.filter(|_| !filled).map(|q| q.hold.to_string()),
        waiting: queued.filter(|q| !filled && q.waiting != "-").map(|q| q.waiting.clone()),
        fill: fill.map(json::Fill::from),
    }
}

fn order_line(order: &PlacedOrder, fill: Option<&FilledOrder>, hints: &Hints) -> String {
    match (fill, order.queued()) {
        (Some(fill), _) => fill_line(order.side(), fill),
        (None, Some(queued)) => format!(
            "order {} is queued: {} {} {}; look at it with: {}",
            queued.order,
            side_name(queued.side),
            queued.quantity,
            queued.symbol,
            hints.command("orders")
        ),
        (None, None) => String::new(),
    }
}

fn fill_line(side: Side, fill: &FilledOrder) -> String {
    let did = match side {
        Side::Buy => "bought",
        Side::Sell => "sold",
    };
    format!(
        "{did} {} {} at {} for {} (market time {})",
        fill.quantity,
        fill.symbol,
        exact_price(fill.price),
        money(fill.amount),
        fill.market.local()
    )
}

fn quantity(text: &str) -> Result<Quantity, CliError> {
    let quantity: Quantity = text.parse().map_err(|_| CliError::input(Reason::BadQuantity))?;
    if quantity.is_zero() { Err(CliError::input(Reason::BadQuantity)) } else { Ok(quantity) }
}

fn client_order_id(text: &str) -> Result<ClientOrderId, CliError> {
    text.parse().map_err(|_| CliError::input(Reason::BadClientOrderId))
}

pub(super) async fn cancel(context: &Context<'_>, id: &str) -> Result<(), CliError> {
    let given = client_order_id(id)?;
    let session = context.logged_in().await?;
    let id = match id.parse() {
        // A number may be that of the order, as `orders` shows it.
        Ok(number) => {
            let orders = session.client.orders(&session.user(None)?).await?;
            named_by(&orders, number, &given).ok_or_else(|| {
                let text = format!("you have no order with the number or the ID {given}");
                ClientError::Refused(Failure::new(Reason::OrderNotFound, text))
            })?
        }
        Err(_) => given,
    };
    session.client.cancel(&id).await?;
    // An ID that no order has is cancelled too: whoever mistyped it must hear that.
    let order = match session.client.order_by_id(&id).await {
        Ok(line) => Some(line.order),
        Err(ClientError::Refused(failure)) if failure.reason == Reason::OrderCancelled => None,
        Err(error) => return Err(error.into()),
    };
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Cancelled { client_order_id: id.to_string(), order });
    }
    match order {
        Some(order) => output.text(&format!("cancelled order {order}")),
        None => output.text(&format!("no order has the ID {id}: should one come, it is refused")),
    }
}

/// A client order ID that reads like a number comes before the order with that number.
fn named_by(orders: &Orders, number: u64, given: &ClientOrderId) -> Option<ClientOrderId> {
    if orders.orders.iter().any(|order| order.client_order_id == given.as_str()) {
        return Some(given.clone());
    }
    let order = orders.orders.iter().find(|order| order.order == number)?;
    order.client_order_id.parse().ok()
}

pub(super) async fn portfolio(context: &Context<'_>, user: Option<String>) -> Result<(), CliError> {
    let session = context.logged_in().await?;
    let portfolio = session.client.portfolio(&session.user(user)?).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Portfolio::from(&portfolio));
    }
    output.text(&portfolio_text(&portfolio, output.colour))
}

fn portfolio_text(portfolio: &Portfolio, colour: bool) -> String {
    let tone = Tone::of(portfolio.return_bp);
    let gained = tone.paint(&percent(portfolio.return_bp), colour);
    let mut text = format!("{}, market time {}\n", portfolio.name, portfolio.market.local());
    let Some(private) = &portfolio.private else {
        return text + &format!("return  {gained}\n");
    };
    let PortfolioPrivate { cash, held_cash, granted, equity, positions } = private;
    text += &format!("cash    {}", money(*cash));
    if held_cash.cents() != 0 {
        text += &format!(" ({} held by open orders)", money(*held_cash));
    }
    text += &format!("\nequity  {}\nreturn  {gained} on {}\n", money(*equity), money(*granted));
    if positions.is_empty() {
        return text + "no positions\n";
    }
    let mut table = Table::new(&[
        ("symbol", Align::Left),
        ("quantity", Align::Right),
        ("held", Align::Right),
        ("average", Align::Right),
        ("price", Align::Right),
        ("value", Align::Right),
        ("gain", Align::Right),
        ("", Align::Right),
    ]);
    for line in positions {
        let gain = line.price.and_then(|_| line.value.minus(line.cost));
        let tone = gain.map_or(Tone::Plain, |gain| Tone::of(gain.cents()));
        let held = if line.held.is_zero() { String::new() } else { line.held.to_string() };
        let of_cost = gain.and_then(|gain| gain_on(gain, line.cost));
        table.row([
            line.symbol.to_string().into(),
            line.quantity.to_string().into(),
            held.into(),
            average(line.cost, line.quantity).map(price).unwrap_or_default().into(),
            line.price.map(exact_price).unwrap_or_else(|| "none".to_owned()).into(),
            money(line.value).into(),
            Cell::toned(gain.map(signed_money).unwrap_or_default(), tone),
            Cell::toned(of_cost.map(percent).unwrap_or_default(), tone),
        ]);
    }
    text + "\n" + &table.draw(colour)
}

pub(super) async fn history(context: &Context<'_>, user: Option<String>) -> Result<(), CliError> {
    let session = context.logged_in().await?;
    let history = session.client.history(&session.user(user)?).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::History::from(&history));
    }
    output.text(&history_text(&history, output.colour))
}

fn history_text(history: &History, colour: bool) -> String {
    let Some(HistoryPrivate { more, lines }) = &history.private else {
        return format!("the history of {} is private\n", history.name);
    };
    let mut table = Table::new(&[
        ("time", Align::Left),
        ("market time", Align::Left),
        ("what", Align::Left),
        ("order", Align::Right),
        ("symbol", Align::Left),
        ("quantity", Align::Right),
        ("price", Align::Right),
        ("cash", Align::Right),
        ("reason", Align::Left),
    ]);
    for line in lines {
        table.row([
            line.wall.cell().into(),
            line.market.cell().into(),
            what(line).into(),
            line.order.map(|order| order.to_string()).unwrap_or_default().into(),
            line.symbol.map(|symbol| symbol.to_string()).unwrap_or_default().into(),
            if line.quantity.is_zero() { String::new() } else { line.quantity.to_string() }.into(),
            line.price.map(exact_price).unwrap_or_default().into(),
            if line.amount.cents() == 0 {
                Cell::from("")
            } else {
                Cell::toned(signed_money(line.amount), Tone::of(line.amount.cents()))
            },
            line.reason.as_str().into(),
        ]);
    }
    let mut text = table.draw(colour) + &zone_line();
    if *more {
        text += "older lines are not shown\n";
    }
    text
}

/// What happened; a purchase or sale that did not happen names its side.
fn what(line: &HistoryLine) -> String {
    match (line.kind, line.side) {
        (HistoryKind::Rejected | HistoryKind::Cancelled | HistoryKind::Expired, Some(side)) => {
            format!("{} {}", side_name(side), line.kind.name())
        }
        (kind, _) => kind.name().to_owned(),
    }
}

pub(super) async fn orders(context: &Context<'_>) -> Result<(), CliError> {
    let session = context.logged_in().await?;
    let orders = session.client.orders(&session.user(None)?).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Orders::from(&orders));
    }
    output.text(&orders_text(&orders, output.colour))
}

fn orders_text(orders: &Orders, colour: bool) -> String {
    if orders.orders.is_empty() {
        return "no orders\n".to_owned();
    }
    let mut table = Table::new(&[
        ("order", Align::Right),
        ("time", Align::Left),
        ("side", Align::Left),
        ("quantity", Align::Right),
        ("symbol", Align::Left),
        ("state", Align::Left),
        ("price", Align::Right),
        ("amount", Align::Right),
        ("client order ID", Align::Left),
    ]);
    for order in &orders.orders {
        let fill = order.fill.as_ref();
        table.row([
            order.order.to_string().into(),
            order.received.cell().into(),
            side_name(order.side).into(),
            order.quantity.to_string().into(),
            order.symbol.to_string().into(),
            state(order).into(),
            fill.map(|fill| exact_price(fill.price)).unwrap_or_default().into(),
            fill.map(|fill| money(fill.amount)).unwrap_or_default().into(),
            order.client_order_id.as_str().into(),
        ]);
    }
    let mut text = table.draw(colour) + &zone_line();
    if orders.more {
        text += "older orders are not shown\n";
    }
    text
}

fn state(order: &OrderLine) -> String {
    match order.reason.as_str() {
        "" => order.status.name().to_owned(),
        reason => format!("{} ({reason})", order.status.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::{MarketTime, WallTime};
    use papertrader_protocol::data::{OrderStatus, PositionLine};

    #[test]
    fn a_fill_is_one_line() {
        let fill = FilledOrder {
            order: 12,
            client_order_id: "x".parse().unwrap(),
            symbol: "AAPL".parse().unwrap(),
            quantity: "10".parse().unwrap(),
            price: "64.78".parse().unwrap(),
            amount: "647.80".parse().unwrap(),
            market: MarketTime(0),
            wall: WallTime(0),
        };
        let line = fill_line(Side::Buy, &fill);
        assert!(line.starts_with("bought 10 AAPL at 64.78 for $647.80 (market time "), "{line}");
        assert!(fill_line(Side::Sell, &fill).starts_with("sold 10 AAPL"));
    }

    #[test]
    fn bad_quantities_are_refused_in_the_protocols_words() {
        for bad in ["0", "-5", "ten", "", "1e3", "0.000000001", "99999999999"] {
            let error = quantity(bad).unwrap_err();
            assert_eq!((error.code(), error.exit_code()), ("badQuantity", 2), "{bad}");
        }
        assert!(quantity("0.00000001").is_ok());
    }

    fn open_order(order: u64, id: &str) -> OrderLine {
        OrderLine {
            order,
            client_order_id: id.into(),
            side: Side::Buy,
            symbol: "AAPL".parse().unwrap(),
            quantity: "1".parse().unwrap(),
            hold: Default::default(),
            status: OrderStatus::Queued,
            reason: "marketClosed".into(),
            fill: None,
            received: WallTime(0),
            received_market: MarketTime(0),
            decided: None,
            decided_market: None,
        }
    }

    #[test]
    fn a_number_names_an_order_unless_it_is_an_id() {
        let orders =
            |lines: Vec<OrderLine>| Orders { name: "alice".into(), more: false, orders: lines };
        let given: ClientOrderId = "7".parse().unwrap();
        let by_number = orders(vec![open_order(7, "abc")]);
        assert_eq!(named_by(&by_number, 7, &given).unwrap().as_str(), "abc");
        let by_id = orders(vec![open_order(7, "abc"), open_order(9, "7")]);
        assert_eq!(named_by(&by_id, 7, &given).unwrap().as_str(), "7");
        assert_eq!(named_by(&orders(vec![]), 7, &given), None);
        assert!(orders_text(&by_number, false).contains("queued (marketClosed)"));
    }

    #[test]
    fn a_portfolio_of_another_user_shows_the_public_part() {
        let mut portfolio = Portfolio {
            name: "alice".into(),
            market: MarketTime(0),
            return_bp: 125,
            private: None,
        };
        let text = portfolio_text(&portfolio, false);
        assert!(text.contains("return  +1.25%") && !text.contains("cash"), "{text}");
        portfolio.private = Some(PortfolioPrivate {
            cash: "99352.20".parse().unwrap(),
            held_cash: "680.19".parse().unwrap(),
            granted: "100000".parse().unwrap(),
            equity: "99990".parse().unwrap(),
            positions: vec![PositionLine {
                symbol: "AAPL".parse().unwrap(),
                quantity: "10".parse().unwrap(),
                held: "4".parse().unwrap(),
                cost: "647.80".parse().unwrap(),
                price: Some("63.78".parse().unwrap()),
                value: "637.80".parse().unwrap(),
            }],
        });
        let text = portfolio_text(&portfolio, false);
        assert!(text.contains("cash    $99,352.20 ($680.19 held by open orders)"), "{text}");
        let expected = "\
symbol  quantity  held  average  price    value     gain        
──────  ────────  ────  ───────  ─────  ───────  ───────  ──────
AAPL          10     4    64.78  63.78  $637.80  -$10.00  -1.54%
";
        let expected: String =
            expected.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        assert!(text.ends_with(&expected), "{text}");
    }
}
