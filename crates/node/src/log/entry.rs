//! One entry of the event log, and how it is written as one line.
//!
//! It does not know where the line goes. Invariants: an entry's text is at most [`MAX_TEXT`] bytes
//! and a mark, and its line holds no control character but the newline at its end, so that nothing
//! a stranger sends can pretend to be another entry or command a terminal.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use papertrader_core::time::{DAY, Date, MarketTime, SECOND, WallTime};
use tracing::Level;

/// The most bytes that the message and the fields of one entry take together. What is longer is
/// cut, and ends in `…`.
pub const MAX_TEXT: usize = 16 * 1024;

/// One event: what happened, when, and where in the program (specification 2.4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it happened, by the machine's clock.
    pub at: WallTime,
    /// How important it is.
    pub level: Level,
    /// The part of the program that speaks: the module's path unless the caller chose otherwise.
    pub target: Cow<'static, str>,
    /// The source file, as the compiler was given it; none if unknown.
    pub file: Option<Cow<'static, str>>,
    /// The caller's function. For a library's event, which names none, it is the name of the span
    /// that it happened in, or else of its module.
    pub function: Cow<'static, str>,
    /// The line in the source file; none if unknown.
    pub line: Option<u32>,
    /// What happened, in words.
    pub message: String,
    /// The values that belong to it, by name, in the caller's order.
    pub fields: Vec<(Cow<'static, str>, String)>,
}

/// The time within a UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999,999.
    pub nanosecond: u32,
}

impl LogEntry {
    /// The UTC date on which it happened.
    pub fn date(&self) -> Date {
        Date::of(MarketTime(self.at.0))
    }

    /// The time of that day.
    pub fn time(&self) -> TimeOfDay {
        let nanos = self.at.0.rem_euclid(DAY);
        let seconds = nanos / SECOND;
        TimeOfDay {
            hour: (seconds / 3_600) as u8,
            minute: (seconds / 60 % 60) as u8,
            second: (seconds % 60) as u8,
            nanosecond: (nanos % SECOND) as u32,
        }
    }

    /// Appends the line of the log file, with its newline:
    /// `2026-11-22T23:47:31.123456789Z INFO file.rs:12 function message key=value`.
    pub(super) fn write_line(&self, out: &mut String) {
        // Writing to a `String` cannot fail.
        let _ = write!(out, "{}T{}Z {} ", self.date(), self.time(), self.level);
        self.write_place(out);
        out.push(' ');
        write_value(out, &self.function);
        self.write_text(out);
        out.push('\n');
    }

    /// Appends the line for a person at a terminal, with its newline: the words first.
    pub(super) fn write_human(&self, out: &mut String) {
        let time = self.time();
        let _ = write!(
            out,
            "{:02}:{:02}:{:02}.{:03} {:<5}",
            time.hour,
            time.minute,
            time.second,
            time.nanosecond / 1_000_000,
            self.level
        );
        self.write_text(out);
        out.push_str(" (");
        self.write_place(out);
        out.push_str(")\n");
    }

    fn write_place(&self, out: &mut String) {
        match &self.file {
            Some(file) => write_value(out, short_file(file)),
            None => out.push('-'),
        }
        let _ = write!(out, ":{}", self.line.unwrap_or(0));
    }

    fn write_text(&self, out: &mut String) {
        if !self.message.is_empty() {
            out.push(' ');
            write_escaped(out, &self.message);
        }
        for (name, value) in &self.fields {
            out.push(' ');
            write_value(out, name);
            out.push('=');
            write_value(out, value);
        }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}.{:09}", self.hour, self.minute, self.second, self.nanosecond)
    }
}

/// Now, by the machine's clock, which an operator may turn back: the log says what it said.
pub(super) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Collects text up to a number of bytes, and stops whoever formats more.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    /// [`MAX_TEXT`] bytes.
    pub(super) fn new() -> Budget {
        Budget { left: MAX_TEXT }
    }

    /// The text of `value`, or as much of it as the budget still has.
    pub(super) fn take(&mut self, value: fmt::Arguments<'_>) -> String {
        let mut capped = Capped { text: String::new(), budget: self };
        // An error here is a `Display` that gave up, or the cap: what there is, is kept.
        let _ = capped.write_fmt(value);
        capped.text
    }
}

struct Capped<'a> {
    text: String,
    budget: &'a mut Budget,
}

impl Write for Capped<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if part.len() <= self.budget.left {
            self.budget.left -= part.len();
            self.text.push_str(part);
            return Ok(());
        }
        let fits = (0..=self.budget.left).rev().find_map(|cut| part.get(..cut));
        self.text.push_str(fits.unwrap_or_default());
        self.text.push('…');
        self.budget.left = 0;
        Err(fmt::Error)
    }
}

