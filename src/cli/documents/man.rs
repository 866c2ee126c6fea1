//! The manual page: one, with all commands.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::super::tree::{EXAMPLES, EXIT_CODES, TERRAFORMS_CODE, terraforms, whole_command};
use crate::terraform::LISTED_COMMANDS;

/// Of what a page is written. A vector takes it all.
const IN_MEMORY: &str = "memory takes it";

pub(super) fn page() -> String {
    // A manual is no summary.
    let mut whole = whole_command().mut_args(|arg| arg.hide_short_help(false));
    whole.build();
    let man = Man::new(whole.clone());
    let mut out = Vec::new();
    man.render_title(&mut out).expect(IN_MEMORY);
    man.render_name_section(&mut out).expect(IN_MEMORY);
    man.render_synopsis_section(&mut out).expect(IN_MEMORY);
    man.render_description_section(&mut out).expect(IN_MEMORY);
    let mut roff = Roff::new();
    roff.control("PP", []);
    roff.text([roman(terraforms())]);
    roff.text([roman(
        "Options go before the command. Each may also be set by the variable that stands beside it, or by \
         its long name in .tfwrap.yaml; the option wins, then the variable.",
    )]);
    roff.to_writer(&mut out).expect(IN_MEMORY);
    man.render_options_section(&mut out).expect(IN_MEMORY);
    for own in whole.get_subcommands().filter(|it| !it.is_hide_set()) {
        command(own, &mut out);
    }
    rest().to_writer(&mut out).expect(IN_MEMORY);
    String::from_utf8_lossy(&out).into_owned()
}

/// A command of ours, with those below it.
fn command(command: &Command, out: &mut Vec<u8>) {
    let mut roff = Roff::new();
    roff.control("SH", [command.get_bin_name().unwrap_or_default().to_uppercase().as_str()]);
    roff.to_writer(out).expect(IN_MEMORY);
    let below: Vec<_> = command.get_subcommands().collect();
    if below.is_empty() {
        let man = Man::new(command.clone());
        let mut page = Vec::new();
        man.render_synopsis_section(&mut page).expect(IN_MEMORY);
        man.render_description_section(&mut page).expect(IN_MEMORY);
        man.render_options_section(&mut page).expect(IN_MEMORY);
        // What is a section of a page of its own is a part of a section here.
        let page = String::from_utf8_lossy(&page).replace("\n.SH ", "\n.SS ");
        out.extend(page.as_bytes());
    }
    for own in below {
        self::command(own, out);
    }
}

/// Terraform's commands, examples, exit codes.
fn rest() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["TERRAFORM'S COMMANDS"]);
    for listed in LISTED_COMMANDS {
        roff.control("TP", []);
        roff.text([bold(listed.words.join(" "))]);
        roff.text([roman(listed.about)]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman(TERRAFORMS_CODE)]);
    for (code, meaning) in EXIT_CODES {
        roff.control("TP", []);
        roff.text([bold(*code)]);
        roff.text([roman(*meaning)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for example in EXAMPLES {
        roff.text([roman(*example)]);
    }
    roff.control("fi", []);
    roff
}
