//! The JSON syntax, in which each level of blocks may be an object or a list of objects.
//!
//! Values that are not in question stay text: no number, no depth and no half of a surrogate pair
//! that Terraform takes and a parser does not keeps anybody out.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Declared, decimal};
use crate::backend::{BackendError, Dialect};

/// Lists in lists deeper than these are not looked through.
const DEEPEST: usize = 16;

/// Finds the backends that a file declares.
pub(super) fn declared(
    path: &Path,
    text: &[u8],
    dialect: Dialect,
) -> Result<Vec<Declared>, BackendError> {
    let reader = Reader { has_templates: dialect == Dialect::OpenTofu };
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
                    attributes: reader.attributes(attributes).map_err(bad),
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

/// How values are read.
#[derive(Clone, Copy)]
struct Reader {
    /// Whether a text is a template: `OpenTofu` evaluates it, and Terraform takes it as it is.
    has_templates: bool,
}

impl Reader {
    /// The attributes without comments; the error is a reason, without a value.
    fn attributes(self, body: &RawValue) -> Result<Map<String, Value>, String> {
        let body: Members = serde_json::from_str(body.get()).map_err(|error| error.to_string())?;
        self.object(body.0.into_iter().filter(|(name, _)| name != "//"))
    }

    fn object<'a>(
        self,
        members: impl IntoIterator<Item = (String, &'a RawValue)>,
    ) -> Result<Map<String, Value>, String> {
        let mut object = Map::new();
        for (name, raw) in members {
            let value = self.value(raw)?;
            let value =
                value.ok_or_else(|| format!("the value of `{name}` is not a literal one"))?;
            if object.contains_key(&name) {
                return Err(format!("`{name}` appears twice"));
            }
            object.insert(name, value);
        }
        Ok(object)
    }

    fn value(self, raw: &RawValue) -> Result<Option<Value>, String> {
        let text = raw.get();
        let error = |error: serde_json::Error| error.to_string();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let members: Members = serde_json::from_str(text).map_err(error)?;
                Some(Value::Object(self.object(members.0)?))
            }
            Some(b'[') => {
                let list: Vec<&RawValue> = serde_json::from_str(text).map_err(error)?;
                let list: Result<Option<_>, _> =
                    list.into_iter().map(|it| self.value(it)).collect();
                list?.map(Value::Array)
            }
            Some(b'-' | b'0'..=b'9') => decimal::value(text),
            _ => Some(serde_json::from_str(text).map_err(error)?).filter(|value: &Value| {
                let is_template = |text: &str| text.contains("${") || text.contains("%{");
                !(self.has_templates && value.as_str().is_some_and(is_template))
            }),
        })
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
