//! The forms in the protocol are those that the program writes, byte for byte.

use std::collections::BTreeSet;
use std::time::Duration;

use tfwrap::guardian::Head;
use tfwrap::lock::lease::Lease;
use tfwrap::lock::line::{Line, Waiter};
use tfwrap::lock::{LockInfo, LockKey};
use tfwrap::receipt::{Beginning, Receipt};
use tfwrap::store::{Expect, FileStore, Record, Registers as _};

use super::read;

/// What stands under the rule of this number.
fn rule(number: &str) -> String {
    let document = read("docs/protocol.md");
    let (_, rest) = document
        .split_once(&format!("\n### {number} "))
        .unwrap_or_else(|| panic!("there is no rule {number}"));
    rest.split("\n#").next().unwrap().to_owned()
}

/// The first block of JSON under it.
fn form(number: &str) -> String {
    let rule = rule(number);
    let (_, block) = rule.split_once("```json\n").unwrap_or_else(|| panic!("no JSON in {number}"));
    block.split("\n```").next().unwrap().to_owned()
}

fn lease(text: &str) -> Record {
    Record { info: None, lease: Some(text.to_owned()) }
}

#[tokio::test]
async fn the_forms_in_the_protocol_are_those_that_are_written() {
    let info = form("F2");
    assert_eq!(LockInfo::parse(&info).unwrap().to_json(), info);
    let record = form("F3");
    assert_eq!(Lease::parse(&record).unwrap().to_text(), record);
    let line = form("F4");
    assert_eq!(serde_json::to_string(&Line::of(&lease(&line)).unwrap()).unwrap(), line);
    let ticket = form("F5");
    assert_eq!(Waiter::of(&lease(&ticket)).unwrap().to_record(), lease(&ticket));

    let (dir, content) = (tempfile::tempdir().unwrap(), form("F7"));
    let parts: serde_json::Value = serde_json::from_str(&content).unwrap();
    let key = LockKey(parts["key"].as_str().unwrap().to_owned());
    let record = lease(parts["lease"].as_str().unwrap());
    let store = FileStore::new(dir.path());
    store.write(&key, &record, &Expect::Absent).await.unwrap();
    assert_eq!(std::fs::read_to_string(store.file_of(&key)).unwrap(), content);
}

/// What stands in the first column of the tables under a rule.
fn first_cells(number: &str) -> BTreeSet<String> {
    let rule = rule(number);
    let cells = rule.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

fn keys(value: &impl serde::Serialize) -> BTreeSet<String> {
    let value = serde_json::to_value(value).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_fields_of_receipts_and_of_what_the_guardian_is_told_are_in_the_protocol() {
    let beginning = Beginning {
        job: None,
        dir: "/".into(),
        began: String::new(),
        operation: String::new(),
        is_hold: false,
        within: Vec::new(),
        orphan_grace: Duration::ZERO,
    };
    assert_eq!(keys(&Receipt::begin(beginning).expect("a `/proc`")), first_cells("K2"));
    let told = rule("G2");
    for field in keys(&Head::default()) {
        assert!(told.contains(&format!("`{field}`")), "{field}");
    }
}

#[test]
fn what_is_handed_down_is_in_the_protocol() {
    let source = read("src/job/handed_down.rs");
    let is_variable = |word: &&str| word.starts_with("TFWRAP_");
    let handed: BTreeSet<&str> = source.split('"').filter(is_variable).collect();
    let told = first_cells("H2");
    let missing: Vec<_> = handed.iter().filter(|name| !told.contains(**name)).collect();
    assert!(handed.len() > 5 && missing.is_empty(), "{missing:?}");
}
