//! The committed golden vectors against the crate, in both directions, and a few of them against
//! bytes that were put together by hand from the tables of `docs/protocol.md`.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod vector_format;

use std::collections::HashSet;

use papertrader_core::time::WallTime;
use papertrader_protocol::frame::{LinkHeader, MAX_DATA};
use papertrader_protocol::instruction::{MessageType, States};
use papertrader_protocol::returns::Return;
use papertrader_protocol::transfer::{self, Assembly, TransferError};
use papertrader_protocol::wire::DecodeError;
use papertrader_protocol::{
    Frame, FrameError, Header, Instruction, Reason, Request, SessionId, args,
};
use serde_json::Value;
use vector_format::{DATA_TYPES, Json, decode_data, describe, encode_data, frames, hex, unhex};

fn vectors(kind: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../vectors/vectors.json")).unwrap();
    assert!(all.iter().all(|v| {
        ["message", "data", "refused", "hashedPass"].contains(&v["kind"].as_str().unwrap())
    }));
    all.into_iter().filter(|vector| vector["kind"] == kind).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn names_are_unique() {
    let all: Vec<Value> = serde_json::from_str(include_str!("../vectors/vectors.json")).unwrap();
    let names: HashSet<&str> = all.iter().map(|vector| text(vector, "name")).collect();
    assert_eq!(names.len(), all.len());
}

#[test]
fn every_message_decodes_to_its_fields() {
    for vector in vectors("message") {
        let fields = &vector["fields"];
        let data_type = fields["dataType"].as_str();
        let decoded = describe(&unhex(text(&vector, "hex")), data_type);
        assert_eq!(&decoded, fields, "{}", vector["name"]);
    }
}

#[test]
fn the_fields_of_every_message_encode_to_its_bytes() {
    for vector in vectors("message") {
        let fields = &vector["fields"];
        let flags = number(fields, "flags");
        assert_eq!(flags & 1 == 1, fields.get("link").is_some());
        let header = Header {
            message_type: MessageType::from_number(number(fields, "messageType") as u16).unwrap(),
            instruction: number(fields, "instruction") as u16,
            argument_count: number(fields, "argumentCount") as u16,
            number: 1,
            max: 1,
            is_final: flags & 2 != 0,
            request: text(fields, "requestNumber").parse().unwrap(),
            session: text(fields, "sessionID").parse().unwrap(),
            link: fields.get("link").map(|link| LinkHeader {
                worker: Json::from_json(&link["workerUUID"]),
                received_at: WallTime(text(link, "receivedAt").parse().unwrap()),
                sequence: text(link, "sequence").parse().unwrap(),
                deadline: WallTime(text(link, "deadline").parse().unwrap()),
                client: (
                    text(link, "clientAddress").parse::<std::net::IpAddr>().unwrap(),
                    number(link, "clientPort") as u16,
                )
                    .into(),
            }),
        };
        let data = match fields["dataType"].as_str() {
            Some(name) => encode_data(name, &fields["data"]),
            None => {
                let arguments: Vec<String> = Json::from_json(&fields["arguments"]);
                assert_eq!(arguments.len(), usize::from(header.argument_count));
                args::join(&arguments).into_bytes()
            }
        };
        let mut bytes = Vec::new();
        let packets = transfer::encode(header, &data, &mut bytes);
        assert_eq!(u64::from(packets), number(fields, "dataMessageMax"));
        assert_eq!(hex(&bytes), text(&vector, "hex"), "{}", vector["name"]);
    }
}

#[test]
fn data_inside_of_a_message_decodes_and_encodes() {
    for vector in vectors("data") {
        let (name, fields) = (text(&vector, "name"), &vector["fields"]);
        let data_type = text(fields, "dataType");
        let decoded = decode_data(data_type, &unhex(text(&vector, "hex"))).unwrap();
        assert_eq!(decoded, fields["data"], "{name}");
        assert_eq!(hex(&encode_data(data_type, &fields["data"])), text(&vector, "hex"), "{name}");
    }
}

/// Requests and returns through their types, which servers and clients use.
#[test]
fn text_messages_survive_their_types() {
    for vector in vectors("message") {
        let name = text(&vector, "name");
        let bytes = unhex(text(&vector, "hex"));
        let all = frames(&bytes);
        let frame = &all[0];
        let instruction = Instruction::from_number(frame.header.instruction).unwrap();
        assert_eq!(frame.header.message_type, instruction.message_type(), "{name}");
        // `goodbye` goes both ways: a server's has two arguments.
        let goodbye_of_server =
            instruction == Instruction::Goodbye && frame.header.argument_count == 2;
        let from_client = instruction.states() != States::Never && !goodbye_of_server;
        if from_client {
            let parse = |count, data: &[u8]| Request::parse(instruction, count, data).unwrap();
            let request = parse(frame.header.argument_count, frame.data);
            let (again, arguments) = request.encode();
            assert_eq!(again, instruction, "{name}");
            let data = args::join(&arguments);
            assert_eq!(parse(arguments.len() as u16, data.as_bytes()), request, "{name}");
            let has_session = !frame.header.session.is_none();
            assert_eq!(has_session, instruction.needs_session(), "{name}");
        } else if let Some(answer) = Return::parse(frame).unwrap() {
            if name.contains("unknown word") {
                continue;
            }
            let mut again = Vec::new();
            answer.put(frame.header.request, &mut again);
            assert_eq!(hex(&again), text(&vector, "hex"), "{name}");
        } else {
            let is_binary = vector["fields"].get("dataType").is_some();
            let is_empty = [Instruction::LinkProven, Instruction::StreamEnded];
            assert!(is_binary || is_empty.contains(&instruction), "{name}");
        }
    }
}

#[test]
fn every_instruction_and_every_type_of_data_is_covered() {
    let messages = vectors("message");
    let said: HashSet<&str> =
        messages.iter().map(|v| text(&v["fields"], "instructionName")).collect();
    for instruction in Instruction::ALL {
        assert!(said.contains(instruction.name()), "no vector of {}", instruction.name());
    }
    let inside = vectors("data");
    let types: HashSet<&str> =
        messages.iter().chain(&inside).filter_map(|v| v["fields"]["dataType"].as_str()).collect();
    for name in DATA_TYPES {
        assert!(types.contains(name), "no vector with data {name}");
    }
    let is = |test: fn(&Value) -> bool| messages.iter().any(|v| test(&v["fields"]));
    assert!(is(|f| f.get("packets").is_some()), "no transfer of several packets");
    assert!(is(|f| f["dataSize"] == MAX_DATA), "no frame with the most data");
    assert!(is(|f| f["flags"] == 1) && is(|f| f["flags"] == 2), "not every flag");
    let refused = vectors("refused");
    for error in [
        "incomplete",
        "badVersion",
        "badFrame",
        "frameTooLarge",
        "order",
        "short",
        "trailing",
        "badValue",
        "argumentCount",
        "badArguments",
    ] {
        assert!(refused.iter().any(|v| v["error"] == error), "nothing is refused as {error}");
    }
}

#[test]
fn what_must_be_refused_is_refused_with_its_error() {
    for vector in vectors("refused") {
        let bytes = unhex(text(&vector, "hex"));
        let error = match text(&vector, "as") {
            "frame" => frame_error(&bytes),
            "transfer" => transfer_error(&bytes),
            "request" => {
                let frame = frames(&bytes)[0];
                let instruction = Instruction::from_number(frame.header.instruction).unwrap();
                Request::parse(instruction, frame.header.argument_count, frame.data)
                    .unwrap_err()
                    .code()
            }
            data_type => match decode_data(data_type, &bytes).unwrap_err() {
                DecodeError::Short => "short",
                DecodeError::Trailing => "trailing",
                DecodeError::Value(_) => "badValue",
            },
        };
        assert_eq!(error, text(&vector, "error"), "{}", vector["name"]);
    }
}

fn frame_error(bytes: &[u8]) -> &'static str {
    match Frame::decode(bytes) {
        Ok(None) => "incomplete",
        Err(FrameError::Version(_)) => Reason::BadVersion.code(),
        Err(FrameError::TooLarge(_)) => Reason::FrameTooLarge.code(),
        Err(FrameError::Field(_)) => Reason::BadFrame.code(),
        Ok(Some(frame)) => panic!("not refused: {frame:?}"),
    }
}

