//! Tables of text: columns as wide as they need to be, numbers to the right, changes coloured.
//!
//! Colour is put around a cell after it has its width, so it never moves a column. Invariant: a cell
//! holds no control characters, whoever wrote its text.

use super::clean;

const GAIN: &str = "\x1b[32m";
const LOSS: &str = "\x1b[31m";
const END: &str = "\x1b[0m";
/// All that is ever put around a text.
pub(super) const COLOURS: [&str; 3] = [GAIN, LOSS, END];

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// What a cell says at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Gain,
    Loss,
}

impl Tone {
    /// Of a difference.
    pub(crate) fn of(difference: i64) -> Tone {
        match difference {
            0 => Tone::Plain,
            1.. => Tone::Gain,
            _ => Tone::Loss,
        }
    }

    /// The text in this tone's colour.
    pub(crate) fn paint(self, text: &str, colour: bool) -> String {
        match (self, colour) {
            (Tone::Gain, true) => format!("{GAIN}{text}{END}"),
            (Tone::Loss, true) => format!("{LOSS}{text}{END}"),
            _ => text.to_owned(),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::toned(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::from(text.to_owned())
    }
}

impl Cell {
    /// A text in a tone.
    pub(crate) fn toned(text: String, tone: Tone) -> Cell {
        Cell { text: clean::line(&text).into_owned(), tone }
    }
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// With these headings.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Appends a row; it has a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each with its end.
    pub(crate) fn draw(&self, colour: bool) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, (heading, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(i));
                cells.map(|cell| width(&cell.text)).fold(width(heading), usize::max)
            })
            .collect();
        let headings: Vec<Cell> = self.columns.iter().map(|(text, _)| Cell::from(*text)).collect();
        let mut out = String::new();
        for (number, row) in std::iter::once(&headings).chain(&self.rows).enumerate() {
            let mut line = String::new();
            for ((cell, (_, align)), wide) in row.iter().zip(&self.columns).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padding = " ".repeat(wide.saturating_sub(width(&cell.text)));
                let text = cell.tone.paint(&cell.text, colour);
                match align {
                    Align::Left => line.extend([text, padding]),
                    Align::Right => line.extend([padding, text]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|wide| "─".repeat(*wide)).collect();
                out.push_str(&rules.join("  "));
                out.push('\n');
            }
        }
        out
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let mut table = Table::new(&[("symbol", Align::Left), ("gain", Align::Right)]);
        table.row(["A".into(), Cell::toned("+$10.00".into(), Tone::Gain)]);
        table.row(["BRK.B".into(), Cell::toned("-$1.00".into(), Tone::Loss)]);
        let plain = "\
symbol     gain
──────  ───────
A       +$10.00
BRK.B    -$1.00
";
        assert_eq!(table.draw(false), plain);
        let painted = table.draw(true);
        assert!(painted.contains("BRK.B    \x1b[31m-$1.00\x1b[0m\n"), "{painted:?}");
        let stripped = COLOURS.iter().fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }

    #[test]
    fn a_cell_can_neither_end_its_line_nor_steer_the_terminal() {
        let mut table = Table::new(&[("name", Align::Left), ("web", Align::Left)]);
        table.row(["a\nb".into(), Cell::from("\x1b]8;;x\x07\u{9b}2J\u{202e}")]);
        let drawn = table.draw(true);
        assert_eq!(drawn.lines().count(), 3);
        assert!(!drawn.contains(['\x1b', '\x07', '\u{9b}', '\u{202e}']), "{drawn:?}");
    }
}
