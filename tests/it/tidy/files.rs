//! What holds for every file.

use super::{File, NONE, files_below, read, root, rust_files};

const MOST_LINES: usize = 500;

/// Put together here, so that this file does not hold them itself.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[al", "low("),
    concat!("#[ig", "nore"),
];

const MACHINES: [&str; 10] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
    concat!("registry.terraform", ".io"),
];

fn finds(files: &[File], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (index, line) in file.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: `{word}`", file.path, index + 1));
            }
        }
    }
    found
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    for dir in ["src", "tests", "benches", "examples", "action", ".ci"] {
        assert_eq!(finds(&files_below(dir), &UNFINISHED), NONE);
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    assert_eq!(finds(&files_below(""), &MACHINES), NONE);
}

#[test]
fn no_file_of_the_program_is_too_long() {
    let long = |file: &File| {
        let tests = file.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(file.text.len());
        let lines = file.text[..tests].lines().count();
        (lines > MOST_LINES).then(|| format!("{}: {lines} lines", file.path))
    };
    assert_eq!(rust_files("src").iter().filter_map(long).collect::<Vec<_>>(), NONE);
}

/// A file that no module names is never compiled, and its tests never run.
#[test]
fn every_file_is_a_module() {
    let mut forgotten = Vec::new();
    for dir in [
        "src",
        "tests/it",
        "tests/cancel",
        "tests/chaos",
        "tests/differential",
        "tests/nest",
        "tests/aws",
        "tests/hostile",
        "tests/model",
        "tests/snapshots",
    ] {
        for File { path, .. } in rust_files(dir) {
            let top = |name: &str| path == format!("{dir}/{name}");
            if top("main.rs") || top("lib.rs") {
                continue;
            }
            if !parents(dir, &path).iter().any(|parent| declares(parent, &path)) {
                forgotten.push(path);
            }
        }
    }
    assert_eq!(forgotten, NONE);
}

/// A stranger finds his way in by the table at the head of each suite.
#[test]
fn every_module_of_a_suite_has_its_row() {
    let mut wrong = Vec::new();
    let suites = |file: &File| file.path.ends_with("/main.rs");
    for File { path, text } in rust_files("tests").into_iter().filter(suites) {
        let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
        let told: Vec<&str> = rows
            .filter_map(|row| row.split('|').next())
            .flat_map(|cell| cell.split(['`', ',', ' ']).filter(|name| !name.is_empty()))
            .collect();
        // Or a directory of data.
        let beside = root().join(path.trim_end_matches("main.rs"));
        let is_there = |name: &str| {
            text.lines().any(|line| line == format!("mod {name};")) || beside.join(name).is_dir()
        };
        let modules = text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        for module in modules.filter(|module| !told.contains(module)) {
            wrong.push(format!("{path}: `{module}` has no row"));
        }
        for name in told.iter().filter(|name| !name.contains("::") && !is_there(name)) {
            wrong.push(format!("{path}: `{name}` is not there"));
        }
    }
    assert_eq!(wrong, NONE);
}

/// The files that may declare the module in `path`.
fn parents(top: &str, path: &str) -> Vec<String> {
    let dir = path.rsplit_once('/').unwrap().0;
    let mut parents: Vec<_> = if dir == top {
        ["lib.rs", "main.rs"].map(|name| format!("{dir}/{name}")).into()
    } else {
        vec![format!("{dir}.rs")]
    };
    parents.retain(|parent| root().join(parent).exists());
    parents
}

fn declares(parent: &str, path: &str) -> bool {
    let name = path.rsplit_once('/').unwrap().1;
    let module = format!("mod {};", name.trim_end_matches(".rs"));
    let by_path = format!("#[path = \"{name}\"]");
    read(parent).lines().map(str::trim).any(|line| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        line.trim_start_matches("pub ") == module || line == by_path
    })
}

#[test]
fn every_bench_is_declared() {
    let manifest = read("Cargo.toml");
    for File { path, .. } in rust_files("benches") {
        let name = path.trim_start_matches("benches/");
        if !name.contains('/') {
            let name = name.trim_end_matches(".rs");
            let declared = format!("[[bench]]\nname = \"{name}\"\nharness = false\n");
            assert!(manifest.contains(&declared), "{path}");
        }
    }
}

/// One convention: a module is `name.rs`, what belongs to it lies in `name/`, its tests in
/// `name/tests.rs` or below it.
#[test]
fn a_module_is_a_file_of_its_name() {
    let odd = |path: &String| path.ends_with("/mod.rs") || path.ends_with("_tests.rs");
    let found: Vec<_> = rust_files("src").into_iter().map(|file| file.path).filter(odd).collect();
    assert_eq!(found, NONE);
}
