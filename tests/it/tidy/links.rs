//! What the documents name is there: tests, files, and the headings that the code links to.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{File, NONE, files_below, read, root, rust_files};

const DOCUMENTS: [&str; 2] = ["docs/protocol.md", "docs/architecture.md"];

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = text.lines().filter_map(|line| {
        is_code ^= line.starts_with("```");
        let level = line.len() - line.trim_start_matches('#').len();
        (!is_code && level > 0).then(|| line[level..].strip_prefix(' ')).flatten()
    });
    headings.map(anchor).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// What follows `before` wherever it stands: the anchor.
fn linked<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let after = text.split(before).skip(1);
    after.map(|rest| rest.split(|c| !is_part(c)).next().unwrap()).collect()
}

#[test]
fn every_link_to_a_rule_leads_to_one() {
    let documents = DOCUMENTS.map(|path| (path, read(path)));
    let mut broken = Vec::new();
    for File { path, text } in files_below("") {
        for (document, content) in &documents {
            let anchors = anchors(content);
            let name = document.trim_start_matches("docs/");
            let mut links = linked(&text, &format!("{document}#"));
            if path.starts_with("docs/") {
                links.extend(linked(&text, &format!("]({name}#")));
            }
            if path == *document {
                links.extend(linked(&text, "](#"));
            }
            let lost = links.iter().filter(|link| !anchors.contains(**link));
            broken.extend(lost.map(|link| format!("{path}: {document} has no `#{link}`")));
        }
    }
    assert_eq!(broken, NONE);
}

/// Where the links of a document lead: `[words](target)`.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut broken = Vec::new();
    for File { path, text } in files_below("") {
        if Path::new(&path).extension().is_none_or(|it| it != "md") {
            continue;
        }
        let here = root().join(&path);
        for target in targets(&text).filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { here.clone() } else { here.with_file_name(file) };
            let is_there = match fs::read_to_string(&file) {
                Ok(text) => anchor.is_empty() || anchors(&text).contains(anchor),
                Err(_) => file.is_dir() && anchor.is_empty(),
            };
            if !is_there {
                broken.push(format!("{path}: {target}"));
            }
        }
    }
    assert_eq!(broken, NONE);
}

#[test]
fn no_comment_cites_the_protocol_without_a_link() {
    let cites = |line: &&str| {
        let comment = line.split_once("//").map_or("", |(_, comment)| comment);
        comment.contains("protocol, section") || comment.contains("the protocol")
    };
    let mut found = Vec::new();
    for File { path, text } in rust_files("src") {
        found.extend(text.lines().filter(cites).map(|line| format!("{path}: {line}")));
    }
    assert_eq!(found, NONE);
}

/// The names of all tests; and of what a macro makes a test of, by a list in which each long name has a
/// line.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in ["src", "tests"] {
        for File { text, .. } in rust_files(dir) {
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                // A property may do without an attribute.
                let marks = ["#[test]", "#[tokio::test", "proptest! {"];
                if marks.iter().any(|mark| line.starts_with(mark)) {
                    is_test = true;
                } else if let Some(rest) = line.trim_start_matches("async ").strip_prefix("fn ") {
                    let name = rest.split('(').next().unwrap();
                    if std::mem::take(&mut is_test) {
                        found.insert(name.to_owned());
                    }
                } else if let Some(name) = line.strip_suffix(',').filter(|name| is_name(name)) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    found
}

fn is_name(word: &str) -> bool {
    word.matches('_').count() > 2
        && word.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// What stands between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The paragraphs that say by which tests a rule is held, up to what is not.
fn held_by(document: &str) -> Vec<String> {
    let paragraphs = document.split("\n\n").filter(|it| it.starts_with("Held by: "));
    let whole = paragraphs.map(|it| it.replace('\n', " "));
    whole.map(|it| it.split(" Not held").next().unwrap().to_owned()).collect()
}

#[test]
fn every_test_that_is_said_to_hold_a_rule_exists() {
    let tests = tests();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let held_by = held_by(&read(document));
        assert!(!held_by.is_empty() || document != DOCUMENTS[0], "no rule is held");
        for paragraph in &held_by {
            let lost = quoted(paragraph).filter(|name| !tests.contains(*name));
            missing.extend(lost.map(|name| format!("{document}: no test `{name}`")));
        }
    }
    assert_eq!(missing, NONE);
}

#[test]
fn every_rule_says_what_holds_it() {
    let document = read(DOCUMENTS[0]);
    let rules = document.split("\n### ").skip(1);
    let silent = rules.filter(|rule| !rule.contains("\nHeld by: ") && !is_about_versions(rule));
    let names: Vec<String> = silent.map(|rule| rule.lines().next().unwrap().to_owned()).collect();
    assert_eq!(names, NONE);
}

/// There is one version so far, which is said there.
fn is_about_versions(rule: &str) -> bool {
    ["V1 ", "V2 ", "V3 ", "V4 "].iter().any(|number| rule.starts_with(number))
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let is_path = |word: &&str| {
            let dirs = ["src/", "tests/", "benches/", "examples/", "docs/", "action/"];
            dirs.iter().any(|dir| word.starts_with(dir)) && !word.contains(['#', ' ', '*'])
        };
        let lost = quoted(&text).filter(is_path).filter(|path| !root().join(path).exists());
        missing.extend(lost.map(|path| format!("{document}: no `{path}`")));
    }
    assert_eq!(missing, NONE);
}

#[test]
fn anchors_are_those_of_github() {
    let text =
        "# The lock's `line`\n```\n# no heading\n```\n### H1 TFWRAP_HELD: a\u{b2} – b\n#none";
    let expected = ["the-locks-line", "h1-tfwrap_held-a\u{b2}--b"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
    assert_eq!(linked("see `docs/x.md#a1-b_c`, docs/x.md#d.", "docs/x.md#"), ["a1-b_c", "d"]);
}
