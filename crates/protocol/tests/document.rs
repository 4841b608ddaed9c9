//! `docs/protocol.md` against the code: its tables say what the code's lists say, and its byte
//! tables, read as a program, decode the golden vectors without the crate's codec.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "../examples/worked_session.rs"]
mod worked_session;

use std::collections::{BTreeMap, BTreeSet};

use papertrader_core::bar::Resolution;
use papertrader_core::order::{Side, WaitReason};
use papertrader_protocol::data::{AssetKind, HistoryKind, OrderStatus};
use papertrader_protocol::instruction::{MessageType, States};
use papertrader_protocol::request::MAX_HORIZON;
use papertrader_protocol::returns::side_name;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Instruction, Reason, Request, frame};
use serde_json::{Map, Value, json};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");
const VECTORS: &str = include_str!("../vectors/vectors.json");

/// Rows of cells.
type Table = Vec<Vec<String>>;

/// The headings in order, each with the rows of the tables below it, without their first two
/// lines, and the text.
struct Section {
    heading: String,
    rows: Table,
    text: String,
}

fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    let mut lines = DOCUMENT.lines().peekable();
    let mut in_code = false;
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if let Some(heading) = line.strip_prefix('#').filter(|_| !in_code) {
            let heading = heading.trim_start_matches('#').trim().to_owned();
            sections.push(Section { heading, rows: Vec::new(), text: String::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        if line.starts_with("|---") {
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                let cells = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
                section.rows.push(cells.collect());
            }
        } else {
            section.text.push_str(line);
            section.text.push('\n');
        }
    }
    sections
}

fn section(heading: &str) -> Section {
    let mut found: Vec<Section> =
        sections().into_iter().filter(|section| section.heading == heading).collect();
    assert_eq!(found.len(), 1, "sections with the heading {heading:?}");
    found.remove(0)
}

fn bare(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// Everything between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

// The lists.

fn type_words(message_type: MessageType) -> &'static str {
    match message_type {
        MessageType::Command => "command",
        MessageType::DataTransfer => "data transfer",
        MessageType::ServerReturn => "server return",
        MessageType::Control => "control",
    }
}

fn argument_count(cell: &str) -> usize {
    cell.split_whitespace().filter(|word| *word != "*binary*").count()
}

#[test]
fn the_table_of_instructions_is_the_list_of_the_code() {
    let rows = section("All instructions").rows;
    assert_eq!(rows.len(), Instruction::ALL.len());
    for (row, instruction) in rows.iter().zip(Instruction::ALL) {
        let name = instruction.name();
        assert_eq!(row[0], format!("0x{:04X}", *instruction as u16), "{name}");
        assert_eq!(row[1], format!("`{name}`"));
        assert_eq!(row[2], type_words(instruction.message_type()), "{name}");
        let states = match instruction.states() {
            States::Command => "command",
            States::Data => "data",
            States::Both => "both",
            States::Never => "–",
        };
        assert_eq!(row[3], states, "{name}");
        let session = if instruction.needs_session() { "yes" } else { "no" };
        assert_eq!(row[4], session, "{name}");
        // What is no request has none of its own: the code says `commandFail` of it.
        let failure = match (instruction.states(), instruction.failure()) {
            (States::Never, Instruction::CommandFail) => "–".to_owned(),
            (_, failure) => format!("`{}`", failure.name()),
        };
        assert_eq!(row[7], failure, "{name}");
        for word in quoted(&row[6]) {
            let answers = Instruction::ALL.iter().filter(|i| i.states() == States::Never);
            assert!(answers.map(|i| i.name()).any(|n| n == word), "{name} returns {word}");
        }
    }
}

#[test]
fn the_table_gives_every_request_its_number_of_arguments() {
    for row in section("All instructions").rows {
        let instruction = by_name(bare(&row[1]));
        if instruction.states() == States::Never {
            continue;
        }
        let takes = |count: usize| {
            Request::parse(instruction, count as u16, b"") != Err(Reason::ArgumentCount)
        };
        let taken: Vec<usize> = (0..10).filter(|count| takes(*count)).collect();
        assert_eq!(taken, [argument_count(&row[5])], "{}", row[1]);
    }
}

