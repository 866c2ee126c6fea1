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

/// An interactive zsh, which completes only on a terminal: it prints what it would offer, and ends.
const INSIDE_ZSH: &str = r#"
PROMPT=
fpath=(${0:h} $fpath)
autoload -Uz compinit
compinit -u -D
bindkey '^I' complete-word
zstyle ':completion:*' completer _complete
before() { print -r -- '<<offered>>' }
after() { print -r -- '<<that is all>>'; exit }
compprefuncs=(before)
comppostfuncs=(after)
compadd() {
    if (( ! ${@[(I)-[OAD]]} )); then
        local -a offered
        builtin compadd -O offered "$@"
        (( $#offered )) && print -rl -- $offered
    fi
    builtin compadd "$@"
}
print ready
"#;

/// Types a line there, and the key for completion.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty inside zsh -f -i
zpty -w inside "source ${(q)1:h}/inside"
zpty -r inside line '*ready*' || exit 4
zpty -w -n inside "$2"$'\t'
zpty -r inside line '*<<offered>>' || exit 5
while zpty -r inside line; do
    line=${line%%$'\r\n'}
    [[ $line != '<<that is all>>' ]] || exit 0
    [[ -z $line ]] || print -r -- $line
done
"#;

/// What a shell offers for the last of these words.
fn offered(shell: &str, line: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    // By this name zsh finds it where its documentation says that it belongs.
    let script = dir.path().join("_tfwrap");
    fs::write(&script, printed(&["completions", shell])).unwrap();
    fs::write(dir.path().join("inside"), INSIDE_ZSH).unwrap();
    let program = match shell {
        "bash" => {
            r#"source "$1"; read -ra COMP_WORDS <<<"$2"; [[ $2 != *" " ]] || COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            # As bash itself asks whatever is registered for the command.
            spec=$(complete -p tfwrap) && [[ $spec =~ -F\ ([^ ]+) ]] || exit 1
            "${BASH_REMATCH[1]}" tfwrap "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#
        }
        "zsh" => ZSH,
        _ => "source $argv[1]; complete -C $argv[2]",
    };
    let mut command = Command::new(shell);
    clean(&mut command, dir.path());
    command.args((shell == "zsh").then_some("-f")).args(["-c", program]);
    command.args((shell != "fish").then_some(shell)).arg(&script).arg(line);
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

/// There is no `PowerShell` to ask, so this is about the text alone.
#[test]
fn the_script_for_powershell_parts_terraforms_commands_and_those_of_run_from_tfwraps() {
    let script = printed(&["completions", "powershell"]);
    let begin = "    $commandElements = $commandAst.CommandElements\n";
    let (_, further) = script.split_once(begin).expect("clap's beginning");
    let (further, rest) = further.split_once("\n    $command = @(\n").expect("clap's own part");
    assert!(rest.contains("Sort-Object"), "all of clap's is there");
    // Behind `run`: the command itself, then whatever completes its arguments.
    assert!(further.contains("-ceq 'run'"), "{further}");
    assert!(further.contains("[CompletionCompleters]::CompleteCommand($wordToComplete)"));
    assert!(further.contains("[CommandCompletion]::CompleteInput($line, $line.Length, $null)"));
    // Behind `--`: Terraform's.
    let listed =
        further.lines().filter_map(|line| line.trim().strip_prefix("[CompletionResult]::new('"));
    let listed: Vec<_> = listed.filter_map(|line| line.split('\'').next()).collect();
    assert!(listed.contains(&"plan") && listed.contains(&"workspace"), "{listed:?}");
    assert!(!listed.contains(&"status") && !listed.contains(&"run"), "{listed:?}");
    for line in further.lines().filter(|line| line.contains("::new(")) {
        assert!(line.ends_with("')") && line.matches('\'').count() % 2 == 0, "{line}");
    }
    // An option of tfwrap's is passed over together with its value.
    let options = further.split_once("@('--").and_then(|(_, rest)| rest.split_once(") -ccontains"));
    let (options, _) = options.expect("the options");
    assert!(options.contains("'--terraform'") && !options.contains("--quiet"), "{options}");
    for (open, close) in [('(', ')'), ('{', '}')] {
        assert_eq!(further.matches(open).count(), further.matches(close).count());
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
        ("tfwrap run -- mkfifo -", &[], &["-h", "--lock"]),
        ("tfwrap apply run ", &[], &["mkfifo"]),
    ] {
        let offered = offered(shell, line);
        let offers = |it: &&str| offered.iter().any(|word| word == it);
        assert!(has.iter().all(offers), "{shell}: {line}: {offered:?}");
        assert!(!has_not.iter().any(offers), "{shell}: {line}: {offered:?}");
    }
}

/// In bash, and in what `TFWRAP_TEST_SHELLS` names beside it (`fish zsh`).
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
