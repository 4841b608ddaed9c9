//! How values stand in binary data: big-endian, without padding, nothing optional but by a byte.
//!
//! | value | bytes |
//! |---|---|
//! | u8, u16, u32, u64, i64 | big-endian |
//! | bool | one byte, 0 or 1 |
//! | text | u16 length, then UTF-8 |
//! | optional | one byte 0 or 1, then the value if 1 |
//! | list | u32 count, then the values |
//! | bytes (a key, what is sealed) | a list of u8 |
//! | 32 bytes (a nonce, a certificate's fingerprint) | as they are |
//! | cash | i64, cents |
//! | price, quantity, volume | i64, 10⁻⁸ |
//! | time | i64, nanoseconds since 1970 in UTC |

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::WorkerId;
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::names::Symbol;
use papertrader_core::time::{MarketTime, WallTime};

use crate::session::SessionId;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The data ends too early.
    #[error("the data ends too early")]
    Short,
    /// Bytes are left over.
    #[error("bytes are left over")]
    Trailing,
    /// A value that the field cannot have.
    #[error("{0} has a value that it cannot have")]
    Value(&'static str),
}

/// Takes values from the front of some bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// Takes `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes a fixed number of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Fails unless everything was taken.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// A value with a binary form.
pub trait Wire: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes it.
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// All its bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// From all of `bytes`: bytes left over are an error.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::take(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(<$type>::from_be_bytes(reader.array()?))
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 i64);

macro_rules! newtypes {
    ($($type:ty, $to:expr, $from:expr;)*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                let to: fn(&$type) -> i64 = $to;
                to(self).put(out);
            }
            fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let from: fn(i64) -> Result<$type, DecodeError> = $from;
                from(i64::take(reader)?)
            }
        }
    )*};
}
newtypes! {
    Cash, |v| v.cents(), |n| Ok(Cash::from_cents(n));
    Price, |v| v.raw(), |n| Price::from_raw(n).ok_or(DecodeError::Value("a price"));
    Quantity, |v| v.raw(), |n| Ok(Quantity::from_raw(n));
    Volume, |v| v.raw(), |n| Ok(Volume::from_raw(n));
    MarketTime, |v| v.0, |n| Ok(MarketTime(n));
    WallTime, |v| v.0, |n| Ok(WallTime(n));
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::take(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value("a bool")),
        }
    }
}

impl Wire for String {
    /// Text beyond 65,535 bytes is cut at a character: no field of this protocol is that long.
    fn put(&self, out: &mut Vec<u8>) {
        let mut end = self.len().min(usize::from(u16::MAX));
        while !self.is_char_boundary(end) {
            end -= 1;
        }
        (end as u16).put(out);
        out.extend_from_slice(&self.as_bytes()[..end]);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = u16::take(reader)?;
        let bytes = reader.bytes(usize::from(length))?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Value("a text"))?;
        Ok(text.to_owned())
    }
}

impl Wire for Symbol {
    fn put(&self, out: &mut Vec<u8>) {
        let text = self.as_str();
        (text.len() as u16).put(out);
        out.extend_from_slice(text.as_bytes());
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = u16::take(reader)?;
        let bytes = reader.bytes(usize::from(length))?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Value("a symbol"))?;
        text.parse().map_err(|_| DecodeError::Value("a symbol"))
    }
}

impl Wire for WorkerId {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(WorkerId(reader.array()?))
    }
}

impl Wire for SessionId {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes());
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(SessionId::from_bytes(reader.array()?))
    }
}

impl Wire for Resolution {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Resolution::from_number(u8::take(reader)?).ok_or(DecodeError::Value("a resolution"))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::take(reader)?.then(|| T::take(reader)).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for value in self {
            value.put(out);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::take(reader)? as usize;
        // Each value takes a byte at least, and memory grows only with bytes that were read.
        if count > reader.rest.len() {
            return Err(DecodeError::Short);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(T::take(reader)?);
        }
        Ok(values)
    }
}

/// Declares a struct whose binary form is its fields in order.
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }
            fn take(
                reader: &mut $crate::wire::Reader<'_>,
            ) -> Result<Self, $crate::wire::DecodeError> {
                Ok($name { $($field: $crate::wire::Wire::take(reader)?,)* })
            }
        }
    };
}
pub(crate) use wire_struct;

impl Wire for Bar {
    fn put(&self, out: &mut Vec<u8>) {
        self.start.put(out);
        self.open.put(out);
        self.high.put(out);
        self.low.put(out);
        self.close.put(out);
        self.volume.put(out);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Bar {
            start: MarketTime::take(reader)?,
            open: Price::take(reader)?,
            high: Price::take(reader)?,
            low: Price::take(reader)?,
            close: Price::take(reader)?,
            volume: Volume::take(reader)?,
        })
    }
}
