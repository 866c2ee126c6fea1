//! The documents and `action.yml` say what the program does.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use tfwrap::cli::{Options, own_commands, whole_command};
use tfwrap::settings::ConfigFile;

use super::{read, rust_files};
use crate::support::json_log;

/// The cells of the table under a heading of the reference, without the head.
fn table(heading: &str) -> Vec<Vec<String>> {
    let reference = read("docs/reference.md");
    let (_, section) = reference
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("the reference has no section `{heading}`"));
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = rows
        .skip(2)
        .map(|row| {
            let row = row.trim_matches('|').replace("\\|", "\u{0}");
            row.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table under `{heading}`");
    rows
}

/// What stands between back quotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What stands in the help after `[env: ` or `[default: `, up to the `]`.
fn noted<'a>(help: &'a str, what: &str) -> &'a str {
    help.split_once(&format!("[{what}: ")).map_or("", |(_, rest)| rest.split(']').next().unwrap())
}

struct Flag {
    value: String,
    short: Option<char>,
    help: String,
}

/// The options by their long names.
fn flags() -> BTreeMap<String, Flag> {
    let mut command = Options::command();
    command.build();
    let flags = command.get_arguments().filter_map(|arg| {
        let long = arg.get_long().filter(|long| !matches!(*long, "help" | "version"))?;
        let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
        let flag = Flag {
            value: value.map_or(String::new(), |names| names[0].to_string()),
            short: arg.get_short(),
            help: arg.get_help().unwrap().to_string(),
        };
        Some((long.to_owned(), flag))
    });
    flags.collect()
}

/// The rows of the options by their long names.
fn option_rows() -> BTreeMap<String, Vec<String>> {
    let rows = table("Options").into_iter().map(|row| {
        let long = row[0].split("--").nth(1).unwrap_or_else(|| panic!("{row:?}"));
        let end = long.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap();
        (long[..end].to_owned(), row)
    });
    rows.collect()
}

#[test]
fn the_table_of_options_is_what_the_parser_knows() {
    let (flags, rows) = (flags(), option_rows());
    assert!(flags.keys().eq(rows.keys()), "{:?}\n{:?}", flags.keys(), rows.keys());
    for (long, flag) in flags {
        let row = &rows[&long];
        // `<DURATION>|never` where the help says `<DURATION|never>`.
        let typed = quoted(&row[0]).last().unwrap().replace(['<', '>'], "");
        assert_eq!(typed, format!("--{long} {}", flag.value).trim(), "{row:?}");
        let short = flag.short.map(|short| format!("-{short}"));
        assert_eq!(short.as_deref(), quoted(&row[0]).iter().rev().nth(1).copied(), "{row:?}");
        assert_eq!(quoted(&row[1]).join(", "), noted(&flag.help, "env"), "{row:?}");
        let idle = "no effect in this version";
        assert_eq!(row[3].contains(idle), flag.help.contains(idle), "{row:?}");
        let default = noted(&flag.help, "default").replace('`', "");
        if !default.is_empty() {
            let told = row[2].replace('`', "");
            // The help has less room for words than the table, or more.
            assert!(default.contains(&told), "{row:?}: {default}");
        }
    }
}

#[test]
fn the_table_of_commands_has_each() {
    let rows = table("Commands");
    let typed = rows.iter().filter_map(|row| quoted(&row[0])[0].strip_prefix("tfwrap "));
    let names = typed.map(|typed| {
        let words = typed.trim_start_matches("[OPTIONS] ");
        words.split([' ', '[']).next().unwrap().to_owned()
    });
    let told: BTreeSet<String> = names.filter(|name| !name.starts_with(['<', '-'])).collect();
    assert_eq!(told, own_commands().into_iter().collect());
}

/// Of test builds only.
const IN_TEST_BUILDS: [&str; 5] = [
    "TFWRAP_CRASH_COUNT_FILE",
    "TFWRAP_CRASH_POINT",
    "TFWRAP_FAIL_POINT",
    "TFWRAP_RELEASE_PATIENCE",
    "TFWRAP_TEST_OFF",
];

#[test]
fn the_tables_name_every_variable() {
    let variable = |word: &str| {
        let ours = word.strip_prefix("TFWRAP_").unwrap_or_default();
        !ours.is_empty() && ours.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')
    };
    let others =
        ["NO_COLOR", "CLICOLOR_FORCE", "AWS_CREDENTIAL_EXPIRATION", "AWS_SESSION_EXPIRATION"];
    let mut read_by_code = BTreeSet::from(others.map(str::to_owned));
    for file in rust_files("src") {
        let text = file.text.split("#[cfg(test)]").next().unwrap();
        let strings =
            text.split('"').filter(|word| variable(word) && !IN_TEST_BUILDS.contains(word));
        if !file.path.ends_with("tests.rs") {
            read_by_code.extend(strings.map(str::to_owned));
        }
    }
    for flag in flags().values() {
        let names = noted(&flag.help, "env").split(", ").filter(|name| !name.is_empty());
        read_by_code.extend(names.map(str::to_owned));
    }
    let mut told: Vec<String> = Vec::new();
    for row in table("Options") {
        told.extend(quoted(&row[1]).into_iter().map(str::to_owned));
    }
    for row in table("Environment") {
        told.extend(quoted(&row[0]).into_iter().map(str::to_owned));
    }
    let distinct: BTreeSet<String> = told.iter().cloned().collect();
    assert_eq!(distinct.len(), told.len(), "one row each: {told:?}");
    assert_eq!(distinct, read_by_code);
}

