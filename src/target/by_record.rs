//! The command that removes a lock whose record names nobody, by what that record is.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{LockTarget, StoreSpec, lock_file};
use crate::backend::AwsSettings;
use crate::lock::{Holder, LockId, LockKey};
use crate::report::{clean, shell_command};
use crate::shown_url::shown_url;
use crate::store::{FileStore, Record, Stored};

/// So much of a text is compared; a record of a tfwrap or a Terraform has its ID in there.
const BEGINNING: usize = 200;

impl LockTarget {
    /// The command that removes exactly this record, where it has no ID that could be named to
    /// `tfwrap unlock` or `terraform force-unlock`.
    #[must_use]
    pub fn nameless_removal(&self, stored: &Stored) -> Option<String> {
        let holder = Holder::of(&stored.record);
        let has_name = |id: &LockId| !id.0.is_empty() && clean(&id.0) == id.0;
        if holder.info().is_some_and(|info| has_name(&info.id)) {
            return None;
        }
        Some(match &self.store {
            StoreSpec::DynamoDb { table, aws } => {
                let (condition, values) = condition(&stored.record);
                delete_item(table, &self.key, aws, condition, &values)
            }
            StoreSpec::S3 { bucket, aws, .. } => {
                lock_file::remove_version(bucket, &self.key, aws, &stored.version)
            }
            StoreSpec::File { dir } => {
                let store = FileStore::of_lock(dir, &self.key);
                let turn = store.lock_file().display().to_string();
                let file = store.file_of(&self.key).display().to_string();
                if FileStore::is_in_the_way(stored) {
                    let aside = format!("{file}.moved");
                    return Some(shell_command(&[
                        "flock", &turn, "mv", "-nT", "--", &file, &aside,
                    ]));
                }
                let digest = Sha256::digest(&stored.version.0);
                let digest: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let script = "[ \"$(sha256sum < \"$2\")\" = \"$1  -\" ] && rm -- \"$2\"";
                let words = ["flock", &turn, "sh", "-c", script, "sh", &digest.concat(), &file];
                shell_command(&words)
            }
            // Whoever it is, the kernel knows.
            StoreSpec::LocalState { .. } => self.unlock_command(&LockId(String::new())),
        })
    }
}

/// What holds of this record, and of none that a lock is taken with.
fn condition(record: &Record) -> (&'static str, Value) {
    match &record.info {
        // Of another type, or not there.
        None => (
            "attribute_exists(LockID) AND NOT attribute_type(Info, :type)",
            json!({ ":type": { "S": "S" } }),
        ),
        Some(text) => match text.char_indices().nth(BEGINNING) {
            None => ("Info = :info", json!({ ":info": { "S": text } })),
            Some((end, _)) => {
                ("begins_with(Info, :info)", json!({ ":info": { "S": text[..end] } }))
            }
        },
    }
}

