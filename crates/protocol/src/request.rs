//! What a client can ask, typed. Parsing checks the number of arguments and the shape of each,
//! so that both servers refuse malformed requests in the same words.
//!
//! Precedence of refusals: argument count, argument form, then the first bad argument in order.

use papertrader_core::bar::{Resolution, Window};
use papertrader_core::money::Quantity;
use papertrader_core::names::{ClientOrderId, Email, Symbol, UserName};
use papertrader_core::time::{Date, MarketTime};
use subtle::ConstantTimeEq;

use crate::args;
use crate::data::OrderCursor;
use crate::instruction::{Instruction, State};
use crate::reason::Reason;

/// The client's hash of a password (64 lower-case hexadecimal digits). Never prints itself.
#[derive(Clone)]
pub struct HashedPass(String);

impl PartialEq for HashedPass {
    /// In constant time.
    fn eq(&self, other: &HashedPass) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for HashedPass {}

impl HashedPass {
    /// From its 64 digits.
    pub fn parse(text: &str) -> Option<HashedPass> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 64 && text.bytes().all(hex)).then(|| HashedPass(text.to_owned()))
    }

    /// The digits. This reveals the secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for HashedPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashedPass(secret)")
    }
}

/// The window of a history request; those that end with a date know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Span {
    /// getAssetValueDay.
    Day(Date),
    /// getAssetValueWeek.
    Week(Date),
    /// getAssetValueMonth.
    Month(Date),
    /// getAssetValueYear.
    Year(Date),
    /// getAssetValueAllTime.
    AllTime,
    /// getAssetBars.
    Bars(Resolution, MarketTime, MarketTime),
}

impl Span {
    /// The window of market time and the resolution.
    pub fn window(self) -> Window {
        match self {
            Span::Day(date) => Window::day(date),
            Span::Week(date) => Window::week(date),
            Span::Month(date) => Window::month(date),
            Span::Year(date) => Window::year(date),
            Span::AllTime => Window::all_time(),
            Span::Bars(resolution, from, to) => Window { resolution, from, to },
        }
    }

    /// The date that it ends with, if it ends with one.
    pub fn date(self) -> Option<Date> {
        match self {
            Span::Day(date) | Span::Week(date) | Span::Month(date) | Span::Year(date) => Some(date),
            Span::AllTime | Span::Bars(..) => None,
        }
    }
}

/// The most bars that one answer carries.
pub const MAX_BARS: usize = 200_000;

/// The longest prediction, in market days.
pub const MAX_HORIZON: u32 = 60;

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// login(username, hashedPass, isExpirable)
    Login {
        /// Who.
        name: UserName,
        /// The client's hash of the password.
        pass: HashedPass,
        /// Whether the session ends when its last connection closes.
        expirable: bool,
    },
    /// login(sessionID)
    LoginSession,
    /// register(username, email, hashedPass)
    Register {
        /// The new user's name.
        name: UserName,
        /// Where mail reaches them.
        email: Email,
        /// The client's hash of the password.
        pass: HashedPass,
    },
    /// purchaseAsset(name, quantity, clientOrderID)
    PurchaseAsset(OrderArgs),
    /// sellAsset(name, quantity, clientOrderID)
    SellAsset(OrderArgs),
    /// cancelOrder(clientOrderID)
    CancelOrder(ClientOrderId),
    /// switchState(state)
    SwitchState(State),
    /// logout()
    Logout,
    /// logoutEverywhere()
    LogoutEverywhere,
    /// changePassword(oldHashedPass, newHashedPass)
    ChangePassword {
        /// The client's hash of the password so far.
        old: HashedPass,
        /// The client's hash of the new one.
        new: HashedPass,
    },
    /// getWorkerList()
    GetWorkerList,
    /// getAssetInfo(asset)
    AssetInfo(Symbol),
    /// getAssetValueCurrent(asset)
    AssetValue(Symbol),
    /// getAssetValueDay, …Week, …Month, …Year, …AllTime and getAssetBars
    Bars(Symbol, Span),
    /// getAssetValuePredicted(asset, days)
    Predicted(Symbol, u32),
    /// getAssetList()
    AssetList,
    /// getUserInfo(username)
    UserInfo(UserName),
    /// getUserPortfolio(username)
    Portfolio(UserName),
    /// getUserTransactionHistory(username)
    History(UserName),
    /// getUserOrders(username)
    Orders(UserName),
    /// getOrder(clientOrderID)
    Order(ClientOrderId),
    /// subscribeAssets(symbols)
    SubscribeAssets(Symbols),
    /// unsubscribeAssets(symbols)
    UnsubscribeAssets(Symbols),
    /// subscribeOrders(cursor); `None` means from now on
    SubscribeOrders(Option<OrderCursor>),
    /// hello(version)
    Hello,
    /// ping(text)
    Ping(String),
    /// goodbye(reason)
    Goodbye,
}

