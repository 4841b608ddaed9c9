//! How `vectors/vectors.json` writes values down, and the way back.
//!
//! Numbers of up to 32 bits are JSON numbers; those of 64 bits, times and amounts are decimal
//! strings, because JSON's numbers are not exact beyond 2^53. It does not know what any value
//! ought to be: the file is what is checked.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::WorkerId;
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::names::Symbol;
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_protocol::data::*;
use papertrader_protocol::link::*;
use papertrader_protocol::push::*;
use papertrader_protocol::returns::side_name;
use papertrader_protocol::wire::{DecodeError, Wire};
use papertrader_protocol::{Fingerprint, Frame, SessionId};
use serde_json::{Map, Value, json};

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2) && digits.is_ascii(), "not hexadecimal: {digits:?}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

/// `raw / 10^scale` as text, with at least `least` decimals and no needless ones.
pub(crate) fn decimal(raw: i64, scale: usize, least: usize) -> String {
    let digits = format!("{:0>width$}", raw.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let mut fraction = fraction.trim_end_matches('0').to_owned();
    while fraction.len() < least {
        fraction.push('0');
    }
    let sign = if raw < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

fn raw(text: &str, scale: usize) -> i64 {
    let (sign, magnitude) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    let padded = format!("{sign}{whole}{fraction:0<scale$}");
    padded.parse().expect("a decimal of 64 bits")
}

/// A value and its JSON.
pub(crate) trait Json: Sized {
    /// As JSON.
    fn to_json(&self) -> Value;
    /// From JSON; panics on anything else.
    fn from_json(value: &Value) -> Self;
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a string is due, not {value}"))
}

/// Implements [`Json`]: `|value| as a JSON value`, `|json| back`.
macro_rules! json_values {
    ($($type:ty: $to:expr, $from:expr;)*) => {$(
        impl Json for $type {
            fn to_json(&self) -> Value {
                let to: fn(&$type) -> Value = $to;
                to(self)
            }
            fn from_json(value: &Value) -> $type {
                let from: fn(&Value) -> $type = $from;
                from(value)
            }
        }
    )*};
}

json_values! {
    bool: |v| json!(v), |j| j.as_bool().expect("a bool");
    u16: |v| json!(v), |j| j.as_u64().expect("a number").try_into().expect("16 bits");
    u32: |v| json!(v), |j| j.as_u64().expect("a number").try_into().expect("32 bits");
    u64: |v| json!(v.to_string()), |j| text(j).parse().expect("64 bits");
    i64: |v| json!(v.to_string()), |j| text(j).parse().expect("64 bits");
    String: |v| json!(v), |j| text(j).to_owned();
    Symbol: |v| json!(v.as_str()), |j| text(j).parse().expect("a symbol");
    Cash: |v| json!(decimal(v.cents(), 2, 2)), |j| Cash::from_cents(raw(text(j), 2));
    Price: |v| json!(decimal(v.raw(), 8, 2)), |j| Price::from_raw(raw(text(j), 8)).expect("a price");
    Quantity: |v| json!(decimal(v.raw(), 8, 0)), |j| Quantity::from_raw(raw(text(j), 8));
    Volume: |v| json!(decimal(v.raw(), 8, 0)), |j| Volume::from_raw(raw(text(j), 8));
    MarketTime: |v| v.0.to_json(), |j| MarketTime(i64::from_json(j));
    WallTime: |v| v.0.to_json(), |j| WallTime(i64::from_json(j));
    SessionId: |v| json!(hex(v.bytes())), |j| text(j).parse().expect("a session ID");
    WorkerId: |v| json!(v.to_string()), |j| WorkerId(
        unhex(&text(j).replace('-', "")).try_into().expect("16 bytes"));
    Vec<u8>: |v| json!(hex(v)), |j| unhex(text(j));
    Nonce: |v| json!(hex(&v.0)), |j| Nonce(unhex(text(j)).try_into().expect("32 bytes"));
    Fingerprint: |v| json!(v.to_string()), |j| text(j).parse().expect("a fingerprint");
    Side: |v| json!(side_name(*v)), |j| match text(j) {
        "buy" => Side::Buy,
        "sell" => Side::Sell,
        other => panic!("not a side: {other}"),
    };
    Resolution: |v| json!(v.name()), |j| Resolution::from_name(text(j)).expect("a resolution");
    AssetKind: |v| json!(v.name()), |j| by_name(AssetKind::ALL, AssetKind::name, j);
    OrderStatus: |v| json!(v.name()), |j| by_name(OrderStatus::ALL, OrderStatus::name, j);
    HistoryKind: |v| json!(v.name()), |j| by_name(HistoryKind::ALL, HistoryKind::name, j);
}

fn by_name<T: Copy>(all: &[T], name: fn(T) -> &'static str, value: &Value) -> T {
    *all.iter().find(|one| name(**one) == text(value)).expect("a known word")
}

impl<T: Json> Json for Option<T> {
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Json::to_json)
    }
    fn from_json(value: &Value) -> Option<T> {
        (!value.is_null()).then(|| T::from_json(value))
    }
}

