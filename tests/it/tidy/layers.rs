//! What each part of `src` may know of the world outside.

use super::{File, NONE, rust_files};

/// A word, and the only places that may name it: files or directories below `src`, each for a
/// reason.
struct Border {
    words: &'static [&'static str],
    places: &'static [(&'static str, &'static str)],
}

const STORE: (&str, &str) = ("store/", "talks to the lock stores");
const EVENT_LOOP: (&str, &str) = ("run/", "the event loop and the clock");
const APP: (&str, &str) = ("app", "sets everything up");
const CHILD: (&str, &str) = ("supervise/child", "the child process");

const BORDERS: [Border; 10] = [
    Border {
        words: &["tokio", "signal_hook_tokio"],
        places: &[
            STORE,
            EVENT_LOOP,
            APP,
            CHILD,
            ("supervise/signal.rs", "awaits signals"),
            ("guardian.rs", "awaits what the guardian tells"),
            ("supervise/stand_in.rs", "awaits what the stand-in tells"),
            ("git/ancestry.rs", "awaits what git says"),
        ],
    },
    Border {
        words: &[
            "aws_sdk_",
            "aws_config::",
            "aws_credential_types",
            "aws_runtime",
            "aws_smithy_",
            "aws_types",
        ],
        places: &[STORE],
    },
    Border {
        words: &["std::env", "env::"],
        places: &[
            ("env.rs", "takes the snapshot that all others read"),
            ("lib.rs", "hands the arguments in"),
            APP,
            ("program.rs", "splits and joins `PATH`; reads nothing"),
            ("run/fail_point.rs", "the fail points of test builds"),
            ("run/release.rs", "the patience of test builds"),
            ("run/planner.rs", "where we are"),
        ],
    },
    Border { words: &["Instant", "SystemTime"], places: &[] },
    Border {
        words: &["clock_gettime", "Timestamp::now", "Zoned::now"],
        places: &[("clock.rs", "reads the clocks for all others")],
    },
    Border {
        words: &["clock::", "uptime()", "wall()"],
        places: &[
            EVENT_LOOP,
            APP,
            ("subcommand/", "looks again after a while; ages for people"),
            ("clock.rs", "defines them"),
            ("store/aws/identity.rs", "credentials end by the wall clock"),
            ("store/aws/sso.rs", "so do logins"),
            ("store/s3_lock/proof.rs", "asks a silent store once"),
            ("report/reporter.rs", "stamps what is said; decides nothing by it"),
            ("report/answer.rs", "the same, for want of a reporter"),
            ("receipt/starting.rs", "what was started may appear for a while"),
        ],
    },
    Border {
        words: &["std::process", "process::", "Command::new"],
        places: &[
            ("supervise/", "makes processes"),
            ("guardian/orphaned.rs", "starts whoever takes over"),
            ("run/supervise.rs", "lets them be made"),
            ("run/child_process.rs", "describes the process to make"),
            ("app", "our parent's number; the limits of this process"),
            ("lib.rs", "the exit code"),
            ("main.rs", "the exit code"),
            ("store/aws/credential_process.rs", "runs the program that a profile names"),
            ("ci.rs", "our own PID, for people"),
            ("git/ancestry.rs", "asks git which commit is older"),
        ],
    },
    Border {
        words: &[".spawn()", "::spawn(", ".output()", ".exec()", "fork("],
        places: &[
            ("supervise/", "makes processes"),
            ("guardian/orphaned.rs", "starts whoever takes over"),
            ("run/supervise.rs", "lets them be made"),
            ("store/aws/credential_process.rs", "runs the program that a profile names"),
        ],
    },
    Border {
        words: &["O_NONBLOCK", "File::open("],
        places: &[
            ("opened.rs", "opens without waiting, and tells what it is"),
            ("supervise/", "opens ends of pipes and terminals"),
            ("guardian/orphaned.rs", "opens the log"),
        ],
    },
    Border {
        words: &["println!", "eprintln!", "print!", "stdout()", "stderr()"],
        places: &[
            ("report/reporter.rs", "says everything"),
            ("report/answer.rs", "what a command answers or asks"),
            ("app", "the answers to --help and --version; what is a terminal"),
        ],
    },
];

