//! Version, changelog, the sums of the action and of the GitLab component, and the documents agree on what is
//! released, and under which names. `docs/releasing.md` says in which order they change.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, NONE, files_below, read};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// What tells people what to install, and from where.
fn told() -> Vec<File> {
    let mut files: Vec<File> =
        ["docs", "templates", "examples"].into_iter().flat_map(files_below).collect();
    for path in ["README.md", "action.yml"] {
        files.push(File { path: path.to_owned(), text: read(path) });
    }
    files
}

/// The characters after each `before` that are of this kind.
fn after<'a>(text: &'a str, before: &str, is_part: impl Fn(char) -> bool) -> Vec<&'a str> {
    let rests = text.split(before).skip(1);
    rests.map(|rest| rest.split(|c| !is_part(c)).next().unwrap()).collect()
}

/// Versions that follow one of these words, such as `tfwrap:1.2.3`.
fn versions(text: &str) -> Vec<&str> {
    let before = ["tfwrap:", "tfwrap@", "tfwrap@v", "tfwrap-", "tfwrap/", "download/v", "build-v"];
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let found = before.into_iter().flat_map(|before| after(text, before, is_part));
    found.map(|it| it.trim_end_matches('.')).filter(|it| it.matches('.').count() == 2).collect()
}

#[test]
fn every_document_names_this_version() {
    let (mut wrong, mut found) = (Vec::new(), 0);
    for File { path, text } in told() {
        for version in versions(&text) {
            found += 1;
            if version != VERSION {
                wrong.push(format!("{path}: {version}"));
            }
        }
    }
    assert_eq!(wrong, NONE);
    assert!(found >= 3, "{found} in all");
}

#[test]
fn every_document_names_this_repository() {
    let ours = REPOSITORY.strip_prefix("https://github.com/").unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '.');
    let (mut wrong, mut found) = (Vec::new(), 0);
    for File { path, text } in told() {
        for host in ["github.com/", "githubusercontent.com/", "ghcr.io/", "uses: "] {
            // A few others' are named, too.
            let names = after(&text, host, is_part).into_iter();
            for name in names.filter(|name| name.split('/').nth(1) == Some("tfwrap")) {
                found += 1;
                if !format!("{name}/").starts_with(&format!("{ours}/")) {
                    wrong.push(format!("{path}: {name}"));
                }
            }
        }
    }
    assert_eq!(wrong, NONE);
    assert!(found >= 3, "{found} in all");
}

/// The component's head and its jobs.
fn component() -> (serde_yaml::Value, serde_yaml::Value) {
    let text = read("templates/tfwrap.yml");
    let (head, jobs) = text.split_once("\n---\n").unwrap();
    (serde_yaml::from_str(head).unwrap(), serde_yaml::from_str(jobs).unwrap())
}

#[test]
fn the_component_installs_this_version_from_this_repository() {
    let (head, _) = component();
    let inputs = &head["spec"]["inputs"];
    assert_eq!(inputs["version"]["default"], VERSION);
    assert_eq!(inputs["download-url"]["default"], format!("{REPOSITORY}/releases/download"));
    for (name, input) in inputs.as_mapping().unwrap() {
        assert!(input["description"].is_string() && !input["default"].is_null(), "{name:?}");
    }
}

