//! `--lock`: further locks by URL.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use url::{Url, form_urlencoded};

use crate::backend::not_a_url;
use crate::shown_url::shown_url;

/// A lock beside the backend's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockUrl {
    /// Which.
    pub place: LockPlace,
    /// `?region=`
    pub region: Option<String>,
    /// `?endpoint=`
    pub endpoint: Option<String>,
    /// `?profile=`
    pub profile: Option<String>,
}

/// Where such a lock is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockPlace {
    /// `dynamodb://TABLE/LOCK-ID`
    DynamoDb {
        /// The table.
        table: String,
        /// The `LockID` attribute.
        lock_id: String,
    },
    /// `s3://BUCKET/KEY.tflock`
    S3 {
        /// The bucket.
        bucket: String,
        /// The key, without what every lock file ends with.
        state_key: String,
    },
    /// `file:///PATH`
    File(PathBuf),
}

impl fmt::Display for LockPlace {
    /// As people read it, and may give it again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DynamoDb { table, lock_id } => {
                write!(f, "dynamodb://{table}/{}", path_of_url(lock_id))
            }
            Self::S3 { bucket, state_key } => {
                write!(f, "s3://{bucket}/{}.tflock", path_of_url(state_key))
            }
            Self::File(path) => write!(f, "file://{}", path_of_url(&path.to_string_lossy())),
        }
    }
}

/// A name as the path of a URL: all of it stands as it is but for what would be read as something else.
fn path_of_url(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for (at, char) in name.char_indices() {
        let is_escape = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
        match char {
            '%' if !name.as_bytes().get(at + 1..at + 3).is_some_and(is_escape) => path.push(char),
            '#' | '?' | '%' => path.extend(utf8_percent_encode(&name[at..=at], UNSAFE)),
            _ => path.push(char),
        }
    }
    path
}

impl fmt::Display for LockUrl {
    /// As it may be given again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", utf8_percent_encode(&self.place.to_string(), BETWEEN))?;
        let parameters =
            [("region", &self.region), ("endpoint", &self.endpoint), ("profile", &self.profile)];
        let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(given);
        let query = query.finish();
        if query.is_empty() { Ok(()) } else { write!(f, "?{query}") }
    }
}

/// What would end a URL's path, or be read as another character.
const UNSAFE: &AsciiSet = &CONTROLS.add(b'#').add(b'%').add(b'?');

/// What would end a URL where several stand in a row.
const BETWEEN: &AsciiSet = &CONTROLS.add(b' ');