impl<T: Json> Json for Vec<T> {
    fn to_json(&self) -> Value {
        self.iter().map(Json::to_json).collect()
    }
    fn from_json(value: &Value) -> Vec<T> {
        value.as_array().expect("a list").iter().map(T::from_json).collect()
    }
}

/// Structs, with the names that the document gives their fields.
macro_rules! json_structs {
    ($($name:ident { $($field:ident $json:literal,)* })*) => {
        $(impl Json for $name {
            fn to_json(&self) -> Value {
                let mut object = Map::new();
                $(object.insert($json.to_owned(), self.$field.to_json());)*
                Value::Object(object)
            }
            fn from_json(value: &Value) -> $name {
                let object = value.as_object().expect("an object");
                let names = [$($json,)*];
                assert_eq!(object.len(), names.len(), "other fields than {names:?}");
                $name { $($field: Json::from_json(&object[$json]),)* }
            }
        })*
    };
}

json_structs! {
    AssetInfo {
        symbol "assetSymbol", name "name", kind "kind", source "source", open "openVal",
        high "highVal", low "lowVal", close "closeVal", volume "volumeVal",
        previous_close "previousClose", time "time", snapshot "snapshot", market "market",
    }
    AssetValue {
        symbol "symbol", price "price", time "time", previous_close "previousClose",
        snapshot "snapshot", market "market",
    }
    Bar { start "start", open "open", high "high", low "low", close "close", volume "volume", }
    Bars {
        symbol "symbol", resolution "resolution", interval "interval", market "market",
        source "source", bars "bars",
    }
    AssetLine {
        symbol "symbol", name "name", kind "kind", price "price", time "time",
        previous_close "previousClose",
    }
    AssetList { market "market", snapshot "snapshot", ended "ended", assets "assets", }
    PredictedValue { day "day", low "low", expected "expected", high "high", }
    Prediction {
        symbol "symbol", model "model", based_on "basedOn", confidence "confidence", last "last",
        market "market", values "values",
    }
    UserInfoPrivate {
        email "email", is_password "isPassword", cash "cash", held_cash "heldCash",
        equity "equity", granted "granted", open_orders "openOrders",
    }
    UserInfo { name "name", since "since", private "private", }
    PositionLine {
        symbol "symbol", quantity "quantity", held "held", cost "cost", price "price",
        value "value",
    }
    PortfolioPrivate {
        cash "cash", held_cash "heldCash", granted "granted", equity "equity",
        positions "positions",
    }
    Portfolio { name "name", market "market", return_bp "returnBp", private "private", }
    HistoryLine {
        kind "kind", order "order", client_order_id "clientOrderID", side "side",
        symbol "symbol", quantity "quantity", price "price", amount "amount", reason "reason",
        wall "wall", market "market",
    }
    HistoryPrivate { more "more", lines "lines", }
    History { name "name", private "private", }
    FillLine { quantity "quantity", price "price", amount "amount", snapshot "snapshot", }
    OrderLine {
        order "order", client_order_id "clientOrderID", side "side", symbol "symbol",
        quantity "quantity", hold "hold", status "status", reason "reason", fill "fill",
        received "received", received_market "receivedMarket", decided "decided",
        decided_market "decidedMarket",
    }
    Orders { name "name", more "more", orders "orders", }
    AssetValues { values "values", }
    OrderCursor { order "order", decided "decided", open "open", }
    OrderEvent { number "number", cursor "cursor", order "order", }
    WorkerLine {
        name "name", address "address", web "web", fingerprint "fingerprint",
        region "region", load "load",
    }
    WorkerList { workers "workers", }
    LinkOpen { worker "worker", nonce "nonce", }
    LinkChallenge { key "key", sealed "sealed", }
    LinkProof { sealed "sealed", }
    LinkStatement {
        label "label", role "role", worker "worker", worker_key "workerKey",
        master_key "masterKey", certificate "certificate", worker_nonce "workerNonce",
        master_nonce "masterNonce", exporter "exporter",
    }
    LinkPing { sent "sent", }
    LinkPong { sent "sent", clock "clock", }
    LinkHello {
        worker "worker", version "version", address "address", web "web",
        fingerprint "fingerprint", region "region", clock "clock",
    }
    LinkWelcome {
        deployment "deployment", name "name", clock "clock", interval "interval",
        bar_interval "barInterval", source "source",
    }
    LinkInstrument { id "id", symbol "symbol", name "name", kind "kind", }
    SnapshotPush {
        sequence "sequence", number "number", base "base", market "market", ended "ended",
        list "list", instruments "instruments", ticks "ticks",
    }
    SnapshotStep {
        sequence "sequence", number "number", base "base", market "market", ended "ended",
        steps "steps",
    }
    SnapshotDifference { sequence "sequence", number "number", list "list", }
    PackedTick { gap "gap", values "values", }
    SessionPresence { session "session", present "present", }
    SessionEnded { session "session", }
    WorkerStatus {
        started "started", clients "clients", load "load", sessions "sessions",
        orders "orders", cache_bytes "cacheBytes", cache_limit "cacheLimit", cache_hits "cacheHits",
        cache_misses "cacheMisses", cache_evictions "cacheEvictions",
        outgoing_bytes "outgoingBytes",
        refused_connections "refusedConnections", cut_connections "cutConnections",
        throttled_requests "throttledRequests", round_trip "roundTrip",
        clock_offset "clockOffset",
    }
}

