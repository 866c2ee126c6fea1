//! Numbers where a text is due, as Terraform writes them out: it keeps 512 bits of each.

use serde_json::Value;

/// So many digits come back as they were; longer ones would be rounded.
const MOST_DIGITS: usize = 150;
/// No number that stands for a text is longer.
const MOST_ZEROS: i64 = 1000;

/// The value of a number as it is typed in either syntax: one that fits into 64 bits, or else its
/// text. Nothing where it cannot be told.
pub(super) fn value(typed: &str) -> Option<Value> {
    let (sign, number) = match typed.strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", typed),
    };
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
        None => (number, 0_i64),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = [whole, fraction].concat();
    if whole.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = all.trim_start_matches('0');
    let point = i64::try_from(whole.len()).ok()? - i64::try_from(all.len() - digits.len()).ok()?;
    // The digits stand behind this point: `0.digits` times ten to it.
    let point = point.checked_add(exponent)?;
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() {
        return sign.is_empty().then(|| 0.into());
    }
    if digits.len() > MOST_DIGITS || !(-MOST_ZEROS..MOST_ZEROS).contains(&point) {
        return None;
    }
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    let length = i64::try_from(digits.len()).ok()?;
    let text = if point <= 0 {
        format!("{sign}0.{}{digits}", zeros(-point))
    } else if point >= length {
        format!("{sign}{digits}{}", zeros(point - length))
    } else {
        let (whole, fraction) = digits.split_at(usize::try_from(point).ok()?);
        format!("{sign}{whole}.{fraction}")
    };
    let small =
        text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
    Some(small.unwrap_or(Value::String(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_out() {
        for (typed, text) in [
            ("5", "5"),
            ("05", "5"),
            ("-5", "-5"),
            ("0", "0"),
            ("0.0e7", "0"),
            ("1.0", "1"),
            ("1.50", "1.5"),
            ("1e3", "1000"),
            ("1E-2", "0.01"),
            ("-123456789.125", "-123456789.125"),
            ("12.5e1", "125"),
            ("18446744073709551615", "18446744073709551615"),
            (
                "100000000000000000000000000000000000000001",
                "100000000000000000000000000000000000000001",
            ),
            ("0.00120", "0.0012"),
        ] {
            let found = match value(typed) {
                Some(Value::String(text)) => text,
                other => other.unwrap().to_string(),
            };
            assert_eq!(found, text, "{typed}");
        }
        for typed in ["-0", "1e99999", "1e-99999", &"1".repeat(200), "", ".5", "0x1", "1e", "1_0"] {
            assert_eq!(value(typed), None, "{typed}");
        }
    }
}
