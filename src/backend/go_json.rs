//! A JSON text as Go's `encoding/json` reads it into a struct: names are compared without case, of
//! several that are the same the last one counts, and an object goes into what is there already.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The members of an object, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Object(Vec<(String, Node)>);

/// A value in which the order of members is kept, and none is lost.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Node {
    Object(Object),
    Other(Value),
}

impl Object {
    fn named(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.0.iter().filter(move |(key, _)| fold(key) == name).map(|(_, node)| node)
    }

    /// A field of a plain type: null changes nothing.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        self.named(name).map(Node::plain).filter(|value| !value.is_null()).last()
    }

    /// A field that is kept as it stands.
    pub(super) fn raw(&self, name: &str) -> Value {
        self.named(name).last().map_or(Value::Null, Node::plain)
    }

    /// A pointer to a struct: null empties it, and what is no object has no fields.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        self.named(name).fold(None, |found, node| match node {
            Node::Other(Value::Null) => None,
            Node::Other(_) => Some(Self::default()),
            Node::Object(more) => {
                let Self(mut members) = found.unwrap_or_default();
                members.extend_from_slice(&more.0);
                Some(Self(members))
            }
        })
    }
}

impl Node {
    /// Its members, none for what is no object.
    pub(super) fn into_object(self) -> Object {
        match self {
            Self::Object(object) => object,
            Self::Other(_) => Object::default(),
        }
    }

    fn plain(&self) -> Value {
        match self {
            Self::Other(value) => value.clone(),
            Self::Object(Object(members)) => Value::Object(
                members
                    .iter()
                    .map(|(key, node)| (key.clone(), node.plain()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}

/// Two letters beyond ASCII are the same as one of ASCII in another case: the long s and the sign
/// of the kelvin.
fn fold(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}
