//! The format of `~/.aws/config` and `~/.aws/credentials`, as Go's SDK reads it: nothing is an
//! error, and what makes no sense is passed over.
//!
//! After `internal/ini` of aws-sdk-go-v2 as of config 1.29 (Terraform 1.11). The Rust SDK's reader
//! refuses, or reads otherwise, a line without `=`, indented keys, `key: value`, quotes, and a file
//! that is not UTF-8.

use std::collections::BTreeMap;

/// What stands behind a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// On its line, and on lines that continue it.
    Text(String),
    /// On indented lines below a key without a text.
    Map(BTreeMap<String, String>),
}

/// A section's values by their keys, which are in lower case.
pub(super) type ProfileSection = BTreeMap<String, Value>;

/// Sections by their names: what stands between the brackets, one blank after the first word.
pub(super) type Sections = BTreeMap<String, ProfileSection>;

/// Blanks as they count inside a line.
const BLANKS: [char; 2] = [' ', '\t'];

/// Reads a file. Sections of one name are one section, and the last value of a key counts.
pub(super) fn parse(text: &str) -> Sections {
    let mut reader = Reader::default();
    for line in text.split('\n') {
        reader.line(line);
    }
    reader.sections
}

#[derive(Default)]
struct Reader {
    sections: Sections,
    /// The section we are in; empty before the first one, where nothing counts.
    section: String,
    /// The last key in it.
    key: String,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if line.trim().is_empty() || line.trim_start_matches(BLANKS).starts_with(['#', ';']) {
            return;
        }
        if let Some(name) = section_name(line) {
            self.sections.entry(name.clone()).or_default();
            self.section = name;
            self.key.clear();
        } else if !line.starts_with(BLANKS) {
            // A line without `=` is passed over.
            if let Some((key, value)) = property(without_comment(line).trim_end_matches(BLANKS)) {
                self.property(key, value);
            }
        } else if let Some((key, value)) = property(line.trim_start_matches(BLANKS)) {
            self.sub_property(key, value);
        } else {
            self.continuation(line.trim_start_matches(BLANKS));
        }
    }

    fn values(&mut self) -> Option<&mut ProfileSection> {
        if self.section.is_empty() { None } else { self.sections.get_mut(&self.section) }
    }

    fn property(&mut self, key: String, value: String) {
        let Some(values) = self.values() else { return };
        values.insert(key.clone(), Value::Text(value));
        self.key = key;
    }

    /// An indented `key = value`: below a key without a text a part of its value, and anywhere else
    /// a property like those that are not indented.
    fn sub_property(&mut self, key: String, value: String) {
        let last = self.key.clone();
        let Some(values) = self.values() else { return };
        match values.get_mut(&last) {
            Some(Value::Map(map)) => {
                map.insert(key, value);
            }
            Some(Value::Text(text)) if text.is_empty() => {
                values.insert(last, Value::Map(BTreeMap::from([(key, value)])));
            }
            _ => self.property(key, without_comment(&value).trim().to_owned()),
        }
    }

    fn continuation(&mut self, line: &str) {
        let last = self.key.clone();
        if let Some(Value::Text(text)) = self.values().and_then(|values| values.get_mut(&last))
            && !text.is_empty()
        {
            text.push('\n');
            text.push_str(line);
        }
    }
}

fn section_name(line: &str) -> Option<String> {
    let line = line.split(['#', ';']).next().unwrap_or_default().trim();
    let name = line.strip_prefix('[')?.strip_suffix(']')?.trim();
    Some(match name.split_once(BLANKS) {
        Some((first, rest)) => format!("{first} {}", rest.trim_start_matches(BLANKS)),
        None => name.to_owned(),
    })
}

/// A comment begins after a blank: `a#b` is a value.
fn without_comment(line: &str) -> &str {
    let starts = [" #", " ;", "\t#", "\t;"];
    let end = starts.iter().filter_map(|start| line.find(start)).min();
    &line[..end.unwrap_or(line.len())]
}

/// Divides at `=` or `:`, whichever is first.
fn property(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once(['=', ':'])?;
    Some((key.trim().to_lowercase(), unquoted(value.trim()).to_owned()))
}

fn unquoted(text: &str) -> &str {
    let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    quoted('\'').or_else(|| quoted('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[section] key=value` of each, a map as `key.sub=value`.
    fn read(text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, values) in parse(text) {
            lines.push(format!("[{name}]"));
            for (key, value) in values {
                match value {
                    Value::Text(text) => lines.push(format!("{key}={text}")),
                    Value::Map(map) => lines
                        .extend(map.into_iter().map(|(sub, text)| format!("{key}.{sub}={text}"))),
                }
            }
        }
        lines
    }

    #[test]
    fn lines_mean_what_they_mean_to_go() {
        for (text, expected) in [
            ("[a]\nk = v\n", &["[a]", "k=v"][..]),
            ("[a]\r\nk = v\r\n", &["[a]", "k=v"]),
            ("[a]\nK = V", &["[a]", "k=V"]),
            ("[a]\nk: v\nl = m:n\no:p=q", &["[a]", "k=v", "l=m:n", "o=p=q"]),
            ("[a]\nk = \"v\"\nl = 'w'\nm = \"x'", &["[a]", "k=v", "l=w", "m=\"x'"]),
            ("[a]\nk = \"", &["[a]", "k=\""]),
            (
                "[a]\nk = v # c\nl = v#c\nm = v\t; c\n# n = o\n  ; p",
                &["[a]", "k=v", "l=v#c", "m=v"],
            ),
            ("[ a ] # c\nk = v", &["[a]", "k=v"]),
            ("  [a]\nk = v", &["[a]", "k=v"]),
            ("[profile \t a  b]", &["[profile a  b]"]),
            ("[profile é]\nk=v", &["[profile é]", "k=v"]),
            // Passed over: before a section, no `=`, no end of the bracket.
            ("k = v\n[a]\nno sense\n[bad\nk = w", &["[a]", "k=w"]),
            ("[a]\n= v\nk = w", &["[a]", "=v", "k=w"]),
            ("[]\nk = v", &["[]"]),
            // Indented keys are keys, but below an empty one.
            ("[a]\n  k = v # c\n  l = w", &["[a]", "k=v", "l=w"]),
            ("[a]\ns3 =\n  k = v # c\n  l = w\nm = x", &["[a]", "m=x", "s3.k=v # c", "s3.l=w"]),
            ("[a]\nk = v\n  w", &["[a]", "k=v\nw"]),
            ("[a]\nk =\n  w", &["[a]", "k="]),
            ("[a]\nk = v\n[b]\n[a]\nk = w", &["[a]", "k=w", "[b]"]),
            // A byte order mark makes a line that is no section.
            ("\u{feff}[a]\nk = v\n[b]\nk = w", &["[b]", "k=w"]),
            ("\u{feff}# c\n[a]\nk = v", &["[a]", "k=v"]),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }
}
