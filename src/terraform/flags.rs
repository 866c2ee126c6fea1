//! Flags as Go's `flag` package reads them, with Terraform's one addition: a few bare flags are
//! taken out of the arguments, wherever they stand, before the reading begins.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::Dialect;
use super::command::Group;
use crate::duration;

/// Whether a flag takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// `-x`, `-x=true`; never the next word.
    Bool,
    /// `-x=v` or `-x v`.
    Value,
    /// The same, and the value must be a duration of Go's.
    Duration,
}

/// A flag as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundFlag {
    /// Without dashes, as the table has it.
    pub(super) name: &'static str,
    /// What it says.
    pub(super) value: FoundValue,
    /// The arguments it is made of, one or two.
    pub(super) at: Range<usize>,
}

/// What a flag says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FoundValue {
    /// Of a [`Flag::Bool`].
    Bool(bool),
    /// Of the others.
    Text(OsString),
}

/// Arguments, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// In their order; of several with one name the last one counts.
    pub(super) flags: Vec<FoundFlag>,
    /// Whether a positional argument or a `--` ended the flags: one put behind would be none.
    pub(super) stopped: bool,
    /// The indices of the positional arguments.
    pub(super) positionals: Vec<usize>,
}

impl Parsed {
    /// The last flag of that name.
    pub(super) fn last(&self, name: &str) -> Option<&FoundFlag> {
        self.flags.iter().rev().find(|found| found.name == name)
    }
}

/// Terraform will not accept these arguments, or reads them in a way that is not followed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// Whether an argument is taken out before flags are read, wherever it stands.
fn is_stripped(arg: &OsString, dialect: Dialect) -> bool {
    match arg.as_bytes() {
        b"-no-color" | b"-compact-warnings" => true,
        // For Terraform, one of these behind a `--` may be a file's name.
        b"-consolidate-warnings"
        | b"-consolidate-warnings=true"
        | b"-consolidate-warnings=false"
        | b"-consolidate-errors"
        | b"-consolidate-errors=true"
        | b"-consolidate-errors=false"
        | b"-concise" => dialect == Dialect::OpenTofu,
        _ => false,
    }
}

/// Reads `args` as a binary of this dialect does, with the flags that the groups of `known` name.
pub(super) fn parse(
    args: &[OsString],
    known: &[Group],
    dialect: Dialect,
) -> Result<Parsed, NotUnderstood> {
    let is_stripped = |arg: &OsString| is_stripped(arg, dialect);
    let mut parsed = Parsed::default();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        if is_stripped(arg) {
            at += 1;
            continue;
        }
        let bytes = arg.as_bytes();
        if bytes.len() < 2 || bytes[0] != b'-' {
            parsed.stopped = true;
            break;
        }
        if bytes == b"--" {
            parsed.stopped = true;
            at += 1;
            break;
        }
        let body = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
        if matches!(body.first(), None | Some(b'-' | b'=')) {
            return Err(NotUnderstood);
        }
        let equals = body.iter().position(|&byte| byte == b'=');
        let (name, value) = match equals {
            Some(index) => (&body[..index], Some(&body[index + 1..])),
            None => (body, None),
        };
        let &(name, kind) = known
            .iter()
            .copied()
            .flatten()
            .find(|(known, _)| known.as_bytes() == name)
            .ok_or(NotUnderstood)?;
        let start = at;
        let value = match (kind, value) {
            (Flag::Bool, None) => FoundValue::Bool(true),
            (Flag::Bool, Some(value)) => FoundValue::Bool(go_bool(value).ok_or(NotUnderstood)?),
            (Flag::Value | Flag::Duration, Some(value)) => {
                FoundValue::Text(OsString::from_vec(value.to_vec()))
            }
            (Flag::Value | Flag::Duration, None) => {
                at += 1;
                // One that is taken out makes a third word the value: that is left to Terraform.
                let value = args.get(at).filter(|next| !is_stripped(next)).ok_or(NotUnderstood)?;
                FoundValue::Text(value.clone())
            }
        };
        // Every one must do, also one that a later one overrides.
        if let (Flag::Duration, FoundValue::Text(text)) = (kind, &value)
            && duration::parse_flag(&text.to_string_lossy()).is_err()
        {
            return Err(NotUnderstood);
        }
        at += 1;
        parsed.flags.push(FoundFlag { name, value, at: start..at });
    }
    parsed.positionals = (at..args.len()).filter(|&index| !is_stripped(&args[index])).collect();
    Ok(parsed)
}