#[test]
fn the_table_gives_every_vector_its_number_of_arguments() {
    let counts: BTreeMap<String, usize> = section("All instructions")
        .rows
        .iter()
        .map(|row| (bare(&row[1]).to_owned(), argument_count(&row[5])))
        .collect();
    for vector in messages() {
        let fields = &vector["fields"];
        let name = fields["instructionName"].as_str().unwrap();
        let counted = fields["argumentCount"].as_u64().unwrap() as usize;
        // A server's `goodbye` is like a failure return.
        let server_says_goodbye = name == "goodbye" && counted == 2;
        assert!(counts[name] == counted || server_says_goodbye, "{}", vector["name"]);
    }
}

fn by_name(name: &str) -> Instruction {
    let found = Instruction::ALL.iter().find(|instruction| instruction.name() == name);
    *found.unwrap_or_else(|| panic!("no such instruction: {name}"))
}

#[test]
fn every_instruction_has_one_section_and_names_its_failure() {
    for instruction in Instruction::ALL {
        let text = section(&format!("`{}`", instruction.name())).text;
        if instruction.states() == States::Never {
            continue;
        }
        let fails = format!("Fails with `{}`", instruction.failure().name());
        assert!(text.contains(&fails), "{}: {fails}", instruction.name());
    }
    let headings: Vec<String> = sections()
        .into_iter()
        .filter_map(|section| {
            Some(section.heading.strip_prefix('`')?.strip_suffix('`')?.to_owned())
        })
        .collect();
    for heading in headings {
        by_name(&heading);
    }
}

#[test]
fn the_table_of_reasons_is_the_list_of_the_code() {
    let Section { rows, text, .. } = section("Reasons");
    assert_eq!(rows.len(), Reason::ALL.len());
    for (row, reason) in rows.iter().zip(Reason::ALL) {
        assert_eq!(row, &[format!("`{}`", reason.code()), reason.text().to_owned()]);
    }
    // Each reason is named where it can happen, and nothing is named that is none.
    let mut named: BTreeSet<String> = quoted(&text)
        .into_iter()
        .filter(|w| Reason::from_code(w).is_some())
        .map(Into::into)
        .collect();
    for section in sections() {
        let Some(at) = section.text.find("\nFails with `") else { continue };
        let failures = quoted(&section.text[at..]);
        for word in failures.iter().skip(1) {
            let known = Reason::from_code(word).is_some()
                || Instruction::ALL.iter().any(|instruction| instruction.name() == *word);
            assert!(known, "{}: {word}", section.heading);
            named.insert((*word).to_owned());
        }
    }
    named.extend(quoted(&section("Rules").text).into_iter().map(Into::into));
    for reason in Reason::ALL {
        assert!(named.contains(reason.code()), "where does {} happen?", reason.code());
    }
}

#[test]
fn what_a_client_may_conclude_is_said_of_every_reason_of_an_order() {
    let rows = section("An order's life").rows;
    let said: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    for name in ["purchaseAsset", "sellAsset"] {
        let text = section(&format!("`{name}`")).text;
        for word in quoted(&text).into_iter().filter(|word| Reason::from_code(word).is_some()) {
            let times = said.iter().filter(|said| **said == word).count();
            assert_eq!(times, 1, "{word}");
        }
    }
    for wait in [WaitReason::MarketClosed, WaitReason::PriceStale] {
        assert!(DOCUMENT.contains(&format!("`{}`", wait.code())));
    }
}

#[test]
fn enumerations_are_those_of_the_code() {
    let check = |name: &str, all: Vec<(u8, &str)>| {
        let rows = section(&format!("Enumeration `{name}`")).rows;
        let said: Vec<(u8, &str)> =
            rows.iter().map(|row| (row[0].parse().unwrap(), bare(&row[1]))).collect();
        assert_eq!(said, all, "{name}");
    };
    let numbered = |side: Side| (side.to_bytes()[0], side_name(side));
    check("side", [Side::Buy, Side::Sell].map(numbered).to_vec());
    check("assetKind", AssetKind::ALL.iter().map(|v| (*v as u8, v.name())).collect());
    check("orderStatus", OrderStatus::ALL.iter().map(|v| (*v as u8, v.name())).collect());
    check("historyKind", HistoryKind::ALL.iter().map(|v| (*v as u8, v.name())).collect());
    check("resolution", Resolution::ALL.iter().map(|v| (*v as u8, v.name())).collect());
}

