//! The JSON log: every line that a test sees is held to `docs/json-log.schema.json`.

use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

/// The schema, as it is published.
pub(crate) const SCHEMA: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json-log.schema.json"));

fn validator() -> &'static Validator {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    VALIDATOR.get_or_init(|| {
        let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
        jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema")
    })
}

/// A line, if it is as the schema has it.
#[track_caller]
fn line(text: &str) -> Value {
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let wrong: Vec<_> = validator().iter_errors(&line).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
    line
}

/// The lines of the log among all that stands on stderr. Terraform's own JSON has other first fields;
/// a last line without its end is still being written.
#[track_caller]
pub(crate) fn lines(stderr: &str) -> Vec<Value> {
    let mut lines = Vec::new();
    for text in stderr.split_inclusive('\n') {
        if text.starts_with("{\"ts\":") && text.ends_with('\n') {
            lines.push(line(text));
        }
    }
    lines
}
