//! A backend's configuration, wherever it was found: its type and its attributes.

use std::fmt;

use icu_normalizer::ComposingNormalizerBorrowed;
use serde_json::{Map, Value};

use super::BackendError;

/// A backend's configuration.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct BackendConfig {
    /// The backend's type, such as `s3`.
    pub(super) kind: String,
    /// Its attributes; one that is not set may be null or missing.
    pub(super) attributes: Map<String, Value>,
    /// Where it was found, for people: `.terraform/terraform.tfstate` in backticks.
    pub(super) place: String,
}

// Written by hand: the attributes hold keys and tokens.
impl fmt::Debug for BackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendConfig")
            .field("kind", &self.kind)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl BackendConfig {
    /// The attributes, with reading rules.
    pub(super) fn section(&self) -> Section<'_> {
        Section { attributes: &self.attributes, name: None, place: &self.place }
    }

    /// Whether both name the same backend in the same words: an attribute that is null is one that
    /// is missing.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        fn set(value: &Value) -> Value {
            match value {
                Value::Object(map) => Value::Object(
                    map.iter()
                        .map(|(key, value)| (key.clone(), set(value)))
                        .filter(|(_, value)| !value.is_null())
                        .collect(),
                ),
                other => other.clone(),
            }
        }
        self.kind == other.kind
            && set(&Value::Object(self.attributes.clone()))
                == set(&Value::Object(other.attributes.clone()))
    }

    /// Names the backend without anything secret.
    pub(super) fn describe(&self) -> String {
        let text = |name: &str| self.attributes.get(name).and_then(Value::as_str);
        match (self.kind.as_str(), text("bucket"), text("key"), text("path")) {
            ("s3", Some(bucket), Some(key), _) => format!("s3 `{bucket}/{key}`"),
            ("local", _, _, Some(path)) => format!("local `{path}`"),
            (kind, ..) => kind.to_owned(),
        }
    }
}

/// Attributes of a backend or of an object in it, read as Terraform converts them: a number or a
/// bool where a text is due, and the other way about.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    attributes: &'a Map<String, Value>,
    name: Option<&'a str>,
    place: &'a str,
}

impl<'a> Section<'a> {
    fn value(self, name: &str) -> Option<&'a Value> {
        self.attributes.get(name).filter(|value| !value.is_null())
    }

    /// An error about an attribute of this section.
    pub(super) fn bad(self, name: &str, reason: impl Into<String>) -> BackendError {
        let attribute = match self.name {
            Some(section) => format!("{section}.{name}"),
            None => name.to_owned(),
        };
        BackendError::BadAttribute {
            place: self.place.to_owned(),
            attribute,
            reason: reason.into(),
        }
    }

    /// Where the configuration was found.
    pub(super) fn place(self) -> &'a str {
        self.place
    }

    /// A text, also an empty one.
    pub(super) fn text_or_empty(self, name: &str) -> Result<Option<String>, BackendError> {
        self.value(name)
            .map(|value| as_text(value).ok_or_else(|| self.bad(name, "it is not a string")))
            .transpose()
    }

    /// A text; an empty one counts as not set.
    pub(super) fn text(self, name: &str) -> Result<Option<String>, BackendError> {
        Ok(self.text_or_empty(name)?.filter(|text| !text.is_empty()))
    }

    /// A bool.
    pub(super) fn bool(self, name: &str) -> Result<Option<bool>, BackendError> {
        self.value(name)
            .map(|value| match value {
                Value::Bool(value) => Ok(*value),
                Value::String(text) if text == "true" || text == "1" => Ok(true),
                Value::String(text) if text == "false" || text == "0" => Ok(false),
                _ => Err(self.bad(name, "it is not a bool")),
            })
            .transpose()
    }

    /// A whole number of seconds or the like.
    pub(super) fn number(self, name: &str) -> Result<Option<u64>, BackendError> {
        self.value(name)
            .map(|value| {
                match value {
                    Value::String(text) => text.parse().ok(),
                    other => other.as_u64(),
                }
                .ok_or_else(|| self.bad(name, "it is not a whole number"))
            })
            .transpose()
    }

    /// A list of texts; nothing where it is not set.
    pub(super) fn texts(self, name: &str) -> Result<Option<Vec<String>>, BackendError> {
        let fail = || self.bad(name, "it is not a list of strings");
        self.value(name)
            .map(|value| {
                let values = value.as_array().ok_or_else(fail)?;
                values.iter().map(|value| as_text(value).ok_or_else(fail)).collect()
            })
            .transpose()
    }

    /// A map of texts, empty where it is not set.
    pub(super) fn pairs(self, name: &str) -> Result<Vec<(String, String)>, BackendError> {
        let fail = || self.bad(name, "it is not a map of strings");
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        value
            .as_object()
            .ok_or_else(fail)?
            .iter()
            .map(|(key, value)| Ok((key.clone(), as_text(value).ok_or_else(fail)?)))
            .collect()
    }

    /// An object; nothing where it is not set.
    pub(super) fn object(self, name: &'a str) -> Result<Option<Self>, BackendError> {
        self.value(name)
            .map(|value| match value.as_object() {
                Some(attributes) => Ok(Self { attributes, name: Some(name), place: self.place }),
                None => Err(self.bad(name, "it is not an object")),
            })
            .transpose()
    }
}

