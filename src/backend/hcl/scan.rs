//! The native syntax by the rules of its scanner alone: words, braces and the ends of lines, with
//! comments, strings, templates and heredocs passed over as wholes.
//!
//! Nothing is refused here: what is not closed reaches to the end of the text.

use std::ops::Range;

/// More templates in each other than these are taken for one that is not closed.
const DEEPEST: usize = 100_000;

/// A part of the text outside of every template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A name, a keyword or a number.
    Word,
    /// A string in quotes.
    Text,
    /// `{`
    Open,
    /// `}`
    Close,
    /// The end of a line.
    Newline,
    /// Anything else.
    Other,
}

/// What a template is in, or what is in a template.
enum Frame<'a> {
    /// An interpolation or a directive, with so many braces open in it.
    Code { braces: usize },
    /// A string in quotes.
    Quoted,
    /// A heredoc, until a line that is this word, and whether such a line may begin here.
    Heredoc { marker: &'a [u8], fresh: bool },
}

/// The tokens of a text, which need not be UTF-8.
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.text.len().min(self.at + bytes);
    }

    /// Passes a comment, if one begins here; the end of the line is not part of it.
    fn comment(&mut self) -> bool {
        let rest = self.rest();
        if rest.starts_with(b"#") || rest.starts_with(b"//") {
            self.skip(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
        } else if rest.starts_with(b"/*") {
            let end = rest[2..].windows(2).position(|two| two == b"*/");
            self.skip(end.map_or(rest.len(), |end| 2 + end + 2));
        } else {
            return false;
        }
        true
    }

    /// Passes the beginning of a string or a heredoc, if there is one here.
    fn opening(&mut self) -> Option<Frame<'a>> {
        let rest = self.rest();
        if rest.starts_with(b"\"") {
            self.skip(1);
            return Some(Frame::Quoted);
        }
        let word = rest.strip_prefix(b"<<")?;
        let word = word.strip_prefix(b"-").unwrap_or(word);
        let length = word.iter().position(|byte| !is_in_word(*byte)).unwrap_or(word.len());
        let (marker, after) = word.split_at(length);
        let line = after.strip_prefix(b"\r").unwrap_or(after).strip_prefix(b"\n")?;
        if !marker.first().is_some_and(|first| begins_name(*first)) {
            return None;
        }
        self.skip(rest.len() - line.len());
        Some(Frame::Heredoc { marker, fresh: true })
    }

    /// Passes what has just been opened, with everything in it.
    fn template(&mut self, opened: Frame<'a>) {
        let mut frames = vec![opened];
        while let (Some(frame), Some(byte)) = (frames.last_mut(), self.rest().first()) {
            let further = match frame {
                Frame::Code { braces } => match byte {
                    _ if self.comment() => None,
                    b'}' if *braces == 0 => {
                        self.skip(1);
                        frames.pop();
                        None
                    }
                    _ => {
                        let opened = self.opening();
                        if opened.is_none() {
                            match byte {
                                b'{' => *braces += 1,
                                b'}' => *braces -= 1,
                                _ => {}
                            }
                            self.skip(1);
                        }
                        opened
                    }
                },
                Frame::Quoted => match byte {
                    b'"' => {
                        self.skip(1);
                        frames.pop();
                        None
                    }
                    b'\\' => {
                        self.skip(2);
                        None
                    }
                    _ => self.literal(),
                },
                Frame::Heredoc { marker, fresh } => {
                    if std::mem::take(fresh)
                        && let Some(end) = self.rest().iter().position(|byte| *byte == b'\n')
                        && is_only(&self.rest()[..end], marker)
                    {
                        // The end of the line ends what the heredoc is in.
                        self.skip(end);
                        frames.pop();
                        None
                    } else {
                        *fresh = self.rest().starts_with(b"\n");
                        self.literal()
                    }
                }
            };
            frames.extend(further);
            if frames.len() > DEEPEST {
                self.at = self.text.len();
            }
        }
    }

    /// Passes a byte of a template, or the beginning of code in it.
    fn literal(&mut self) -> Option<Frame<'a>> {
        let rest = self.rest();
        let begins_code = |rest: &[u8]| rest.starts_with(b"${") || rest.starts_with(b"%{");
        if begins_code(rest) {
            self.skip(2);
            return Some(Frame::Code { braces: 0 });
        }
        // Doubled, it stands for itself.
        let hides = rest.len() > 1 && rest[0] == rest[1] && begins_code(&rest[1..]);
        self.skip(if hides { 3 } else { 1 });
        None
    }
}

impl Iterator for Tokens<'_> {
    type Item = (Token, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest().first().is_some_and(|byte| b" \t\r".contains(byte)) {
                self.skip(1);
            } else if !self.comment() {
                break;
            }
        }
        let (begin, byte) = (self.at, *self.rest().first()?);
        let token = if let Some(opened) = self.opening() {
            self.template(opened);
            if byte == b'"' { Token::Text } else { Token::Other }
        } else if is_in_word(byte) {
            let rest = self.rest();
            self.skip(rest.iter().position(|byte| !is_in_word(*byte)).unwrap_or(rest.len()));
            Token::Word
        } else {
            self.skip(1);
            match byte {
                b'{' => Token::Open,
                b'}' => Token::Close,
                b'\n' => Token::Newline,
                _ => Token::Other,
            }
        };
        Some((token, begin..self.at))
    }
}

fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

/// Letters beyond ASCII belong to words, and what else is beyond it Terraform refuses there.
fn is_in_word(byte: u8) -> bool {
    begins_name(byte) || byte.is_ascii_digit() || byte == b'-'
}

/// Whether the line is this word, with any space around it.
fn is_only(line: &[u8], word: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| line.trim().as_bytes() == word)
}
