//! Durations and sizes as people write them: `5s`, `64MiB`.
//!
//! Invariant: what they print reads back as the same value. Fractions are not read: `1500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Units, in what the type counts; one of them is 1.
type Units = [(&'static str, u64)];

const DURATIONS: &Units =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZES: &Units = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Why text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number and a unit of time.
    #[error("`{0}` is not a duration: write a whole number and ms, s, m, h or d, such as `30s`")]
    Duration(String),
    /// Not a number and a unit of size.
    #[error(
        "`{0}` is not a size: write a whole number of bytes, or with KB, MB, GB, TB, KiB, MiB, \
         GiB or TiB, such as `64MiB`"
    )]
    Size(String),
    /// More than 2⁶⁴-1 milliseconds or bytes.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// A duration in whole milliseconds, written `500ms`, `5s`, `30m`, `1h` or `2d`. A number without
/// a unit is refused, since nobody could know which is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration {
    millis: u64,
}

impl HumanDuration {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> HumanDuration {
        HumanDuration { millis }
    }

    /// So many seconds, up to the largest duration there is.
    pub const fn from_secs(seconds: u64) -> HumanDuration {
        HumanDuration { millis: seconds.saturating_mul(1_000) }
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl From<Duration> for HumanDuration {
    /// To the millisecond, rounded down.
    fn from(duration: Duration) -> HumanDuration {
        HumanDuration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Duration {
        duration.duration()
    }
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<HumanDuration, UnitError> {
        let (number, unit) = split(text);
        let factor = DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let factor = factor.filter(|_| !number.is_empty());
        let factor = factor.ok_or_else(|| UnitError::Duration(text.to_owned()))?;
        Ok(HumanDuration { millis: product(text, number, factor)? })
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        print(f, self.millis, DURATIONS)
    }
}

/// A number of bytes, written as a plain number or `10KB` (1,000 each), `64MiB`, `1GiB` (1,024
/// each), in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(
    /// In bytes.
    pub u64,
);

impl ByteSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<ByteSize, UnitError> {
        let (number, unit) = split(text);
        let factor = match unit {
            "" => Some(1),
            unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, f)| *f),
        };
        let factor = factor.filter(|_| !number.is_empty());
        let factor = factor.ok_or_else(|| UnitError::Size(text.to_owned()))?;
        Ok(ByteSize(product(text, number, factor)?))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        print(f, self.0, SIZES)
    }
}

/// The digits that text begins with, and the rest.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn product(text: &str, number: &str, factor: u64) -> Result<u64, UnitError> {
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| UnitError::TooLarge(text.to_owned()))
}

/// Prints with the unit that gives the smallest number and leaves no rest.
fn print(f: &mut fmt::Formatter<'_>, value: u64, units: &Units) -> fmt::Result {
    let fitting = units.iter().filter(|(_, factor)| value.is_multiple_of(*factor));
    let (unit, factor) = fitting.max_by_key(|(_, factor)| *factor).copied().unwrap_or(("", 1));
    write!(f, "{}{unit}", value / factor)
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HumanDuration, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = HumanDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"500ms\", \"5s\", \"30m\", \"1h\" or \"2d\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a size such as \"64MiB\" or \"10KB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                let signed = de::Unexpected::Signed(bytes);
                bytes.try_into().map(ByteSize).map_err(|_| E::invalid_value(signed, &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// For `#[serde(with = …)]` on a plain `u64` that is configured like a [`ByteSize`].
pub mod byte_size {
    use super::ByteSize;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes it as a [`ByteSize`].
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        ByteSize(*bytes).serialize(serializer)
    }

    /// Reads it as a [`ByteSize`].
    ///
    /// # Errors
    /// The value is no size.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        ByteSize::deserialize(deserializer).map(ByteSize::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::value::Value;
    use proptest::prelude::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis, printed) in [
            ("0s", 0, "0s"),
            ("0d", 0, "0s"),
            ("500ms", 500, "500ms"),
            ("1500ms", 1_500, "1500ms"),
            ("5s", 5_000, "5s"),
            ("60s", 60_000, "1m"),
            ("30m", 1_800_000, "30m"),
            ("1h", 3_600_000, "1h"),
            ("2d", 172_800_000, "2d"),
            ("25h", 90_000_000, "25h"),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(duration.to_string(), printed);
            assert_eq!(Duration::from(duration), Duration::from_millis(millis));
        }
    }

    #[test]
    fn what_is_no_duration() {
        let bad = [
            "", "5", "s", "-5s", "+5s", "5 s", " 5s", "5s ", "1.5s", "5S", "5M", "5sec", "1h30m",
            "5w", "٥s", "0x5s", "ms5",
        ];
        for text in bad {
            let expected = UnitError::Duration(text.to_owned());
            assert_eq!(text.parse::<HumanDuration>(), Err(expected), "{text}");
        }
        for text in ["18446744073709551616ms", "18446744073709552s", "99999999999999999999999d"] {
            let expected = UnitError::TooLarge(text.to_owned());
            assert_eq!(text.parse::<HumanDuration>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes, printed) in [
            ("0", 0, "0B"),
            ("512", 512, "512B"),
            ("512B", 512, "512B"),
            ("10KB", 10_000, "10KB"),
            ("10kb", 10_000, "10KB"),
            ("64MiB", 67_108_864, "64MiB"),
            ("64mib", 67_108_864, "64MiB"),
            ("1GiB", 1_073_741_824, "1GiB"),
            ("2048KiB", 2_097_152, "2MiB"),
            ("3TB", 3_000_000_000_000, "3TB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string().parse(), Ok(size));
            assert_eq!(size.to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in ["", "MiB", "-1", "+1", "1.5GB", "10 KB", "10K", "10M", "1e6", "10KiBs", "١B"]
        {
            let expected = UnitError::Size(text.to_owned());
            assert_eq!(text.parse::<ByteSize>(), Err(expected), "{text}");
        }
        for text in ["18446744073709551616", "16777216TiB"] {
            let expected = UnitError::TooLarge(text.to_owned());
            assert_eq!(text.parse::<ByteSize>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn through_serde() {
        let value = |value: Value| value;
        assert_eq!(value(5u32.into()).deserialize::<ByteSize>(), Ok(ByteSize(5)));
        assert_eq!(value(5i32.into()).deserialize::<ByteSize>(), Ok(ByteSize(5)));
        assert_eq!(value("5KB".into()).deserialize::<ByteSize>(), Ok(ByteSize(5_000)));
        for bad in [value((-5).into()), value(5.0.into()), value(true.into()), value("5".into())] {
            if bad != value("5".into()) {
                bad.deserialize::<ByteSize>().unwrap_err();
            }
            let error = bad.deserialize::<HumanDuration>().unwrap_err().to_string();
            assert!(error.contains("duration"), "{error}");
        }
        let error = value(5u32.into()).deserialize::<HumanDuration>().unwrap_err().to_string();
        assert!(error.contains("\"5s\""), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(number in any::<u64>(), shift in 0u32..64) {
            for value in [number, number >> shift, (number >> shift << shift), number / 1000 * 1000] {
                let duration = HumanDuration::from_millis(value);
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
                let size = ByteSize(value);
                prop_assert_eq!(size.to_string().parse(), Ok(size));
                let stored = Value::serialize(size).unwrap();
                prop_assert_eq!(stored.deserialize::<ByteSize>(), Ok(size));
            }
        }

        #[test]
        fn reading_never_panics(text in ".*") {
            let _ = text.parse::<HumanDuration>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