/// What stands under a bit of `mask`; `null` if it does not.
fn masked(mask: u8, bit: usize, value: impl Json) -> Value {
    if mask & 1 << bit == 0 { Value::Null } else { value.to_json() }
}

/// Packed types: fields under the bits of a mask, from bit 0 on.
macro_rules! json_packed {
    ($($name:ident { $($field:ident $json:literal $bit:literal,)* } $unmasked:ident $last:ident;)*) => {
        $(impl Json for $name {
            fn to_json(&self) -> Value {
                let mut object = Map::new();
                object.insert("mask".into(), json!(self.mask));
                $unmasked(self, &mut object);
                $(object.insert($json.into(), masked(self.mask, $bit, self.$field));)*
                Value::Object(object)
            }
            fn from_json(value: &Value) -> $name {
                let mut packed = $name::default();
                packed.mask = value["mask"].as_u64().expect("a mask") as u8;
                $(packed.$field = Option::from_json(&value[$json]).unwrap_or_default();)*
                $last(&mut packed, value);
                packed
            }
        })*
    };
}

fn put_price(values: &PackedValues, object: &mut Map<String, Value>) {
    object.insert("price".into(), values.price.to_json());
}

fn take_price(values: &mut PackedValues, json: &Value) {
    values.price = i64::from_json(&json["price"]);
}

fn put_rest(step: &PackedStep, object: &mut Map<String, Value>) {
    object.insert("gap".into(), step.gap.to_json());
    let values = step.values.as_deref();
    object.insert("values".into(), values.map_or(Value::Null, Json::to_json));
}

fn take_rest(step: &mut PackedStep, json: &Value) {
    step.gap = u32::from_json(&json["gap"]);
    step.values = Option::from_json(&json["values"]).map(Box::new);
}

