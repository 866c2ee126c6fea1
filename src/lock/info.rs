//! Terraform's lock info, byte for byte as Go's encoder writes it.
//!
//! `OpenTofu` re-encodes the info before its conditional unlock. If one byte differs,
//! `tofu force-unlock` fails on the lock for ever. So the bytes are Go's: the seven fields in their
//! order, no spaces, HTML-escaped (`encoding/json`), the time as RFC 3339 with nanoseconds and
//! trailing zeros trimmed (`time.Time.MarshalJSON`).
//!
//! Its rules: `docs/protocol.md#f2-info`.

use std::fmt::Write as _;

use serde::Deserialize;

use super::LockId;

/// The seven fields of Terraform's `statemgr.LockInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockInfo {
    /// Names the tenure; what `terraform force-unlock` takes.
    pub id: LockId,
    /// Terraform's own word for the command, such as `OperationTypeApply`.
    pub operation: String,
    /// Free text, printed by whoever is locked out.
    pub info: String,
    /// `user@host`; for display only.
    pub who: String,
    /// The version of the program that wrote it.
    pub version: String,
    /// When the lock was asked for, as written; for display only, never compared.
    pub created: String,
    /// What is locked: `<bucket>/<state key>`, or the path of a local state.
    pub path: String,
}

/// Why a stored text is no lock info.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a lock info: {0}")]
pub struct LockInfoError(String);

#[cfg(test)]
impl LockInfo {
    /// One with this text in every field.
    pub(crate) fn all_of(text: &str) -> Self {
        let text = || text.to_owned();
        Self {
            id: LockId(text()),
            operation: text(),
            info: text(),
            who: text(),
            version: text(),
            created: text(),
            path: text(),
        }
    }
}

impl LockInfo {
    /// Encodes as Go's `json.Marshal` does.
    #[must_use]
    pub fn to_json(&self) -> String {
        let fields = [
            ("ID", self.id.0.as_str()),
            ("Operation", &self.operation),
            ("Info", &self.info),
            ("Who", &self.who),
            ("Version", &self.version),
            ("Created", &self.created),
            ("Path", &self.path),
        ];
        let mut out = String::from("{");
        for (name, value) in fields {
            if out.len() > 1 {
                out.push(',');
            }
            let _ = write!(out, "\"{name}\":");
            push_go_string(&mut out, value);
        }
        out.push('}');
        out
    }

    /// Decodes as Terraform does: unknown fields ignored, names compared without case, missing
    /// fields empty.
    ///
    /// # Errors
    /// When the text is no JSON object, or a field is not a string.
    pub fn parse(text: &str) -> Result<Self, LockInfoError> {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| LockInfoError(e.to_string()))?;
        let mut info = Self {
            id: LockId(String::new()),
            operation: String::new(),
            info: String::new(),
            who: String::new(),
            version: String::new(),
            created: String::new(),
            path: String::new(),
        };
        for (name, value) in fields {
            let slot = match name.to_ascii_lowercase().as_str() {
                "id" => &mut info.id.0,
                "operation" => &mut info.operation,
                "info" => &mut info.info,
                "who" => &mut info.who,
                "version" => &mut info.version,
                "created" => &mut info.created,
                "path" => &mut info.path,
                _ => continue,
            };
            // Go leaves a field as it is on `null`.
            if value.is_null() {
                continue;
            }
            *slot = String::deserialize(value)
                .map_err(|_| LockInfoError(format!("`{name}` is not a string")))?;
        }
        Ok(info)
    }

    /// Writes a point in time as Go's `time.Time.MarshalJSON` does in UTC: nanoseconds with
    /// trailing zeros trimmed, `Z`.
    #[must_use]
    pub fn format_created(at: jiff::Timestamp) -> String {
        let mut text = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let nanos = at.subsec_nanosecond();
        if nanos != 0 {
            let digits = format!("{nanos:09}");
            let _ = write!(text, ".{}", digits.trim_end_matches('0'));
        }
        text.push('Z');
        text
    }
}

/// Go's `encoding/json` string form with HTML escaping on, its default.
fn push_go_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => push_escape(out, c),
            c if (c as u32) < 0x20 => push_escape(out, c),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push_escape(out: &mut String, c: char) {
    let _ = write!(out, "\\u{:04x}", c as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As stored by Terraform 1.11.4 itself.
    const REAL: &str = r#"{"ID":"28e8a6c8-39d1-5a99-58ed-ea0d4970a5f4","Operation":"OperationTypeApply","Info":"","Who":"root@vm","Version":"1.11.4","Created":"2026-11-21T09:11:59.981601334Z","Path":"tfb/a/b/terraform.tfstate"}"#;

    #[test]
    fn what_terraform_wrote_comes_back_byte_for_byte() {
        assert_eq!(LockInfo::parse(REAL).unwrap().to_json(), REAL);
    }

    #[test]
    fn text_is_escaped_as_go_does() {
        let mut info = LockInfo::parse(REAL).unwrap();
        info.info = "<a>&\u{2028}\u{2029}\"\\/é\u{1F512}\u{7f}\t\u{1}\u{8}\u{c}".to_owned();
        let json = info.to_json();
        assert!(json.contains(r#""Info":"\u003ca\u003e\u0026\u2028\u2029\"\\/é🔒"#));
        assert!(json.contains("\u{7f}\\t\\u0001\\b\\f\""));
        assert_eq!(LockInfo::parse(&json).unwrap(), info);
    }

    #[test]
    fn trailing_zeros_of_the_time_are_trimmed() {
        let at = |nanos| jiff::Timestamp::new(1_767_323_045, nanos).unwrap();
        let cases = [
            (0, "2026-01-02T03:04:05Z"),
            (678_901_000, "2026-01-02T03:04:05.678901Z"),
            (100_000_000, "2026-01-02T03:04:05.1Z"),
            (1, "2026-01-02T03:04:05.000000001Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(LockInfo::format_created(at(nanos)), text);
        }
    }

    #[test]
    fn reads_as_terraform_reads() {
        let info =
            LockInfo::parse(r#"{"id":"x","OPERATION":"o","Info":null,"Extra":[1]}"#).unwrap();
        assert_eq!(info.id.0, "x");
        assert_eq!(info.operation, "o");
        assert_eq!(info.created, "");
        for bad in ["", "[]", "{", r#"{"ID":1}"#] {
            assert!(LockInfo::parse(bad).is_err(), "{bad}");
        }
    }
}
