//! What servers return as text arguments (4.5.3): typed, with encoding and parsing side by side.

use std::io::{self, Write};

use papertrader_core::money::{Cash, Price, Quantity};
use papertrader_core::names::{ClientOrderId, Symbol};
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, WallTime};

use crate::args;
use crate::frame::{Frame, Header, MAX_DATA};
use crate::instruction::{Instruction, State};
use crate::reason::{Failure, Reason};
use crate::session::SessionId;

/// A server's return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Return {
    /// `sessionID`: sessionID expiresAt username
    Session(SessionGrant),
    /// `registerSuccess`: username
    Registered(String),
    /// `orderQueued`: orderID clientOrderID side symbol quantity hold waiting
    OrderQueued(QueuedOrder),
    /// `purchaseSuccess`, `sellSuccess`: orderID clientOrderID symbol quantity price amount
    /// marketTime wallTime
    Filled(Side, FilledOrder),
    /// `stateSwitchSuccess`: state
    StateSwitched(State),
    /// `cancelSuccess`: clientOrderID
    Cancelled(ClientOrderId),
    /// `logoutSuccess`
    LoggedOut,
    /// `passwordChanged`
    PasswordChanged,
    /// `subscribed`: how many symbols, or up to where of the orders (a cursor)
    Subscribed(String),
    /// `welcome`: version deploymentID serverName interval marketTime
    Welcome(Welcome),
    /// `pong`: text
    Pong(String),
    /// `goodbye`: code text
    Goodbye(Failure),
    /// Any failure return, under its own instruction: code text
    Failed(Instruction, Failure),
}

/// An active session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionGrant {
    /// The session ID.
    pub session: SessionId,
    /// When it ends at the latest.
    pub expires: WallTime,
    /// Whose it is, as its owner writes the name.
    pub name: String,
}

/// An order that is durable and waits for its price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedOrder {
    /// The order's ID.
    pub order: u64,
    /// The client's name for it.
    pub client_order_id: ClientOrderId,
    /// Buy or sell.
    pub side: Side,
    /// Of what.
    pub symbol: Symbol,
    /// How much.
    pub quantity: Quantity,
    /// Cash that it holds.
    pub hold: Cash,
    /// Why it waits: a stable word, or `-` for the next price.
    pub waiting: String,
}

impl QueuedOrder {
    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let QueuedOrder { order, client_order_id, side, symbol, quantity, hold, waiting } = self;
        let side = side_name(*side);
        write!(out, "{order} {client_order_id} {side} {symbol} {quantity} {hold} {waiting}")
    }
}

/// An order that was filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilledOrder {
    /// The order's ID.
    pub order: u64,
    /// The client's name for it.
    pub client_order_id: ClientOrderId,
    /// Of what.
    pub symbol: Symbol,
    /// How much.
    pub quantity: Quantity,
    /// At which price.
    pub price: Price,
    /// What was paid or got.
    pub amount: Cash,
    /// The market's time of the price.
    pub market: MarketTime,
    /// When it was settled.
    pub wall: WallTime,
}

impl FilledOrder {
    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let FilledOrder { order, client_order_id, symbol, quantity, price, amount, .. } = self;
        let (market, wall) = (self.market.0, self.wall.0);
        write!(
            out,
            "{order} {client_order_id} {symbol} {quantity} {price} {amount} {market} {wall}"
        )
    }
}

/// The answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version of the server.
    pub version: u8,
    /// The deployment's ID: passwords are salted with it.
    pub deployment: String,
    /// Nanoseconds of wall time between snapshots.
    pub interval: i64,
    /// The market's time now.
    pub market: MarketTime,
    /// The server's name; may contain spaces.
    pub server: String,
}

/// A return that says something else than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the return {0:?} is not as the protocol says")]
pub struct BadReturn(pub Instruction);

