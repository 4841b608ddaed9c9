//! Cash, prices, quantities and volumes: integers with a named scale and checked arithmetic.
//!
//! | type | unit of the integer | largest accepted |
//! |---|---|---|
//! | [`Cash`] | one cent (10⁻²) | [`MAX_CASH`] = 10 trillion |
//! | [`Price`] | 10⁻⁸ of the currency per whole unit | [`MAX_PRICE`] = 1 billion |
//! | [`Quantity`] | 10⁻⁸ of a unit (share, coin) | [`MAX_QUANTITY`] = 1 billion |
//! | [`Volume`] | 10⁻⁸ of a unit, saturating | |
//!
//! | operation | result |
//! |---|---|
//! | `Cash ± Cash`, `Quantity ± Quantity` | `Option`: `None` on overflow |
//! | [`Price::cost_of`] quantity | [`Cash`], rounded **up** to the cent: what a buyer pays |
//! | [`Price::proceeds_of`] quantity | [`Cash`], rounded **down** to the cent: what a seller gets |
//!
//! The one rounding rule: a fraction of a cent goes against the trader, always. There is no
//! floating point here and none may be added.

use std::fmt;
use std::str::FromStr;

/// Decimals of [`Cash`].
pub const CASH_SCALE: u32 = 2;
/// Decimals of [`Price`].
pub const PRICE_SCALE: u32 = 8;
/// Decimals of [`Quantity`] and [`Volume`].
pub const QUANTITY_SCALE: u32 = 8;

/// The largest cash balance or amount accepted, in cents: 10 trillion of the currency.
pub const MAX_CASH: Cash = Cash(1_000_000_000_000_000);
/// The largest price accepted: one billion of the currency.
pub const MAX_PRICE: Price = Price(100_000_000_000_000_000);
/// The largest quantity of one order or position: one billion units.
pub const MAX_QUANTITY: Quantity = Quantity(100_000_000_000_000_000);

/// price (10⁻⁸) × quantity (10⁻⁸) is in 10⁻¹⁶; a cent is 10¹⁴ of those.
const CENT_IN_PRODUCT: i128 = 100_000_000_000_000;

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not digits with at most one decimal point.
    #[error("is not a decimal number")]
    NotANumber,
    /// A minus sign where only positive amounts make sense.
    #[error("is negative")]
    Negative,
    /// More decimals than the type has.
    #[error("has too many decimals")]
    TooManyDecimals,
    /// Above the largest accepted amount.
    #[error("is too large")]
    TooLarge,
}

/// An amount of money in cents. May be negative (a posting); a balance never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cash(i64);

impl Cash {
    /// No money.
    pub const ZERO: Cash = Cash(0);

    /// From a number of cents.
    pub const fn from_cents(cents: i64) -> Cash {
        Cash(cents)
    }

    /// The number of cents.
    pub const fn cents(self) -> i64 {
        self.0
    }

    /// From whole units of the currency.
    pub const fn from_units(units: i64) -> Option<Cash> {
        match units.checked_mul(100) {
            Some(cents) => Some(Cash(cents)),
            None => None,
        }
    }

    /// The sum, or `None` on overflow.
    pub const fn plus(self, other: Cash) -> Option<Cash> {
        match self.0.checked_add(other.0) {
            Some(cents) => Some(Cash(cents)),
            None => None,
        }
    }

    /// The difference, or `None` on overflow. It may be negative.
    pub const fn minus(self, other: Cash) -> Option<Cash> {
        match self.0.checked_sub(other.0) {
            Some(cents) => Some(Cash(cents)),
            None => None,
        }
    }

    /// The amount with the other sign, or `None` on overflow.
    pub const fn negated(self) -> Option<Cash> {
        match self.0.checked_neg() {
            Some(cents) => Some(Cash(cents)),
            None => None,
        }
    }

    /// Below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// `self × part / whole`, rounded down; `None` if `whole` is zero or the result overflows.
    /// Used for the cost basis of a part of a position.
    pub fn share(self, part: Quantity, whole: Quantity) -> Option<Cash> {
        if whole.0 == 0 {
            return None;
        }
        let product = i128::from(self.0) * i128::from(part.0);
        i64::try_from(product.div_euclid(i128::from(whole.0))).ok().map(Cash)
    }

    /// This amount with five per cent added, rounded up: what a buy order holds of its cost.
    pub fn with_hold_margin(self) -> Option<Cash> {
        let product = i128::from(self.0) * 105;
        i64::try_from(div_ceil(product, 100)).ok().map(Cash)
    }
}

/// A price per whole unit, in 10⁻⁸ of the currency. Always positive in a valid quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price(i64);

impl Price {
    /// From the integer of 10⁻⁸; `None` unless it is positive and at most [`MAX_PRICE`].
    pub const fn from_raw(raw: i64) -> Option<Price> {
        if raw > 0 && raw <= MAX_PRICE.0 { Some(Price(raw)) } else { None }
    }