/// The keys as the program lists them when it meets another one.
fn keys() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.yaml");
    std::fs::write(&path, "no-such-key: 1\n").unwrap();
    let said = ConfigFile::named(&path).unwrap_err().message;
    let (_, known) = said.split_once("known are ").unwrap();
    quoted(known).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_table_of_keys_is_what_the_file_may_hold() {
    let rows = table("`.tfwrap.yaml`");
    let told: BTreeSet<String> = rows.iter().map(|row| quoted(&row[0])[0].to_owned()).collect();
    assert_eq!(told, keys());
    assert_eq!(told.len(), rows.len(), "one row each");
    // Every option may stand there, but where the file is and where to look for it.
    let mut options: BTreeSet<String> = flags().into_keys().collect();
    options.insert("unlocked".to_owned());
    assert!(options.remove("config") && options.remove("chdir"));
    assert_eq!(told, options);
    for row in rows {
        let key = quoted(&row[0])[0];
        let idle = "no effect in this version";
        let of_option = option_rows().get(key).is_some_and(|row| row[3].contains(idle));
        assert_eq!(row[1].contains(idle), of_option, "{row:?}");
    }
}

#[test]
fn the_table_of_exit_codes_is_the_codes_constants() {
    let source = read("src/exit_code.rs");
    let mut constants: BTreeSet<String> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": u8 = "))
        .map(|(_, value)| value.trim_end_matches(';').to_owned())
        .collect();
    let rows = table("Exit codes");
    let mut told: BTreeSet<String> = rows.iter().map(|row| quoted(&row[0])[0].to_owned()).collect();
    assert_eq!(told.len(), rows.len(), "one row each");
    assert!(told.remove("128+N"));
    assert_eq!(told, constants);
    let help = whole_command().get_after_long_help().unwrap().to_string();
    let (_, codes) = help.split_once("Exit codes:").unwrap();
    let codes = codes.lines().skip(1).filter_map(|line| line.trim_start().split_once("  "));
    let codes: BTreeSet<String> = codes.map(|(code, _)| code.to_owned()).collect();
    constants.insert("128+N".to_owned());
    assert_eq!(codes, constants, "of `--help`");
}

/// The events of the schema, each with the fields of its own. That they are those of the code is
/// held beside it, in `report::json`.
#[test]
fn the_table_of_events_is_the_schemas() {
    let schema: serde_json::Value = serde_json::from_str(json_log::SCHEMA).unwrap();
    let fields = |event: &str| -> Vec<String> {
        let properties = &schema["$defs"][event]["properties"];
        let names = properties.as_object().unwrap_or_else(|| panic!("`{event}`")).keys();
        names.filter(|name| *name != "event").cloned().collect()
    };
    let rows = table("JSON log");
    let mut told = Vec::new();
    for row in &rows {
        let event = quoted(&row[0])[0];
        assert_eq!(quoted(&row[1]), fields(event), "{event}");
        told.push(event);
    }
    assert_eq!(serde_json::json!(told), schema["properties"]["event"]["enum"]);
    let outcomes = rows.iter().find(|row| row[0] == "`finished`").unwrap();
    let outcomes: Vec<_> = quoted(&outcomes[2]).into_iter().skip(1).collect();
    let known = &schema["$defs"]["finished"]["properties"]["outcome"]["enum"];
    assert_eq!(serde_json::json!(outcomes), *known);
}

/// That every input is an option is held beside the outputs, in `report::github`.
#[test]
fn every_option_that_does_something_is_an_input_of_the_action() {
    let action: serde_yaml::Value = serde_yaml::from_str(&read("action.yml")).unwrap();
    let inputs = action["inputs"].as_mapping().unwrap();
    for (long, row) in option_rows() {
        let input = if long == "chdir" { "working-directory" } else { &long };
        let idle = row[3].contains("no effect in this version");
        assert_eq!(inputs.contains_key(input), !idle, "{long}");
    }
}

/// Whoever meets the project reads this one first, some on a terminal.
#[test]
fn the_readme_is_short_and_its_first_screen_fits() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 200, "{} lines", readme.lines().count());
    let blocks = readme.split("```").skip(1).step_by(2);
    let wide: Vec<&str> =
        blocks.flat_map(str::lines).filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn the_readme_leads_to_every_document() {
    let readme = read("README.md");
    for file in super::files_below("docs") {
        assert!(readme.contains(&format!("]({}", file.path)), "{}", file.path);
    }
}

/// Each word that is explained to people is one that the program says to them: not as a name of its source.
#[test]
fn the_words_that_are_explained_are_said() {
    let said: Vec<String> = rust_files("src")
        .iter()
        .filter(|file| !file.path.contains("/tests"))
        .flat_map(|file| {
            let code = file.text.split("#[cfg(test)]").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            // Every other piece is within quotes.
            let code = code.collect::<Vec<_>>().join("\n").replace("'\"'", "").replace("\\\"", "");
            code.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>()
        })
        .filter(|text| text.contains(' '))
        .collect();
    for row in table("Words") {
        let word = format!(" {} ", row[0]);
        let plain = |text: &String| text.replace(|c: char| !c.is_ascii_alphabetic(), " ");
        let is_said = |text: &String| format!(" {} ", plain(text)).contains(&word);
        assert!(said.iter().any(is_said), "no message says `{}`", row[0]);
    }
}
