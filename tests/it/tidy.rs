//! Rules of the house that neither the compiler nor the linter holds.

mod documents;
mod files;
mod floors;
mod forms;
mod layers;
mod links;
mod names;
mod releases;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository.
#[derive(Debug)]
struct File {
    /// From the repository's root.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All text files below `dir`, but for what is built or not ours.
fn files_below(dir: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![root().join(dir)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            if matches!(relative.as_str(), "target" | ".git") {
                continue;
            }
            if kind.is_dir() {
                left.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push(File { path: relative, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no file below {dir:?}");
    found
}

fn rust_files(dir: &str) -> Vec<File> {
    let is_rust = |file: &File| Path::new(&file.path).extension().is_some_and(|it| it == "rs");
    files_below(dir).into_iter().filter(is_rust).collect()
}

const NONE: [String; 0] = [];