fn transfer_error(bytes: &[u8]) -> &'static str {
    let mut assembly = Assembly::default();
    for frame in frames(bytes) {
        match assembly.push(&frame, usize::MAX) {
            Ok(_) => {}
            Err(TransferError::Order { .. }) => return "order",
            Err(TransferError::TooLarge(_)) => return "tooLarge",
        }
    }
    panic!("not refused")
}

#[test]
fn the_salt_of_a_password_is_as_the_document_says() {
    for vector in vectors("hashedPass") {
        let fields = &vector["fields"];
        let mut salt = b"papertrader-password-v1".to_vec();
        salt.push(0);
        salt.extend_from_slice(text(fields, "deploymentID").as_bytes());
        salt.push(0);
        salt.extend_from_slice(text(fields, "username").to_ascii_lowercase().as_bytes());
        assert_eq!(hex(&salt), text(&vector, "hex"));
        assert_eq!(unhex(text(fields, "hashedPass")).len(), 32);
    }
}

// By hand, from the tables of the document: the code had no part in these bytes.

fn of(name: &str) -> String {
    let found = vectors("message").into_iter().find(|vector| vector["name"] == name);
    text(&found.unwrap(), "hex").to_owned()
}

#[test]
fn a_command_by_hand() {
    let by_hand = [
        "0001",     // messageType: command
        "0004",     // instruction: purchaseAsset
        "0000002c", // dataSize: 44
        "0003",     // argumentCount
        "0001",     // dataMessageNumber
        "0001",     // dataMessageMax
        "01",       // protocolVersion
        "00",       // flags
        "0000000000000008",
        "00112233445566778899aabbccddeeff",
        "4141504c",                 // AAPL
        "20",                       // space
        "3130",                     // 10
        "20",                       // space
        "30313938633265342d",       // 0198c2e4-
        "376131302d",               // 7a10-
        "376333652d",               // 7c3e-
        "396435352d",               // 9d55-
        "326636633162386534613031", // 2f6c1b8e4a01
    ];
    assert_eq!(by_hand.concat(), of("purchaseAsset"));
}

