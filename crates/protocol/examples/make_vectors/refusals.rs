//! Bytes that must be refused, each with the error that a reader gives.

use super::*;

pub(super) fn refusals(v: &mut Vectors) {
    let mut good = Vec::new();
    put_args(I::Ping, &["abc".to_owned()], 7, SessionId::NONE, &mut good);
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    v.refused("no bytes", "frame", "incomplete", &[]);
    v.refused("a header without its last byte", "frame", "incomplete", &good[..39]);
    v.refused("data without its last byte", "frame", "incomplete", &good[..good.len() - 1]);
    v.refused(
        "a link header that is announced and missing",
        "frame",
        "incomplete",
        &with(15, &[1]),
    );
    v.refused("protocolVersion 0", "frame", "badVersion", &with(14, &[0]));
    v.refused("protocolVersion 2", "frame", "badVersion", &with(14, &[2]));
    v.refused("messageType 0", "frame", "badFrame", &with(0, &[0, 0]));
    v.refused("messageType 5", "frame", "badFrame", &with(0, &[0, 5]));
    v.refused("messageType 260", "frame", "badFrame", &with(0, &[1, 4]));
    v.refused("dataSize 16385", "frame", "frameTooLarge", &with(4, &[0, 0, 0x40, 1]));
    v.refused("dataSize 4294967295", "frame", "frameTooLarge", &with(4, &[0xff; 4]));
    v.refused("dataMessageNumber 0", "frame", "badFrame", &with(10, &[0, 0]));
    v.refused("dataMessageNumber 2 of 1", "frame", "badFrame", &with(10, &[0, 2]));
    v.refused("dataMessageNumber 0 of 0", "frame", "badFrame", &with(10, &[0; 4]));
    v.refused("an unknown flag", "frame", "badFrame", &with(15, &[4]));
    let mut padded = Vec::new();
    let header = LinkHeader {
        worker: WORKER,
        received_at: WALL,
        sequence: 1,
        deadline: WallTime(0),
        client: "192.0.2.7:1".parse().expect("an address"),
    };
    let linked =
        Header { link: Some(header), ..Header::new(MessageType::Control, I::Ping as u16, 7) };
    linked.encode(&[], &mut padded);
    padded[103] = 1;
    v.refused("padding of a link header that is not zero", "frame", "badFrame", &padded);

    let mut packets = Vec::new();
    let header = Header::new(MessageType::DataTransfer, I::Data as u16, 7);
    for (number, max) in [(1, 3), (3, 3)] {
        Header { number, max, ..header }.encode(b"x", &mut packets);
    }
    v.refused("packet 3 after packet 1", "transfer", "order", &packets);
    packets.clear();
    for (number, max) in [(1, 2), (2, 3)] {
        Header { number, max, ..header }.encode(b"x", &mut packets);
    }
    v.refused("another dataMessageMax in the second packet", "transfer", "order", &packets);
    packets.clear();
    Header { number: 2, max: 2, ..header }.encode(b"x", &mut packets);
    v.refused("packet 2 without packet 1", "transfer", "order", &packets);

    use Reason as R;
    v.refused_request("too few arguments", I::GetAssetBars, 3, b"AAPL day 0", R::ArgumentCount);
    v.refused_request("too many arguments", I::Logout, 1, b"x", R::ArgumentCount);
    v.refused_request("data without arguments", I::Logout, 0, b"x", R::BadArguments);
    v.refused_request(
        "fewer arguments in the data than counted",
        I::PurchaseAsset,
        3,
        b"AAPL 10",
        R::BadArguments,
    );
    v.refused_request(
        "an empty argument that is not the last",
        I::PurchaseAsset,
        3,
        b"AAPL  a-1",
        R::BadArguments,
    );
    v.refused_request("arguments that are not UTF-8", I::Ping, 1, b"\xc3\x28", R::BadArguments);
    v.refused_request(
        "isExpirable that is not a bool",
        I::Login,
        3,
        format!("a {HASH} 1").as_bytes(),
        R::BadArguments,
    );
    v.refused_request(
        "a space in the last argument",
        I::CancelOrder,
        1,
        b"a 1",
        R::BadClientOrderId,
    );
    v.refused_request("a symbol in lower case", I::GetAssetInfo, 1, b"aapl", R::BadSymbol);
    v.refused_request(
        "a symbol of 24 characters",
        I::GetAssetInfo,
        1,
        b"ABCDEFGHIJKLMNOPQRSTUVWX",
        R::BadSymbol,
    );
    v.refused_request("quantity zero", I::SellAsset, 3, b"AAPL 0.0 a-1", R::BadQuantity);
    v.refused_request(
        "quantity with nine decimals",
        I::SellAsset,
        3,
        b"AAPL 0.000000001 a-1",
        R::BadQuantity,
    );
    v.refused_request(
        "quantity with an exponent",
        I::SellAsset,
        3,
        b"AAPL 1e2 a-1",
        R::BadQuantity,
    );
    v.refused_request(
        "quantity above the largest",
        I::SellAsset,
        3,
        b"AAPL 1000000000.00000001 a-1",
        R::BadQuantity,
    );
    v.refused_request(
        "a client order ID of 129 characters",
        I::GetOrder,
        1,
        &[b'x'; 129],
        R::BadClientOrderId,
    );
    v.refused_request(
        "a date that does not exist",
        I::GetAssetValueDay,
        2,
        b"AAPL 2005-02-29",
        R::BadDate,
    );
    v.refused_request(
        "a date with a time",
        I::GetAssetValueDay,
        2,
        b"AAPL 2005-02-28T10:00",
        R::BadDate,
    );
    v.refused_request(
        "from that is not before to",
        I::GetAssetBars,
        4,
        b"AAPL day 5 5",
        R::BadRange,
    );
    v.refused_request("a time with a plus sign", I::GetAssetBars, 4, b"AAPL day 0 +5", R::BadRange);
    v.refused_request(
        "a resolution that is none",
        I::GetAssetBars,
        4,
        b"AAPL week 0 5",
        R::BadResolution,
    );
    v.refused_request("61 days", I::GetAssetValuePredicted, 2, b"AAPL 61", R::BadHorizon);
    v.refused_request(
        "a user name of 25 characters",
        I::GetUserInfo,
        1,
        &[b'x'; 25],
        R::BadUserName,
    );
    v.refused_request("a state that is none", I::SwitchState, 1, b"sleep", R::BadState);
    v.refused_request("a return as a request", I::OrderQueued, 0, b"", R::NotForClients);

    let list = WorkerList { workers: vec![] }.to_bytes();
    v.refused(
        "data with a byte left over",
        "WorkerList",
        "trailing",
        &[list.as_slice(), &[0]].concat(),
    );
    v.refused("data that ends early", "WorkerList", "short", &list[..3]);
    v.refused("a list with a huge count", "WorkerList", "short", &[0xff; 4]);
    v.refused(
        "a list with a huge count and some data",
        "WorkerList",
        "short",
        &[&[0xff; 4][..], &[0; 64]].concat(),
    );
    let presence = SessionPresence { session: SESSION, present: true }.to_bytes();
    v.refused("a bool of 2", "SessionPresence", "badValue", &[&presence[..16], &[2]].concat());
    let value = AssetValue {
        symbol: symbol("A"),
        price: price("1"),
        time: MARKET,
        previous_close: None,
        snapshot: 1,
        market: MARKET,
    }
    .to_bytes();
    let changed = |at: usize, byte: u8| {
        let mut bytes = value.clone();
        bytes[at] = byte;
        bytes
    };
    v.refused("a symbol in lower case in data", "AssetValue", "badValue", &changed(2, b'a'));
    v.refused("a symbol that is empty", "AssetValue", "badValue", &[&[0, 0], &value[3..]].concat());
    v.refused("a price below zero", "AssetValue", "badValue", &changed(3, 0x80));
    v.refused(
        "a price of zero",
        "AssetValue",
        "badValue",
        &[&value[..3], &[0; 8], &value[11..]].concat(),
    );
    v.refused("an optional with a byte of 2", "AssetValue", "badValue", &changed(19, 2));
    v.refused("a text longer than the data", "UserInfo", "short", &[0xff, 0xff, b'x']);
    let info = UserInfo { name: "é".into(), since: WALL, private: None }.to_bytes();
    let mut bad = info.clone();
    bad[3] = b'(';
    v.refused("a text that is not UTF-8", "UserInfo", "badValue", &bad);
    let bars = Bars {
        symbol: symbol("A"),
        resolution: Resolution::Interval,
        interval: 1,
        market: MARKET,
        source: String::new(),
        bars: vec![],
    };
    let mut bad = bars.to_bytes();
    bad[3] = 4;
    v.refused("resolution 4", "Bars", "badValue", &bad);
    let orders = OrderLine {
        order: 1,
        client_order_id: "a".into(),
        side: Side::Buy,
        symbol: symbol("A"),
        quantity: quantity("1"),
        hold: Cash::ZERO,
        status: OrderStatus::Queued,
        reason: String::new(),
        fill: None,
        received: WALL,
        received_market: MARKET,
        decided: None,
        decided_market: None,
    }
    .to_bytes();
    for (name, at, byte) in [("side 0", 11, 0), ("side 3", 11, 3), ("order status 6", 31, 6)] {
        let mut bad = orders.clone();
        bad[at] = byte;
        v.refused(name, "OrderLine", "badValue", &bad);
    }
    let arguments = args::join(&["code"]);
    v.refused("arguments where data is due", "History", "short", arguments.as_bytes());
}
