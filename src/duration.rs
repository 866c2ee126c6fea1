//! Durations as Go writes and reads them (`time.ParseDuration`): `1h30m`, `250ms`; a bare number
//! is an error.

use std::fmt::Write as _;
use std::time::Duration;

use crate::shown_url::shown_value;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration: {reason}")]
pub struct DurationError {
    text: String,
    reason: &'static str,
}

/// Reads a duration as Go does, negative ones refused.
///
/// # Errors
/// When the text is not a sequence of numbers with units `ns`, `us`, `ms`, `s`, `m`, `h`, or is
/// longer than Go's 290 years.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let fail = |reason| DurationError { text: shown_value(text), reason };
    let unit_missing = "a unit is missing, such as `90s` or `1h30m`";
    if text.starts_with('-') {
        return Err(fail("it must not be negative"));
    }
    let body = text.strip_prefix('+').unwrap_or(text);
    if body == "0" {
        return Ok(Duration::ZERO);
    }
    if body.is_empty() {
        return Err(fail("it is empty"));
    }
    let mut rest = body;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(fail(unit_missing)),
            _ => return Err(fail("units are `ns`, `us`, `ms`, `s`, `m`, `h`")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(fail("a number is missing or malformed"));
        }
        let too_long = || fail("it is too long");
        let whole: u128 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
        // Digits beyond a nanosecond's 1e-18 share change nothing.
        let fraction = &fraction[..fraction.len().min(18)];
        let part = if fraction.is_empty() {
            0
        } else {
            let digits = u32::try_from(fraction.len()).map_err(|_| too_long())?;
            fraction.parse::<u128>().map_err(|_| too_long())? * scale / 10_u128.pow(digits)
        };
        total = whole
            .checked_mul(scale)
            .and_then(|n| n.checked_add(part))
            .and_then(|n| n.checked_add(total))
            .filter(|n| *n <= i64::MAX as u128)
            .ok_or_else(too_long)?;
        rest = after;
    }
    let nanos = u64::try_from(total).map_err(|_| fail("it is too long"))?;
    Ok(Duration::from_nanos(nanos))
}

/// Reads the value of a flag of Terraform's: all that Go takes, a negative one as none at all.
///
/// # Errors
/// When Go refuses it.
pub fn parse_flag(text: &str) -> Result<Duration, DurationError> {
    match text.strip_prefix('-') {
        Some(body) if !body.starts_with(['+', '-']) => parse(body).map(|_| Duration::ZERO),
        _ => parse(text),
    }
}

/// Writes a duration for Terraform's `-lock-timeout` and for people who will paste it back:
/// whole milliseconds, in a form that [`parse`] and Go read.
#[must_use]
pub fn format(duration: Duration) -> String {
    let millis = duration.as_millis();
    if !millis.is_multiple_of(1000) {
        return format!("{millis}ms");
    }
    let seconds = millis / 1000;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = String::new();
    if h > 0 {
        let _ = write!(out, "{h}h");
    }
    if m > 0 {
        let _ = write!(out, "{m}m");
    }
    if s > 0 || out.is_empty() {
        let _ = write!(out, "{s}s");
    }
    out
}

/// The same in whole seconds, for people.
#[must_use]
pub fn in_seconds(duration: Duration) -> String {
    format(Duration::from_secs(duration.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a variable that was mixed up with another is.
    #[test]
    fn of_a_url_nothing_secret_is_shown() {
        let error = parse("https://user:hunter2@h/x?t=hunter2").unwrap_err().to_string();
        assert!(error.starts_with("`https://h/x?t=…` is not a duration"), "{error}");
    }

    #[test]
    fn go_durations_are_read() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("30m", 1_800_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("+2ms3us4ns", 2_003_004),
            ("1µs", 1_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text).unwrap(), Duration::from_nanos(nanos), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in ["", "90", "s", "1x", "1h 30m", "-1s", "1..5s", ".s", "9999999h", "never"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_flag_may_be_negative() {
        for text in ["-1s", "-0", "-1h30m", "-.5s"] {
            assert_eq!(parse_flag(text), Ok(Duration::ZERO), "{text}");
        }
        assert_eq!(parse_flag("+1s"), Ok(Duration::from_secs(1)));
        for text in ["-", "--1s", "-+1s", "-90", "-x"] {
            assert!(parse_flag(text).is_err(), "{text}");
        }
    }

    #[test]
    fn formatted_durations_read_back() {
        for (text, millis) in [("0s", 0), ("1h30m", 5_400_000), ("1m1s", 61_000), ("1250ms", 1250)]
        {
            assert_eq!(format(Duration::from_millis(millis)), text);
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis));
        }
    }
}
