//! What came after the first vectors: passwords, log-out everywhere, limits, and the proof of keys.
//!
//! They stand last in the file, so that the request numbers of those before them stay. What is
//! OpenPGP in life is a few bytes here: their form is not this protocol's.

use papertrader_protocol::Fingerprint;

use super::*;

const NEW_HASH: &str = "cfcef661be6dba1f8a083bd0922e1ec529cb5c70306d06c911330bd9d1594f4f";

pub(super) fn later(v: &mut Vectors) {
    accounts(v);
    proof(v);
    pings(v);
    refusals(v);
    super::prices::prices(v);
    streams(v);
}

fn streams(v: &mut Vectors) {
    v.text("subscribeAssets", I::SubscribeAssets, &["AAPL BTC/USD"]);
    v.text("subscribeAssets: all", I::SubscribeAssets, &["*"]);
    v.text("unsubscribeAssets", I::UnsubscribeAssets, &["AAPL"]);
    v.text("subscribed: assets", I::Subscribed, &["2"]);
    v.text("subscribeOrders: from now on", I::SubscribeOrders, &["0"]);
    v.text("subscribeOrders", I::SubscribeOrders, &["12.1330000000000000000.9"]);
    v.text("subscribed: orders", I::Subscribed, &["12.1330000000000000000.9"]);
    failure(v, I::SubscribeFail, Reason::BadCursor);
    let value = AssetValue {
        symbol: "AAPL".parse().expect("a symbol"),
        price: "647.1".parse().expect("a price"),
        time: MARKET,
        previous_close: None,
        snapshot: 77,
        market: MARKET,
    };
    v.data("assetValues", I::AssetValues, false, &AssetValues { values: vec![value] });
    v.data("assetValues: none", I::AssetValues, false, &AssetValues { values: vec![] });
    let order = OrderLine {
        order: 12,
        client_order_id: "my-order".into(),
        side: Side::Buy,
        symbol: "AAPL".parse().expect("a symbol"),
        quantity: "1.5".parse().expect("a quantity"),
        hold: "680.19".parse().expect("an amount"),
        status: OrderStatus::Queued,
        reason: String::new(),
        fill: None,
        received: WALL,
        received_market: MARKET,
        decided: None,
        decided_market: None,
    };
    let cursor = OrderCursor { order: 12, decided: WALL, open: 9 };
    let event = OrderEvent { number: 1, cursor, order };
    v.data("orderEvent", I::OrderEvent, false, &event);
    v.text("streamEnded", I::StreamEnded, &[]);
    let cursor = OrderCursor { order: u64::MAX, decided: WallTime(i64::MIN), open: 0 };
    v.content("OrderCursor at the edges", &cursor);
    v.refused_request("no symbol", I::SubscribeAssets, 1, b"", Reason::BadSymbol);
    v.refused_request("a star among symbols", I::SubscribeAssets, 1, b"AAPL *", Reason::BadSymbol);
    v.refused_request("a cursor with a sign", I::SubscribeOrders, 1, b"+1.2.3", Reason::BadCursor);
    v.refused_request("a cursor of two", I::SubscribeOrders, 1, b"1.2", Reason::BadCursor);
}

fn accounts(v: &mut Vectors) {
    v.text("logoutEverywhere", I::LogoutEverywhere, &[]);
    v.text("changePassword", I::ChangePassword, &[HASH, NEW_HASH]);
    v.text("passwordChanged", I::PasswordChanged, &[]);
    failure(v, I::PasswordFail, Reason::BadCredentials);
    failure(v, I::PasswordFail, Reason::SamePassword);
    v.text(
        "loginFail: tooManyAttempts",
        I::LoginFail,
        &["tooManyAttempts", "too many attempts: wait 12 seconds"],
    );
    failure(v, I::RegisterFail, Reason::TooManyAttempts);
    failure(v, I::PurchaseFail, Reason::PasswordChangeRequired);
    failure(v, I::DataFail, Reason::PasswordChangeRequired);
    for reason in [Reason::TooManyConnections, Reason::Idle] {
        let name = format!("goodbye: {}", reason.code());
        unasked(v, &name, I::Goodbye, &[reason.code().to_owned(), reason.text().to_owned()]);
    }
}

/// A message under request number 0.
fn unasked(v: &mut Vectors, name: &str, instruction: I, arguments: &[String]) {
    let mut bytes = Vec::new();
    put_args(instruction, arguments, 0, SessionId::NONE, &mut bytes);
    v.message(name, &bytes, None);
}

/// Bytes that count upwards.
fn nonce(first: u8) -> Nonce {
    Nonce(std::array::from_fn(|at| first + at as u8))
}