/// Reads a bool as Go's `strconv.ParseBool` does.
pub(crate) fn go_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Group] = &[
        &[("lock", Flag::Bool), ("input", Flag::Bool)],
        &[("state", Flag::Value), ("lock-timeout", Flag::Duration)],
    ];

    fn read_as(dialect: Dialect, args: &[&str]) -> Result<Parsed, NotUnderstood> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>(), KNOWN, dialect)
    }

    fn read(args: &[&str]) -> Result<Parsed, NotUnderstood> {
        read_as(Dialect::Terraform, args)
    }

    fn lock_of(arg: &str) -> Option<bool> {
        match read(&[arg]).ok()?.last("lock")?.value {
            FoundValue::Bool(value) => Some(value),
            FoundValue::Text(_) => None,
        }
    }

    #[test]
    fn bools_are_those_of_go() {
        for arg in ["-lock", "--lock", "-lock=1", "-lock=t", "-lock=T", "--lock=TRUE", "-lock=True"]
        {
            assert_eq!(lock_of(arg), Some(true), "{arg}");
        }
        for arg in ["-lock=0", "-lock=f", "-lock=F", "--lock=false", "-lock=FALSE", "-lock=False"] {
            assert_eq!(lock_of(arg), Some(false), "{arg}");
        }
        for arg in ["-lock=no", "-lock=", "-lock=fALSE", "---lock", "-=x", "-unknown", "-Lock"] {
            assert_eq!(read(&[arg]), Err(NotUnderstood), "{arg}");
        }
    }

    #[test]
    fn a_value_is_after_the_equals_sign_or_the_next_word() {
        for args in [&["-state=a=b"][..], &["-state", "a=b"], &["--state", "a=b"]] {
            let parsed = read(args).unwrap();
            let found = parsed.last("state").unwrap();
            assert_eq!(found.value, FoundValue::Text("a=b".into()), "{args:?}");
            assert_eq!(found.at, 0..args.len(), "{args:?}");
        }
        assert_eq!(
            read(&["-state", "-lock=false"]).unwrap().last("state").unwrap().value,
            FoundValue::Text("-lock=false".into())
        );
        assert_eq!(read(&["-state"]), Err(NotUnderstood));
    }

    #[test]
    fn the_last_of_several_counts() {
        let parsed = read(&["-lock=false", "-state=a", "-lock", "-state", "b"]).unwrap();
        assert_eq!(parsed.last("lock").unwrap().value, FoundValue::Bool(true));
        assert_eq!(parsed.last("state").unwrap().value, FoundValue::Text("b".into()));
    }

    #[test]
    fn reading_stops_at_the_first_positional_or_double_dash() {
        for (args, positionals) in [
            (&["-lock", "p", "-lock=false"][..], &[1, 2][..]),
            (&["-lock", "--", "-lock=false"], &[2]),
            (&["-lock", "-", "-lock=false"], &[1, 2]),
            (&["-lock", "", "-lock=false"], &[1, 2]),
            (&["-lock", "false"], &[1]),
        ] {
            let parsed = read(args).unwrap();
            assert_eq!(parsed.positionals, positionals, "{args:?}");
            assert_eq!(parsed.last("lock").unwrap().value, FoundValue::Bool(true), "{args:?}");
        }
    }

    #[test]
    fn bare_view_flags_are_taken_out_wherever_they_stand() {
        let parsed = read(&["-no-color", "-lock", "p", "-no-color"]).unwrap();
        assert_eq!(parsed.positionals, [2]);
        assert_eq!(parsed.flags.len(), 1);
        assert_eq!(read(&["-state", "-no-color", "x"]), Err(NotUnderstood));
        assert_eq!(read(&["--no-color"]), Err(NotUnderstood));
    }

    #[test]
    fn what_one_binary_takes_out_is_a_file_for_the_other() {
        for arg in ["-concise", "-consolidate-errors", "-consolidate-warnings=true"] {
            assert_eq!(read(&["-lock", "--", arg]).unwrap().positionals, [2], "{arg}");
            let tofu = read_as(Dialect::OpenTofu, &["-lock", "--", arg]).unwrap();
            assert_eq!(tofu.positionals, [0; 0], "{arg}");
        }
    }

    #[test]
    fn every_duration_must_be_one() {
        for value in ["5s", "-1s", "-0", "+1h30m", "0"] {
            assert!(read(&["-lock-timeout", value]).is_ok(), "{value}");
        }
        for value in ["90", "", "x", "--1s", "-", "+-1s", "1 s"] {
            let flag = format!("-lock-timeout={value}");
            assert_eq!(read(&[&flag, "-lock-timeout=1s"]), Err(NotUnderstood), "{value}");
        }
    }

    #[test]
    fn values_need_not_be_text() {
        let raw = OsString::from_vec(b"-state=\xff\xfe".to_vec());
        let parsed = parse(&[raw], KNOWN, Dialect::Terraform).unwrap();
        let value = OsString::from_vec(vec![0xff, 0xfe]);
        assert_eq!(parsed.last("state").unwrap().value, FoundValue::Text(value));
    }
}