#[test]
fn reserved_numbers_are_free() {
    let rows = section("Extensions and versions").rows;
    let reserved = rows.iter().filter(|row| row.len() == 3);
    let mut ranges = 0;
    for row in reserved {
        let numbers: Vec<u16> = row[0]
            .split('–')
            .map(|number| u16::from_str_radix(number.trim_start_matches("0x"), 16).unwrap())
            .collect();
        let (from, to) = (numbers[0], *numbers.last().unwrap());
        for number in from..=to {
            assert_eq!(Instruction::from_number(number), None, "{number:#06x} is in use");
        }
        ranges += 1;
    }
    assert_eq!(ranges, 6);
}

#[test]
fn limits_are_those_of_the_code() {
    let rows = section("Rules").rows;
    let limit = |what: &str| {
        let row = rows.iter().find(|row| row[0] == what).unwrap();
        row[1].split(' ').next().unwrap().to_owned()
    };
    assert_eq!(limit("data in one message"), frame::MAX_DATA.to_string());
    assert_eq!(limit("packets of one answer"), u16::MAX.to_string());
    assert_eq!(limit("days of a prediction"), MAX_HORIZON.to_string());
    assert!(
        DOCUMENT.starts_with(&format!("# The PaperTrader protocol, version {}\n", frame::VERSION))
    );
}

#[test]
fn links_inside_of_the_document_lead_somewhere() {
    let anchor = |heading: &str| -> String {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    let anchors: BTreeSet<String> = sections().iter().map(|s| anchor(&s.heading)).collect();
    let mut links = 0;
    for link in DOCUMENT.split("](#").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(anchors.contains(target), "#{target}");
        links += 1;
    }
    assert!(links > 20);
}

#[test]
fn the_worked_session_is_what_the_program_prints() {
    let text = section("A worked session").text;
    let block = text.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(block, worked_session::text());
}

#[test]
fn the_password_example_is_a_golden_vector() {
    let text = section("Passwords").text.replace([' ', '\n'], "");
    let all: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let vector = all.iter().find(|vector| vector["name"] == "hashedPass of Alice").unwrap();
    let fields = &vector["fields"];
    assert!(text.contains(&format!("salt{}", vector["hex"].as_str().unwrap())));
    assert!(text.contains(&format!("hashedPass{}", fields["hashedPass"].as_str().unwrap())));
    for name in ["password", "deploymentID", "username"] {
        let quoted = format!("`{}`", fields[name].as_str().unwrap().replace(' ', ""));
        assert!(text.contains(&quoted), "{quoted}");
    }
}

// The byte tables as a program.

