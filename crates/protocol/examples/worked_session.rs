//! Prints the worked session of `docs/protocol.md`: what a client and a worker say to each other,
//! byte by byte. A test compares the document with what this prints.
//!
//! Each message is two or more lines: who says what; the header's fields up to `requestNumber`,
//! then `sessionID`; then the data.

use papertrader_core::names::Symbol;
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, SECOND, WallTime};
use papertrader_protocol::data::{AssetValue, WorkerLine, WorkerList};
use papertrader_protocol::frame::HEADER;
use papertrader_protocol::instruction::State;
use papertrader_protocol::request::{HashedPass, OrderArgs};
use papertrader_protocol::returns::{
    FilledOrder, QueuedOrder, Return, SessionGrant, Welcome, put_args,
};
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Header, Instruction, Request, SessionId, transfer};

/// What stands in the document.
pub(crate) fn text() -> String {
    let mut session = Session::default();
    converse(&mut session).expect("every value of the session is valid");
    session.printed
}

#[allow(dead_code, reason = "a test includes this file for `text`")]
fn main() {
    print!("{}", text());
}

#[derive(Default)]
struct Session {
    printed: String,
    request: u64,
    id: SessionId,
}

impl Session {
    /// The client asks, under the next request number.
    fn ask(&mut self, request: &Request) {
        self.request += 1;
        let (instruction, arguments) = request.encode();
        let session = if instruction.needs_session() { self.id } else { SessionId::NONE };
        let mut bytes = Vec::new();
        put_args(instruction, &arguments, self.request, session, &mut bytes);
        self.print("client", &bytes);
    }

    /// The worker answers the request with a number.
    fn answer(&mut self, request: u64, answer: &Return) {
        let mut bytes = Vec::new();
        answer.put(request, &mut bytes);
        self.print("worker", &bytes);
    }

    /// The worker sends data, in one packet.
    fn data(&mut self, request: u64, instruction: Instruction, data: &impl Wire) {
        let header = Header::new(instruction.message_type(), instruction as u16, request);
        let mut bytes = Vec::new();
        transfer::encode(header, &data.to_bytes(), &mut bytes);
        self.print("worker", &bytes);
    }

    fn print(&mut self, who: &str, bytes: &[u8]) {
        let decoded = Frame::decode(bytes).ok().flatten();
        let (frame, _) = decoded.expect("what was encoded is a whole frame");
        let instruction = Instruction::from_number(frame.header.instruction);
        let name = instruction.map_or("?", Instruction::name);
        let words = match std::str::from_utf8(frame.data) {
            Ok(words) if frame.header.argument_count > 0 => format!(" {words}"),
            _ => String::new(),
        };
        self.line(format!("{who}: {name}{words}").trim_end());
        let fields = [0..2, 2..4, 4..8, 8..10, 10..12, 12..14, 14..15, 15..16, 16..24];
        let fields: Vec<String> = fields.into_iter().map(|field| hex(&bytes[field])).collect();
        self.line(&format!("  {}", fields.join(" ")));
        self.line(&format!("  {}", hex(&bytes[24..HEADER])));
        for piece in frame.data.chunks(32) {
            self.line(&format!("  {}", hex(piece)));
        }
    }

    fn line(&mut self, line: &str) {
        self.printed.push_str(line);
        self.printed.push('\n');
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn converse(session: &mut Session) -> Option<()> {
    let deployment = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
    let name: papertrader_core::names::UserName = "Alice".parse().ok()?;
    let pass = "181204a70d7f0e28c6afc641a6195af989d663f297eb77da69e696c4cff254a6";
    let pass = HashedPass::parse(pass)?;
    let symbol: Symbol = "AAPL".parse().ok()?;
    let id: papertrader_core::names::ClientOrderId = "a-1".parse().ok()?;
    let market = MarketTime(1_112_279_400 * SECOND);
    let later = MarketTime(market.0 + 60 * SECOND);
    let wall = WallTime(1_767_323_045_123_456_789);
    let (price, amount) = ("43.24".parse().ok()?, "432.40".parse().ok()?);

    session.ask(&Request::Hello);
    let welcome = Welcome {
        version: 1,
        deployment: deployment.to_owned(),
        interval: 5 * SECOND,
        market,
        server: "worker one".to_owned(),
    };
    session.answer(1, &Return::Welcome(welcome));

    let email = "alice@example.org".parse().ok()?;
    session.ask(&Request::Register { name: name.clone(), email, pass: pass.clone() });
    session.answer(2, &Return::Registered("Alice".to_owned()));

    session.ask(&Request::Login { name, pass, expirable: true });
    session.id =
        SessionId::from_bytes(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes());
    let expires = WallTime(wall.0 + 30 * 86_400 * SECOND);
    let grant = SessionGrant { session: session.id, expires, name: "Alice".to_owned() };
    session.answer(3, &Return::Session(grant));
    let line = WorkerLine {
        name: "worker one".to_owned(),
        address: "127.0.0.1:2049".to_owned(),
        web: String::new(),
        fingerprint: String::new(),
        region: String::new(),
        load: 1,
    };
    session.data(3, Instruction::WorkerList, &WorkerList { workers: vec![line] });

    let quantity = "10".parse().ok()?;
    let order = OrderArgs { symbol, quantity, client_order_id: id.clone() };
    session.ask(&Request::PurchaseAsset(order));
    let queued = QueuedOrder {
        order: 42,
        client_order_id: id.clone(),
        side: Side::Buy,
        symbol,
        quantity,
        hold: "449.40".parse().ok()?,
        waiting: "-".to_owned(),
    };
    session.answer(4, &Return::OrderQueued(queued));
    let fill = FilledOrder {
        order: 42,
        client_order_id: id,
        symbol,
        quantity,
        price,
        amount,
        market: later,
        wall: WallTime(wall.0 + 5 * SECOND),
    };
    session.answer(4, &Return::Filled(Side::Buy, fill));

    session.ask(&Request::SwitchState(State::DataTransfer));
    session.answer(5, &Return::StateSwitched(State::DataTransfer));
    session.ask(&Request::AssetValue(symbol));
    let value = AssetValue {
        symbol,
        price,
        time: later,
        previous_close: Some("42.80".parse().ok()?),
        snapshot: 78,
        market: later,
    };
    session.data(6, Instruction::Data, &value);
    session.ask(&Request::SwitchState(State::Command));
    session.answer(7, &Return::StateSwitched(State::Command));

    session.ask(&Request::Logout);
    session.answer(8, &Return::LoggedOut);
    session.ask(&Request::Goodbye);
    Some(())
}
