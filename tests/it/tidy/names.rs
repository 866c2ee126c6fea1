//! One word for one thing: no two public types have one name.

use std::collections::BTreeMap;

use super::{NONE, rust_files};

/// Each machine has its own of these.
const OF_EACH_MACHINE: [&str; 4] = ["Event", "Action", "State", "Phase"];

/// The type that a line makes public, if it does.
fn public_type(line: &str) -> Option<&str> {
    let line = line.trim_start().strip_prefix("pub")?;
    let line = match line.strip_prefix('(') {
        Some(scope) => scope.split_once(')')?.1,
        None => line,
    };
    let (kind, rest) = line.trim_start().split_once(' ')?;
    let is_type = matches!(kind, "struct" | "enum" | "trait" | "type" | "union");
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (is_type && !OF_EACH_MACHINE.contains(&name)).then_some(name)
}

#[test]
fn no_two_public_types_have_one_name() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in rust_files("src") {
        for name in file.text.lines().filter_map(public_type) {
            homes.entry(name.to_owned()).or_default().push(file.path.clone());
        }
    }
    assert!(homes.len() > 100, "types are not found any more");
    let shared = homes.into_iter().filter(|(_, homes)| homes.len() > 1);
    let shared: Vec<_> = shared.map(|(name, homes)| format!("{name}: {homes:?}")).collect();
    assert_eq!(shared, NONE);
}

#[test]
fn a_public_type_is_seen() {
    assert_eq!(public_type("pub struct Lease {"), Some("Lease"));
    assert_eq!(public_type("    pub(in super::super) enum Asked<'a> {"), Some("Asked"));
    assert_eq!(public_type("pub type Section = u8;"), Some("Section"));
    assert_eq!(public_type("pub enum Event {"), None);
    assert_eq!(public_type("struct Lease {"), None);
    assert_eq!(public_type("pub fn lease() {"), None);
}