/// Assets that a client names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Symbols {
    /// All that there are, and those that will come.
    All,
    /// These: at least one, at most [`MAX_SYMBOLS`].
    These(Vec<Symbol>),
}

/// Symbols that one message names at most.
pub const MAX_SYMBOLS: usize = 500;

/// Symbols that a connection subscribes to at most by their names; who wants more asks for all.
pub const MAX_SUBSCRIBED: usize = 2_000;

/// The arguments of purchaseAsset and sellAsset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderArgs {
    /// name: of what.
    pub symbol: Symbol,
    /// quantity: how much; above zero.
    pub quantity: Quantity,
    /// The client's own name for the order: the idempotency key.
    pub client_order_id: ClientOrderId,
}

impl Symbols {
    fn text(&self) -> String {
        match self {
            Symbols::All => "*".to_owned(),
            Symbols::These(symbols) => {
                args::join(&symbols.iter().map(Symbol::as_str).collect::<Vec<&str>>())
            }
        }
    }
}

impl Request {
    /// Types an instruction and its arguments.
    pub fn parse(instruction: Instruction, count: u16, data: &[u8]) -> Result<Request, Reason> {
        use Instruction as I;
        let expected = match instruction {
            I::LoginSession
            | I::Logout
            | I::LogoutEverywhere
            | I::GetWorkerList
            | I::GetAssetList => 0,
            I::CancelOrder
            | I::SwitchState
            | I::GetAssetInfo
            | I::GetAssetValueCurrent
            | I::GetAssetValueAllTime
            | I::GetUserInfo
            | I::GetUserPortfolio
            | I::GetUserTransactionHistory
            | I::GetUserOrders
            | I::GetOrder
            | I::SubscribeAssets
            | I::UnsubscribeAssets
            | I::SubscribeOrders
            | I::Hello
            | I::Ping
            | I::Goodbye => 1,
            I::GetAssetValueDay
            | I::GetAssetValueWeek
            | I::GetAssetValueMonth
            | I::GetAssetValueYear
            | I::GetAssetValuePredicted
            | I::ChangePassword => 2,
            I::Login | I::Register | I::PurchaseAsset | I::SellAsset => 3,
            I::GetAssetBars => 4,
            _ => return Err(Reason::NotForClients),
        };
        if count != expected {
            return Err(Reason::ArgumentCount);
        }
        let a = args::split(data, count)?;
        let a = a.as_slice();
        Ok(match (instruction, a) {
            (I::Login, [name, pass, expirable]) => Request::Login {
                // A name that nobody can have and a wrong password look alike.
                name: name.parse().map_err(|_| Reason::BadCredentials)?,
                pass: HashedPass::parse(pass).ok_or(Reason::BadPasswordHash)?,
                expirable: match *expirable {
                    "true" => true,
                    "false" => false,
                    _ => return Err(Reason::BadArguments),
                },
            },
            (I::LoginSession, []) => Request::LoginSession,
            (I::Register, [name, email, pass]) => Request::Register {
                name: name.parse().map_err(|_| Reason::BadUserName)?,
                email: email.parse().map_err(|_| Reason::BadEmail)?,
                pass: HashedPass::parse(pass).ok_or(Reason::BadPasswordHash)?,
            },
            (I::PurchaseAsset, [s, q, id]) => Request::PurchaseAsset(order_args(s, q, id)?),
            (I::SellAsset, [s, q, id]) => Request::SellAsset(order_args(s, q, id)?),
            (I::CancelOrder, [id]) => Request::CancelOrder(client_order_id(id)?),
            (I::SwitchState, [state]) => {
                Request::SwitchState(State::from_name(state).ok_or(Reason::BadState)?)
            }
            (I::Logout, []) => Request::Logout,
            (I::LogoutEverywhere, []) => Request::LogoutEverywhere,
            (I::ChangePassword, [old, new]) => Request::ChangePassword {
                old: HashedPass::parse(old).ok_or(Reason::BadPasswordHash)?,
                new: HashedPass::parse(new).ok_or(Reason::BadPasswordHash)?,
            },
            (I::GetWorkerList, []) => Request::GetWorkerList,
            (I::GetAssetInfo, [s]) => Request::AssetInfo(symbol(s)?),
            (I::GetAssetValueCurrent, [s]) => Request::AssetValue(symbol(s)?),
            (I::GetAssetValueDay, [s, d]) => Request::Bars(symbol(s)?, Span::Day(date(d)?)),
            (I::GetAssetValueWeek, [s, d]) => Request::Bars(symbol(s)?, Span::Week(date(d)?)),
            (I::GetAssetValueMonth, [s, d]) => Request::Bars(symbol(s)?, Span::Month(date(d)?)),
            (I::GetAssetValueYear, [s, d]) => Request::Bars(symbol(s)?, Span::Year(date(d)?)),
            (I::GetAssetValueAllTime, [s]) => Request::Bars(symbol(s)?, Span::AllTime),
            (I::GetAssetBars, [s, resolution, from, to]) => {
                let symbol = symbol(s)?;
                let resolution = Resolution::from_name(resolution).ok_or(Reason::BadResolution)?;
                let (from, to) = (instant(from)?, instant(to)?);
                if from >= to {
                    return Err(Reason::BadRange);
                }
                Request::Bars(symbol, Span::Bars(resolution, from, to))
            }
            (I::GetAssetValuePredicted, [s, days]) => {
                let symbol = symbol(s)?;
                let days = unsigned(days).parse().map_err(|_| Reason::BadHorizon)?;
                if !(1..=MAX_HORIZON).contains(&days) {
                    return Err(Reason::BadHorizon);
                }
                Request::Predicted(symbol, days)
            }
            (I::GetAssetList, []) => Request::AssetList,
            (I::GetUserInfo, [name]) => Request::UserInfo(user(name)?),
            (I::GetUserPortfolio, [name]) => Request::Portfolio(user(name)?),
            (I::GetUserTransactionHistory, [name]) => Request::History(user(name)?),
            (I::GetUserOrders, [name]) => Request::Orders(user(name)?),
            (I::GetOrder, [id]) => Request::Order(client_order_id(id)?),
            (I::SubscribeAssets, [all]) => Request::SubscribeAssets(symbols(all)?),
            (I::UnsubscribeAssets, [all]) => Request::UnsubscribeAssets(symbols(all)?),
            (I::SubscribeOrders, ["0"]) => Request::SubscribeOrders(None),
            (I::SubscribeOrders, [cursor]) => {
                Request::SubscribeOrders(Some(cursor.parse().map_err(|_| Reason::BadCursor)?))
            }
            (I::Hello, [_]) => Request::Hello,
            (I::Ping, [text]) => Request::Ping((*text).to_owned()),
            (I::Goodbye, [_]) => Request::Goodbye,
            _ => return Err(Reason::ArgumentCount),
        })
    }

