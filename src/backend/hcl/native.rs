//! The native syntax.

use std::ops::Range;
use std::path::Path;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, ObjectKey};
use hcl_edit::structure::{Block, Body, Structure};
use serde_json::{Map, Number, Value};

use super::Declared;
use crate::backend::BackendError;

/// Finds the backends that a file declares.
pub(super) fn declared(path: &Path, text: &str) -> Result<Vec<Declared>, BackendError> {
    let file = File { path, text };
    // The error's own display quotes the line, which may hold a secret; its message does not.
    let body = hcl_edit::parser::parse_body(text).map_err(|error| BackendError::BadHcl {
        place: file.place_at_line(error.location().line()),
        reason: error.message().to_owned(),
    })?;
    body.get_blocks("terraform")
        .flat_map(|block| block.body.blocks())
        .filter_map(|block| file.declaration(block).transpose())
        .collect()
}

#[derive(Clone, Copy)]
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn declaration(self, block: &Block) -> Result<Option<Declared>, BackendError> {
        let place = self.place(block.ident.span());
        let kind = match (block.ident.as_str(), block.labels.as_slice()) {
            ("cloud", []) => "cloud".to_owned(),
            ("backend", [label]) => label.as_str().to_owned(),
            ("backend", _) => {
                let reason = "a backend has one label, its type".to_owned();
                return Err(BackendError::BadHcl { place, reason });
            }
            _ => return Ok(None),
        };
        Ok(Some(Declared { kind, place, attributes: self.attributes(&block.body) }))
    }

    fn attributes(self, body: &Body) -> Result<Map<String, Value>, BackendError> {
        body.iter()
            .map(|structure| match structure {
                Structure::Attribute(attribute) => {
                    let name = attribute.key.as_str();
                    let value = literal(&attribute.value).ok_or_else(|| BackendError::BadHcl {
                        place: self.place(attribute.key.span()),
                        reason: format!("the value of `{name}` is not a literal one"),
                    })?;
                    Ok((name.to_owned(), value))
                }
                Structure::Block(block) => {
                    let attributes = self.attributes(&block.body)?;
                    Ok((block.ident.as_str().to_owned(), Value::Object(attributes)))
                }
            })
            .collect()
    }

    fn place(self, span: Option<Range<usize>>) -> String {
        let before = span.and_then(|span| self.text.get(..span.start));
        match before {
            Some(before) => self.place_at_line(before.matches('\n').count() + 1),
            None => format!("`{}`", self.path.display()),
        }
    }

    fn place_at_line(self, line: usize) -> String {
        format!("`{}:{line}`", self.path.display())
    }
}

/// The value of an expression that needs no evaluation.
fn literal(expression: &Expression) -> Option<Value> {
    Some(match expression {
        Expression::Null(_) => Value::Null,
        Expression::Bool(value) => Value::Bool(*value.value()),
        Expression::Number(number) => {
            let number = number.value();
            let whole = number.as_u64().map(Number::from).or(number.as_i64().map(Number::from));
            Value::Number(whole.or_else(|| Number::from_f64(number.as_f64()?))?)
        }
        Expression::String(text) => Value::String(text.value().clone()),
        Expression::Array(array) => Value::Array(array.iter().map(literal).collect::<Option<_>>()?),
        Expression::Object(object) => Value::Object(
            object
                .iter()
                .map(|(key, value)| Some((key_of(key)?, literal(value.expr())?)))
                .collect::<Option<_>>()?,
        ),
        Expression::Parenthesis(inner) => literal(inner.inner())?,
        _ => return None,
    })
}

fn key_of(key: &ObjectKey) -> Option<String> {
    match key {
        ObjectKey::Ident(ident) => Some(ident.as_str().to_owned()),
        ObjectKey::Expression(Expression::String(text)) => Some(text.value().clone()),
        ObjectKey::Expression(_) => None,
    }
}