/// The path of a library's file without the place where the building machine keeps libraries.
fn short_file(path: &str) -> &str {
    path.split_once("/registry/src/")
        .and_then(|(_, inside)| inside.split_once('/'))
        .map_or(path, |(_, file)| file)
}

/// Appends a value so that it is one word: quoted where it would not be.
fn write_value(out: &mut String, value: &str) {
    let is_word = !value.is_empty() && !value.contains([' ', '"', '=']);
    if is_word {
        return write_escaped(out, value);
    }
    out.push('"');
    for (index, part) in value.split('"').enumerate() {
        if index > 0 {
            out.push_str("\\\"");
        }
        write_escaped(out, part);
    }
    out.push('"');
}

/// Appends text with a backslash, control characters, and what changes the direction or the lines
/// of text on a screen, as backslash escapes.
fn write_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::log) fn entry(message: &str) -> LogEntry {
        LogEntry {
            at: WallTime(1_795_391_251_123_456_789),
            level: Level::INFO,
            target: "papertrader_master".into(),
            file: Some("crates/master/src/driver.rs".into()),
            function: "papertrader_master::driver::run".into(),
            line: Some(12),
            message: message.to_owned(),
            fields: Vec::new(),
        }
    }

    fn line(entry: &LogEntry) -> String {
        let mut out = String::new();
        entry.write_line(&mut out);
        out
    }

    #[test]
    fn a_line_has_date_time_level_file_line_function_message_and_fields() {
        let mut entry = entry("worker joined");
        entry.fields = vec![("name".into(), "eu-1".into()), ("note".into(), "a \"b\" c".into())];
        assert_eq!(
            line(&entry),
            "2026-11-22T23:47:31.123456789Z INFO crates/master/src/driver.rs:12 \
             papertrader_master::driver::run worker joined name=eu-1 note=\"a \\\"b\\\" c\"\n"
        );
        let mut human = String::new();
        entry.write_human(&mut human);
        assert_eq!(
            human,
            "23:47:31.123 INFO  worker joined name=eu-1 note=\"a \\\"b\\\" c\" \
             (crates/master/src/driver.rs:12)\n"
        );
    }

    #[test]
    fn what_is_unknown_keeps_its_place_in_the_line() {
        let mut entry = entry("");
        (entry.file, entry.line) = (None, None);
        entry.function = "<a::B as c::D>::e".into();
        entry.fields = vec![("empty".into(), String::new())];
        assert_eq!(
            line(&entry),
            "2026-11-22T23:47:31.123456789Z INFO -:0 \"<a::B as c::D>::e\" empty=\"\"\n"
        );
    }

    #[test]
    fn times_before_1970_and_at_the_end_of_a_day() {
        let mut entry = entry("");
        entry.at = WallTime(-1);
        assert_eq!(entry.date().to_string(), "1969-12-31");
        assert_eq!(entry.time().to_string(), "23:59:59.999999999");
    }

    #[test]
    fn a_message_cannot_forge_an_entry_or_command_a_terminal() {
        let entry = entry("a\r\n2026 ERROR\u{1b}[31m\u{202e}\u{2028}\\n");
        assert!(
            line(&entry).ends_with(" a\\r\\n2026 ERROR\\u{1b}[31m\\u{202e}\\u{2028}\\\\n\n"),
            "{}",
            line(&entry)
        );
    }

    #[test]
    fn a_librarys_file_is_named_without_the_building_machines_directories() {
        let path = "/home/me/.cargo/registry/src/index.crates.io-19/tokio-1.5/src/net.rs";
        assert_eq!(short_file(path), "tokio-1.5/src/net.rs");
        assert_eq!(short_file("crates/node/src/lib.rs"), "crates/node/src/lib.rs");
    }

    #[test]
    fn the_text_of_an_entry_is_capped_at_a_character() {
        let mut budget = Budget::new();
        let first = budget.take(format_args!("{}", "x".repeat(MAX_TEXT - 1)));
        assert_eq!(first.len(), MAX_TEXT - 1);
        assert_eq!(budget.take(format_args!("{}", "éa")), "…");
        assert_eq!(budget.take(format_args!("more")), "…");
    }

    proptest! {
        #[test]
        fn any_entry_is_one_line(message in "\\PC*|.*", name in any::<String>(), value in any::<String>()) {
            let mut entry = entry(&message);
            entry.fields = vec![(name.clone().into(), value.clone())];
            entry.function = value.into();
            entry.file = Some(name.into());
            for write in [LogEntry::write_line, LogEntry::write_human] {
                let mut out = String::new();
                write(&entry, &mut out);
                let body = out.strip_suffix('\n').unwrap();
                prop_assert!(!body.contains(char::is_control), "{body:?}");
            }
        }
    }
}
