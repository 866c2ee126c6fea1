//! A saved plan: a zip archive whose entry `tfplan` names the backend that it is to be applied to.

use std::io::{self, BufReader, Cursor, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use prost::Message as _;
use serde_json::{Map, Number, Value};

use super::config::BackendConfig;
use super::{BackendError, read};

/// Plans of thousands of resources stay far below; a guard against an archive made to burst.
const LIMIT: u64 = 256 << 20;
/// Where the plan is in the archive.
const ENTRY: &str = "tfplan";
/// A backend's attributes nest two deep.
const MAX_DEPTH: usize = 32;

/// What an argument of `apply` turned out to be.
#[derive(Debug)]
pub(super) enum PlanFile {
    /// A saved plan.
    Plan(SavedPlan),
    /// Something else; why, as the end of a sentence. Terraform takes the directory's backend (as
    /// for a plan of HCP Terraform, which is no archive), or refuses.
    NotAPlan(&'static str),
    /// What `OpenTofu` has encrypted: only it can say which backend it is for.
    Encrypted,
}

/// What a saved plan says about where it belongs.
#[derive(Debug)]
pub(super) struct SavedPlan {
    /// The backend it is applied to, whatever the directory's is now.
    pub(super) backend: BackendConfig,
    /// The workspace it was made in; Terraform applies it to the one selected now.
    pub(super) workspace: String,
    /// The version that made it.
    pub(super) terraform_version: String,
}

// The fields of Terraform's `plan.proto` that are needed here.
#[derive(Clone, PartialEq, prost::Message)]
struct PlanMessage {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, optional, tag = "13")]
    backend: Option<BackendMessage>,
    #[prost(string, tag = "14")]
    terraform_version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BackendMessage {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(message, optional, tag = "2")]
    config: Option<DynamicValue>,
    #[prost(string, tag = "3")]
    workspace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DynamicValue {
    #[prost(bytes = "vec", tag = "1")]
    msgpack: Vec<u8>,
}

/// Reads the file that `apply` was given.
pub(super) fn open(path: &Path) -> Result<PlanFile, BackendError> {
    let unreadable = |source| BackendError::Unreadable { path: path.to_owned(), source };
    let Some(mut file) = read::open(path)? else {
        return Ok(PlanFile::NotAPlan("it does not exist"));
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Ok(PlanFile::NotAPlan("it is not a file"));
    }
    let mut start = Vec::new();
    file.by_ref().take(4).read_to_end(&mut start).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    let corrupt = |reason| BackendError::CorruptPlan { path: path.to_owned(), reason };
    // An archive is known by its end, for Terraform too: text before it does no harm. Its usual
    // beginning only tells one that is cut off from what never was one.
    match zip::ZipArchive::new(file) {
        Ok(archive) => read_archive(archive, path, LIMIT).map(PlanFile::Plan).map_err(corrupt),
        Err(zip::result::ZipError::Io(source)) if !is_end(&source) => Err(unreadable(source)),
        Err(_) if start == b"PK\x03\x04" => Err(corrupt("it is cut short".to_owned())),
        Err(_) if is_encrypted(path) => Ok(PlanFile::Encrypted),
        Err(_) => Ok(PlanFile::NotAPlan("it is not a zip archive")),
    }
}

/// `OpenTofu`'s form of what it has encrypted (its `internal/encryption`): a JSON object.
fn is_encrypted(path: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Envelope {
        #[serde(rename = "encrypted_data")]
        _data: serde::de::IgnoredAny,
        #[serde(rename = "encryption_version")]
        _version: serde::de::IgnoredAny,
    }
    let Ok(Some(file)) = read::open(path) else { return false };
    serde_json::from_reader::<_, Envelope>(BufReader::new(file.take(LIMIT))).is_ok()
}

/// Whether the error is about what the file holds rather than about reading it.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// Reads the archive; the error is a reason.
fn read_archive(
    mut archive: zip::ZipArchive<impl io::Read + io::Seek>,
    path: &Path,
    limit: u64,
) -> Result<SavedPlan, String> {
    let entry = archive.by_name(ENTRY).map_err(|error| match error {
        zip::result::ZipError::FileNotFound => format!("it has no entry `{ENTRY}`"),
        error => error.to_string(),
    })?;
    let bytes = crate::opened::within(entry, limit)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("its entry `{ENTRY}` is larger than {} MiB", limit >> 20))?;
    // Terraform takes the first one of that name, the archive's reader here the last one.
    let directory = archive.central_directory_start();
    match entries(archive.into_inner(), directory) {
        Ok(1) => {}
        Ok(count) => return Err(format!("it has {count} entries `{ENTRY}`, and a plan has one")),
        Err(error) => return Err(error.to_string()),
    }
    let plan = PlanMessage::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    if plan.version != 3 {
        return Err(format!("its format version is {}, not 3", plan.version));
    }
    let backend = plan.backend.ok_or("it names no backend")?;
    let msgpack = backend.config.map(|config| config.msgpack).unwrap_or_default();
    Ok(SavedPlan {
        backend: BackendConfig {
            kind: backend.kind,
            attributes: attributes_of(&msgpack)?,
            place: format!("the saved plan `{}`", path.display()),
        },
        workspace: backend.workspace,
        terraform_version: plan.terraform_version,
    })
}