fn statement(role: &str) -> LinkStatement {
    LinkStatement {
        label: "papertrader-link-v1".into(),
        role: role.into(),
        worker: WORKER,
        worker_key: "0123456789ABCDEF0123456789ABCDEF01234567".into(),
        master_key: "89ABCDEF0123456789ABCDEF0123456789ABCDEF".into(),
        certificate: HASH.parse().expect("a fingerprint"),
        worker_nonce: nonce(0x00),
        master_nonce: nonce(0x40),
        exporter: nonce(0x80),
    }
}

fn proof(v: &mut Vectors) {
    v.data("linkOpen", I::LinkOpen, false, &LinkOpen { worker: WORKER, nonce: nonce(0x00) });
    let challenge = LinkChallenge {
        key: b"the master's public key".into(),
        sealed: b"the master's statement, signed and encrypted".into(),
    };
    v.data("linkChallenge", I::LinkChallenge, false, &challenge);
    let sealed = b"the worker's statement, signed and encrypted".into();
    v.data("linkProof", I::LinkProof, false, &LinkProof { sealed });
    unasked(v, "linkProven", I::LinkProven, &[]);
    v.content("LinkStatement of the master", &statement("master"));
    v.content("LinkStatement of the worker", &statement("worker"));
    let edge = LinkStatement {
        label: String::new(),
        role: "ö".into(),
        worker: WorkerId([0; 16]),
        worker_key: String::new(),
        master_key: "F".repeat(64),
        certificate: Fingerprint([0xff; 32]),
        worker_nonce: Nonce([0; 32]),
        master_nonce: Nonce([0xff; 32]),
        exporter: Nonce([0; 32]),
    };
    v.content("LinkStatement at the edges", &edge);
}

fn pings(v: &mut Vectors) {
    let request = v.next();
    let link = LinkHeader {
        worker: WORKER,
        received_at: WALL,
        sequence: 1_767_323_045_123_456_791,
        deadline: WallTime(0),
        client: "[::]:0".parse().expect("an address"),
    };
    let header =
        |instruction: I| Header::new(instruction.message_type(), instruction as u16, request);
    let mut bytes = Vec::new();
    Header { link: Some(link), ..header(I::LinkPing) }
        .encode(&LinkPing { sent: WALL }.to_bytes(), &mut bytes);
    v.message("linkPing", &bytes, Some("LinkPing"));
    bytes.clear();
    let pong = LinkPong { sent: WALL, clock: WallTime(WALL.0 - 1) };
    header(I::LinkPong).encode(&pong.to_bytes(), &mut bytes);
    v.message("linkPong", &bytes, Some("LinkPong"));
    let edges = WorkerStatus {
        started: WallTime(i64::MIN),
        clients: u32::MAX,
        load: u32::MAX,
        sessions: 0,
        orders: u32::MAX,
        cache_bytes: u64::MAX,
        cache_limit: 0,
        cache_hits: u64::MAX,
        cache_misses: 0,
        cache_evictions: u64::MAX,
        outgoing_bytes: u64::MAX,
        refused_connections: 0,
        cut_connections: u64::MAX,
        throttled_requests: 0,
        round_trip: 0,
        clock_offset: i64::MIN,
    };
    v.data("workerStatus at the edges", I::WorkerStatus, false, &edges);
}

fn refusals(v: &mut Vectors) {
    use Reason as R;
    v.refused_request(
        "changePassword without the new one",
        I::ChangePassword,
        1,
        HASH.as_bytes(),
        R::ArgumentCount,
    );
    v.refused_request(
        "a new hashedPass in upper case",
        I::ChangePassword,
        2,
        format!("{HASH} {}", NEW_HASH.to_uppercase()).as_bytes(),
        R::BadPasswordHash,
    );
    v.refused_request(
        "logoutEverywhere with an argument",
        I::LogoutEverywhere,
        1,
        b"x",
        R::ArgumentCount,
    );
    v.refused_request("a proof from a client", I::LinkOpen, 0, b"", R::NotForClients);
    let open = LinkOpen { worker: WORKER, nonce: nonce(0) }.to_bytes();
    v.refused("a nonce of 31 bytes", "LinkOpen", "short", &open[..47]);
    v.refused("a nonce of 33 bytes", "LinkOpen", "trailing", &[open.as_slice(), &[0]].concat());
    v.refused("bytes longer than the data", "LinkProof", "short", &[0, 0, 0, 2, 0xff]);
    v.refused("bytes with a huge length", "LinkChallenge", "short", &[0xff; 64]);
    let signed = statement("worker").to_bytes();
    v.refused("a statement that ends early", "LinkStatement", "short", &signed[..signed.len() - 1]);
    v.refused(
        "a statement with a byte left over",
        "LinkStatement",
        "trailing",
        &[signed.as_slice(), &[0]].concat(),
    );
}
