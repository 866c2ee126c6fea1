//! The backend as the files declare it, before `terraform init`, beside what stock Terraform writes
//! down at its `init`: tfwrap finds the same state by both, or says that it cannot tell.
//!
//! A case follows from the seed and its number alone:
//!
//! ```text
//! TFWRAP_BLOCKS_SEED=7 TFWRAP_BLOCKS_FIRST=41 TFWRAP_BLOCKS_CASES=1 cargo test --test differential blocks
//! TFWRAP_BLOCKS_SEED=$RANDOM TFWRAP_BLOCKS_CASES=5000 cargo test --test differential blocks -- --nocapture
//! ```

mod write;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use tfwrap::backend::{Backend, BackendError, BackendQuery, resolve};
use tfwrap::env::Env;

use crate::support::rounds::{Ledger, Rounds};

/// Side by side.
const LANES: usize = 3;
const CASES: usize = 120;
/// The default run plays the same cases every time.
const SEED: u64 = 1;

/// Why tfwrap may say that it cannot tell where Terraform can: a value that takes evaluation, a key
/// twice in an object, half a surrogate pair, and a heredoc with its own end in it (the last two).
/// Each is said with `terraform init`, which helps.
const MAY_ASK_FOR_INIT: [&str; 5] = [
    "is not a literal one",
    "redefined object key",
    "hex escape",
    "expected newline or eof",
    "invalid structure",
];

/// A bucket with nothing in it.
fn bucket() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // A client that goes away is no failure of the server.
            std::thread::spawn(move || drop(serve(connection.unwrap())));
        }
    });
    port
}

fn serve(connection: TcpStream) -> std::io::Result<()> {
    let mut out = connection.try_clone()?;
    let mut from = BufReader::new(connection);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if from.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse().unwrap_or(0);
            }
            if line.is_empty() {
                break;
            }
        }
        drop(from.by_ref().take(length).read_to_end(&mut Vec::new()));
        let (status, body) = if first.contains("list-type") {
            (200, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        } else {
            (404, "<Error><Code>NoSuchKey</Code></Error>")
        };
        let body = if first.starts_with("HEAD") { "" } else { body };
        write!(out, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

fn variables(port: u16) -> [(&'static str, String); 5] {
    [
        ("AWS_ACCESS_KEY_ID", "AKIA".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "s".to_owned()),
        ("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{port}")),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_MAX_ATTEMPTS", "1".to_owned()),
    ]
}

fn found(dir: &Path, env: &Env) -> Result<Backend, BackendError> {
    let request = BackendQuery { allow_hcl_fallback: true, ..BackendQuery::new(dir, env) };
    resolve(&request).map(|resolved| resolved.backend)
}

/// What a case came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Both find the same.
    Agree,
    /// Terraform refuses, and tfwrap too, or does not know: it says nothing about the rest of a
    /// configuration, and without `init` no Terraform asks for a lock.
    Neither,
    Unknown,
    /// tfwrap cannot tell, and may.
    Asks,
    /// It may not be so.
    Differ(String),
}

fn play(dir: &Path, files: &[(String, Vec<u8>)], port: u16) -> Outcome {
    fs::create_dir(dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
    let env: Env = variables(port).into_iter().collect();
    let before = found(dir, &env);
    #[expect(clippy::disallowed_methods, reason = "terraform must be found")]
    let path = std::env::var_os("PATH").unwrap();
    let init = Command::new("timeout")
        .args(["60", "terraform", "init", "-input=false", "-no-color"])
        .env_clear()
        .envs(variables(port))
        .env("PATH", path)
        .env("HOME", dir)
        .env("CHECKPOINT_DISABLE", "1")
        .current_dir(dir)
        .output()
        .unwrap();
    if !init.status.success() {
        return if before.is_err() { Outcome::Neither } else { Outcome::Unknown };
    }
    let after = found(dir, &env).expect("what Terraform has written down can be read");
    match before {
        Ok(before) if before == after => Outcome::Agree,
        Ok(before) => Outcome::Differ(format!("before: {before:#?}\nafter: {after:#?}")),
        Err(error) => {
            let error = error.to_string();
            if MAY_ASK_FOR_INIT.iter().any(|why| error.contains(why)) {
                Outcome::Asks
            } else {
                Outcome::Differ(format!("tfwrap refuses: {error}\nTerraform: {after:?}"))
            }
        }
    }
}

/// How many came to what.
#[derive(Default)]
struct Outcomes {
    agree: usize,
    neither: usize,
    unknown: usize,
    asks: usize,
}

impl std::fmt::Display for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { agree, neither, unknown, asks } = self;
        write!(
            f,
            "{agree} agree; {neither} are refused by both, {unknown} by Terraform alone, {asks} by \
             tfwrap, and may be"
        )
    }
}

#[test]
fn a_backend_block_means_before_init_what_it_means_after() {
    let cases = Rounds::of("differential", ("TFWRAP_BLOCKS", "CASES"), SEED, CASES);
    let (port, root) = (bucket(), tempfile::tempdir().unwrap());
    let outcomes = cases.play(LANES, |_, ledger: &Ledger<Outcomes>| {
        while let Some(number) = ledger.next() {
            let dir = root.path().join(number.to_string());
            let files = write::case(cases.seed, number);
            let outcome = play(&dir, &files, port);
            fs::remove_dir_all(&dir).unwrap();
            ledger.count(|all| match &outcome {
                Outcome::Agree => all.agree += 1,
                Outcome::Neither => all.neither += 1,
                Outcome::Unknown => all.unknown += 1,
                Outcome::Asks => all.asks += 1,
                Outcome::Differ(_) => {}
            });
            if let Outcome::Differ(how) = outcome {
                let shown = files
                    .iter()
                    .map(|(name, text)| format!("--- {name}\n{}\n", String::from_utf8_lossy(text)));
                let (named, replay) = (cases.named(number), cases.replay(number));
                ledger.fail(format!("{named}: {how}\n{}{replay}", shown.collect::<String>()));
            }
        }
    });
    let (agree, all) = (outcomes.agree, cases.numbers.len());
    assert!(all < 50 || agree * 2 > all, "too few are of use: {agree} of {all}");
}
