//! What is written is read back, and what others could have written is not.

use super::*;
use crate::backend::{AwsSettings, ProxySettings};
use crate::lock::LockKey;
use crate::target::StoreSpec;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn receipt() -> Receipt {
    let aws = AwsSettings {
        region: Some("eu-central-1".to_owned()),
        access_key: Some("AKIA-not-to-be-seen".to_owned()),
        secret_key: Some("secret-not-to-be-seen".to_owned()),
        token: Some("token-not-to-be-seen".to_owned()),
        proxies: ProxySettings {
            https: Some("http://me:password-not-to-be-seen@proxy".to_owned()),
            ..ProxySettings::default()
        },
        ..AwsSettings::default()
    };
    let mut receipt = Receipt::begin(Beginning {
        job: Some("cookie-not-to-be-seen".to_owned()),
        dir: PathBuf::from("/work"),
        began: "2026-01-01T00:00:00Z".to_owned(),
        operation: "OperationTypeApply".to_owned(),
        is_hold: false,
        within: Vec::new(),
        orphan_grace: Duration::from_mins(3),
    })
    .unwrap();
    receipt.locks.push(Entry {
        target: LockTarget {
            store: StoreSpec::DynamoDb { table: "locks".to_owned(), aws: Box::new(aws) },
            key: LockKey("b/k".to_owned()),
            of_backend: true,
        },
        id: LockId("1-2".to_owned()),
        inherited: false,
    });
    receipt
}

#[test]
fn what_is_written_is_read_back_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = ReceiptFile::new_in(dir.path());
    file.write(&receipt()).unwrap();
    file.write(&receipt()).unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    assert!(!text.contains("not-to-be-seen"), "{text}");
    let read = file.read().unwrap();
    assert_eq!(read.locks[0].id, receipt().locks[0].id);
    assert_eq!(read.locks[0].target.url(), receipt().locks[0].target.url());
    assert_eq!(read.runner, receipt().runner);
    assert_eq!(ReceiptFile::all_in(dir.path()).unwrap(), std::slice::from_ref(&file));
    file.remove().unwrap();
    file.remove().unwrap();
    assert_eq!(ReceiptFile::all_in(&dir.path().join("none")).unwrap(), []);
}

#[test]
fn what_others_could_have_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = ReceiptFile::new_in(dir.path());
    file.write(&receipt()).unwrap();
    let link = ReceiptFile::new_in(dir.path());
    symlink(file.path(), link.path()).unwrap();
    assert!(link.read().is_err(), "a link");
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(file.read().unwrap_err().contains("others"));
    let pipe = ReceiptFile::new_in(dir.path());
    nix::unistd::mkfifo(pipe.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(pipe.read().unwrap_err().contains("regular"), "and nobody waits for a writer");
    nix::unistd::mkfifo(&pipe.log(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(pipe.open_log().is_err(), "nor for a reader");
}

#[test]
fn nonsense_and_other_forms_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = ReceiptFile::new_in(dir.path());
    let write = |text: &str| {
        drop(fs::remove_file(file.path()));
        fresh(file.path()).unwrap().write_all(text.as_bytes()).unwrap();
    };
    write("");
    assert!(file.read().is_err());
    write(&"x".repeat(300_000));
    assert!(file.read().unwrap_err().contains("too long"));
    let mut later = receipt();
    later.format = 2;
    write(&serde_json::to_string(&later).unwrap());
    assert!(file.read().unwrap_err().contains("format 2"));
}

#[test]
fn a_link_in_the_way_of_a_new_one_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    let file = ReceiptFile::new_in(dir.path());
    symlink(&victim, file.path().with_extension("next")).unwrap();
    file.write(&receipt()).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
}

/// On a full disk, and in a directory that is read-only: what comes later goes over what is there.
#[test]
fn where_nothing_can_be_made_it_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = ReceiptFile::new_in(dir.path());
    let mut receipt = receipt();
    // Something that cannot be replaced, in the way of a new one.
    let in_the_way = file.path().with_extension("next").join("x");
    fs::create_dir_all(&in_the_way).unwrap();
    assert!(file.write(&receipt).is_err(), "there is none yet");
    fs::remove_dir_all(file.path().with_extension("next")).unwrap();
    file.write(&receipt).unwrap();
    let length = fs::metadata(file.path()).unwrap().len();
    fs::create_dir_all(&in_the_way).unwrap();
    // As long as it gets.
    let process = ProcessId { pid: i32::MAX, born: Some(u64::MAX) };
    receipt.guardian = Some(process);
    receipt.child =
        Some(ProcessTree { leader: process, session: i32::MAX, own_group: true, runner: None });
    receipt.interrupts = Interrupts::Maybe;
    for later in
        [receipt.clone(), Receipt { child: None, starting_since: Some(7), ..receipt.clone() }]
    {
        file.write(&later).unwrap();
        assert_eq!(file.read().unwrap().child, later.child);
        assert_eq!(file.read().unwrap().starting_since, later.starting_since);
        assert_eq!(fs::metadata(file.path()).unwrap().len(), length);
    }
    // More than there is room for leaves it as it is.
    let more = Receipt { dir: PathBuf::from("x".repeat(4096)), ..receipt.clone() };
    assert!(file.write(&more).is_err());
    assert_eq!(file.read().unwrap().starting_since, Some(7));
    // Nor is anything written over that others can read.
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(file.write(&receipt).is_err());
}

#[test]
fn what_nobody_would_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = ReceiptFile::new_in(dir.path());
    let mut receipt = receipt();
    let entry = receipt.locks[0].clone();
    let refused = loop {
        receipt.locks.push(entry.clone());
        if let Err(error) = file.write(&receipt) {
            break error.to_string();
        }
    };
    assert!(receipt.locks.len() > 100, "{}", receipt.locks.len());
    assert!(refused.contains("more than tfwrap reads"), "{refused}");
    assert_eq!(file.read().unwrap().locks.len(), receipt.locks.len() - 1);
}

/// What lies beside no receipt goes after a week.
#[test]
fn what_is_left_without_a_receipt_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (alone, with) = (ReceiptFile::new_in(dir.path()), ReceiptFile::new_in(dir.path()));
    with.write(&receipt()).unwrap();
    let all = ["log", "acting", "release", "told"];
    let at = |file: &ReceiptFile, kind| file.path().with_extension(kind);
    for path in all.iter().flat_map(|kind| [at(&alone, kind), at(&with, kind)]) {
        drop(fresh(&path).unwrap());
    }
    ReceiptFile::sweep(dir.path());
    assert!(all.iter().all(|kind| at(&alone, kind).exists()), "its run may be at work");
    for path in all.iter().flat_map(|kind| [at(&alone, kind), at(&with, kind)]) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    ReceiptFile::sweep(dir.path());
    assert!(all.iter().all(|kind| !at(&alone, kind).exists() && at(&with, kind).exists()));
}

/// What a kill has left in the middle of a write goes with its receipt, or after a week.
#[test]
fn what_was_being_written_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (alone, with) = (ReceiptFile::new_in(dir.path()), ReceiptFile::new_in(dir.path()));
    let next = |file: &ReceiptFile| file.path().with_extension("next");
    with.write(&receipt()).unwrap();
    for file in [&alone, &with] {
        drop(fresh(&next(file)).unwrap());
    }
    ReceiptFile::sweep(dir.path());
    assert!(next(&alone).exists(), "it may be written right now");
    let file = OpenOptions::new().write(true).open(next(&alone)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    ReceiptFile::sweep(dir.path());
    assert!(!next(&alone).exists());
    with.remove().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
