//! Paths in JSON, whatever bytes they are made of: text, or, where they are not UTF-8, a list of
//! bytes. A receipt must be written in any directory.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for Form {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<Form> for PathBuf {
    fn from(form: Form) -> Self {
        match form {
            Form::Text(text) => text.into(),
            Form::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    Form::from(path).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Form::deserialize(from).map(PathBuf::from)
}

/// The same, of a path that may be missing.
pub(crate) mod option {
    use super::{Deserialize as _, Deserializer, Form, PathBuf, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "the form that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Form::from).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Option::<Form>::deserialize(from).map(|form| form.map(PathBuf::from))
    }
}

/// The same, of several.
pub(crate) mod list {
    use super::{Deserialize as _, Deserializer, Form, PathBuf, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        paths: &[PathBuf],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| Form::from(path.as_path())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        Vec::<Form>::deserialize(from).map(|forms| forms.into_iter().map(PathBuf::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        #[serde(with = "super")]
        path: PathBuf,
        #[serde(with = "super::option", default)]
        other: Option<PathBuf>,
        #[serde(with = "super::list", default)]
        more: Vec<PathBuf>,
    }

    #[test]
    fn every_path_comes_back() {
        for bytes in [&b"/plain"[..], b"/\xff\xfe/x", "/ü".as_bytes(), b""] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let all = All { other: Some(path.clone()), more: vec![path.clone()], path };
            let text = serde_json::to_string(&all).unwrap();
            assert_eq!(serde_json::from_str::<All>(&text).unwrap(), all, "{text}");
        }
        let text = r#"{"path":"/x","more":["/y"]}"#;
        let plain = All { path: "/x".into(), other: None, more: vec!["/y".into()] };
        assert_eq!(serde_json::from_str::<All>(text).unwrap(), plain);
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"path":"/x","other":null,"more":["/y"]}"#
        );
    }
}