/// The command that removes an item on a condition.
pub(super) fn delete_item(
    table: &str,
    key: &LockKey,
    aws: &AwsSettings,
    condition: &str,
    values: &Value,
) -> String {
    let (key, values) = (json!({ "LockID": { "S": key.0 } }).to_string(), values.to_string());
    let mut words = vec![
        "aws",
        "dynamodb",
        "delete-item",
        "--table-name",
        table,
        "--key",
        &key,
        "--condition-expression",
        condition,
        "--expression-attribute-values",
        &values,
    ];
    let endpoint = aws.endpoints.dynamodb.as_deref().map(shown_url);
    let options =
        [("--region", &aws.region), ("--endpoint-url", &endpoint), ("--profile", &aws.profile)];
    for (name, value) in options {
        if let Some(value) = value {
            words.extend([name, value]);
        }
    }
    shell_command(&words)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::store::{Expect, Registers as _, RemoveReply, WriteReply};

    fn file(dir: &Path) -> LockTarget {
        LockTarget {
            store: StoreSpec::File { dir: dir.to_owned() },
            key: LockKey("x y's".to_owned()),
            of_backend: false,
        }
    }

    fn record(info: Option<&str>) -> Record {
        Record { info: info.map(ToOwned::to_owned), lease: None }
    }

    #[tokio::test]
    async fn a_file_goes_by_its_content_and_no_other_does() {
        for info in
            [None, Some(""), Some("junk"), Some("[]"), Some(r#"{"ID":""}"#), Some("\n'\u{1b}é")]
        {
            let dir = tempfile::tempdir().unwrap();
            let target = file(dir.path());
            let store = FileStore::of_lock(dir.path(), &target.key);
            let write = async |info| {
                store.write(&target.key, &record(info), &Expect::Absent).await.unwrap();
                store.read(&target.key).await.unwrap().unwrap()
            };
            let command = target.nameless_removal(&write(info).await).expect("a command");
            assert!(!command.contains(['\n', '\u{1b}']), "{command}");
            let run = || Command::new("bash").args(["-c", &command]).status().unwrap().success();
            assert!(run(), "{command}");
            assert!(store.read(&target.key).await.unwrap().is_none(), "{command}");
            let named = write(Some(r#"{"ID":"1-2-3"}"#)).await;
            assert_eq!(target.nameless_removal(&named), None);
            assert!(!run(), "{command}");
            assert!(store.read(&target.key).await.unwrap().is_some(), "{command}: another's");
        }
    }

    type Put = fn(&Path);

    /// Whatever was put in the place of a lock that somebody has.
    #[tokio::test]
    async fn what_lies_in_the_place_of_a_lock_is_moved_or_removed_by_what_it_is() {
        let puts: [(&str, Put); 6] = [
            ("text", |file| std::fs::write(file, "precious").unwrap()),
            ("long", |file| std::fs::File::create(file).unwrap().set_len(2 << 20).unwrap()),
            ("pipe", |file| nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap()),
            ("socket", |file| drop(std::os::unix::net::UnixListener::bind(file).unwrap())),
            ("directory", |file| std::fs::create_dir(file).unwrap()),
            ("link", |file| std::os::unix::fs::symlink("nowhere", file).unwrap()),
        ];
        for (name, put) in puts {
            let dir = tempfile::tempdir().unwrap();
            let target = file(dir.path());
            let store = FileStore::of_lock(dir.path(), &target.key);
            let record = record(Some(r#"{"ID":"1-2-3"}"#));
            let ours = match store.write(&target.key, &record, &Expect::Absent).await.unwrap() {
                WriteReply::Applied(version) => version,
                conflict @ WriteReply::Conflict(_) => panic!("{name}: {conflict:?}"),
            };
            let path = store.file_of(&target.key);
            std::fs::remove_file(&path).unwrap();
            put(&path);
            let expect = Expect::Version(ours.clone());
            let beat = store.write(&target.key, &record, &expect).await;
            let Ok(WriteReply::Conflict(Some(Some(found)))) = beat else {
                panic!("{name}: {beat:?}");
            };
            let removed = store.remove(&target.key, &ours).await;
            assert_eq!(removed, Ok(RemoveReply::Conflict(Some(Some(found.clone())))), "{name}");
            let command = target.nameless_removal(&found).expect("a command");
            let run = || Command::new("bash").args(["-c", &command]).status().unwrap().success();
            assert!(run(), "{name}: {command}");
            assert!(path.symlink_metadata().is_err(), "{name}: {command}");
        }
    }

    #[test]
    fn an_item_goes_by_its_text_or_by_having_none() {
        let long = "é".repeat(300);
        for (info, expected) in [
            (None, ("NOT attribute_type(Info, :type)", "S".to_owned())),
            (Some("junk"), ("Info = :info", "junk".to_owned())),
            (Some(&*long), ("begins_with(Info, :info)", "é".repeat(200))),
        ] {
            let (expression, values) = condition(&record(info));
            assert!(expression.ends_with(expected.0), "{expression}");
            let (_, value) = values.as_object().unwrap().iter().next().unwrap();
            assert_eq!(value["S"], expected.1);
        }
    }
}