/// Counts the plans in the directory that begins at `start`, by the names as they stand there.
fn entries(mut archive: impl io::Read + io::Seek, start: u64) -> io::Result<usize> {
    const FIXED: usize = 46;
    archive.seek(SeekFrom::Start(start))?;
    let mut directory = BufReader::new(archive);
    let mut count = 0;
    loop {
        let mut header = [0; FIXED];
        // At least the record that ends the directory follows, and it is shorter.
        directory.read_exact(&mut header[..4])?;
        if header[..4] != *b"PK\x01\x02" {
            return Ok(count);
        }
        directory.read_exact(&mut header[4..])?;
        let length = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let mut name = Vec::new();
        directory.by_ref().take(length(28)).read_to_end(&mut name)?;
        io::copy(&mut directory.by_ref().take(length(30) + length(32)), &mut io::sink())?;
        count += usize::from(name == ENTRY.as_bytes());
    }
}

fn attributes_of(msgpack: &[u8]) -> Result<Map<String, Value>, String> {
    let value = rmpv::decode::read_value_with_max_depth(&mut Cursor::new(msgpack), MAX_DEPTH)
        .map_err(|error| format!("its backend: {error}"))?;
    match to_json(value) {
        Some(Value::Object(attributes)) => Ok(attributes),
        _ => Err("its backend's configuration is not an object of plain values".to_owned()),
    }
}

/// Converts what a configuration can consist of; nothing for the rest.
fn to_json(value: rmpv::Value) -> Option<Value> {
    Some(match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(value) => Value::Bool(value),
        rmpv::Value::Integer(value) => {
            Value::Number(value.as_u64().map(Number::from).or(value.as_i64().map(Number::from))?)
        }
        rmpv::Value::F32(value) => Value::Number(Number::from_f64(value.into())?),
        rmpv::Value::F64(value) => Value::Number(Number::from_f64(value)?),
        rmpv::Value::String(text) => Value::String(text.into_str()?),
        rmpv::Value::Array(values) => {
            Value::Array(values.into_iter().map(to_json).collect::<Option<_>>()?)
        }
        rmpv::Value::Map(pairs) => Value::Object(
            pairs
                .into_iter()
                .map(|(key, value)| Some((key.as_str()?.to_owned(), to_json(value)?)))
                .collect::<Option<_>>()?,
        ),
        rmpv::Value::Binary(_) | rmpv::Value::Ext(..) => return None,
    })
}

#[cfg(test)]
mod tests;
