//! Where it is played: one directory and one bucket, put up for each play as they were.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use tempfile::TempDir;

use crate::record::{self, Recorder};
use crate::support::harness;
use crate::support::servers::{self, dynamodb, s3};

type Item = HashMap<String, AttributeValue>;

/// By path: what kind of thing, and what is in it.
pub(crate) type Snapshot = BTreeMap<String, String>;

#[derive(Debug)]
pub(crate) struct Arena {
    root: TempDir,
    pub(crate) bucket: String,
    pub(crate) s3: Recorder,
    pub(crate) dynamodb: Recorder,
    runtime: tokio::runtime::Runtime,
}

/// What was put up, to be put up again.
#[derive(Debug)]
pub(crate) struct Template {
    items: Vec<Item>,
}

impl Arena {
    pub(crate) fn new(name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let bucket = format!("arena-{name}");
        runtime.block_on(dynamodb().create_lock_table(&bucket));
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("home/bin")).expect("a directory");
        let link = root.path().join("home/bin/terraform");
        std::os::unix::fs::symlink(harness::wrapper(), link).expect("a link");
        let (s3, dynamodb) = (Recorder::before(&s3().url), Recorder::before(&dynamodb().url));
        Self { root, bucket, s3, dynamodb, runtime }
    }

    /// The directory; links are resolved.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().canonicalize().expect("it is there").join("arena")
    }

    /// The table has the bucket's name.
    pub(crate) fn table(&self) -> &str {
        &self.bucket
    }

    pub(crate) fn bucket_path(&self) -> PathBuf {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("s3");
        all.join(std::process::id().to_string()).join(&self.bucket)
    }

    /// Makes the emulator forget the checksums of what was there before.
    fn forget_checksums(&self) {
        let name = aws_smithy_types::base64::encode(&self.bucket);
        let ours = format!(".bucket-{}.", name.trim_end_matches('='));
        let all = self.bucket_path();
        for entry in fs::read_dir(all.parent().expect("a directory")).expect("it can be read") {
            let entry = entry.expect("an entry");
            if entry.file_name().to_string_lossy().starts_with(&ours) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// A program in a directory of the arena, with nothing of the tests' own environment.
    pub(crate) fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        servers::clean(&mut command, dir);
        command.env("HOME", self.root.path().join("home"));
        command.env("TFWRAP_STATE_DIR", self.root.path().join("home/receipts"));
        command
    }

    pub(crate) fn tfwrap_as_terraform(&self) -> PathBuf {
        self.root.path().join("home/bin/terraform")
    }

    /// Empties everything.
    pub(crate) fn clear(&self) {
        for path in [self.path(), self.bucket_path()] {
            drop(fs::remove_dir_all(&path));
            fs::create_dir_all(&path).expect("a directory");
        }
        self.forget_checksums();
        self.set_items(&[]);
    }

    fn kept(&self, what: &str) -> PathBuf {
        self.root.path().join(what)
    }

    /// Keeps what is there now.
    pub(crate) fn save(&self) -> Template {
        for (from, to) in [(self.path(), "kept"), (self.bucket_path(), "kept-bucket")] {
            drop(fs::remove_dir_all(self.kept(to)));
            copy(&from, &self.kept(to));
        }
        Template { items: self.items() }
    }

    /// Puts up again what was there when it was saved.
    pub(crate) fn restore(&self, template: &Template) {
        for (from, to) in [("kept", self.path()), ("kept-bucket", self.bucket_path())] {
            drop(fs::remove_dir_all(&to));
            copy(&self.kept(from), &to);
        }
        self.forget_checksums();
        self.set_items(&template.items);
    }

    fn items(&self) -> Vec<Item> {
        let scan = dynamodb().client().scan().table_name(self.table()).send();
        self.runtime.block_on(scan).expect("a scan").items.unwrap_or_default()
    }

    fn set_items(&self, items: &[Item]) {
        for item in self.items() {
            self.remove_item(item["LockID"].as_s().expect("text"));
        }
        for item in items {
            self.runtime.block_on(dynamodb().put_raw(self.table(), item.clone()));
        }
    }

    fn remove_item(&self, lock: &str) {
        let key = AttributeValue::S(lock.to_owned());
        let client = dynamodb().client();
        let request = client.delete_item().table_name(self.table()).key("LockID", key);
        self.runtime.block_on(request.send()).expect("it can be removed");
    }

    /// A stranger's lock, in the table and beside the state: whichever counts.
    pub(crate) fn put_lock(&self, lock: &str) {
        let info = format!(
            r#"{{"ID":"5ca1ab1e-0000-4000-8000-000000000001","Operation":"OperationTypeApply","Info":"","Who":"jane@desk","Version":"1.11.4","Created":"2026-01-02T03:04:05Z","Path":"{lock}"}}"#
        );
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = [("LockID".to_owned(), text(lock)), ("Info".to_owned(), text(&info))].into();
        self.runtime.block_on(dynamodb().put_raw(self.table(), item));
        let file = self.lock_file(lock);
        fs::create_dir_all(file.parent().expect("a directory")).expect("it can be made");
        fs::write(file, info).expect("it can be written");
    }

    /// Takes it away again.
    pub(crate) fn remove_lock(&self, lock: &str) {
        self.remove_item(lock);
        // The player may have taken the whole workspace away.
        drop(fs::remove_file(self.lock_file(lock)));
    }

    fn lock_file(&self, lock: &str) -> PathBuf {
        let (_, key) = lock.split_once('/').expect("a bucket");
        self.bucket_path().join(format!("{key}.tflock"))
    }

    /// What was written without its lock since the last time.
    pub(crate) fn unlocked_writes(&self) -> Vec<String> {
        let mut all = self.s3.take();
        all.extend(self.dynamodb.take());
        record::unlocked(&self.bucket, &all)
    }

    /// All that is there, as far as it must be the same.
    pub(crate) fn look(&self) -> Snapshot {
        let mut found = Snapshot::new();
        list(&self.path(), "", &mut found);
        list(&self.bucket_path(), "s3:", &mut found);
        // The emulator's own; and no place for empty directories, as S3 has none.
        found.retain(|path, what| {
            !path.starts_with("s3:") || !(path.contains(".json") || what == "directory")
        });
        // The line's own record stays where anybody ever waited, and the history where anybody ever ran.
        found.retain(|path, _| !path.split('/').any(|name| name.ends_with(".tfwrap")));
        for item in self.items() {
            let key = item["LockID"].as_s().expect("text");
            if key.ends_with("tfwrap/line") || key.ends_with("tfwrap/history") {
                continue;
            }
            let what = if key.ends_with("-md5") { "digest" } else { "lock" };
            found.insert(format!("dynamodb:{key}"), what.to_owned());
        }
        found
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("an entry");
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&path, &target);
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).expect("a link");
            std::os::unix::fs::symlink(link, target).expect("a link");
        } else {
            fs::copy(&path, target).expect("it can be copied");
        }
    }
}

