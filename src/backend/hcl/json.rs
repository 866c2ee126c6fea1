//! The JSON syntax, in which each level of blocks may be an object or a list of objects.

use std::path::Path;

use serde_json::{Map, Value};

use super::Declared;
use crate::backend::BackendError;

/// Finds the backends that a file declares.
pub(super) fn declared(path: &Path, text: &str) -> Result<Vec<Declared>, BackendError> {
    let place = format!("`{}`", path.display());
    let bad = |reason: String| BackendError::BadHcl { place: place.clone(), reason };
    let file: Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    let mut found = Vec::new();
    for block in objects(&file).flat_map(|file| objects_of(file, "terraform")) {
        for (kind, body) in objects_of(block, "backend").flatten() {
            for attributes in objects(body) {
                found.push(Declared {
                    kind: kind.clone(),
                    place: place.clone(),
                    attributes: literals(attributes).map_err(bad),
                });
            }
        }
        if block.get("cloud").is_some_and(|cloud| !cloud.is_null()) {
            let (kind, place) = ("cloud".to_owned(), place.clone());
            found.push(Declared { kind, place, attributes: Ok(Map::new()) });
        }
    }
    Ok(found)
}

fn objects_of<'a>(
    object: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    object.get(name).into_iter().flat_map(objects)
}

fn objects(value: &Value) -> impl Iterator<Item = &Map<String, Value>> {
    let list = match value {
        Value::Array(values) => values.as_slice(),
        other => std::slice::from_ref(other),
    };
    list.iter().filter_map(Value::as_object)
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