impl Return {
    /// The instruction and its arguments.
    pub fn encode(&self) -> (Instruction, Vec<String>) {
        match self {
            Return::Session(grant) => (
                Instruction::SessionId,
                vec![grant.session.to_hex(), grant.expires.0.to_string(), grant.name.clone()],
            ),
            Return::Registered(name) => (Instruction::RegisterSuccess, vec![name.clone()]),
            Return::OrderQueued(order) => (
                Instruction::OrderQueued,
                vec![
                    order.order.to_string(),
                    order.client_order_id.to_string(),
                    side_name(order.side).to_owned(),
                    order.symbol.to_string(),
                    order.quantity.to_string(),
                    order.hold.to_string(),
                    order.waiting.clone(),
                ],
            ),
            Return::Filled(side, fill) => (
                match side {
                    Side::Buy => Instruction::PurchaseSuccess,
                    Side::Sell => Instruction::SellSuccess,
                },
                vec![
                    fill.order.to_string(),
                    fill.client_order_id.to_string(),
                    fill.symbol.to_string(),
                    fill.quantity.to_string(),
                    fill.price.to_string(),
                    fill.amount.to_string(),
                    fill.market.0.to_string(),
                    fill.wall.0.to_string(),
                ],
            ),
            Return::StateSwitched(state) => {
                (Instruction::StateSwitchSuccess, vec![state.name().to_owned()])
            }
            Return::Cancelled(id) => (Instruction::CancelSuccess, vec![id.to_string()]),
            Return::LoggedOut => (Instruction::LogoutSuccess, vec![]),
            Return::PasswordChanged => (Instruction::PasswordChanged, vec![]),
            Return::Subscribed(to) => (Instruction::Subscribed, vec![to.clone()]),
            Return::Welcome(welcome) => (
                Instruction::Welcome,
                vec![
                    welcome.version.to_string(),
                    welcome.deployment.clone(),
                    welcome.interval.to_string(),
                    welcome.market.0.to_string(),
                    welcome.server.clone(),
                ],
            ),
            Return::Pong(text) => (Instruction::Pong, vec![text.clone()]),
            Return::Goodbye(failure) => (Instruction::Goodbye, failure_args(failure)),
            Return::Failed(instruction, failure) => (*instruction, failure_args(failure)),
        }
    }

    /// Appends the frame of this return to the request `request`.
    pub fn put(&self, request: u64, out: &mut Vec<u8>) {
        // What every order has is written in place.
        let (instruction, count) = match self {
            Return::OrderQueued(_) => (Instruction::OrderQueued, 7),
            Return::Filled(Side::Buy, _) => (Instruction::PurchaseSuccess, 8),
            Return::Filled(Side::Sell, _) => (Instruction::SellSuccess, 8),
            _ => {
                let (instruction, arguments) = self.encode();
                return put_args(instruction, &arguments, request, SessionId::NONE, out);
            }
        };
        let mut header = Header::new(instruction.message_type(), instruction as u16, request);
        header.argument_count = count;
        header.encode_with(out, |out| {
            // Writing to memory does not fail.
            let _ = match self {
                Return::OrderQueued(order) => order.write(out),
                Return::Filled(_, fill) => fill.write(out),
                _ => Ok(()),
            };
        });
    }

