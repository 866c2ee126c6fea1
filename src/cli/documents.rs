//! Commands that only print: help, completion, manual. They need no settings, so that nothing in a
//! directory keeps them away.

use std::ffi::{OsStr, OsString};

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::args::example;
use super::{CliAnswer, refusal, tree};
use crate::terraform::{LISTED_COMMANDS, ListedCommand};

mod man;

/// What is printed.
#[derive(Debug, Subcommand)]
pub(super) enum Document {
    /// Show the help of a command, of Terraform's too
    #[command(
        override_usage = "tfwrap help [COMMAND]...",
        after_help = example!("tfwrap help unlock", "tfwrap help state mv")
    )]
    Help(HelpArgs),
    /// Print the completion script of a shell
    ///
    /// It completes tfwrap's commands and options, and Terraform's commands.
    #[command(
        override_usage = "tfwrap completions <SHELL>",
        after_help = example!(
            "tfwrap completions bash >~/.local/share/bash-completion/completions/tfwrap",
            "tfwrap completions zsh >\"${fpath[1]}/_tfwrap\"",
            "tfwrap completions fish >~/.config/fish/completions/tfwrap.fish",
            "tfwrap completions powershell | Out-String | Invoke-Expression"
        )
    )]
    Completions(CompletionsArgs),
    /// Print the manual page
    #[command(
        override_usage = "tfwrap man",
        after_help = example!("tfwrap man | man -l -", "tfwrap man >/usr/local/share/man/man1/tfwrap.1")
    )]
    Man,
}

#[derive(Debug, Args)]
pub(super) struct HelpArgs {
    /// The command, such as `status`, `table create` or Terraform's `plan`; all of them without it
    #[arg(value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell: `bash`, `elvish`, `fish`, `powershell` or `zsh`
    #[arg(value_enum, value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

impl Document {
    pub(super) fn answer(self) -> CliAnswer {
        match self {
            Self::Help(args) => help(&args.command),
            Self::Completions(args) => CliAnswer::Asked(completions(args.shell)),
            Self::Man => CliAnswer::Asked(man::page()),
        }
    }
}

fn help(words: &[OsString]) -> CliAnswer {
    let mut found = tree::whole_command();
    found.build();
    let mut found = &mut found;
    for (index, word) in words.iter().enumerate() {
        let names: Vec<_> = found.get_subcommands().map(|it| it.get_name().to_owned()).collect();
        match names.iter().position(|name| word.to_str() == Some(name)) {
            Some(at) => {
                found = found.get_subcommands_mut().nth(at).expect("one for each name");
            }
            None => return refusal::of_no_command(&words[..=index], &names),
        }
    }
    if found.is_disable_help_flag_set() {
        // Terraform's.
        return CliAnswer::Asked(found.render_help().ansi().to_string());
    }
    let typed = words.iter().map(OsString::as_os_str).chain([OsStr::new("--help")]);
    let typed = std::iter::once(OsStr::new("tfwrap")).chain(typed);
    let error = tree::whole_command().try_get_matches_from(typed).expect_err("it only prints");
    refusal::of_options(&error, words)
}

fn completions(shell: Shell) -> String {
    let command = tree::whole_command();
    // Not its own, or fish would find `help` among what was typed already, and nothing more to add.
    let others = command.get_subcommands().filter(|it| it.get_name() != "help");
    let names: Vec<_> = others.map(name_of).collect();
    // Without its argument, which for zsh would be a word before those of the commands.
    let mut command = command
        .mut_args(with_its_values)
        .mut_subcommand("help", |it| name_of(&it).subcommands(names));
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "tfwrap", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &in_bash(&command),
        Shell::Fish => in_fish(&script),
        Shell::Zsh => in_zsh(&script, &command),
        Shell::PowerShell => in_powershell(&script, &command),
        _ => script,
    }
}

/// The same of the one for fish.
fn in_fish(script: &str) -> String {
    let own = tree::own_commands();
    let needs = "-n \"__fish_tfwrap_needs_command\"";
    let before = "-n \"__fish_tfwrap_needs_command; and not __fish_tfwrap_behind_dashes\"";
    let is_own = |line: &str| {
        let name = line.split_once(" -f -a \"").and_then(|(_, rest)| rest.split('"').next());
        name.is_some_and(|name| own.iter().any(|it| it == name))
    };
    let lines = script.lines().map(|line| {
        let line = if is_own(line) { line.replacen(needs, before, 1) } else { line.to_owned() };
        line + "\n"
    });
    include_str!("documents/further.fish").to_owned() + &lines.collect::<String>()
}

/// What clap's script for bash does not know: behind `--` there are Terraform's commands only, and behind
/// `run` any command.
fn in_bash(command: &clap::Command) -> String {
    let top: Vec<_> = top().map(|it| it.words[0]).collect();
    include_str!("documents/further.bash")
        .replace("OPTIONS", &with_value(command).join(" "))
        .replace("COMMANDS", &top.join(" "))
}

/// The same of the one for zsh, where clap's own takes over for all else.
fn in_zsh(script: &str, command: &clap::Command) -> String {
    let quoted =
        |it: &ListedCommand| format!("'{}:{}'", it.words[0], it.about.replace('\'', "'\\''"));
    let top: Vec<_> = top().map(quoted).collect();
    let further = include_str!("documents/further.zsh")
        .replace("OPTIONS", &with_value(command).join("|"))
        .replace("COMMANDS", &top.join("\n"));
    script.replacen("_tfwrap() {\n", &(further + "_tfwrap_itself() {\n"), 1)
}

/// The same of the one for `PowerShell`.
fn in_powershell(script: &str, command: &clap::Command) -> String {
    let options: Vec<_> = with_value(command).iter().map(|it| format!("'{it}'")).collect();
    let result = |it: &ListedCommand| {
        let (name, about) = (it.words[0], it.about.replace('\'', "''"));
        let kind = "[CompletionResultType]::ParameterValue";
        format!("                [CompletionResult]::new('{name}', '{name}', {kind}, '{about}')")
    };
    let top: Vec<_> = top().map(result).collect();
    let further = include_str!("documents/further.ps1")
        .replace("OPTIONS", &options.join(", "))
        .replace("COMMANDS", &top.join("\n"));
    let before = "    $commandElements = $commandAst.CommandElements\n";
    script.replacen(before, &(before.to_owned() + &further), 1)
}

/// The options of tfwrap's own behind which a value follows as a word of its own.
fn with_value(command: &clap::Command) -> Vec<String> {
    let takes_value = command.get_arguments().filter(|it| it.get_action().takes_values());
    takes_value.filter_map(|it| it.get_long()).map(|it| format!("--{it}")).collect()
}

/// Terraform's commands, without those below them.
fn top() -> impl Iterator<Item = &'static ListedCommand> {
    LISTED_COMMANDS.iter().filter(|it| it.words.len() == 1)
}

/// The name of a command, with those below it, for what follows `help`.
fn name_of(command: &clap::Command) -> clap::Command {
    clap::Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .disable_help_flag(true)
        .subcommands(command.get_subcommands().map(name_of))
}

/// Of an option whose value is one of a few words, which the settings check, those words.
fn with_its_values(arg: clap::Arg) -> clap::Arg {
    let is_word = |word: &str| word.bytes().all(|c| c.is_ascii_lowercase());
    let named = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    match named {
        Some(named) if named.split('|').all(is_word) => {
            let words: Vec<_> = named.split('|').map(ToOwned::to_owned).collect();
            arg.value_parser(PossibleValuesParser::new(words))
        }
        _ => arg,
    }
}
