//! Small texts of the operator's commands: fields one below the other, times, sizes.

use std::fmt::Display;

/// Named values, one a line, the values below each other.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, String)>);

impl Fields {
    pub(super) fn put(&mut self, name: &'static str, value: impl Display) {
        self.0.push((name, value.to_string()));
    }

    pub(super) fn text(&self) -> String {
        let wide = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.0.iter().map(|(name, value)| format!("{name:wide$}  {value}\n")).collect()
    }
}

/// `3 sessions`, `1 session`.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A length of time by its two largest units: `2d 3h`, `12s`.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let units = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60)];
    let units = units.into_iter().chain([("s", seconds % 60)]);
    let from_first: Vec<_> = units.skip_while(|(_, number)| *number == 0).take(2).collect();
    match from_first.as_slice() {
        [] => "0s".into(),
        units => {
            let shown = units.iter().filter(|(_, number)| *number != 0);
            shown.map(|(unit, number)| format!("{number}{unit}")).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Microseconds as milliseconds: `0.41 ms`.
pub(super) fn millis(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let hundredths = (micros.unsigned_abs() + 5) / 10;
    format!("{sign}{}.{:02} ms", hundredths / 100, hundredths % 100)
}

/// The same with its sign.
pub(super) fn signed_millis(micros: i64) -> String {
    let text = millis(micros);
    if micros < 0 { text } else { format!("+{text}") }
}

/// A number of bytes: `12 B`, `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some((power, unit)) = (1..).zip(units).take_while(|(n, _)| bytes >> (10 * n) > 0).last()
    else {
        return format!("{bytes} B");
    };
    let tenths = (bytes >> (10 * (power - 1))) * 10 / 1_024;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_short() {
        for (seconds, text) in [
            (-1, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3_600, "1h"),
            (3_659, "1h"),
            (90_000, "1d 1h"),
            (86_400 * 400 + 60, "400d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn milliseconds_and_sizes_are_rounded() {
        assert_eq!(millis(412), "0.41 ms");
        assert_eq!(millis(-12_345), "-12.35 ms");
        assert_eq!(signed_millis(0), "+0.00 ms");
        assert_eq!(signed_millis(-20), "-0.02 ms");
        assert_eq!(size(1_023), "1023 B");
        assert_eq!(size(1_024), "1.0 KiB");
        assert_eq!(size(67_108_863), "63.9 MiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn fields_stand_below_each_other() {
        let mut fields = Fields::default();
        fields.put("a", 1);
        fields.put("long", "x");
        assert_eq!(fields.text(), "a     1\nlong  x\n");
        assert_eq!(count(1, "session"), "1 session");
        assert_eq!(count(0, "order"), "0 orders");
    }
}