/// Terraform has every text in the composed form (NFC), however it is typed.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            Some(ComposingNormalizerBorrowed::new_nfc().normalize(text).into_owned())
        }
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> BackendConfig {
        let Value::Object(attributes) = serde_json::from_str(json).unwrap() else {
            panic!("{json} is no object")
        };
        BackendConfig { kind: "s3".to_owned(), attributes, place: "`x`".to_owned() }
    }

    #[test]
    fn values_are_converted_as_terraform_converts_them() {
        let config = config(
            r#"{"a": 5, "b": "true", "c": "", "d": null, "e": [1, "x"], "f": "7", "g": "e\u0301"}"#,
        );
        let section = config.section();
        assert_eq!(section.text("a").unwrap().as_deref(), Some("5"));
        assert_eq!(section.bool("b").unwrap(), Some(true));
        assert_eq!(section.text("c").unwrap(), None);
        assert_eq!(section.text_or_empty("c").unwrap().as_deref(), Some(""));
        assert_eq!(section.text("d").unwrap(), None);
        assert_eq!(section.texts("e").unwrap().unwrap(), ["1", "x"]);
        assert_eq!(section.number("f").unwrap(), Some(7));
        assert_eq!(section.text("g").unwrap().as_deref(), Some("\u{e9}"));
        assert_eq!(section.text("missing").unwrap(), None);
    }

    #[test]
    fn a_wrong_type_names_the_attribute_and_not_its_value() {
        let config = config(r#"{"endpoints": {"s3": ["hunter2"]}, "encrypt": "hunter2"}"#);
        let section = config.section();
        let errors = [
            section.object("endpoints").unwrap().unwrap().text("s3").unwrap_err(),
            section.bool("encrypt").unwrap_err(),
            section.object("encrypt").map(|_| ()).unwrap_err(),
            section.number("encrypt").unwrap_err(),
            section.texts("encrypt").unwrap_err(),
            section.pairs("encrypt").unwrap_err(),
        ];
        assert_eq!(
            errors[0].to_string(),
            "the backend in `x` has no usable `endpoints.s3`: it is not a string"
        );
        for error in errors {
            assert!(!format!("{error} {error:?} {}", error.hint()).contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn null_and_missing_say_the_same() {
        let one = config(r#"{"bucket": "b", "endpoints": {"s3": null}, "x": null}"#);
        let two = config(r#"{"endpoints": {}, "bucket": "b"}"#);
        assert!(one.says_the_same(&two));
        assert!(!one.says_the_same(&config(r#"{"bucket": "c", "endpoints": {}}"#)));
    }

    #[test]
    fn a_configuration_is_shown_without_its_values() {
        let config = config(r#"{"bucket": "b", "key": "k", "secret_key": "hunter2"}"#);
        assert_eq!(config.describe(), "s3 `b/k`");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