    /// Types a frame that came from a server. `None` if it is not one of these returns.
    pub fn parse(frame: &Frame<'_>) -> Result<Option<Return>, BadReturn> {
        let Some(instruction) = Instruction::from_number(frame.header.instruction) else {
            return Ok(None);
        };
        let bad = || BadReturn(instruction);
        let arguments = || args::split(frame.data, frame.header.argument_count).map_err(|_| bad());
        Ok(Some(match instruction {
            Instruction::SessionId => match arguments()?.as_slice() {
                [session, expires, name] => Return::Session(SessionGrant {
                    session: session.parse().map_err(|_| bad())?,
                    expires: WallTime(number(expires).ok_or_else(bad)?),
                    name: (*name).to_owned(),
                }),
                _ => return Err(bad()),
            },
            Instruction::RegisterSuccess => match arguments()?.as_slice() {
                [name] => Return::Registered((*name).to_owned()),
                _ => return Err(bad()),
            },
            Instruction::OrderQueued => match arguments()?.as_slice() {
                [order, id, side, symbol, quantity, hold, waiting] => {
                    Return::OrderQueued(QueuedOrder {
                        order: order.parse().map_err(|_| bad())?,
                        client_order_id: id.parse().map_err(|_| bad())?,
                        side: side_from_name(side).ok_or_else(bad)?,
                        symbol: symbol.parse().map_err(|_| bad())?,
                        quantity: quantity.parse().map_err(|_| bad())?,
                        hold: hold.parse().map_err(|_| bad())?,
                        waiting: (*waiting).to_owned(),
                    })
                }
                _ => return Err(bad()),
            },
            Instruction::PurchaseSuccess | Instruction::SellSuccess => {
                let side = match instruction {
                    Instruction::PurchaseSuccess => Side::Buy,
                    _ => Side::Sell,
                };
                match arguments()?.as_slice() {
                    [order, id, symbol, quantity, price, amount, market, wall] => Return::Filled(
                        side,
                        FilledOrder {
                            order: order.parse().map_err(|_| bad())?,
                            client_order_id: id.parse().map_err(|_| bad())?,
                            symbol: symbol.parse().map_err(|_| bad())?,
                            quantity: quantity.parse().map_err(|_| bad())?,
                            price: price.parse().map_err(|_| bad())?,
                            amount: amount.parse().map_err(|_| bad())?,
                            market: MarketTime(number(market).ok_or_else(bad)?),
                            wall: WallTime(number(wall).ok_or_else(bad)?),
                        },
                    ),
                    _ => return Err(bad()),
                }
            }
            Instruction::StateSwitchSuccess => match arguments()?.as_slice() {
                [state] => Return::StateSwitched(State::from_name(state).ok_or_else(bad)?),
                _ => return Err(bad()),
            },
            Instruction::CancelSuccess => match arguments()?.as_slice() {
                [id] => Return::Cancelled(id.parse().map_err(|_| bad())?),
                _ => return Err(bad()),
            },
            Instruction::LogoutSuccess => match arguments()?.as_slice() {
                [] => Return::LoggedOut,
                _ => return Err(bad()),
            },
            Instruction::PasswordChanged => match arguments()?.as_slice() {
                [] => Return::PasswordChanged,
                _ => return Err(bad()),
            },
            Instruction::Subscribed => match arguments()?.as_slice() {
                [to] => Return::Subscribed((*to).to_owned()),
                _ => return Err(bad()),
            },
            Instruction::Welcome => match arguments()?.as_slice() {
                [version, deployment, interval, market, server] => Return::Welcome(Welcome {
                    version: version.parse().map_err(|_| bad())?,
                    deployment: (*deployment).to_owned(),
                    interval: number(interval).ok_or_else(bad)?,
                    market: MarketTime(number(market).ok_or_else(bad)?),
                    server: (*server).to_owned(),
                }),
                _ => return Err(bad()),
            },
            Instruction::Pong => match arguments()?.as_slice() {
                [text] => Return::Pong((*text).to_owned()),
                _ => return Err(bad()),
            },
            Instruction::Goodbye => Return::Goodbye(failure(&arguments()?).ok_or_else(bad)?),
            Instruction::LoginFail
            | Instruction::RegisterFail
            | Instruction::PurchaseFail
            | Instruction::SellFail
            | Instruction::StateSwitchFail
            | Instruction::DataFail
            | Instruction::CancelFail
            | Instruction::CommandFail
            | Instruction::PasswordFail
            | Instruction::SubscribeFail
            | Instruction::LinkRefused => {
                Return::Failed(instruction, failure(&arguments()?).ok_or_else(bad)?)
            }
            _ => return Ok(None),
        }))
    }
}

