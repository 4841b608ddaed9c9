//! Text from servers, made harmless for a terminal.
//!
//! A terminal obeys control characters, and the characters that turn the direction of writing make a
//! text look like another one. Invariant: what comes out has none of either, but for the ends of
//! lines and our own colours where they are allowed.

use std::borrow::Cow;

use super::table::COLOURS;

/// Stands for what was taken out.
const INSTEAD: char = '\u{fffd}';

/// One line, or a cell of a table: without any such character.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if text.contains(is_harmful) {
        text.replace(is_harmful, "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// Lines: their ends stay, and so do our own colours if there are `colours`.
pub(crate) fn lines(text: &str, colours: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let colour = COLOURS.iter().find(|colour| colours && rest.starts_with(**colour));
        let taken = match colour {
            Some(colour) => {
                out.push_str(colour);
                colour.len()
            }
            None => {
                out.push(if next != '\n' && is_harmful(next) { INSTEAD } else { next });
                next.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// JSON: the same characters, where they stand in strings, as escapes that mean them.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            // All of them have four digits at most.
            out += &format!("\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        let bad = "a\u{1b}]0;x\u{7}b\u{9b}31mc\u{202e}d\u{2069}e\r\n\u{7f}ä😀";
        assert_eq!(
            line(bad),
            "a\u{fffd}]0;x\u{fffd}b\u{fffd}31mc\u{fffd}d\u{fffd}e\u{fffd}\u{fffd}\u{fffd}ä😀"
        );
        assert_eq!(line("plain ä😀"), "plain ä😀");
        for colours in [false, true] {
            let cleaned = lines(bad, colours);
            assert_eq!(cleaned, line(bad).replace("e\u{fffd}\u{fffd}", "e\u{fffd}\n"));
        }
    }

    #[test]
    fn only_our_own_colours_pass_and_only_where_there_are_colours() {
        let text = "\u{1b}[32m+1\u{1b}[0m \u{1b}[2J\n";
        assert_eq!(lines(text, true), "\u{1b}[32m+1\u{1b}[0m \u{fffd}[2J\n");
        assert_eq!(lines(text, false), "\u{fffd}[32m+1\u{fffd}[0m \u{fffd}[2J\n");
    }

    #[test]
    fn json_means_the_same() {
        let bad = "a\u{1b}\u{9b}\u{202e}\u{7f}\"\nä";
        let text = json(&serde_json::to_string(bad).unwrap());
        assert!(!text.contains(is_harmful), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), bad);
    }
}