    /// The instruction and its arguments: what [`Request::parse`] reads.
    pub fn encode(&self) -> (Instruction, Vec<String>) {
        use Instruction as I;
        let order = |args: &OrderArgs| {
            vec![
                args.symbol.to_string(),
                args.quantity.to_string(),
                args.client_order_id.to_string(),
            ]
        };
        match self {
            Request::Login { name, pass, expirable } => {
                (I::Login, vec![name.to_string(), pass.reveal().to_owned(), expirable.to_string()])
            }
            Request::LoginSession => (I::LoginSession, vec![]),
            Request::Register { name, email, pass } => {
                (I::Register, vec![name.to_string(), email.to_string(), pass.reveal().to_owned()])
            }
            Request::PurchaseAsset(args) => (I::PurchaseAsset, order(args)),
            Request::SellAsset(args) => (I::SellAsset, order(args)),
            Request::CancelOrder(id) => (I::CancelOrder, vec![id.to_string()]),
            Request::SwitchState(state) => (I::SwitchState, vec![state.name().to_owned()]),
            Request::Logout => (I::Logout, vec![]),
            Request::LogoutEverywhere => (I::LogoutEverywhere, vec![]),
            Request::ChangePassword { old, new } => {
                (I::ChangePassword, vec![old.reveal().to_owned(), new.reveal().to_owned()])
            }
            Request::GetWorkerList => (I::GetWorkerList, vec![]),
            Request::AssetInfo(symbol) => (I::GetAssetInfo, vec![symbol.to_string()]),
            Request::AssetValue(symbol) => (I::GetAssetValueCurrent, vec![symbol.to_string()]),
            Request::Bars(symbol, span) => {
                let symbol = symbol.to_string();
                match span {
                    Span::Day(date) => (I::GetAssetValueDay, vec![symbol, date.to_string()]),
                    Span::Week(date) => (I::GetAssetValueWeek, vec![symbol, date.to_string()]),
                    Span::Month(date) => (I::GetAssetValueMonth, vec![symbol, date.to_string()]),
                    Span::Year(date) => (I::GetAssetValueYear, vec![symbol, date.to_string()]),
                    Span::AllTime => (I::GetAssetValueAllTime, vec![symbol]),
                    Span::Bars(resolution, from, to) => (
                        I::GetAssetBars,
                        vec![
                            symbol,
                            resolution.name().to_owned(),
                            from.0.to_string(),
                            to.0.to_string(),
                        ],
                    ),
                }
            }
            Request::Predicted(symbol, days) => {
                (I::GetAssetValuePredicted, vec![symbol.to_string(), days.to_string()])
            }
            Request::SubscribeAssets(symbols) => (I::SubscribeAssets, vec![symbols.text()]),
            Request::UnsubscribeAssets(symbols) => (I::UnsubscribeAssets, vec![symbols.text()]),
            Request::SubscribeOrders(cursor) => {
                let text = cursor.map_or_else(|| "0".to_owned(), |cursor| cursor.to_string());
                (I::SubscribeOrders, vec![text])
            }
            Request::AssetList => (I::GetAssetList, vec![]),
            Request::UserInfo(name) => (I::GetUserInfo, vec![name.to_string()]),
            Request::Portfolio(name) => (I::GetUserPortfolio, vec![name.to_string()]),
            Request::History(name) => (I::GetUserTransactionHistory, vec![name.to_string()]),
            Request::Orders(name) => (I::GetUserOrders, vec![name.to_string()]),
            Request::Order(id) => (I::GetOrder, vec![id.to_string()]),
            Request::Hello => (I::Hello, vec![crate::frame::VERSION.to_string()]),
            Request::Ping(text) => (I::Ping, vec![text.clone()]),
            Request::Goodbye => (I::Goodbye, vec![String::new()]),
        }
    }
}

