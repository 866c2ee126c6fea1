//! Completion scripts and the manual page: all of the command line is in them, and the shells take
//! them.

use std::fs;
use std::process::Command;

use tfwrap::cli::whole_command;

use crate::support::harness::{run, tfwrap};
use crate::support::servers::clean;

fn printed(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let done = run(tfwrap(dir.path()).args(args)).expect_code(0);
    assert_eq!(done.stderr, "");
    done.stdout
}

/// Each command, by its words behind `tfwrap`, with its long options.
fn all() -> Vec<(Vec<String>, Vec<String>)> {
    fn add(words: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, Vec<String>)>) {
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        all.push((words.to_vec(), longs.map(ToOwned::to_owned).collect()));
        for below in command.get_subcommands() {
            add(&[words, &[below.get_name().to_owned()]].concat(), below, all);
        }
    }
    let mut whole = whole_command();
    whole.build();
    let mut found = Vec::new();
    add(&[], &whole, &mut found);
    assert!(found.len() > 50, "{found:?}");
    found
}

#[test]
fn every_script_has_every_command_and_option() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&["completions", shell]);
        let words: Vec<&str> =
            script.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        for (names, longs) in all() {
            for name in &names {
                assert!(words.contains(&name.as_str()), "{shell}: {name}");
            }
            for long in longs {
                // fish leaves the dashes to itself.
                let typed = format!("--{long}");
                let is_there = words.contains(&typed.as_str()) || words.contains(&long.as_str());
                assert!(is_there, "{shell}: {typed}");
            }
        }
    }
}

#[test]
fn the_manual_has_every_command_option_and_exit_code() {
    let page = printed(&["man"]);
    // roff writes `\-` for `-`, and a point or quote at the start of a line with `\&`.
    let text = page.replace("\\-", "-").replace("\\&", "").replace("\\fB", "").replace("\\fR", "");
    let text = text.replace("\\fI", "").replace("\\*(Aq", "'");
    let whole = whole_command();
    for (names, longs) in all() {
        let name = names.join(" ");
        let is_ours = names
            .first()
            .is_some_and(|it| whole.find_subcommand(it).is_some_and(|it| !it.is_hide_set()));
        let has_below = whole
            .find_subcommand(names.first().map_or("", String::as_str))
            .is_some_and(|it| it.has_subcommands() && names.len() == 1);
        let heading = if is_ours {
            format!(".SH \"TFWRAP {}\"", name.to_uppercase())
        } else {
            format!("\n{name}\n")
        };
        let is_there = names.is_empty() || text.contains(&heading);
        assert!(is_there || (is_ours && has_below), "{heading}");
        for long in longs {
            assert!(text.contains(&format!("--{long}")), "{name}: --{long}");
        }
    }
    // What they are for, too, also of those that the short help leaves out.
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for arg in whole.get_arguments() {
        let help = arg.get_help().unwrap().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(joined.contains(&help), "{help}");
    }
    for code in ["64", "69", "70", "74", "75", "76", "77", "78", "126", "127", "128+N"] {
        assert!(text.contains(&format!(".TP\n{code}\n")), "{code}");
    }
}

fn shells() -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "which shells there are")]
    let further = std::env::var("TFWRAP_TEST_SHELLS").unwrap_or_default();
    ["bash"].into_iter().chain(further.split_whitespace()).map(ToOwned::to_owned).collect()
}

/// What a shell offers for the last of these words.
fn offered(shell: &str, line: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, printed(&["completions", shell])).unwrap();
    let program = match shell {
        "bash" => {
            r#"source "$1"; read -ra COMP_WORDS <<<"$2"; [[ $2 != *" " ]] || COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            # As bash itself asks whatever is registered for the command.
            spec=$(complete -p tfwrap) && [[ $spec =~ -F\ ([^ ]+) ]] || exit 1
            "${BASH_REMATCH[1]}" tfwrap "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#
        }
        _ => "source $argv[1]; complete -C $argv[2]",
    };
    let mut command = Command::new(shell);
    clean(&mut command, dir.path());
    command.args(["-c", program]).args((shell == "bash").then_some("bash")).arg(&script).arg(line);
    let done = run(&mut command).expect_code(0);
    assert_eq!(done.stderr, "", "{shell}: {line}");
    // fish adds what each is for.
    done.stdout.lines().filter_map(|line| line.split('\t').next()).map(ToOwned::to_owned).collect()
}

/// Behind `--` a word is Terraform's, whatever it is, and behind `run` any command's. In bash, and in what
/// `TFWRAP_TEST_SHELLS` names beside it.
#[test]
fn what_is_not_tfwraps_is_completed_as_what_it_is() {
    for shell in shells() {
        completes_what_is_not_tfwraps(&shell);
    }
}

fn completes_what_is_not_tfwraps(shell: &str) {
    for (line, has, has_not) in [
        ("tfwrap -- ", &["plan", "state"][..], &["run", "status", "--lock", "-h"][..]),
        ("tfwrap -- un", &["untaint"], &["unlock"]),
        ("tfwrap --lock x -q -- st", &["state"], &["status"]),
        ("tfwrap -- state r", &["rm"], &["-h"]),
        ("tfwrap run -- mkfi", &["mkfifo"], &[]),
        ("tfwrap run mkfi", &["mkfifo"], &[]),
        ("tfwrap --terraform run run -- mkfi", &["mkfifo"], &[]),
        ("tfwrap run --", &["--help"], &[]),
        ("tfwrap run -- mkfifo -", &[], &["-h", "--help"]),
        ("tfwrap apply run ", &[], &["mkfifo"]),
    ] {
        let offered = offered(shell, line);
        let offers = |it: &&str| offered.iter().any(|word| word == it);
        assert!(has.iter().all(offers), "{shell}: {line}: {offered:?}");
        assert!(!has_not.iter().any(offers), "{shell}: {line}: {offered:?}");
    }
}

/// In bash, and in what `TFWRAP_TEST_SHELLS` names beside it (`fish`).
#[test]
fn the_shells_complete_commands_options_and_values() {
    for shell in shells() {
        let shell = shell.as_str();
        for (line, first) in [
            ("tfwrap stat", &["state", "status"][..]),
            ("tfwrap work", &["workspace"]),
            ("tfwrap state ", &["list", "mv", "pull", "push", "replace-provider", "rm", "show"]),
            ("tfwrap state r", &["replace-provider", "rm"]),
            ("tfwrap --lock-timeout 5m workspace ", &["delete", "list", "new", "select", "show"]),
            ("tfwrap --lock-", &["--lock-timeout"]),
            ("tfwrap --second-signal ", &["forward", "hold"]),
            ("tfwrap status --w", &["--watch"]),
            ("tfwrap status --format ", &["json", "text"]),
            ("tfwrap table ", &["create", "policy"]),
            ("tfwrap table create --d", &["--deletion-protection"]),
            ("tfwrap help rel", &["release"]),
            ("tfwrap help state m", &["mv"]),
            ("tfwrap completions po", &["powershell"]),
        ] {
            // What clap's script for fish lacks: the value of a last option, and those of a word.
            let lacks = ["tfwrap --second-signal ", "tfwrap completions po"];
            if shell == "fish" && lacks.contains(&line) {
                continue;
            }
            let mut offered = offered(shell, line);
            offered.retain(|word| line.contains(" -") || !word.starts_with('-'));
            offered.sort();
            assert_eq!(offered, first, "{shell}: {line}");
        }
    }
}