    /// The integer of 10⁻⁸.
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// What buying `quantity` costs, rounded up to the cent; `None` above [`MAX_CASH`].
    pub fn cost_of(self, quantity: Quantity) -> Option<Cash> {
        bounded(div_ceil(self.product(quantity), CENT_IN_PRODUCT))
    }

    /// What selling `quantity` brings, rounded down to the cent; `None` above [`MAX_CASH`].
    pub fn proceeds_of(self, quantity: Quantity) -> Option<Cash> {
        bounded(self.product(quantity).div_euclid(CENT_IN_PRODUCT))
    }

    fn product(self, quantity: Quantity) -> i128 {
        i128::from(self.0) * i128::from(quantity.0)
    }
}

/// A number of units (shares, coins) in 10⁻⁸. May be negative (a posting); a position never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity(i64);

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity(0);

    /// From the integer of 10⁻⁸.
    pub const fn from_raw(raw: i64) -> Quantity {
        Quantity(raw)
    }

    /// The integer of 10⁻⁸.
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// From whole units.
    pub const fn from_units(units: i64) -> Option<Quantity> {
        match units.checked_mul(100_000_000) {
            Some(raw) => Some(Quantity(raw)),
            None => None,
        }
    }

    /// The sum, or `None` on overflow.
    pub const fn plus(self, other: Quantity) -> Option<Quantity> {
        match self.0.checked_add(other.0) {
            Some(raw) => Some(Quantity(raw)),
            None => None,
        }
    }

    /// The difference, or `None` on overflow. It may be negative.
    pub const fn minus(self, other: Quantity) -> Option<Quantity> {
        match self.0.checked_sub(other.0) {
            Some(raw) => Some(Quantity(raw)),
            None => None,
        }
    }

    /// The quantity with the other sign, or `None` on overflow.
    pub const fn negated(self) -> Option<Quantity> {
        match self.0.checked_neg() {
            Some(raw) => Some(Quantity(raw)),
            None => None,
        }
    }

    /// Exactly zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// A traded volume in 10⁻⁸ of a unit. It only informs, so it saturates instead of failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Volume(i64);

impl Volume {
    /// No volume.
    pub const ZERO: Volume = Volume(0);

    /// From the integer of 10⁻⁸.
    pub const fn from_raw(raw: i64) -> Volume {
        Volume(raw)
    }

    /// The integer of 10⁻⁸.
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// From whole units, saturating.
    pub const fn from_units(units: i64) -> Volume {
        Volume(units.saturating_mul(100_000_000))
    }

    /// The sum, saturating.
    pub const fn plus(self, other: Volume) -> Volume {
        Volume(self.0.saturating_add(other.0))
    }
}

/// `a / b` rounded towards positive infinity, for positive `b`.
const fn div_ceil(a: i128, b: i128) -> i128 {
    -((-a).div_euclid(b))
}

fn bounded(cents: i128) -> Option<Cash> {
    let cash = Cash(i64::try_from(cents).ok()?);
    (cash <= MAX_CASH).then_some(cash)
}

/// Reads `digits[.digits]` exactly: no sign, no exponent, no spaces, no separators.
fn parse_decimal(text: &str, scale: u32, max: i64) -> Result<i64, DecimalError> {
    if let Some(rest) = text.strip_prefix('-') {
        // "-x" is nonsense, "-5" is negative: tell them apart.
        parse_decimal(rest, scale, max)?;
        return Err(DecimalError::Negative);
    }
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(DecimalError::NotANumber),
        None => (text, ""),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(DecimalError::NotANumber);
    }
    let trimmed = fraction.trim_end_matches('0');
    if trimmed.len() > scale as usize {
        return Err(DecimalError::TooManyDecimals);
    }
    let mut value: i64 = 0;
    let padding = std::iter::repeat_n(b'0', scale as usize - trimmed.len());
    for digit in whole.bytes().chain(trimmed.bytes()).chain(padding) {
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(i64::from(digit - b'0')))
            .ok_or(DecimalError::TooLarge)?;
    }
    if value > max { Err(DecimalError::TooLarge) } else { Ok(value) }
}

/// Writes `raw / 10^scale` with at least `least` decimals and no more than needed.
fn write_decimal(f: &mut fmt::Formatter<'_>, raw: i64, scale: u32, least: usize) -> fmt::Result {
    let (unit, magnitude) = (10u64.pow(scale), raw.unsigned_abs());
    let (mut whole, mut part) = (magnitude / unit, magnitude % unit);
    let mut decimals = scale as usize;
    while decimals > least && part.is_multiple_of(10) {
        part /= 10;
        decimals -= 1;
    }
    // From the last digit on: 20 of a u64, a zero before the point, and the point.
    let mut text = [b'.'; 22];
    let mut at = text.len();
    let mut put = |at: &mut usize, number: &mut u64| {
        *at -= 1;
        text[*at] = b'0' + (*number % 10) as u8;
        *number /= 10;
    };
    for _ in 0..decimals {
        put(&mut at, &mut part);
    }
    if decimals > 0 {
        at -= 1;
    }
    put(&mut at, &mut whole);
    while whole > 0 {
        put(&mut at, &mut whole);
    }
    // All of it is ASCII.
    let text = std::str::from_utf8(&text[at..]).unwrap_or_default();
    f.pad_integral(raw >= 0, "", text)
}