fn messages() -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    all.into_iter().filter(|vector| vector["kind"] == "message").collect()
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    /// Seven bits a byte, the lowest first, until a byte below 128.
    fn sevens(&mut self) -> u128 {
        let count = self.0.iter().position(|byte| *byte < 128).unwrap() + 1;
        let bytes = self.take(count).iter().rev();
        bytes.fold(0, |bits, byte| bits << 7 | u128::from(byte & 0x7f))
    }

    fn number(&mut self, size: usize) -> u64 {
        self.take(size).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// A decimal with so many digits behind the point that `scale` is met, at least `least` shown.
fn decimal(number: i64, scale: usize, least: usize) -> String {
    let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let shown = fraction.trim_end_matches('0').len().max(least);
    let point = if shown > 0 { "." } else { "" };
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{whole}{point}{}", &fraction[..shown])
}

/// The tables of the document by the names of the types.
struct Tables {
    data: BTreeMap<String, Table>,
    enumerations: BTreeMap<String, Table>,
}

impl Tables {
    fn read() -> Tables {
        let mut tables = Tables { data: BTreeMap::new(), enumerations: BTreeMap::new() };
        for section in sections() {
            if let Some(name) = section.heading.strip_prefix("Data `") {
                tables.data.insert(name.trim_end_matches('`').to_owned(), section.rows);
            } else if let Some(name) = section.heading.strip_prefix("Enumeration `") {
                tables.enumerations.insert(name.trim_end_matches('`').to_owned(), section.rows);
            }
        }
        tables
    }

    fn decode(&self, name: &str, bytes: &mut Bytes<'_>) -> Value {
        if let Some(inner) = name.strip_prefix("optional ") {
            return match bytes.number(1) {
                0 => Value::Null,
                1 => self.decode(inner, bytes),
                other => panic!("an optional with {other}"),
            };
        }
        if let Some(inner) = name.strip_prefix("list of ") {
            let count = bytes.number(4);
            return (0..count).map(|_| self.decode(inner, bytes)).collect();
        }
        if let Some(rows) = self.data.get(name) {
            let mut fields = Map::new();
            for row in rows {
                let value = match row[1].strip_prefix("if ") {
                    Some(conditional) => {
                        let (bit, inner) = conditional.split_once(' ').unwrap();
                        let bit: u32 = bit.parse().unwrap();
                        let is_there = fields["mask"].as_u64().unwrap() & 1 << bit != 0;
                        if is_there { self.decode(inner, bytes) } else { Value::Null }
                    }
                    None => self.decode(&row[1], bytes),
                };
                fields.insert(bare(&row[0]).to_owned(), value);
            }
            return Value::Object(fields);
        }
        if let Some(rows) = self.enumerations.get(name) {
            let number = bytes.number(1).to_string();
            let row = rows.iter().find(|row| row[0] == number);
            return json!(bare(&row.unwrap()[1]));
        }
        match name {
            "count" => json!(bytes.sevens() as u64),
            "number" => {
                let bits = bytes.sevens();
                let folded = (bits >> 1) as i128;
                let number = if folded % 2 == 0 { folded / 2 } else { -(folded + 1) / 2 };
                json!(
                    (if bits.is_multiple_of(2) { number * 1_000_000 } else { number }).to_string()
                )
            }
            "u8" => json!(bytes.number(1)),
            "u16" => json!(bytes.number(2)),
            "u32" => json!(bytes.number(4)),
            "u64" => json!(bytes.number(8).to_string()),
            "i64" | "time" => json!((bytes.number(8) as i64).to_string()),
            "bool" => json!([false, true][bytes.number(1) as usize]),
            "cash" => json!(decimal(bytes.number(8) as i64, 2, 2)),
            "price" => json!(decimal(bytes.number(8) as i64, 8, 2)),
            "quantity" | "volume" => json!(decimal(bytes.number(8) as i64, 8, 0)),
            "session" => json!(hex(bytes.take(16))),
            "bytes32" => json!(hex(bytes.take(32))),
            "bytes" => {
                let length = bytes.number(4) as usize;
                json!(hex(bytes.take(length)))
            }
            "uuid" => {
                let digits = hex(bytes.take(16));
                let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20]];
                json!(format!("{}-{}", parts.join("-"), &digits[20..]))
            }
            "text" | "symbol" => {
                let length = bytes.number(2) as usize;
                json!(std::str::from_utf8(bytes.take(length)).unwrap())
            }
            other => panic!("the document does not say what {other:?} is"),
        }
    }
}

/// Reads a fixed table: offset, size, field.
fn fixed(rows: &Table, bytes: &mut Bytes<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut offset = 0;
    let mut fields = BTreeMap::new();
    for row in rows {
        assert_eq!(row[0], offset.to_string(), "{}", row[2]);
        let size: usize = row[1].parse().unwrap();
        fields.insert(bare(&row[2]).to_owned(), bytes.take(size).to_vec());
        offset += size;
    }
    fields
}

fn unsigned(bytes: &[u8]) -> u64 {
    Bytes(bytes).number(bytes.len())
}

