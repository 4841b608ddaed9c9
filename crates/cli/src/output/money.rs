//! Amounts, prices and changes as people read them. JSON has its own forms.

use papertrader_core::money::{Cash, Price, Quantity};

/// `$1,234.50`, `-$0.05`.
pub(crate) fn money(amount: Cash) -> String {
    let sign = if amount.is_negative() { "-" } else { "" };
    let cents = amount.cents().unsigned_abs();
    format!("{sign}${}.{:02}", grouped(cents / 100), cents % 100)
}

/// `+$1,234.50`, `-$0.05`, `$0.00`.
pub(crate) fn signed_money(amount: Cash) -> String {
    let plus = if amount.cents() > 0 { "+" } else { "" };
    format!("{plus}{}", money(amount))
}

/// Hundredths of a per cent as `+12.34%`.
pub(crate) fn percent(basis_points: i64) -> String {
    let sign = match basis_points {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    let magnitude = basis_points.unsigned_abs();
    format!("{sign}{}.{:02}%", grouped(magnitude / 100), magnitude % 100)
}

/// How far `to` is from `from`, in hundredths of a per cent, rounded to the nearest.
pub(crate) fn change(from: Price, to: Price) -> i64 {
    basis_points(i128::from(to.raw()) - i128::from(from.raw()), from.raw())
}

/// What `gain` is of `cost`, in hundredths of a per cent; `None` without a cost.
pub(crate) fn gain_on(gain: Cash, cost: Cash) -> Option<i64> {
    (cost.cents() > 0).then(|| basis_points(i128::from(gain.cents()), cost.cents()))
}

/// What was paid for one unit, rounded down to 10⁻⁸; `None` for nothing.
pub(crate) fn average(cost: Cash, quantity: Quantity) -> Option<Price> {
    if quantity.is_zero() || quantity.is_negative() {
        return None;
    }
    // Cents are 10⁶ of a price's units; the quantity is in 10⁻⁸.
    let raw = i128::from(cost.cents()) * 1_000_000 * 100_000_000 / i128::from(quantity.raw());
    Price::from_raw(i64::try_from(raw).ok()?)
}

/// A price with two decimals, or more where it has a meaning below that: `64.78`, `0.0031`.
pub(crate) fn price(price: Price) -> String {
    let decimals = if price.raw() >= 100_000_000 { 2 } else { 8 };
    let text = rounded(price.raw(), decimals);
    let kept = text.trim_end_matches('0').len();
    let least = text.find('.').map_or(text.len(), |point| point + 3);
    text.get(..kept.max(least)).unwrap_or(&text).to_owned()
}

/// A price with all its decimals, two at least: what a sum is made of.
pub(crate) fn exact_price(price: Price) -> String {
    price.to_string()
}

/// A non-negative number of 10⁻⁸ with so many decimals (at most 8), rounded to the nearest.
pub(crate) fn rounded(raw: i64, decimals: u32) -> String {
    let unit = 10u64.pow(8 - decimals.min(8));
    let value = (raw.unsigned_abs() + unit / 2) / unit;
    let whole = 10u64.pow(decimals.min(8));
    let digits = decimals.min(8) as usize;
    if digits == 0 {
        return grouped(value);
    }
    format!("{}.{:0digits$}", grouped(value / whole), value % whole)
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn basis_points(difference: i128, base: i64) -> i64 {
    if base == 0 {
        return 0;
    }
    let base = i128::from(base);
    let twice = difference * 20_000;
    // Rounded to the nearest: half of the base added, then rounded down.
    i64::try_from((twice + base).div_euclid(2 * base)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_separators_and_a_sign() {
        for (cents, text) in [
            (0, "$0.00"),
            (5, "$0.05"),
            (-5, "-$0.05"),
            (100_000, "$1,000.00"),
            (10_000_000, "$100,000.00"),
            (-123_456_789, "-$1,234,567.89"),
            (i64::MIN, "-$92,233,720,368,547,758.08"),
        ] {
            assert_eq!(money(Cash::from_cents(cents)), text);
        }
        assert_eq!(signed_money(Cash::from_cents(5)), "+$0.05");
        assert_eq!(signed_money(Cash::from_cents(-5)), "-$0.05");
        assert_eq!(signed_money(Cash::ZERO), "$0.00");
    }

    #[test]
    fn changes_are_rounded_to_the_nearest() {
        let price = |text: &str| text.parse::<Price>().unwrap();
        assert_eq!(change(price("100"), price("101")), 100);
        assert_eq!(change(price("100"), price("99.9951")), 0);
        assert_eq!(change(price("100"), price("99.9949")), -1);
        assert_eq!(change(price("3"), price("4")), 3333);
        assert_eq!(percent(3333), "+33.33%");
        assert_eq!(percent(-7), "-0.07%");
        assert_eq!(percent(0), "0.00%");
        assert_eq!(percent(1_234_500), "+12,345.00%");
        assert_eq!(gain_on(Cash::from_cents(1), Cash::ZERO), None);
        assert_eq!(gain_on(Cash::from_cents(-50), Cash::from_cents(100)), Some(-5000));
    }

    #[test]
    fn prices_and_averages() {
        for (text, shown) in
            [("64.78", "64.78"), ("64", "64.00"), ("0.0031", "0.0031"), ("1234.567", "1,234.57")]
        {
            assert_eq!(price(text.parse().unwrap()), shown);
        }
        let ten: Quantity = "10".parse().unwrap();
        assert_eq!(average("647.80".parse().unwrap(), ten), Some("64.78".parse().unwrap()));
        assert_eq!(average(Cash::ZERO, Quantity::ZERO), None);
    }
}
