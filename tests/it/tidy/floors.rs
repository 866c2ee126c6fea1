//! In which direction the rooms import one another: downward only, so that there is no circle.

use std::collections::BTreeSet;

use super::layers::program;
use super::{NONE, read};

/// The modules of `src`, the lowest first. Each may import only those listed before it.
const ROOMS: [&str; 36] = [
    "env",
    "nearest",
    "path_text",
    "shown_url",
    "duration",
    "file_id",
    "opened",
    "path_watch",
    "git",
    "lock",
    "clock",
    "identity",
    "supervise",
    "version",
    "terraform",
    "cli",
    "backend",
    "store",
    "report",
    "telemetry",
    "ci",
    "settings",
    "error",
    "program",
    "target",
    "receipt",
    "guardian",
    "state_dir",
    "held",
    "shim",
    "exit_code",
    "job",
    "run",
    "subcommand",
    "app",
    "lib",
];

fn room(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The rooms that a file without tests and comments names, as `crate::room` or in a list of
/// `use crate::{…}`.
fn imported(text: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = BTreeSet::new();
    for (at, start) in text.match_indices("crate::") {
        // Not the end of another word, such as `my_crate::`.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + start.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut begins) = (0_u32, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    found.insert(name(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// What a file imports from rooms that do not stand below its own.
fn upward(path: &str, text: &str) -> Vec<String> {
    let floor = |name: &str| ROOMS.iter().position(|room| *room == name);
    let own = floor(room(path));
    imported(text)
        .into_iter()
        .filter(|it| it != room(path) && (own.is_none() || floor(it).is_none() || floor(it) > own))
        .collect()
}

/// All imports that point upward. Tests are left out: they may look at anything.
fn all_upward() -> Vec<(String, String)> {
    let files = program().into_iter().filter(|file| file.path != "main.rs");
    let of = |file: super::File| {
        let up = upward(&file.path, &file.text);
        up.into_iter().map(move |it| (file.path.clone(), it)).collect::<Vec<_>>()
    };
    files.filter(|file| !file.path.contains("/tests/")).flat_map(of).collect()
}

#[test]
fn imports_point_downward() {
    let broken: Vec<_> = all_upward()
        .into_iter()
        .map(|(file, room)| format!("src/{file} imports `{room}`, which is not below it"))
        .collect();
    assert_eq!(broken, NONE);
}

#[test]
fn the_list_of_rooms_is_whole() {
    let lib = read("src/lib.rs");
    let (lib, _) = lib.split_once("#[cfg(test)]").unwrap();
    let declared: BTreeSet<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod "))
        .map(|line| line.trim_end_matches(';'))
        .collect();
    let listed: BTreeSet<_> = ROOMS.into_iter().filter(|it| *it != "lib").collect();
    assert_eq!(declared, listed);
}

#[test]
fn an_upward_import_is_seen() {
    assert_eq!(upward("lock/queue/join.rs", "use crate::store::Record;"), ["store"]);
    assert_eq!(upward("run/x.rs", "let it = crate::app::command();"), ["app"]);
    assert_eq!(upward("lock/x.rs", "use crate::{env::{A, B}, run, lock::Uptime};"), ["run"]);
    assert_eq!(upward("lock/x.rs", "use other_crate::run; use super::line;"), NONE);
    assert_eq!(upward("nowhere.rs", "use crate::env::Env;"), ["env"]);
    assert_eq!(upward("store/x.rs", "use crate::lock::LockKey;"), NONE);
}