fn symbols(text: &str) -> Result<Symbols, Reason> {
    if text == "*" {
        return Ok(Symbols::All);
    }
    // Counted before memory is reserved.
    if text.split(' ').count() > MAX_SYMBOLS {
        return Err(Reason::BadArguments);
    }
    Ok(Symbols::These(text.split(' ').map(symbol).collect::<Result<_, _>>()?))
}

fn symbol(text: &str) -> Result<Symbol, Reason> {
    text.parse().map_err(|_| Reason::BadSymbol)
}

fn user(text: &str) -> Result<UserName, Reason> {
    text.parse().map_err(|_| Reason::BadUserName)
}

fn date(text: &str) -> Result<Date, Reason> {
    Date::parse(text).ok_or(Reason::BadDate)
}

fn client_order_id(text: &str) -> Result<ClientOrderId, Reason> {
    text.parse().map_err(|_| Reason::BadClientOrderId)
}

/// A date (its first instant) or nanoseconds since 1970.
fn instant(text: &str) -> Result<MarketTime, Reason> {
    match Date::parse(text) {
        Some(date) => Ok(date.start()),
        None => unsigned(text).parse().map(MarketTime).map_err(|_| Reason::BadRange),
    }
}

/// Rust reads `+5` as a number; the protocol does not. What begins with `+` becomes unreadable.
fn unsigned(text: &str) -> &str {
    if text.starts_with('+') { "" } else { text }
}

