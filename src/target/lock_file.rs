//! Locks that are lock files in S3, and the commands that remove one.

use super::{LockTarget, StoreSpec};
use crate::backend::{AwsSettings, Encryption, ObjectSettings, S3Backend};
use crate::lock::{LockId, LockKey};
use crate::report::{shell_command, shell_quote};
use crate::shown_url::shown_url;
use crate::store::{Conditions, RecordVersion};

/// What a lock file's name ends with, after the key of the state.
const SUFFIX: &str = ".tflock";

impl LockTarget {
    /// The lock file of an S3 backend.
    #[must_use]
    pub fn of_lock_file(backend: &S3Backend) -> Self {
        let store = StoreSpec::S3 {
            bucket: backend.bucket.clone(),
            objects: backend.objects.clone(),
            conditions: Conditions::Untried,
            aws: Box::new(backend.aws.clone()),
        };
        Self { store, key: LockKey(backend.state_key()), of_backend: true }
    }

    /// One of `--lock`, which is written as the bucket has it. At an endpoint of its own the bucket
    /// stands in the path, as for the AWS command line.
    pub(super) fn of_object(bucket: &str, state_key: &str, mut aws: AwsSettings) -> Self {
        aws.use_path_style = aws.endpoints.s3.is_some();
        let store = StoreSpec::S3 {
            bucket: bucket.to_owned(),
            objects: ObjectSettings::default(),
            conditions: Conditions::Untried,
            aws: Box::new(aws),
        };
        Self { store, key: LockKey(state_key.to_owned()), of_backend: false }
    }

    /// The same lock, of a store of which this is known by now.
    #[must_use]
    pub fn found_with(&self, found: Conditions) -> Self {
        let mut target = self.clone();
        if let StoreSpec::S3 { conditions, .. } = &mut target.store {
            *conditions = found;
        }
        target
    }
}

/// The command that removes a lock file if it has this ID.
pub(super) fn remove_with_id(
    bucket: &str,
    key: &LockKey,
    objects: &ObjectSettings,
    aws: &AwsSettings,
    id: &LockId,
) -> String {
    // Its content can be read with the customer's key alone, which belongs into no command.
    if matches!(objects.encryption, Encryption::CustomerKey(_)) {
        return format!("tfwrap unlock {}", shell_quote(&id.0));
    }
    let script = "b=$1 k=$2 id=$3; shift 3; aws s3 cp \"s3://$b/$k\" - \"$@\" | grep -qF -- \"$id\" \
                  && aws s3api delete-object --bucket \"$b\" --key \"$k\" \"$@\"";
    let name = format!("{key}{SUFFIX}");
    let mut words = vec!["sh", "-c", script, "sh", bucket, &name, &id.0];
    let options = options(aws);
    words.extend(options.iter().map(String::as_str));
    shell_command(&words)
}

/// The command that removes a lock file if it is at this version.
pub(super) fn remove_version(
    bucket: &str,
    key: &LockKey,
    aws: &AwsSettings,
    version: &RecordVersion,
) -> String {
    let name = format!("{key}{SUFFIX}");
    let mut words = vec!["aws", "s3api", "delete-object", "--bucket", bucket, "--key", &name];
    // A store that names no versions looks at none.
    if version.0.ends_with('"') {
        words.extend(["--if-match", &version.0]);
    }
    let options = options(aws);
    words.extend(options.iter().map(String::as_str));
    shell_command(&words)
}

/// What the AWS command line must be told to ask where Terraform does.
pub(crate) fn options(aws: &AwsSettings) -> Vec<String> {
    let options = [
        ("--region", aws.region.clone()),
        ("--endpoint-url", aws.endpoints.s3.as_deref().map(shown_url)),
        ("--profile", aws.profile.clone()),
    ];
    options
        .into_iter()
        .filter_map(|(name, value)| Some([name.to_owned(), value?]))
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn target(encryption: Encryption) -> LockTarget {
        let aws = AwsSettings { region: Some("eu-west-1".to_owned()), ..AwsSettings::default() };
        let mut target = LockTarget::of_object("b", "env:/dev/a 'b'/k", aws);
        if let StoreSpec::S3 { objects, .. } = &mut target.store {
            objects.encryption = encryption;
        }
        target
    }

    /// With an `aws` that shows a lock file of the ID `1-2-3`, and notes what it is told.
    #[test]
    fn the_printed_command_removes_the_lock_file_of_that_id_only() {
        let dir = tempfile::tempdir().unwrap();
        let aws = dir.path().join("aws");
        let script =
            "#!/bin/sh\nprintf '%s;' \"$@\" >>log; echo >>log\necho '{\"ID\":\"1-2-3\"}'\n";
        std::fs::write(&aws, script).unwrap();
        std::fs::set_permissions(&aws, std::fs::Permissions::from_mode(0o755)).unwrap();
        let run = |id: &str| {
            let command = target(Encryption::None).unlock_command(&LockId(id.to_owned()));
            let mut bash = Command::new("bash");
            let command = format!("PATH=.:$PATH; {command}");
            let done = bash.args(["-c", &command]).current_dir(dir.path()).output().unwrap();
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
            std::fs::remove_file(dir.path().join("log")).unwrap();
            (done.status.success(), log)
        };
        let shown = "s3;cp;s3://b/env:/dev/a 'b'/k.tflock;-;--region;eu-west-1;\n";
        let removed =
            "s3api;delete-object;--bucket;b;--key;env:/dev/a 'b'/k.tflock;--region;eu-west-1;\n";
        assert_eq!(run("3-2-1"), (false, shown.to_owned()));
        assert_eq!(run("1-2-3"), (true, format!("{shown}{removed}")));
    }

    #[test]
    fn no_command_holds_an_endpoints_password() {
        let endpoint = Some("http://u:secret@h:9?t=secret".to_owned());
        let mut aws = AwsSettings::default();
        (aws.endpoints.s3, aws.endpoints.dynamodb) = (endpoint.clone(), endpoint);
        let s3 = remove_version("b", &LockKey("k".into()), &aws, &RecordVersion("\"e\"".into()));
        let table = StoreSpec::DynamoDb { table: "t".to_owned(), aws: Box::new(aws.clone()) };
        let item = LockTarget { store: table, key: LockKey("k".into()), of_backend: false };
        let stored = crate::store::Stored {
            record: crate::store::Record { info: Some("junk".to_owned()), lease: None },
            version: RecordVersion("v".into()),
        };
        let item = item.nameless_removal(&stored).expect("a command");
        for command in [s3, item] {
            assert!(command.contains("http://h:9"), "{command}");
            assert!(!command.contains("secret"), "{command}");
        }
    }

    #[test]
    fn no_command_holds_a_customers_key() {
        let target = target(Encryption::CustomerKey("secret".to_owned()));
        assert_eq!(target.unlock_command(&LockId("1-2".to_owned())), "tfwrap unlock 1-2");
        let name = "s3://b/env:/dev/a 'b'/k.tflock";
        assert_eq!((target.url().as_str(), target.path().as_str()), (name, "b/env:/dev/a 'b'/k"));
        let stored = serde_json::to_string(&target).unwrap();
        assert!(!stored.contains("secret"), "{stored}");
        let read: LockTarget = serde_json::from_str(&stored).unwrap();
        let StoreSpec::S3 { objects, .. } = read.store else { panic!("another store") };
        assert_eq!(objects.encryption, Encryption::CustomerKey(String::new()));
    }
}
