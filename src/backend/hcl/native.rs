//! The native syntax.
//!
//! Only the blocks in question are parsed. What stands around them is passed over by `scan`, which
//! refuses nothing: no expression that Terraform takes and a parser does not keeps anybody out.

use std::ops::Range;
use std::path::Path;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, ObjectKey};
use hcl_edit::structure::{Body, Structure};
use hcl_edit::template::Element;
use serde_json::{Map, Value};

use super::scan::{Token, Tokens};
use super::{Declared, decimal};
use crate::backend::BackendError;

/// More words than any header of a block of Terraform's own has.
const LONGEST_HEADER: usize = 8;

/// Finds the backends that a file declares.
pub(super) fn declared(path: &Path, text: &[u8]) -> Result<Vec<Declared>, BackendError> {
    let file = File { path, text };
    blocks(text).into_iter().map(|block| file.declaration(block)).collect()
}

/// Where a block is.
struct Found {
    /// Its words.
    header: Range<usize>,
    /// What is between its braces.
    body: Range<usize>,
}

/// All `backend` and `cloud` blocks right in a `terraform` block.
fn blocks(text: &[u8]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut header: Vec<(Token, Range<usize>)> = Vec::new();
    let (mut depth, mut in_terraform, mut is_open) = (0_usize, false, false);
    for (token, at) in Tokens::new(text) {
        match token {
            Token::Open => {
                let words =
                    header.iter().all(|(token, _)| matches!(token, Token::Word | Token::Text));
                let first = header.first().filter(|(token, _)| *token == Token::Word && words);
                let name = first.map(|(_, range)| &text[range.clone()]);
                match (depth, name) {
                    (0, name) => in_terraform = name == Some(b"terraform") && header.len() == 1,
                    (1, Some(b"backend" | b"cloud")) if in_terraform => {
                        let header = header[0].1.start..at.start;
                        found.push(Found { header, body: at.end..text.len() });
                        is_open = true;
                    }
                    _ => {}
                }
                depth += 1;
            }
            Token::Close => {
                depth = depth.saturating_sub(1);
                if depth == 1
                    && std::mem::take(&mut is_open)
                    && let Some(last) = found.last_mut()
                {
                    last.body.end = at.start;
                }
            }
            Token::Newline => {}
            Token::Word | Token::Text | Token::Other => {
                if header.len() < LONGEST_HEADER {
                    header.push((token, at));
                }
                continue;
            }
        }
        header.clear();
    }
    found
}

#[derive(Clone, Copy)]
struct File<'a> {
    path: &'a Path,
    text: &'a [u8],
}

impl File<'_> {
    fn declaration(self, Found { header, body }: Found) -> Result<Declared, BackendError> {
        let place = self.place_at(header.start);
        let bad =
            |reason: &str| BackendError::BadHcl { place: place.clone(), reason: reason.to_owned() };
        let empty = format!("{}{{}}", String::from_utf8_lossy(&self.text[header]));
        let block = hcl_edit::parser::parse_body(&empty).ok();
        let block = block.as_ref().and_then(|body| body.blocks().next());
        let block = block.ok_or_else(|| bad("the name of the block cannot be read"))?;
        let kind = match (block.ident.as_str(), block.labels.as_slice()) {
            ("cloud", []) => "cloud".to_owned(),
            ("cloud", _) => return Err(bad("a `cloud` block has no label")),
            (_, [label]) => label.as_str().to_owned(),
            _ => return Err(bad("a backend has one label, its type")),
        };
        Ok(Declared { kind, place, attributes: self.body(body) })
    }

    fn body(self, body: Range<usize>) -> Result<Map<String, Value>, BackendError> {
        let first_line = self.line(body.start);
        // A byte that is no text can stand in a comment only.
        let text = String::from_utf8_lossy(&self.text[body]);
        // The error's own display quotes the line, which may hold a secret; its message does not.
        let body = hcl_edit::parser::parse_body(&text).map_err(|error| {
            let further = error.location().line().saturating_sub(1);
            BackendError::BadHcl {
                place: self.place_at_line(first_line + further),
                reason: error.message().to_owned(),
            }
        })?;
        Block { file: self, first_line, text: &text }.attributes(&body)
    }

    fn line(self, at: usize) -> usize {
        self.text[..at].split(|byte| *byte == b'\n').count()
    }

    fn place_at(self, at: usize) -> String {
        self.place_at_line(self.line(at))
    }

    fn place_at_line(self, line: usize) -> String {
        format!("`{}:{line}`", self.path.display())
    }
}

/// The inside of a block.
#[derive(Clone, Copy)]
struct Block<'a> {
    file: File<'a>,
    first_line: usize,
    text: &'a str,
}

impl Block<'_> {
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
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        self.file.place_at_line(self.first_line + before.matches('\n').count())
    }
}

/// The value of an expression that needs no evaluation.
fn literal(expression: &Expression) -> Option<Value> {
    Some(match expression {
        Expression::Null(_) => Value::Null,
        Expression::Bool(value) => Value::Bool(*value.value()),
        Expression::Number(number) => decimal::value(number.as_repr()?)?,
        Expression::String(text) => Value::String(text.value().clone()),
        // The parser indents less by another rule than Terraform's.
        Expression::HeredocTemplate(heredoc) if heredoc.indent().is_none() => {
            let parts = heredoc.template.iter().map(Element::as_literal);
            Value::String(parts.map(|part| Some(part?.as_str())).collect::<Option<_>>()?)
        }
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