fn order_args(name: &str, quantity: &str, id: &str) -> Result<OrderArgs, Reason> {
    let symbol = symbol(name)?;
    let quantity: Quantity = quantity.parse().map_err(|_| Reason::BadQuantity)?;
    if quantity.is_zero() {
        return Err(Reason::BadQuantity);
    }
    Ok(OrderArgs { symbol, quantity, client_order_id: client_order_id(id)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(instruction: Instruction, args: &[&str]) -> Result<Request, Reason> {
        let data = args::join(args);
        Request::parse(instruction, args.len() as u16, data.as_bytes())
    }

    #[test]
    fn malformed_arguments_are_refused_by_name() {
        use Instruction as I;
        let hash = "ab".repeat(32);
        let long_name = "a".repeat(25);
        let long_email = format!("{}@{}", "a".repeat(64), "b".repeat(257));
        let cases: &[(Instruction, &[&str], Reason)] = &[
            (I::Login, &["alice", &hash], Reason::ArgumentCount),
            (I::Login, &["alice", &hash, "true", "x"], Reason::ArgumentCount),
            (I::Login, &[&long_name, &hash, "true"], Reason::BadCredentials),
            (I::Login, &["alice", "secret", "true"], Reason::BadPasswordHash),
            (I::Login, &["alice", &hash, "yes"], Reason::BadArguments),
            (I::Register, &[&long_name, "a@b", &hash], Reason::BadUserName),
            (I::Register, &["alice", &long_email, &hash], Reason::BadEmail),
            (I::Register, &["alice", "nonsense", &hash], Reason::BadEmail),
            (I::ChangePassword, &[&hash, "x"], Reason::BadPasswordHash),
            (I::ChangePassword, &["x", &hash], Reason::BadPasswordHash),
            (I::PurchaseAsset, &["AAPL", "10"], Reason::ArgumentCount),
            (I::PurchaseAsset, &["aapl", "10", "id"], Reason::BadSymbol),
            (I::PurchaseAsset, &["AAPL", "0", "id"], Reason::BadQuantity),
            (I::PurchaseAsset, &["AAPL", "-1", "id"], Reason::BadQuantity),
            (I::PurchaseAsset, &["AAPL", "ten", "id"], Reason::BadQuantity),
            (I::PurchaseAsset, &["AAPL", "0.000000001", "id"], Reason::BadQuantity),
            (I::SellAsset, &["AAPL", "99999999999", "id"], Reason::BadQuantity),
            (I::SellAsset, &["AAPL", "1", "i d"], Reason::BadClientOrderId),
            (I::SwitchState, &["dance"], Reason::BadState),
            (I::GetAssetValueDay, &["AAPL", "2005-02-30"], Reason::BadDate),
            (I::GetAssetBars, &["AAPL", "week", "0", "1"], Reason::BadResolution),
            (I::GetAssetBars, &["AAPL", "day", "2", "1"], Reason::BadRange),
            (I::GetAssetBars, &["AAPL", "day", "x", "1"], Reason::BadRange),
            (I::GetAssetBars, &["AAPL", "day", "+1", "2"], Reason::BadRange),
            (I::GetAssetBars, &["AAPL", "day", "1", "99999999999999999999"], Reason::BadRange),
            (I::GetAssetValuePredicted, &["AAPL", "+5"], Reason::BadHorizon),
            (I::GetAssetValuePredicted, &["AAPL", "0"], Reason::BadHorizon),
            (I::GetAssetValuePredicted, &["AAPL", "61"], Reason::BadHorizon),
            (I::GetUserInfo, &["ä"], Reason::BadUserName),
            (I::OrderQueued, &[], Reason::NotForClients),
            (I::Snapshot, &[], Reason::NotForClients),
        ];
        for (instruction, args, reason) in cases {
            assert_eq!(parse(*instruction, args), Err(*reason), "{instruction:?} {args:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_encodes_to_itself(
            index in 0..Instruction::ALL.len(),
            count in 0u16..6,
            text in "[A-Za-z0-9@. -]{0,40}",
        ) {
            let instruction = Instruction::ALL[index];
            if let Ok(request) = Request::parse(instruction, count, text.as_bytes()) {
                let (again, args) = request.encode();
                prop_assert_eq!(again, instruction);
                let data = args::join(&args);
                prop_assert_eq!(Request::parse(again, args.len() as u16, data.as_bytes()), Ok(request));
            }
        }
    }
}