#[test]
fn the_documents_tables_decode_every_vector() {
    let tables = Tables::read();
    let header_table = section("The header").rows;
    let link_table = section("The link header").rows;
    let mut types = BTreeSet::new();
    for vector in messages() {
        let (name, fields) = (&vector["name"], &vector["fields"]);
        let all = unhex(vector["hex"].as_str().unwrap());
        let mut bytes = Bytes(&all);
        let mut data = Vec::new();
        let mut packet = 0;
        while !bytes.0.is_empty() {
            let header = fixed(&header_table, &mut bytes);
            let own = match fields.get("packets") {
                Some(packets) => &packets[packet],
                None => fields,
            };
            for (field, value) in &header {
                let expected = match field.as_str() {
                    "dataMessageNumber" | "dataSize" => &own[field],
                    _ => &fields[field],
                };
                let value = match value.len() {
                    16 => json!(hex(value)),
                    8 => json!(unsigned(value).to_string()),
                    _ => json!(unsigned(value)),
                };
                assert_eq!(&value, expected, "{name}: {field}");
            }
            if header["flags"][0] & 1 != 0 {
                link_fields(&fixed(&link_table, &mut bytes), &fields["link"]);
            }
            data.extend_from_slice(bytes.take(unsigned(&header["dataSize"]) as usize));
            packet += 1;
        }
        assert_eq!(json!(packet), fields["dataMessageMax"], "{name}");
        if let Some(data_type) = fields["dataType"].as_str() {
            let mut data = Bytes(&data);
            assert_eq!(tables.decode(data_type, &mut data), fields["data"], "{name}");
            assert!(data.0.is_empty(), "{name}: bytes are left over");
            types.insert(data_type.to_owned());
        } else {
            let count = fields["argumentCount"].as_u64().unwrap() as usize;
            let text = std::str::from_utf8(&data).unwrap();
            let arguments: Vec<&str> =
                if count == 0 { Vec::new() } else { text.splitn(count, ' ').collect() };
            assert_eq!(json!(arguments), fields["arguments"], "{name}");
        }
    }
    let all: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    for vector in all.iter().filter(|vector| vector["kind"] == "data") {
        let (name, fields) = (&vector["name"], &vector["fields"]);
        let data_type = fields["dataType"].as_str().unwrap();
        let all = unhex(vector["hex"].as_str().unwrap());
        let mut data = Bytes(&all);
        assert_eq!(tables.decode(data_type, &mut data), fields["data"], "{name}");
        assert!(data.0.is_empty(), "{name}: bytes are left over");
        types.insert(data_type.to_owned());
    }
    // No table is there that nothing leads to.
    let mut reached = types;
    while let Some(next) = tables.data.keys().find(|name| {
        let used = |row: &Vec<String>| row[1].split(' ').next_back() == Some(name.as_str());
        !reached.contains(*name) && reached.iter().any(|from| tables.data[from].iter().any(used))
    }) {
        reached.insert(next.clone());
    }
    assert_eq!(reached, tables.data.keys().cloned().collect());
}

fn link_fields(link: &BTreeMap<String, Vec<u8>>, expected: &Value) {
    let uuid = hex(&link["workerUUID"]);
    assert_eq!(uuid, expected["workerUUID"].as_str().unwrap().replace('-', ""));
    for field in ["receivedAt", "deadline"] {
        assert_eq!(json!((unsigned(&link[field]) as i64).to_string()), expected[field]);
    }
    assert_eq!(json!(unsigned(&link["sequence"]).to_string()), expected["sequence"]);
    assert_eq!(json!(unsigned(&link["clientPort"])), expected["clientPort"]);
    assert_eq!(link["zero"], [0; 6]);
    let address: std::net::IpAddr = expected["clientAddress"].as_str().unwrap().parse().unwrap();
    let address = match address {
        std::net::IpAddr::V4(four) => four.to_ipv6_mapped(),
        std::net::IpAddr::V6(six) => six,
    };
    assert_eq!(link["clientAddress"], address.octets());
}