/// The targets that the workflow builds.
fn targets() -> BTreeSet<String> {
    let workflow: serde_yaml::Value =
        serde_yaml::from_str(&read(".github/workflows/release.yml")).unwrap();
    let built = &workflow["jobs"]["archive"]["strategy"]["matrix"]["include"];
    let built = built.as_sequence().unwrap().iter();
    built.map(|it| it["target"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_archive_that_is_named_is_built() {
    let targets = targets();
    assert_eq!(targets.len(), 2);
    let (mut wrong, mut found) = (Vec::new(), 0);
    for File { path, text } in told() {
        for (at, _) in text.match_indices(".tar.gz") {
            let word = text[..at].rsplit(|c: char| c.is_whitespace() || "`\"'/=".contains(c));
            let Some(target) = word.clone().next().unwrap().strip_prefix("tfwrap-") else {
                continue;
            };
            found += 1;
            // Or a name for any of them, as in a script.
            let is_open = target == "TARGET" || target.contains(['$', '{', '*']);
            if !is_open && !targets.contains(target) {
                wrong.push(format!("{path}: {target}"));
            }
        }
    }
    assert_eq!(wrong, NONE);
    assert!(found >= 3, "{found} in all");
    let pattern = "{ repo }/releases/download/v{ version }/{ name }-{ target }.tar.gz";
    assert!(read("Cargo.toml").contains(&format!("\npkg-url = \"{pattern}\"\n")));
}

/// The versions that have a section in the changelog, the newest first.
fn sections() -> Vec<String> {
    let changelog = read("CHANGELOG.md");
    let mut heads = changelog.lines().filter_map(|line| line.strip_prefix("## ["));
    assert_eq!(heads.next(), Some("Unreleased]"));
    let dated = heads.map(|head| {
        let (version, date) = head.split_once("] - ").unwrap_or_else(|| panic!("{head}"));
        assert!(date.parse::<jiff::civil::Date>().is_ok(), "{head}");
        version.to_owned()
    });
    dated.collect()
}

#[test]
fn what_is_released_has_its_section_and_the_sums_of_each_archive() {
    let sections = sections();
    // From the commit that prepares the release on; until then the version is that of the last one.
    if let Some(newest) = sections.first() {
        assert_eq!(newest, VERSION);
    }
    let releases: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(&read("action/releases.json")).unwrap();
    let archives: BTreeSet<String> =
        targets().iter().map(|target| format!("tfwrap-{target}.tar.gz")).collect();
    for (tag, sums) in &releases {
        let version = tag.strip_prefix('v').unwrap_or_else(|| panic!("{tag}"));
        assert!(sections.iter().any(|it| it == version), "{tag} is not in the changelog");
        assert!(sums.keys().eq(&archives), "{tag}: {sums:?}");
        let is_sum = |sum: &String| sum.len() == 64 && sum.bytes().all(|c| c.is_ascii_hexdigit());
        assert!(sums.values().all(is_sum), "{tag}: {sums:?}");
    }
    let (_, jobs) = component();
    let variables = &jobs.as_mapping().unwrap().values().next().unwrap()["variables"];
    let text = |name: &str| variables[name].as_str().unwrap().to_owned();
    let recorded = text("TFWRAP_SUMS_VERSION");
    if !recorded.is_empty() || releases.contains_key(&format!("v{VERSION}")) {
        let listed: BTreeMap<String, String> = text("TFWRAP_SUMS")
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, archive)| (archive.to_owned(), sum.to_owned()))
            .collect();
        assert_eq!(Some(&listed), releases.get(&format!("v{recorded}")), "v{recorded}");
    }
}

/// Each third party's action by its commit, and the same one everywhere.
#[test]
fn every_action_is_pinned_and_to_one_commit() {
    let mut pins = BTreeMap::<String, BTreeSet<String>>::new();
    let mut files = files_below(".github");
    files.push(File { path: String::new(), text: read("examples/github-actions.yml") });
    for line in files.iter().flat_map(|file| file.text.lines()) {
        let Some((_, used)) = line.split_once("uses: ") else { continue };
        let Some((name, pin)) = used.split_once('@') else { continue };
        let (commit, version) = pin.split_once(" # ").unwrap_or((pin, ""));
        let is_commit = commit.len() == 40 && commit.bytes().all(|c| c.is_ascii_hexdigit());
        assert!(is_commit && !version.is_empty(), "{used}");
        pins.entry(name.to_owned()).or_default().insert(pin.to_owned());
    }
    assert!(pins.len() > 3, "{pins:?}");
    for (name, pins) in pins {
        assert_eq!(pins.len(), 1, "{name}: {pins:?}");
    }
}

#[test]
fn versions_are_found_where_they_stand() {
    let text = "tfwrap:1.2.3, tfwrap@v1.2.4 tfwrap-1.2.5-x.tar.gz, tfwrap:1.11.4.";
    assert_eq!(versions(text), ["1.2.3", "1.11.4", "1.2.4", "1.2.5"]);
    assert_eq!(versions("registry/terraform-tfwrap:v1, tfwrap: 1.2"), [""; 0]);
}