fn list(dir: &Path, prefix: &str, found: &mut Snapshot) {
    for entry in fs::read_dir(dir).expect("it can be read") {
        let entry = entry.expect("an entry");
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        let name = format!("{prefix}{}", untimed(&entry.file_name().to_string_lossy()));
        if kind.is_dir() {
            found.insert(name.clone(), "directory".to_owned());
            list(&path, &format!("{name}/"), found);
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).expect("a link");
            found.insert(name, format!("link to {}", link.display()));
        } else {
            found.insert(name, content(&fs::read(&path).expect("it can be read")));
        }
    }
}

/// `terraform.tfstate.1795874902.backup` without the time.
fn untimed(name: &str) -> String {
    let is_time = |part: &&str| part.len() == 10 && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.')
        .map(|part| if is_time(&part) { "TIME" } else { part })
        .collect::<Vec<_>>()
        .join(".")
}

/// A file's content without what differs between two runs of the same Terraform.
fn content(bytes: &[u8]) -> String {
    if bytes.starts_with(b"PK") {
        return "saved plan".to_owned();
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else {
        return String::from_utf8_lossy(bytes).into_owned();
    };
    let Some(whole) = value.as_object_mut() else { return value.to_string() };
    // How often a state is written on the way is a matter of time.
    whole.remove("lineage");
    whole.remove("serial");
    let resources = whole.get_mut("resources").and_then(Value::as_array_mut);
    for resource in resources.into_iter().flatten() {
        let instances = resource.get_mut("instances").and_then(Value::as_array_mut);
        for instance in instances.into_iter().flatten() {
            if let Some(attributes) = instance.get_mut("attributes").and_then(Value::as_object_mut)
            {
                attributes.remove("id");
            }
        }
    }
    value.to_string()
}
