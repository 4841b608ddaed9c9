//! A line of closing prices drawn with braille dots: two by four in each character.
//!
//! Integers only. The lowest close stands on the lowest dot and the highest on the highest; bars
//! are spread evenly, as the days without a market are not drawn.

use super::money::rounded;

/// What is drawn.
#[derive(Debug)]
pub(crate) struct Chart<'a> {
    /// Closing prices in order of time, in 10⁻⁸.
    pub(crate) closes: &'a [i64],
    /// What stands below the first, the middle and the last of them.
    pub(crate) labels: [String; 3],
    /// Characters in a line, with the prices on the left.
    pub(crate) width: usize,
    /// Lines of the plot, without the labels below.
    pub(crate) height: usize,
}

/// The dots of a braille character, by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

impl Chart<'_> {
    /// The lines, each with its end; nothing without prices.
    pub(crate) fn draw(&self) -> String {
        let (Some(&low), Some(&high)) = (self.closes.iter().min(), self.closes.iter().max()) else {
            return String::new();
        };
        let height = self.height.max(2);
        let ticks = self.ticks(low, high, height);
        let margin = ticks.iter().flatten().map(|text| text.len()).max().unwrap_or(0);
        let columns = self.width.saturating_sub(margin + 2).max(8);

        let grid = plot(self.closes, low, high, columns, height);
        let mut out = String::new();
        for (row, tick) in grid.chunks(columns).zip(&ticks) {
            let label = tick.as_deref().unwrap_or("");
            let axis = if tick.is_some() { '┤' } else { '│' };
            let cells: String = row.iter().map(|dots| braille(*dots)).collect();
            out.push_str(format!("{label:>margin$} {axis}{cells}").trim_end());
            out.push('\n');
        }
        out.push_str(&format!("{:margin$} └{}\n", "", "─".repeat(columns)));
        out.push_str(&format!("{:margin$}  {}\n", "", self.below(columns)));
        out
    }

    /// The price beside each line, where there is one.
    fn ticks(&self, low: i64, high: i64, height: usize) -> Vec<Option<String>> {
        let span = high - low;
        let decimals = match span {
            5_000_000.. => 2,
            50_000.. => 4,
            0 => 2,
            _ => 8,
        };
        let last = height - 1;
        let wanted: Vec<usize> = (0..=4).map(|i| i * last / 4).collect();
        (0..height)
            .map(|row| {
                let level = i128::from(high) - i128::from(span) * row as i128 / last as i128;
                let level = i64::try_from(level).unwrap_or(high);
                // A flat line has one price, in the middle.
                let shown = if span == 0 { row == last / 2 } else { wanted.contains(&row) };
                shown.then(|| rounded(level, decimals))
            })
            .collect()
    }

    fn below(&self, columns: usize) -> String {
        let [first, middle, last] = &self.labels;
        if self.closes.len() < 2 {
            return first.clone();
        }
        let room = columns.saturating_sub(first.len() + last.len());
        if self.closes.len() < 3 || room < middle.len() + 4 {
            return format!("{first}{}{last}", " ".repeat(room.max(1)));
        }
        let start = (columns.saturating_sub(middle.len())) / 2;
        let start = start.clamp(first.len() + 2, first.len() + room - middle.len() - 2);
        let before = start - first.len();
        let after = room - before - middle.len();
        format!("{first}{}{middle}{}{last}", " ".repeat(before), " ".repeat(after))
    }
}

/// The dots of every character, line by line.
fn plot(closes: &[i64], low: i64, high: i64, columns: usize, height: usize) -> Vec<u32> {
    let (wide, tall) = (columns * 2, height * 4);
    let mut grid = vec![0; columns * height];
    let mut dot = |x: usize, y: usize| {
        if let Some(cell) = grid.get_mut(y / 4 * columns + x / 2) {
            *cell |= DOTS[y % 4][x % 2];
        }
    };
    let place = |i: usize, close: i64| {
        let x = match closes.len() {
            1 => wide / 2,
            many => i * (wide - 1) / (many - 1),
        };
        let span = i128::from(high) - i128::from(low);
        let down = (i128::from(high) - i128::from(close)) * (tall as i128 - 1);
        let y = if span == 0 { tall / 2 } else { usize::try_from(down / span).unwrap_or(0) };
        (x, y)
    };
    let mut before = None;
    for (i, close) in closes.iter().enumerate() {
        let to = place(i, *close);
        line(before.unwrap_or(to), to, &mut dot);
        before = Some(to);
    }
    grid
}

/// Every dot between two places: one in each column at least, and no gap in between.
fn line(from: (usize, usize), to: (usize, usize), dot: &mut impl FnMut(usize, usize)) {
    let across = to.0.saturating_sub(from.0);
    let steps = across.max(from.1.abs_diff(to.1)).max(1);
    for step in 0..=steps {
        let between = |a: usize, b: usize| {
            if b >= a { a + (b - a) * step / steps } else { a - (a - b) * step / steps }
        };
        dot(between(from.0, to.0), between(from.1, to.1));
    }
}

fn braille(dots: u32) -> char {
    match dots {
        0 => ' ',
        _ => char::from_u32(0x2800 + dots).unwrap_or(' '),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(closes: &[i64], width: usize, height: usize) -> String {
        let labels = ["2005-01".to_owned(), "2005-02".to_owned(), "2005-03".to_owned()];
        Chart { closes, labels, width, height }.draw()
    }

    #[test]
    fn a_small_chart() {
        let closes: Vec<i64> =
            [10, 12, 11, 15, 20, 18, 16, 17].iter().map(|p| p * 100_000_000).collect();
        let expected = "\
20.00 ┤                 ⡠⠊⠉⠒⠢⠤⣀⡀
17.50 ┤               ⡠⠊       ⠈⠑⠢⢄⣀⣀⠤⠤⠔
15.00 ┤            ⢀⠔⠊
12.50 ┤    ⢀⣀⣀   ⢀⠔⠁
10.00 ┤⣀⡠⠔⠊⠁  ⠉⠉⠒⠁
      └─────────────────────────────────
       2005-01      2005-02      2005-03
";
        assert_eq!(chart(&closes, 40, 5), expected);
    }

    #[test]
    fn a_flat_line_and_a_single_price_have_one_level() {
        let drawn = chart(&[500_000_000; 4], 30, 4);
        assert_eq!(drawn.matches("5.00").count(), 1, "{drawn}");
        let single = chart(&[500_000_000], 30, 4);
        assert!(single.contains("5.00") && single.contains("2005-01"), "{single}");
        assert!(!single.contains("2005-03"), "{single}");
        assert_eq!(chart(&[], 30, 4), "");
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        let closes: Vec<i64> = (0..3270).map(|i| 100_000_000 + (i * 7919) % 900_000_000).collect();
        for width in [20, 40, 80, 200] {
            let drawn = chart(&closes, width, 10);
            assert_eq!(drawn.lines().count(), 12);
            for line in drawn.lines() {
                assert!(line.chars().count() <= width.max(24), "{width}: {line}");
            }
        }
    }

    #[test]
    fn the_smallest_and_the_largest_prices_can_be_drawn() {
        chart(&[1, 100_000_000_000_000_000], 80, 20);
    }
}