/// Appends a frame with text arguments. What does not fit into one frame is cut at a character:
/// every argument here is bounded far below that.
pub fn put_args(
    instruction: Instruction,
    arguments: &[String],
    request: u64,
    session: SessionId,
    out: &mut Vec<u8>,
) {
    let mut data = args::join(arguments);
    let mut end = data.len().min(MAX_DATA);
    while !data.is_char_boundary(end) {
        end -= 1;
    }
    data.truncate(end);
    let mut header = Header::new(instruction.message_type(), instruction as u16, request);
    header.argument_count = arguments.len() as u16;
    header.session = session;
    header.encode(data.as_bytes(), out);
}

/// The word for a side in arguments and JSON.
pub fn side_name(side: Side) -> &'static str {
    match side {
        Side::Buy => "buy",
        Side::Sell => "sell",
    }
}

fn side_from_name(name: &str) -> Option<Side> {
    match name {
        "buy" => Some(Side::Buy),
        "sell" => Some(Side::Sell),
        _ => None,
    }
}

fn failure_args(failure: &Failure) -> Vec<String> {
    vec![failure.reason.code().to_owned(), failure.text.clone()]
}

/// A word that is not known here (a newer server) is kept in the text.
fn failure(arguments: &[&str]) -> Option<Failure> {
    let [code, text] = arguments else { return None };
    Some(match Reason::from_code(code) {
        Some(reason) => Failure::new(reason, *text),
        None => Failure::new(Reason::Unavailable, format!("{text} ({code})")),
    })
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Return> {
        let id: ClientOrderId = "0190-a".parse().unwrap();
        let symbol: Symbol = "AAPL".parse().unwrap();
        vec![
            Return::Session(SessionGrant {
                session: SessionId::from_bytes([7; 16]),
                expires: WallTime(5),
                name: "alice".into(),
            }),
            Return::Registered("alice".into()),
            Return::OrderQueued(QueuedOrder {
                order: 3,
                client_order_id: id.clone(),
                side: Side::Sell,
                symbol,
                quantity: "1.5".parse().unwrap(),
                hold: Cash::ZERO,
                waiting: "-".into(),
            }),
            Return::Filled(
                Side::Buy,
                FilledOrder {
                    order: 3,
                    client_order_id: id.clone(),
                    symbol,
                    quantity: "10".parse().unwrap(),
                    price: "64.78".parse().unwrap(),
                    amount: "647.80".parse().unwrap(),
                    market: MarketTime(-1),
                    wall: WallTime(8),
                },
            ),
            Return::StateSwitched(State::DataTransfer),
            Return::Cancelled(id),
            Return::LoggedOut,
            Return::Welcome(Welcome {
                version: 1,
                deployment: "d".into(),
                interval: 5,
                market: MarketTime(6),
                server: "worker one".into(),
            }),
            Return::Pong(String::new()),
            Return::Goodbye(Reason::ShuttingDown.into()),
            Return::Failed(Instruction::PurchaseFail, Reason::InsufficientCash.into()),
        ]
    }

    #[test]
    fn returns_round_trip() {
        for example in examples() {
            let mut bytes = Vec::new();
            example.put(42, &mut bytes);
            let (frame, used) = Frame::decode(&bytes).unwrap().unwrap();
            assert_eq!(used, bytes.len());
            assert_eq!(frame.header.request, 42);
            assert_eq!(Return::parse(&frame), Ok(Some(example)));
        }
    }

    #[test]
    fn what_is_written_in_place_is_what_the_arguments_say() {
        for example in examples() {
            let (mut in_place, mut joined) = (b"before".to_vec(), b"before".to_vec());
            example.put(42, &mut in_place);
            let (instruction, arguments) = example.encode();
            put_args(instruction, &arguments, 42, SessionId::NONE, &mut joined);
            assert_eq!(in_place, joined, "{example:?}");
        }
    }

    #[test]
    fn a_return_with_the_wrong_arguments_is_refused() {
        for example in examples() {
            let mut bytes = Vec::new();
            example.put(1, &mut bytes);
            bytes[9] = bytes[9].wrapping_add(1);
            let (frame, _) = Frame::decode(&bytes).unwrap().unwrap();
            assert!(Return::parse(&frame).is_err(), "{example:?}");
        }
    }
}
