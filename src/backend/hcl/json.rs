//! The JSON syntax, in which each level of blocks may be an object or a list of objects.
//!
//! Values that are not in question stay text: no number, no depth and no half of a surrogate pair
//! that Terraform takes and a parser does not keeps anybody out.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Declared;
use crate::backend::BackendError;

/// Lists in lists deeper than these are not looked through.
const DEEPEST: usize = 16;

/// Finds the backends that a file declares.
pub(super) fn declared(path: &Path, text: &[u8]) -> Result<Vec<Declared>, BackendError> {
    let place = format!("`{}`", path.display());
    let bad = |reason: String| BackendError::BadHcl { place: place.clone(), reason };
    // Go, too, takes what is no text for a sign that stands for it.
    let text = String::from_utf8_lossy(text);
    let file: &RawValue = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let mut found = Vec::new();
    let in_terraform = objects(file).into_iter().flat_map(|file| file.named("terraform"));
    for block in in_terraform.flat_map(objects) {
        let backends = block.named("backend").into_iter().flat_map(objects);
        for (kind, body) in backends.flat_map(|backends| backends.0) {
            for attributes in raw_objects(body) {
                found.push(Declared {
                    kind: kind.clone(),
                    place: place.clone(),
                    attributes: read(attributes).map_err(bad),
                });
            }
        }
        for _ in block.named("cloud").into_iter().flat_map(raw_objects) {
            let (kind, place) = ("cloud".to_owned(), place.clone());
            found.push(Declared { kind, place, attributes: Ok(Map::new()) });
        }
    }
    Ok(found)
}

/// The members of an object: in their order, and several of one name.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn named(&self, name: &str) -> Vec<&'a RawValue> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| *value).collect()
    }
}

/// All objects that a value is, or that are in its lists.
fn objects(value: &RawValue) -> Vec<Members<'_>> {
    raw_objects(value).filter_map(|object| serde_json::from_str(object.get()).ok()).collect()
}

fn raw_objects(value: &RawValue) -> impl Iterator<Item = &RawValue> {
    let mut found = vec![value];
    for _ in 0..DEEPEST {
        if !found.iter().any(|value| value.get().starts_with('[')) {
            break;
        }
        found = found.into_iter().flat_map(elements).collect();
    }
    found.into_iter().filter(|value| value.get().starts_with('{'))
}

/// Those of a list, or the value itself.
fn elements(value: &RawValue) -> Vec<&RawValue> {
    if value.get().starts_with('[') {
        serde_json::from_str(value.get()).unwrap_or_default()
    } else {
        vec![value]
    }
}

fn read(attributes: &RawValue) -> Result<Map<String, Value>, String> {
    let attributes = serde_json::from_str(attributes.get()).map_err(|error| error.to_string())?;
    literals(&attributes)
}

/// The attributes without comments; the error is a reason.
fn literals(attributes: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let attributes = attributes.iter().filter(|(name, _)| *name != "//");
    attributes
        .map(|(name, value)| {
            if is_literal(value) {
                Ok((name.clone(), value.clone()))
            } else {
                Err(format!("the value of `{name}` is not a literal one"))
            }
        })
        .collect()
}

fn is_literal(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains("${") && !text.contains("%{"),
        Value::Array(values) => values.iter().all(is_literal),
        Value::Object(map) => map.values().all(is_literal),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(All)
    }
}

/// A name that need not be text.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.to_owned()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(String::from_utf8_lossy(bytes).into_owned()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}
