//! What is wrong with the user's setup: a message, and a kind that decides which hint helps.

use std::fmt;

/// Something that somebody has to set right.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flaw {
    /// A lower-case fragment without a secret in it.
    pub text: String,
    /// What is said to help goes by it, and never by the text.
    pub kind: FlawKind,
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlawKind {
    /// The text names what is to be corrected, or says what helps.
    Named,
    /// Something else lies where a file is to be, or lies in its way.
    InTheWay,
    /// A profile is named that there is not.
    Profile,
    /// A file of credentials cannot be read.
    Unreadable,
    /// A bundle of certificates cannot be used.
    CaBundle,
    /// A server's certificate, or its TLS, will not do.
    Distrusted,
    /// A proxy of a kind that Terraform can use and tfwrap cannot.
    SocksProxy,
    /// A key or a token was stored with its newline.
    LineBreak,
    /// There are no credentials anywhere.
    NoCredentials,
    /// A program that is to give credentials does not.
    Process,
    /// A login is over; the text has the command for a new one.
    LoggedOut,
    /// A session has ended.
    Expired,
    /// A signature does not fit: the secret key, or the clock.
    Signature,
    /// This machine's clock is off.
    Clock,
    /// A role may not be assumed.
    Role,
    /// A request does not fit the store; the text says what the store must be like.
    Schema,
    /// A table may not be made or changed.
    Making,
    /// All locks of a store may not be looked through.
    Listing,
}

impl FlawKind {
    /// A flaw of this kind.
    pub fn flaw(self, text: impl Into<String>) -> Flaw {
        Flaw { text: text.into(), kind: self }
    }
}

impl Flaw {
    /// The same with more words.
    #[must_use]
    pub fn and(self, more: &str) -> Self {
        Self { text: self.text + more, ..self }
    }
}

impl<T: Into<String>> From<T> for Flaw {
    fn from(text: T) -> Self {
        FlawKind::Named.flaw(text)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