json_packed! {
    PackedValues {
        time "time" 0, day "day" 1, open "open" 2, high "high" 3, low "low" 4, volume "volume" 5,
        previous_close "previousClose" 6,
    } put_price take_price;
    PackedStep {
        price "price" 0, open "open" 1, high "high" 2, low "low" 3, volume "volume" 4,
        start "start" 5,
    } put_rest take_rest;
}

/// What a message's data, or what is sealed in it, can be: every type that stands alone.
macro_rules! data_types {
    ($($name:ident)*) => {
        /// The names of all types of data.
        #[allow(dead_code, reason = "not every user of this file needs it")]
        pub(crate) const DATA_TYPES: &[&str] = &[$(stringify!($name),)*];

        /// Decodes data of the named type.
        pub(crate) fn decode_data(name: &str, bytes: &[u8]) -> Result<Value, DecodeError> {
            match name {
                $(stringify!($name) => $name::from_bytes(bytes).map(|value| value.to_json()),)*
                _ => panic!("no such type of data: {name}"),
            }
        }

        /// Encodes data of the named type.
        #[allow(dead_code, reason = "not every user of this file needs it")]
        pub(crate) fn encode_data(name: &str, value: &Value) -> Vec<u8> {
            match name {
                $(stringify!($name) => $name::from_json(value).to_bytes(),)*
                _ => panic!("no such type of data: {name}"),
            }
        }
    };
}

data_types! {
    AssetInfo AssetValue Bars AssetList Prediction UserInfo Portfolio History Orders OrderLine
    WorkerList LinkHello LinkWelcome SnapshotPush SnapshotStep SnapshotDifference
    SessionPresence SessionEnded WorkerStatus
    LinkOpen LinkChallenge LinkProof LinkStatement LinkPing LinkPong
    AssetValues OrderCursor OrderEvent
}

/// All frames of some bytes, which must be whole.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (frame, used) = Frame::decode(bytes).expect("a frame").expect("a whole frame");
        frames.push(frame);
        bytes = &bytes[used..];
    }
    frames
}

/// Writes down a message: the header's fields under the specification's names, and its content,
/// which is data of the type `data_type`, or else text arguments.
pub(crate) fn describe(bytes: &[u8], data_type: Option<&str>) -> Value {
    use papertrader_protocol::transfer::Assembly;
    let all = frames(bytes);
    let first = &all[0];
    let header = first.header;
    let instruction = papertrader_protocol::Instruction::from_number(header.instruction);
    let flags = u8::from(header.link.is_some()) | if header.is_final { 2 } else { 0 };
    let mut fields = json!({
        "messageType": header.message_type as u16,
        "instruction": header.instruction,
        "instructionName": instruction.expect("a known instruction").name(),
        "argumentCount": header.argument_count,
        "dataMessageMax": header.max,
        "protocolVersion": papertrader_protocol::frame::VERSION,
        "flags": flags,
        "requestNumber": header.request.to_string(),
        "sessionID": header.session.to_json(),
    });
    if let [only] = all.as_slice() {
        fields["dataMessageNumber"] = json!(only.header.number);
        fields["dataSize"] = json!(only.data.len());
    } else {
        let packet = |frame: &Frame<'_>| json!({"dataMessageNumber": frame.header.number, "dataSize": frame.data.len()});
        fields["packets"] = all.iter().map(packet).collect();
    }
    if let Some(link) = header.link {
        fields["link"] = json!({
            "workerUUID": link.worker.to_json(),
            "receivedAt": link.received_at.to_json(),
            "sequence": link.sequence.to_json(),
            "deadline": link.deadline.to_json(),
            "clientAddress": link.client.ip().to_string(),
            "clientPort": link.client.port(),
        });
    }
    let mut assembly = Assembly::default();
    for frame in &all {
        assembly.push(frame, usize::MAX).expect("packets in order");
    }
    let data = assembly.finished().expect("the last packet");
    match data_type {
        Some(name) => {
            fields["dataType"] = json!(name);
            fields["data"] = decode_data(name, &data).expect("data of its type");
        }
        None => {
            let arguments = papertrader_protocol::args::split(&data, header.argument_count);
            fields["arguments"] = json!(arguments.expect("arguments"));
        }
    }
    fields
}