impl LockUrl {
    /// Reads one.
    ///
    /// # Errors
    /// In words, without the origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        // For messages.
        let shown = shown_url(text);
        let forms = "known forms are `s3://BUCKET/KEY.tflock`, `dynamodb://TABLE/LOCK-ID` and \
                     `file:///PATH`";
        if ["dynamodb", "file", "s3"].iter().any(|it| text.contains(&format!(",{it}://"))) {
            return Err(format!(
                "`{shown}` names more than one lock: separate them by a space in `TFWRAP_LOCK`, and give \
                 `--lock` once for each"
            ));
        }
        let url = Url::parse(text).map_err(|_| {
            let several = if text.contains(',') {
                "; a space separates several in `TFWRAP_LOCK`"
            } else {
                ""
            };
            format!("`{shown}` is not a URL; {forms}{several}")
        })?;
        if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
            return Err(format!("`{}://…` must not have a user or a port", url.scheme()));
        }
        if url.fragment().is_some() {
            return Err(format!("`{shown}`: write `#` as `%23`"));
        }
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| format!("`{shown}` is not UTF-8"))
        };
        let host = url.host_str().unwrap_or_default();
        // The path as written: `Url` would clean `.` and `..` out of a lock ID.
        let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_scheme.split_once('/').map_or("", |(_, path)| path);
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let place = match url.scheme() {
            "dynamodb" => {
                let lock_id = decode(path)?;
                if host.is_empty() || lock_id.is_empty() {
                    return Err(format!("`{shown}` lacks a table or a lock ID; {forms}"));
                }
                LockPlace::DynamoDb { table: decode(host)?, lock_id }
            }
            "file" => {
                if !host.is_empty() || path.is_empty() || path.ends_with('/') {
                    return Err(format!("`{shown}` is not a file path: write `file:///PATH`"));
                }
                LockPlace::File(PathBuf::from(format!("/{}", decode(path)?)))
            }
            "s3" => {
                let key = decode(path)?;
                match key.strip_suffix(".tflock") {
                    Some(state_key) if !host.is_empty() && !state_key.is_empty() => {
                        LockPlace::S3 { bucket: decode(host)?, state_key: state_key.to_owned() }
                    }
                    _ => {
                        return Err(format!(
                            "`{shown}` is not a lock file: write `s3://BUCKET/KEY.tflock`, with \
                             that ending"
                        ));
                    }
                }
            }
            _ => return Err(format!("`{shown}`: unknown scheme; {forms}")),
        };
        let mut lock = Self { place, region: None, endpoint: None, profile: None };
        for (name, value) in url.query_pairs() {
            let service = match &lock.place {
                LockPlace::DynamoDb { .. } => "DynamoDB",
                LockPlace::S3 { .. } => "S3",
                LockPlace::File(_) => "",
            };
            let slot = match name.as_ref() {
                "region" if !service.is_empty() => &mut lock.region,
                "endpoint" if !service.is_empty() => &mut lock.endpoint,
                "profile" if !service.is_empty() => &mut lock.profile,
                // Of a URL that is shown by nothing but its scheme, this may be the password.
                _ if shown.ends_with('…') && !shown.contains('?') => {
                    return Err(format!("`{shown}`: unknown parameter; {forms}"));
                }
                _ => return Err(format!("`{shown}`: unknown parameter `{name}`")),
            };
            if slot.is_some() {
                return Err(format!("`{shown}`: `{name}` twice"));
            }
            // It becomes a part of the host's name: anything else would lead elsewhere.
            let is_label =
                |text: &str| text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
            if name == "region" && (value.is_empty() || !is_label(&value)) {
                return Err(format!("`{shown}`: its `region` is not an AWS region"));
            }
            if name == "endpoint"
                && let Some(why) = not_a_url(&value)
            {
                let value = shown_url(&value);
                return Err(format!("`{shown}`: the {service} endpoint `{value}` {why}"));
            }
            *slot = Some(value.into_owned());
        }
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamodb_lock_is_a_table_and_a_lock_id() {
        let url = "dynamodb://my.table_1/bucket/./a%20b/../x?region=eu-west-1&endpoint=http://localhost:8000";
        let lock = LockUrl::parse(url).unwrap();
        let place = LockPlace::DynamoDb {
            table: "my.table_1".to_owned(),
            lock_id: "bucket/./a b/../x".to_owned(),
        };
        assert_eq!(lock.place, place);
        assert_eq!(lock.region.as_deref(), Some("eu-west-1"));
        assert_eq!(lock.endpoint.as_deref(), Some("http://localhost:8000"));
        let upper = LockUrl::parse("dynamodb://Table-A/x").unwrap().place;
        assert_eq!(upper.to_string(), "dynamodb://Table-A/x");
    }

    #[test]
    fn an_error_names_nothing_that_may_be_a_password() {
        for text in [
            "s3://u:?hunter2@b/k.tflock?region=x",
            "s3://u:?hunter2=1@b/k.tflock",
            "dynamodb://https://u:a?hunter2=1@t/x",
            "s3://b/k.tflock?region=x/hunter2@b",
            "s3://CORP/alice:hunter2@b/k.tflock?endpoint=x",
            "s3://CORP/alice:hunter2%ff@b/k.tflock",
            "hunter2:x@b/k.tflock",
        ] {
            let error = LockUrl::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = LockUrl::parse("s3://b/k.tflock?regoin=x").unwrap_err();
        assert!(error.contains("unknown parameter `regoin`"), "{error}");
    }

    #[test]
    fn an_s3_lock_is_a_bucket_and_the_key_of_a_lock_file() {
        let lock = LockUrl::parse("s3://My.bucket/env:/dev/a%20b%2Bc.tflock?profile=p").unwrap();
        let place = LockPlace::S3 {
            bucket: "My.bucket".to_owned(),
            state_key: "env:/dev/a b+c".to_owned(),
        };
        assert_eq!((lock.place, lock.profile.as_deref()), (place, Some("p")));
        let plain = LockUrl::parse("s3://b/x/./y.tflock").unwrap().place;
        assert_eq!(plain.to_string(), "s3://b/x/./y.tflock");
    }

    #[test]
    fn a_file_lock_is_an_absolute_path() {
        let lock = LockUrl::parse("file:///var/lock/prod%23.lock").unwrap();
        assert_eq!(lock.place, LockPlace::File(PathBuf::from("/var/lock/prod#.lock")));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, what) in [
            ("table/x", "not a URL"),
            ("redis://x/y", "unknown scheme"),
            ("dynamodb://table", "lacks"),
            ("dynamodb:///x", "lacks"),
            ("dynamodb://t/x?regoin=y", "regoin"),
            ("dynamodb://u:p@t/x", "user"),
            ("dynamodb://t/x#y", "%23"),
            ("file://host/x", "file:///PATH"),
            ("file:///x/", "file:///PATH"),
            ("file:///x?region=y", "region"),
            ("dynamodb://t/x?region=evil.example/", "not an AWS region"),
            ("dynamodb://t/x?region=a&region=b", "twice"),
            ("s3://b/k", "that ending"),
            ("s3://b/.tflock", "that ending"),
            ("s3:///k.tflock", "that ending"),
            ("s3://b/k.tflock?table=t", "table"),
        ] {
            let error = LockUrl::parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "dynamodb://t/a%20b/%25%23%3F/c?region=eu-west-1&endpoint=http%3A%2F%2Fh%3A8%2F&profile=p%26q",
            "s3://b/env:/dev/ä+ü.tflock",
            "file:///a/b%20c",
        ] {
            let lock = LockUrl::parse(text).unwrap();
            assert!(!lock.to_string().contains(' '), "{lock}");
            assert_eq!(LockUrl::parse(&lock.to_string()).unwrap(), lock, "{lock}");
        }
    }

    #[test]
    fn a_name_says_most_as_it_is() {
        let named = |text: &str| LockUrl::parse(text).unwrap().place.to_string();
        assert_eq!(named("s3://b/a%20b/100%25/%2B.tflock"), "s3://b/a b/100%/+.tflock");
        assert_eq!(named("file:///a%2520b%23"), "file:///a%2520b%23");
    }

    proptest::proptest! {
        #[test]
        fn a_lock_is_found_by_the_name_that_messages_give_it(name in "[a-f0-9%#?&=+/.:@é ]{1,12}") {
            for place in [
                LockPlace::DynamoDb { table: "T-1".to_owned(), lock_id: name.clone() },
                LockPlace::S3 { bucket: "b".to_owned(), state_key: name.clone() },
                LockPlace::File(PathBuf::from(format!("/{name}x"))),
            ] {
                proptest::prop_assert_eq!(LockUrl::parse(&place.to_string()).map(|it| it.place), Ok(place));
            }
        }
    }
}