impl FromStr for Cash {
    type Err = DecimalError;

    /// A non-negative amount with up to two decimals.
    fn from_str(text: &str) -> Result<Cash, DecimalError> {
        parse_decimal(text, CASH_SCALE, MAX_CASH.0).map(Cash)
    }
}

impl FromStr for Price {
    type Err = DecimalError;

    /// A positive price with up to eight decimals; zero [`DecimalError::NotANumber`].
    fn from_str(text: &str) -> Result<Price, DecimalError> {
        let raw = parse_decimal(text, PRICE_SCALE, MAX_PRICE.0)?;
        Price::from_raw(raw).ok_or(DecimalError::NotANumber)
    }
}

impl FromStr for Quantity {
    type Err = DecimalError;

    /// A non-negative quantity with up to eight decimals.
    fn from_str(text: &str) -> Result<Quantity, DecimalError> {
        parse_decimal(text, QUANTITY_SCALE, MAX_QUANTITY.0).map(Quantity)
    }
}

impl fmt::Display for Cash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, CASH_SCALE, 2)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, PRICE_SCALE, 2)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, QUANTITY_SCALE, 0)
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, QUANTITY_SCALE, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_print_and_parse() {
        let cases = [("0", "0.00"), ("1185.6", "1185.60"), ("0.01", "0.01"), ("007.50", "7.50")];
        for (text, printed) in cases {
            assert_eq!(text.parse::<Cash>().unwrap().to_string(), printed);
        }
        assert_eq!(Cash::from_cents(-5).to_string(), "-0.05");
        assert_eq!("118.56".parse::<Price>().unwrap().to_string(), "118.56");
        assert_eq!("0.00001".parse::<Price>().unwrap().to_string(), "0.00001");
        assert_eq!("10.50000000".parse::<Quantity>().unwrap().to_string(), "10.5");
        assert_eq!("10".parse::<Quantity>().unwrap().to_string(), "10");
    }

    #[test]
    fn what_is_not_an_amount_is_refused_with_its_reason() {
        use DecimalError::*;
        let cases = [
            ("", NotANumber),
            ("ten", NotANumber),
            ("1e5", NotANumber),
            (".5", NotANumber),
            ("5.", NotANumber),
            ("+5", NotANumber),
            (" 5", NotANumber),
            ("1,000", NotANumber),
            ("--5", Negative),
            ("-", NotANumber),
            ("-5", Negative),
            ("٣", NotANumber),
            ("0.000000001", TooManyDecimals),
            ("1000000000.00000001", TooLarge),
            ("99999999999999999999999999", TooLarge),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
        assert_eq!("0".parse::<Price>(), Err(NotANumber));
    }

    #[test]
    fn a_fraction_of_a_cent_goes_against_the_trader() {
        let price: Price = "0.00000001".parse().unwrap();
        let one = Quantity::from_units(1).unwrap();
        assert_eq!(price.cost_of(one), Some(Cash::from_cents(1)));
        assert_eq!(price.proceeds_of(one), Some(Cash::ZERO));
        assert_eq!(Cash::from_cents(101).with_hold_margin(), Some(Cash::from_cents(107)));
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        assert_eq!(MAX_PRICE.cost_of(MAX_QUANTITY), None);
        assert_eq!(MAX_PRICE.cost_of(Quantity::from_units(10_000).unwrap()), Some(MAX_CASH));
        assert_eq!(Cash::from_cents(i64::MAX).plus(Cash::from_cents(1)), None);
        assert_eq!(Cash::from_cents(i64::MIN).negated(), None);
    }

    proptest! {
        #[test]
        fn quantities_round_trip_through_text(raw in 0..=MAX_QUANTITY.raw()) {
            let quantity = Quantity::from_raw(raw);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = (text.parse::<Cash>(), text.parse::<Price>(), text.parse::<Quantity>());
        }

        #[test]
        fn buying_costs_at_least_what_selling_brings(
            price in 1..=MAX_PRICE.raw(), quantity in 0..=MAX_QUANTITY.raw(),
        ) {
            let price = Price::from_raw(price).unwrap();
            let quantity = Quantity::from_raw(quantity);
            match (price.cost_of(quantity), price.proceeds_of(quantity)) {
                (Some(cost), Some(proceeds)) => {
                    let spread = cost.cents() - proceeds.cents();
                    prop_assert!((0..=1).contains(&spread));
                }
                (cost, _) => prop_assert!(cost.is_none()),
            }
        }
    }
}