/// What reads files, which is all that these do to the world; everything else below their
/// directories decides, and nothing more.
const READERS: [(&str, &[&str]); 4] = [
    ("lock/", &[]),
    ("terraform/", &[]),
    (
        "backend/",
        &[
            "backend/read.rs",
            "backend/plan_file.rs",
            "backend/workspace.rs",
            "backend/hcl.rs",
            "backend/odd_files.rs",
        ],
    ),
    ("settings/", &["settings/file.rs"]),
];

/// The program without its tests, comments and uses of the word in text.
pub(super) fn program() -> Vec<File> {
    let mut files = rust_files("src");
    files.retain(|file| !file.path.ends_with("/tests.rs") && !file.path.contains("/tests/"));
    for file in &mut files {
        file.path = file.path.trim_start_matches("src/").to_owned();
        file.text = code(&file.text);
    }
    files
}

/// Whether a file is in a place; the file of a module that has a directory is in that.
fn is_in(path: &str, place: &str) -> bool {
    path.starts_with(place)
        || place.strip_suffix('/').is_some_and(|dir| path.strip_suffix(".rs") == Some(dir))
}

fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Whether the word stands there, and not as the end of a longer one.
fn names(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        word.starts_with(['.', ':']) || before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

#[test]
fn each_border_is_kept() {
    let files = program();
    let mut broken = Vec::new();
    for Border { words, places } in &BORDERS {
        for file in &files {
            if places.iter().any(|(place, _)| is_in(&file.path, place)) {
                continue;
            }
            for word in *words {
                // Ours and clap's, not the standard library's.
                let text = file.text.replace("crate::env::", "").replace("clap::Command::new", "");
                if names(&text, word) {
                    broken.push(format!("src/{} names `{word}`", file.path));
                }
            }
        }
    }
    assert_eq!(broken, NONE);
}

#[test]
fn every_exception_is_needed() {
    let files = program();
    let mut idle = Vec::new();
    for Border { words, places } in &BORDERS {
        for (place, _) in *places {
            let used = files
                .iter()
                .filter(|file| is_in(&file.path, place))
                .any(|file| words.iter().any(|word| names(&file.text, word)));
            if !used {
                idle.push(format!("src/{place} may name {words:?} and does not"));
            }
        }
    }
    assert_eq!(idle, NONE);
}

#[test]
fn machines_and_parsers_touch_no_file() {
    let mut broken = Vec::new();
    for file in program() {
        let Some((_, readers)) = READERS.iter().find(|(dir, _)| is_in(&file.path, dir)) else {
            continue;
        };
        let touches = ["fs::", "File::", "rustix", "hostname"];
        if !readers.contains(&file.path.as_str())
            && touches.iter().any(|word| names(&file.text, word))
        {
            broken.push(format!("src/{} touches files", file.path));
        }
    }
    assert_eq!(broken, NONE);
}

#[test]
fn one_select_decides() {
    let mut found: Vec<_> = program()
        .iter()
        .map(|file| (file.path.clone(), file.text.matches("select!").count()))
        .filter(|(_, count)| *count > 0)
        .collect();
    found.sort();
    let expected = [
        // The loop's.
        ("run/event_loop.rs".to_owned(), 1),
        // Inside `changed`, which the loop awaits: ends, ticks, and the stand-in.
        ("supervise/child.rs".to_owned(), 1),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_broken_border_is_seen() {
    assert!(names(&code("use tokio::time;"), "tokio"));
    assert!(!names(&code("// tokio\n#[cfg(test)]\nmod tests { use tokio; }"), "tokio"));
    assert!(!names("let uptime_env::x", "env::"));
    assert!(names("std::env::var()", "env::"));
    assert!(names("command.spawn()", ".spawn()"));
}
