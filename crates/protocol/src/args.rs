//! Arguments: UTF-8 strings separated by one space (4.5).
//!
//! The data is split at the first `argumentCount - 1` spaces, so only the last argument may
//! contain spaces. All but the last are non-empty. No arguments means no data.

use crate::reason::Reason;

/// Splits data into exactly `count` arguments.
pub fn split(data: &[u8], count: u16) -> Result<Vec<&str>, Reason> {
    if count == 0 {
        return if data.is_empty() { Ok(Vec::new()) } else { Err(Reason::BadArguments) };
    }
    let text = std::str::from_utf8(data).map_err(|_| Reason::BadArguments)?;
    // Each argument but the last takes two bytes at least: check before memory is reserved.
    if usize::from(count - 1) * 2 > text.len() {
        return Err(Reason::BadArguments);
    }
    let parts: Vec<&str> = text.splitn(usize::from(count), ' ').collect();
    let all_but_last = parts.len().saturating_sub(1);
    if parts.len() != usize::from(count) || parts[..all_but_last].iter().any(|p| p.is_empty()) {
        return Err(Reason::BadArguments);
    }
    Ok(parts)
}

/// Joins arguments. All but the last must be non-empty and without spaces.
pub fn join<S: AsRef<str>>(args: &[S]) -> String {
    let mut text = String::new();
    for (i, arg) in args.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(arg.as_ref());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_last_argument_has_spaces() {
        assert_eq!(split(b"", 0), Ok(vec![]));
        assert_eq!(split(b"x", 0), Err(Reason::BadArguments));
        assert_eq!(split(b"", 1), Ok(vec![""]));
        assert_eq!(split(b"a b c", 2), Ok(vec!["a", "b c"]));
        assert_eq!(split(b"a ", 2), Ok(vec!["a", ""]));
        for (data, count) in
            [(&b"a"[..], 2), (b" b", 2), (b"a  b", 3), (b"\xff", 1), (b"a b", u16::MAX)]
        {
            assert_eq!(split(data, count), Err(Reason::BadArguments));
        }
    }

    proptest! {
        #[test]
        fn arguments_round_trip(mut args in proptest::collection::vec("[^ ]{1,9}", 0..6), last in "\\PC*") {
            args.push(last);
            let joined = join(&args);
            prop_assert_eq!(split(joined.as_bytes(), args.len() as u16).unwrap(), args);
        }

        #[test]
        fn splitting_never_panics(data in proptest::collection::vec(any::<u8>(), 0..50), count: u16) {
            let _ = split(&data, count);
        }
    }
}
