//! What a command line is answered with that starts nothing.

use std::ffi::OsString;
use std::io::{self, Write as _};

use super::{fail, provisional_options};
use crate::cli::{self, CliAnswer, Options};
use crate::env::Env;
use crate::error::Error;
use crate::exit_code;
use crate::report::{self, LogFormat};

/// Says it, and returns the exit code.
pub(super) fn answer(said: CliAnswer, args: &[OsString], env: &Env) -> u8 {
    let given = Options { log_format: cli::log_format(args), ..Options::default() };
    let options = provisional_options(&given, env);
    let (message, hint) = match said {
        CliAnswer::Asked(text) => return print(&text, env),
        CliAnswer::Overview(text) if options.format == LogFormat::Text => {
            // A closed stderr leaves nobody to tell.
            let _closed = anstream::stderr().write_all(text.as_bytes());
            return exit_code::USAGE;
        }
        CliAnswer::Overview(_) => {
            ("a command is missing".to_owned(), "`tfwrap --help` lists the commands".to_owned())
        }
        CliAnswer::Refused { message, hint } => (message, hint),
    };
    fail(&Error::Usage { message, hint: Some(hint) }, options)
}

fn print(text: &str, env: &Env) -> u8 {
    let plain = anstream::AutoStream::choice(&io::stdout()) == anstream::ColorChoice::Never;
    let text = if plain { anstream::adapter::strip_str(text).to_string() } else { text.to_owned() };
    match Error::expect_answered(report::answer(&text)) {
        Ok(()) => 0,
        Err(error) => fail(&error, provisional_options(&Options::default(), env)),
    }
}
