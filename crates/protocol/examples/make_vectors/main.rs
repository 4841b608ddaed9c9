//! Writes `vectors/vectors.json`: one example at least of everything that can be said, values at
//! their edges, and bytes that must be refused.
//!
//! Run it only to add vectors: `cargo run -p papertrader-protocol --example make_vectors`. What it
//! writes is to be read before it is committed; published vectors never change. The tests do not
//! use it.

#[path = "../../tests/vector_format/mod.rs"]
mod vector_format;

mod later;
mod prices;
mod refusals;

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::WorkerId;
use papertrader_core::money::{Cash, MAX_CASH, MAX_PRICE, Price, Quantity, Volume};
use papertrader_core::names::Symbol;
use papertrader_core::order::Side;
use papertrader_core::time::{DAY, Date, MarketTime, SECOND, WallTime};
use papertrader_protocol::data::*;
use papertrader_protocol::frame::{LinkHeader, MAX_DATA};
use papertrader_protocol::instruction::MessageType;
use papertrader_protocol::link::*;
use papertrader_protocol::returns::put_args;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction as I, Reason, SessionId, args, transfer};
use serde_json::{Value, json};
use vector_format::{decode_data, describe, hex};

const DEPLOYMENT: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const HASH: &str = "181204a70d7f0e28c6afc641a6195af989d663f297eb77da69e696c4cff254a6";
const SESSION: SessionId =
    SessionId::from_bytes(*b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff");
const WORKER: WorkerId =
    WorkerId(*b"\x4f\x9d\x2a\x10\x6b\x3c\x4e\x8f\xa1\x57\x0c\xd2\x33\x9b\x71\xe4");
/// 2005-03-31T14:30Z.
const MARKET: MarketTime = MarketTime(1_112_279_400 * SECOND);
const WALL: WallTime = WallTime(1_767_323_045_123_456_789);
const SOURCE: &str = "replay of recorded daily prices";

/// All vectors so far.
#[derive(Default)]
struct Vectors {
    all: Vec<Value>,
    request: u64,
}

impl Vectors {
    fn message(&mut self, name: &str, bytes: &[u8], data_type: Option<&str>) {
        let fields = describe(bytes, data_type);
        self.all
            .push(json!({"name": name, "kind": "message", "hex": hex(bytes), "fields": fields}));
    }

    fn next(&mut self) -> u64 {
        self.request += 1;
        self.request
    }

    /// A message with text arguments.
    fn text(&mut self, name: &str, instruction: I, arguments: &[&str]) {
        let session = if instruction.needs_session() { SESSION } else { SessionId::NONE };
        let request = self.next();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let mut bytes = Vec::new();
        put_args(instruction, &arguments, request, session, &mut bytes);
        self.message(name, &bytes, None);
    }

    /// A message with binary data.
    fn data<T: Wire>(&mut self, name: &str, instruction: I, is_final: bool, data: &T) {
        let type_name = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
        let prices = matches!(instruction, I::Snapshot | I::SnapshotStep | I::SnapshotDifference);
        let push = prices || matches!(instruction, I::SessionEnded | I::LinkWelcome);
        let opening = matches!(instruction, I::LinkOpen | I::LinkChallenge | I::LinkProof);
        let request = if push || opening { 0 } else { self.next() };
        let header = Header::new(instruction.message_type(), instruction as u16, request);
        let mut bytes = Vec::new();
        transfer::encode(Header { is_final, ..header }, &data.to_bytes(), &mut bytes);
        self.message(name, &bytes, Some(type_name));
    }

    /// Data that is the data of no message, but stands inside of it.
    fn content<T: Wire>(&mut self, name: &str, data: &T) {
        let type_name = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
        let bytes = data.to_bytes();
        let value = decode_data(type_name, &bytes).expect("data of its type");
        let fields = json!({"dataType": type_name, "data": value});
        self.all.push(json!({"name": name, "kind": "data", "hex": hex(&bytes), "fields": fields}));
    }

    fn refused(&mut self, name: &str, read_as: &str, error: &str, bytes: &[u8]) {
        let vector = json!({"name": name, "kind": "refused", "as": read_as, "error": error, "hex": hex(bytes)});
        self.all.push(vector);
    }

    /// A request whose arguments are refused.
    fn refused_request(
        &mut self,
        name: &str,
        instruction: I,
        count: u16,
        data: &[u8],
        why: Reason,
    ) {
        let request = self.next();
        let mut header = Header::new(instruction.message_type(), instruction as u16, request);
        header.argument_count = count;
        if instruction.needs_session() {
            header.session = SESSION;
        }
        let mut bytes = Vec::new();
        header.encode(data, &mut bytes);
        self.refused(name, "request", why.code(), &bytes);
    }
}

fn symbol(text: &str) -> Symbol {
    text.parse().expect("a symbol")
}

fn price(text: &str) -> Price {
    text.parse().expect("a price")
}

fn quantity(text: &str) -> Quantity {
    text.parse().expect("a quantity")
}

fn cash(text: &str) -> Cash {
    text.parse().expect("an amount")
}

fn main() {
    let mut vectors = Vectors::default();
    requests(&mut vectors);
    returns(&mut vectors);
    market_data(&mut vectors);
    user_data(&mut vectors);
    link(&mut vectors);
    passwords(&mut vectors);
    refusals::refusals(&mut vectors);
    later::later(&mut vectors);
    let lines: Vec<String> = vectors.all.iter().map(Value::to_string).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/vectors.json");
    std::fs::write(path, format!("[\n{}\n]\n", lines.join(",\n")))
        .expect("the file can be written");
    println!("{} vectors are in {path}", lines.len());
}

fn requests(v: &mut Vectors) {
    v.text("hello", I::Hello, &["1"]);
    v.text("register", I::Register, &["Alice", "alice@example.org", HASH]);
    let longest_name = "Abcdefghij_klmnop-qrst.24";
    let longest_email = format!("{}@{}", "a".repeat(64), "b".repeat(256));
    v.text(
        "register with the longest name and email address",
        I::Register,
        &[&longest_name[..24], &longest_email, HASH],
    );
    v.text(
        "register with an email address in Unicode",
        I::Register,
        &["b", "bö@exämple.org", HASH],
    );
    v.text("login, isExpirable true", I::Login, &["Alice", HASH, "true"]);
    v.text("login, isExpirable false", I::Login, &["alice", HASH, "false"]);
    v.text("loginSession", I::LoginSession, &[]);
    v.text(
        "purchaseAsset",
        I::PurchaseAsset,
        &["AAPL", "10", "0198c2e4-7a10-7c3e-9d55-2f6c1b8e4a01"],
    );
    v.text(
        "purchaseAsset with the longest arguments",
        I::PurchaseAsset,
        &["A2345678901234567890123", "1000000000", &"~".repeat(128)],
    );
    v.text("sellAsset with decimals", I::SellAsset, &["BTC/USD", "0.00000001", "!"]);
    v.text("switchState to data", I::SwitchState, &["data"]);
    v.text("switchState to command", I::SwitchState, &["command"]);
    v.text("getWorkerList", I::GetWorkerList, &[]);
    v.text("cancelOrder", I::CancelOrder, &["0198c2e4-7a10-7c3e-9d55-2f6c1b8e4a01"]);
    v.text("logout", I::Logout, &[]);
    v.text("getAssetInfo", I::GetAssetInfo, &["AAPL"]);
    v.text("getAssetValueCurrent", I::GetAssetValueCurrent, &["^GSPC"]);
    v.text("getAssetValueDay", I::GetAssetValueDay, &["AAPL", "2005-03-31"]);
    v.text("getAssetValueWeek", I::GetAssetValueWeek, &["AAPL", "2004-02-29"]);
    v.text("getAssetValueMonth", I::GetAssetValueMonth, &["AAPL", "0001-01-01"]);
    v.text("getAssetValueYear", I::GetAssetValueYear, &["AAPL", "9999-12-31"]);
    v.text("getAssetValueAllTime", I::GetAssetValueAllTime, &["BRK.B"]);
    v.text("getAssetValuePredicted", I::GetAssetValuePredicted, &["AAPL", "60"]);
    v.text(
        "getAssetBars with dates",
        I::GetAssetBars,
        &["AAPL", "hour", "2005-03-01", "2005-04-01"],
    );
    v.text(
        "getAssetBars with the ends of time",
        I::GetAssetBars,
        &["AAPL", "interval", "-9223372036854775808", "9223372036854775807"],
    );
    v.text("getAssetList", I::GetAssetList, &[]);
    v.text("getUserInfo", I::GetUserInfo, &["Alice"]);
    v.text("getUserPortfolio", I::GetUserPortfolio, &["alice"]);
    v.text("getUserTransactionHistory", I::GetUserTransactionHistory, &["alice"]);
    v.text("getUserOrders", I::GetUserOrders, &["alice"]);
    v.text("getOrder", I::GetOrder, &["0198c2e4-7a10-7c3e-9d55-2f6c1b8e4a01"]);
    v.text("ping with an empty text", I::Ping, &[""]);
    v.text("ping with spaces and Unicode", I::Ping, &[" two  spaces, ☂ and 𝄞 "]);
    v.text("ping with the most data of a frame", I::Ping, &[&"x".repeat(MAX_DATA)]);
    v.text("goodbye of a client", I::Goodbye, &[""]);
    let mut bytes = Vec::new();
    put_args(I::Ping, &["last".to_owned()], u64::MAX, SessionId::NONE, &mut bytes);
    v.message("ping with the largest requestNumber", &bytes, None);
}

fn failure(v: &mut Vectors, instruction: I, reason: Reason) {
    let name = format!("{}: {}", instruction.name(), reason.code());
    v.text(&name, instruction, &[reason.code(), reason.text()]);
}

fn returns(v: &mut Vectors) {
    v.text(
        "welcome",
        I::Welcome,
        &["1", DEPLOYMENT, "5000000000", "1112279400000000000", "worker one"],
    );
    v.text(
        "sessionID",
        I::SessionId,
        &["00112233445566778899aabbccddeeff", "1769915045123456789", "Alice"],
    );
    v.text("registerSuccess", I::RegisterSuccess, &["Alice"]);
    v.text(
        "orderQueued for the next price",
        I::OrderQueued,
        &["42", "a-1", "buy", "AAPL", "10", "454.02", "-"],
    );
    v.text(
        "orderQueued that waits",
        I::OrderQueued,
        &["18446744073709551615", "a-2", "sell", "AAPL", "0.5", "0.00", "marketClosed"],
    );
    let fill = [
        "42",
        "a-1",
        "AAPL",
        "10",
        "43.24",
        "432.40",
        "1112279460000000000",
        "1767323050123456789",
    ];
    v.text("purchaseSuccess", I::PurchaseSuccess, &fill);
    v.text(
        "sellSuccess before 1970",
        I::SellSuccess,
        &["7", "a-3", "AAPL", "0.00000001", "0.00000001", "0.00", "-1", "1"],
    );
    v.text("stateSwitchSuccess", I::StateSwitchSuccess, &["data"]);
    v.text("cancelSuccess", I::CancelSuccess, &["a-2"]);
    v.text("logoutSuccess", I::LogoutSuccess, &[]);
    v.text("pong with an empty text", I::Pong, &[""]);
    v.text("pong with spaces and Unicode", I::Pong, &[" two  spaces, ☂ and 𝄞 "]);
    failure(v, I::LoginFail, Reason::BadCredentials);
    failure(v, I::RegisterFail, Reason::NameTaken);
    failure(v, I::PurchaseFail, Reason::InsufficientCash);
    failure(v, I::SellFail, Reason::DeadlinePassed);
    failure(v, I::StateSwitchFail, Reason::BadState);
    failure(v, I::DataFail, Reason::FutureDate);
    failure(v, I::CancelFail, Reason::OrderDone);
    failure(v, I::CommandFail, Reason::UnknownInstruction);
    failure(v, I::LinkRefused, Reason::NotAuthorized);
    failure(v, I::Goodbye, Reason::ShuttingDown);
    v.text(
        "purchaseFail with an unknown word and no text",
        I::PurchaseFail,
        &["wordOfTheFuture", ""],
    );
}

fn bar(start: MarketTime, close: &str) -> Bar {
    Bar {
        start,
        open: price("43.1"),
        high: price("44.025"),
        low: price("42.99"),
        close: price(close),
        volume: Volume::from_units(1_234_567),
    }
}

fn market_data(v: &mut Vectors) {
    let info = AssetInfo {
        symbol: symbol("AAPL"),
        name: "Apple Inc.".into(),
        kind: AssetKind::Stock,
        source: SOURCE.into(),
        open: price("43.1"),
        high: price("44.025"),
        low: price("42.99"),
        close: price("43.24"),
        volume: Volume::from_units(1_234_567),
        previous_close: Some(price("42.8")),
        time: MARKET,
        snapshot: 77,
        market: MarketTime(MARKET.0 + 60 * SECOND),
    };
    v.data("data of getAssetInfo", I::Data, false, &info);
    let edge = AssetInfo {
        symbol: symbol("A"),
        name: "Nämé ☂ 𝄞".into(),
        kind: AssetKind::Synthetic,
        source: String::new(),
        open: Price::from_raw(1).expect("the smallest price"),
        high: MAX_PRICE,
        volume: Volume::from_raw(i64::MAX),
        previous_close: None,
        time: MarketTime(i64::MIN),
        snapshot: u64::MAX,
        market: MarketTime(i64::MAX),
        ..info
    };
    v.data("data of getAssetInfo at the edges", I::Data, false, &edge);
    let value = AssetValue {
        symbol: symbol("AAPL"),
        price: price("43.24"),
        time: MARKET,
        previous_close: Some(price("42.8")),
        snapshot: 77,
        market: MARKET,
    };
    v.data("data of getAssetValueCurrent", I::Data, false, &value);
    let none = AssetValue { previous_close: None, ..value };
    v.data("data of getAssetValueCurrent on an asset's first day", I::Data, false, &none);

    let bars = |resolution, bars| Bars {
        symbol: symbol("AAPL"),
        resolution,
        interval: 60 * SECOND,
        market: MARKET,
        source: SOURCE.into(),
        bars,
    };
    let day = Date::new(2005, 3, 24).expect("a date").start();
    let week = [0, 1, 4, 5, 6].map(|n| bar(day.plus_nanos(n * DAY), "43.24")).to_vec();
    v.data("data of getAssetValueWeek, final", I::Data, true, &bars(Resolution::Day, week));
    v.data("data of getAssetBars without bars", I::Data, true, &bars(Resolution::Hour, vec![]));
    let months = vec![bar(MarketTime(-DAY), "43"), bar(MarketTime(0), "43.5")];
    v.data(
        "data of getAssetValueYear around 1970",
        I::Data,
        false,
        &bars(Resolution::Month, months),
    );
    let minutes: Vec<Bar> =
        (0..345).map(|n| bar(MARKET.plus_nanos((n - 345) * 60 * SECOND), "43.24")).collect();
    v.data(
        "data of getAssetValueDay in two packets",
        I::Data,
        false,
        &bars(Resolution::Interval, minutes),
    );

    let line = |text, price, time, previous_close| AssetLine {
        symbol: symbol(text),
        name: format!("{text} in full"),
        kind: AssetKind::Stock,
        price,
        time,
        previous_close,
    };
    let assets = vec![
        line("AAPL", Some(price("43.24")), Some(MARKET), Some(price("42.8"))),
        line("NEW", None, None, None),
    ];
    let list = AssetList { market: MARKET, snapshot: 77, ended: false, assets };
    v.data("data of getAssetList", I::Data, false, &list);
    let nothing = AssetList { ended: true, assets: vec![], ..list };
    v.data(
        "data of getAssetList without assets, at the end of the prices",
        I::Data,
        false,
        &nothing,
    );

    let prediction = Prediction {
        symbol: symbol("AAPL"),
        model: "random walk with drift (baseline)".into(),
        based_on: 500,
        confidence: 9_500,
        last: price("43.24"),
        market: MARKET,
        values: vec![
            PredictedValue {
                day: 1,
                low: price("41.8"),
                expected: price("43.26"),
                high: price("44.77"),
            },
            PredictedValue {
                day: 2,
                low: price("41.22"),
                expected: price("43.28"),
                high: price("45.44"),
            },
        ],
    };
    v.data("data of getAssetValuePredicted", I::Data, false, &prediction);
}

fn user_data(v: &mut Vectors) {
    let private = UserInfoPrivate {
        email: "alice@example.org".into(),
        is_password: true,
        cash: cash("99567.60"),
        held_cash: cash("454.02"),
        equity: cash("100000"),
        granted: cash("100000"),
        open_orders: 1,
    };
    let info = UserInfo { name: "Alice".into(), since: WALL, private: Some(private) };
    v.data("data of getUserInfo of oneself", I::Data, false, &info);
    let public = UserInfo { private: None, ..info };
    v.data("data of getUserInfo of somebody else", I::Data, false, &public);

    let position = PositionLine {
        symbol: symbol("AAPL"),
        quantity: quantity("10.5"),
        held: quantity("0.00000001"),
        cost: cash("454.02"),
        price: Some(price("43.24")),
        value: cash("454.02"),
    };
    let priceless =
        PositionLine { symbol: symbol("NEW"), price: None, value: Cash::ZERO, ..position.clone() };
    let portfolio = Portfolio {
        name: "Alice".into(),
        market: MARKET,
        return_bp: -1,
        private: Some(PortfolioPrivate {
            cash: MAX_CASH,
            held_cash: Cash::ZERO,
            granted: cash("100000"),
            equity: MAX_CASH,
            positions: vec![position, priceless],
        }),
    };
    v.data("data of getUserPortfolio of oneself", I::Data, false, &portfolio);
    let public = Portfolio { return_bp: 1_234, private: None, ..portfolio };
    v.data("data of getUserPortfolio of somebody else", I::Data, false, &public);

    let grant = HistoryLine {
        kind: HistoryKind::Grant,
        order: None,
        client_order_id: String::new(),
        side: None,
        symbol: None,
        quantity: Quantity::ZERO,
        price: None,
        amount: cash("100000"),
        reason: String::new(),
        wall: WALL,
        market: MARKET,
    };
    let buy = HistoryLine {
        kind: HistoryKind::Buy,
        order: Some(42),
        client_order_id: "a-1".into(),
        side: Some(Side::Buy),
        symbol: Some(symbol("AAPL")),
        quantity: quantity("10"),
        price: Some(price("43.24")),
        amount: Cash::from_cents(-43_240),
        ..grant.clone()
    };
    let sell = HistoryLine {
        kind: HistoryKind::Sell,
        side: Some(Side::Sell),
        amount: cash("432.39"),
        ..buy.clone()
    };
    let refused = HistoryLine {
        kind: HistoryKind::Rejected,
        price: None,
        amount: Cash::ZERO,
        reason: "insufficientCash".into(),
        ..buy.clone()
    };
    let cancelled =
        HistoryLine { kind: HistoryKind::Cancelled, reason: String::new(), ..refused.clone() };
    let expired = HistoryLine {
        kind: HistoryKind::Expired,
        reason: "orderExpired".into(),
        ..refused.clone()
    };
    let split = HistoryLine {
        kind: HistoryKind::Split,
        symbol: Some(symbol("AAPL")),
        quantity: Quantity::from_raw(-525_000_000),
        amount: cash("0.01"),
        ..grant.clone()
    };
    let lines = vec![expired, cancelled, refused, split, sell, buy, grant];
    let history =
        History { name: "Alice".into(), private: Some(HistoryPrivate { more: true, lines }) };
    v.data("data of getUserTransactionHistory of oneself", I::Data, false, &history);
    let public = History { private: None, ..history };
    v.data("data of getUserTransactionHistory of somebody else", I::Data, false, &public);

    let queued = OrderLine {
        order: 43,
        client_order_id: "a-2".into(),
        side: Side::Buy,
        symbol: symbol("AAPL"),
        quantity: quantity("10"),
        hold: cash("454.02"),
        status: OrderStatus::Queued,
        reason: "priceStale".into(),
        fill: None,
        received: WALL,
        received_market: MARKET,
        decided: None,
        decided_market: None,
    };
    let fill = FillLine {
        quantity: quantity("10"),
        price: price("43.24"),
        amount: cash("432.40"),
        snapshot: 78,
    };
    let done = OrderLine {
        hold: Cash::ZERO,
        reason: String::new(),
        decided: Some(WallTime(WALL.0 + 5 * SECOND)),
        decided_market: Some(MarketTime(MARKET.0 + 60 * SECOND)),
        ..queued.clone()
    };
    let filled = OrderLine { status: OrderStatus::Filled, fill: Some(fill), ..done.clone() };
    let rejected =
        OrderLine { status: OrderStatus::Rejected, reason: "noPrice".into(), ..done.clone() };
    let cancelled = OrderLine { status: OrderStatus::Cancelled, side: Side::Sell, ..done.clone() };
    let expired = OrderLine { status: OrderStatus::Expired, reason: "orderExpired".into(), ..done };
    v.data("data of getOrder, queued", I::Data, false, &queued);
    v.data("data of getOrder, filled", I::Data, false, &filled);
    let orders = vec![queued, filled, rejected, cancelled, expired];
    let orders = Orders { name: "Alice".into(), more: false, orders };
    v.data("data of getUserOrders of oneself", I::Data, false, &orders);
    let public = Orders { more: false, orders: vec![], ..orders };
    v.data("data of getUserOrders of somebody else", I::Data, false, &public);

    let line = WorkerLine {
        name: "worker one".into(),
        address: "eu.papertrader.example:2049".into(),
        web: "https://eu.papertrader.example".into(),
        fingerprint: HASH.into(),
        region: "eu-west".into(),
        load: u32::MAX,
    };
    let plain = WorkerLine {
        name: "worker two".into(),
        address: "[2001:db8::1]:2049".into(),
        web: String::new(),
        fingerprint: String::new(),
        region: String::new(),
        load: 0,
    };
    v.data("workerList", I::WorkerList, false, &WorkerList { workers: vec![line, plain] });
    v.data("workerList without workers", I::WorkerList, false, &WorkerList { workers: vec![] });
}

fn link(v: &mut Vectors) {
    let header = LinkHeader {
        worker: WORKER,
        received_at: WALL,
        sequence: 1_767_323_045_123_456_790,
        deadline: WallTime(WALL.0 + 10 * SECOND),
        client: "192.0.2.7:50123".parse().expect("an address"),
    };
    let mut forwarded = |name: &str, instruction: I, data: &str, session, link| {
        let request = v.next();
        let header = Header {
            argument_count: data.split(' ').count() as u16,
            session,
            link: Some(link),
            ..Header::new(instruction.message_type(), instruction as u16, request)
        };
        let mut bytes = Vec::new();
        header.encode(data.as_bytes(), &mut bytes);
        v.message(name, &bytes, None);
    };
    forwarded("purchaseAsset on a link", I::PurchaseAsset, "AAPL 10 a-1", SESSION, header);
    let six = LinkHeader {
        received_at: WallTime(-1),
        sequence: u64::MAX,
        deadline: WallTime(0),
        client: "[2001:db8::7]:65535".parse().expect("an address"),
        ..header
    };
    let login = format!("Alice {HASH} true");
    forwarded("login on a link, client with IPv6", I::Login, &login, SessionId::NONE, six);
    let hello = LinkHello {
        worker: WORKER,
        version: "0.1.0".into(),
        address: "eu.papertrader.example:2049".into(),
        web: "https://eu.papertrader.example".into(),
        fingerprint: HASH.into(),
        region: "eu-west".into(),
        clock: WALL,
    };
    v.data("linkHello", I::LinkHello, false, &hello);
    let welcome = LinkWelcome {
        deployment: DEPLOYMENT.into(),
        name: "worker one".into(),
        clock: WALL,
        interval: 5 * SECOND,
        bar_interval: 60 * SECOND,
        source: SOURCE.into(),
    };
    v.data("linkWelcome", I::LinkWelcome, false, &welcome);
    v.data(
        "sessionPresence",
        I::SessionPresence,
        false,
        &SessionPresence { session: SESSION, present: true },
    );
    v.data("sessionEnded", I::SessionEnded, false, &SessionEnded { session: SESSION });
    let status = WorkerStatus {
        started: WallTime(WALL.0 - 3_600 * SECOND),
        clients: 1_000,
        load: 66,
        sessions: 900,
        orders: 3,
        cache_bytes: 12_345_678,
        cache_limit: 67_108_864,
        cache_hits: 5_000_000_000,
        cache_misses: 1_234,
        cache_evictions: 321,
        outgoing_bytes: 65_536,
        refused_connections: 12,
        cut_connections: 34,
        throttled_requests: 56,
        round_trip: 1_500_000,
        clock_offset: -250_000,
    };
    v.data("workerStatus", I::WorkerStatus, false, &status);
}

/// Computed with another implementation, Python's `hashlib.pbkdf2_hmac`.
fn passwords(v: &mut Vectors) {
    let rows = [
        ("correct horse battery staple", "Alice", HASH),
        (
            "pässwörd",
            "bob_2-x.Y",
            "cfcef661be6dba1f8a083bd0922e1ec529cb5c70306d06c911330bd9d1594f4f",
        ),
    ];
    for (password, name, hashed) in rows {
        let salt = format!("papertrader-password-v1\0{DEPLOYMENT}\0{}", name.to_lowercase());
        v.all.push(json!({
            "name": format!("hashedPass of {name}"),
            "kind": "hashedPass",
            "hex": hex(salt.as_bytes()),
            "fields": {
                "password": password, "deploymentID": DEPLOYMENT, "username": name,
                "hashedPass": hashed,
            },
        }));
    }
}