#[test]
fn data_by_hand() {
    let by_hand = [
        "0002",     // messageType: data transfer
        "020b",     // instruction: data
        "0000002f", // dataSize: 47
        "0000",     // argumentCount
        "0001",
        "0001",
        "01",
        "00",
        "000000000000003d",
        "00000000000000000000000000000000",
        "0004",             // symbol: 4 bytes
        "4141504c",         // AAPL
        "0000000101bb0100", // price: 4,324,000,000 of 10^-8, 43.24
        "0f6f9c389ffc1000", // time: 1,112,279,400 s
        "01",               // previousClose: there is one
        "00000000ff1b9e00", // 4,280,000,000 of 10^-8, 42.80
        "000000000000004d", // snapshot: 77
        "0f6f9c389ffc1000", // market
    ];
    assert_eq!(by_hand.concat(), of("data of getAssetValueCurrent"));
}

#[test]
fn a_link_header_by_hand() {
    let by_hand = [
        "0001",
        "0004",
        "0000000b", // dataSize: 11, without the link header
        "0003",
        "0001",
        "0001",
        "01",
        "01", // flags: a link header follows
        "0000000000000052",
        "00112233445566778899aabbccddeeff",
        "4f9d2a106b3c4e8fa1570cd2339b71e4", // workerUUID
        "1886caf223f1ff15",                 // receivedAt
        "1886caf223f1ff16",                 // sequence
        "1886caf477fde315",                 // deadline: ten seconds later
        "00000000000000000000ffffc0000207", // 192.0.2.7 in IPv6
        "c3cb",                             // port 50123
        "000000000000",
        "4141504c20313020612d31", // AAPL 10 a-1
    ];
    assert_eq!(by_hand.concat(), of("purchaseAsset on a link"));
}

#[test]
fn a_failure_by_hand() {
    let words = "badCredentials wrong user name or password";
    let by_hand = format!(
        "0003 0201 0000002a 0002 0001 0001 01 00 {:016x} {} {}",
        48,
        hex(SessionId::NONE.bytes()),
        hex(words.as_bytes()),
    );
    assert_eq!(by_hand.replace(' ', ""), of("loginFail: badCredentials"));
}

#[test]
fn a_statement_by_hand() {
    let by_hand = [
        "0013",                                 // label: 19 bytes
        "7061706572747261646572",               // papertrader
        "2d6c696e6b2d7631",                     // -link-v1
        "0006",                                 // role: 6 bytes
        "6d6173746572",                         // master
        "4f9d2a106b3c4e8fa1570cd2339b71e4",     // worker
        "0028",                                 // workerKey: 40 digits
        "30313233343536373839414243444546",     // 0123456789ABCDEF
        "30313233343536373839414243444546",     // 0123456789ABCDEF
        "3031323334353637",                     // 01234567
        "0028",                                 // masterKey: 40 digits
        "383941424344454630313233343536373839", // 89ABCDEF0123456789
        "414243444546",                         // ABCDEF
        "30313233343536373839414243444546",     // 0123456789ABCDEF
        "181204a70d7f0e28c6afc641a6195af9",     // certificate
        "89d663f297eb77da69e696c4cff254a6",
        "000102030405060708090a0b0c0d0e0f", // workerNonce
        "101112131415161718191a1b1c1d1e1f",
        "404142434445464748494a4b4c4d4e4f", // masterNonce
        "505152535455565758595a5b5c5d5e5f",
        "808182838485868788898a8b8c8d8e8f", // exporter
        "909192939495969798999a9b9c9d9e9f",
    ];
    let found = vectors("data").into_iter().find(|v| v["name"] == "LinkStatement of the master");
    assert_eq!(by_hand.concat(), text(&found.unwrap(), "hex"));
}
