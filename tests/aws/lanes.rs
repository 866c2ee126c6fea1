//! Worlds side by side: each a process of this very program, told one case a line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::case::Case;
use crate::play::{Arena, Player};
use crate::verdict::{Kind, difference, told};
use crate::world;

/// So many worlds. Cases wait as much as they work.
const LANES: usize = 4;
/// Tells the child below that it is in a world, and where its files are.
const INSIDE: &str = "TFWRAP_TEST_AWS_LANE";
const RESULT: &str = "result: ";

/// What a case came to.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) kind: Option<Kind>,
    /// Whether Terraform took its lock.
    pub(crate) stock_works: bool,
    pub(crate) told: String,
}

/// A world, and the process in it.
#[derive(Debug)]
pub(crate) struct Lane {
    child: Child,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
    /// Its files.
    _dir: tempfile::TempDir,
}

impl Lane {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let mut child = world::inside(dir.path(), &program)
            .args(["--exact", "lanes::child_that_plays_what_it_is_told", "--nocapture"])
            .env(INSIDE, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let tell = child.stdin.take().unwrap();
        let hear = BufReader::new(child.stdout.take().unwrap());
        Self { child, tell, hear, _dir: dir }
    }

    pub(crate) fn play(&mut self, case: &Case) -> Played {
        writeln!(self.tell, "{case}").unwrap();
        self.tell.flush().unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.hear.read_line(&mut line).unwrap();
            assert!(count > 0, "the world has ended at: {case}");
            // The harness of the child writes there, too.
            if let Some((_, result)) = line.split_once(RESULT) {
                let result: Value = serde_json::from_str(result).unwrap();
                return Played {
                    kind: result["kind"].as_str().and_then(Kind::of),
                    stock_works: result["stock_works"] == true,
                    told: result["told"].as_str().unwrap_or_default().to_owned(),
                };
            }
        }
    }

    /// The smallest case that differs in the same way: without each field that does not matter.
    pub(crate) fn smallest(&mut self, case: &Case, kind: Kind) -> (Case, Played) {
        let mut smallest = case.clone();
        let mut played = self.play(&smallest);
        let mut at = 0;
        while at < smallest.fields.len() {
            let mut without = smallest.clone();
            without.fields.remove(at);
            let next = self.play(&without);
            if next.kind == Some(kind) {
                (smallest, played) = (without, next);
            } else {
                at += 1;
            }
        }
        (smallest, played)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Plays all of them, and tells of each as it is done.
pub(crate) fn play_all(cases: &[Case], done: &(impl Fn(&mut Lane, &Case, Played) + Sync)) {
    if let Some(why) = world::missing() {
        panic!("{why}");
    }
    let next = Mutex::new(cases.iter());
    std::thread::scope(|scope| {
        for _ in 0..LANES.min(cases.len()) {
            scope.spawn(|| {
                let mut lane = Lane::start();
                loop {
                    let Some(case) = next.lock().unwrap().next() else { return };
                    let played = lane.play(case);
                    done(&mut lane, case, played);
                }
            });
        }
    });
}

/// Plays what it is told on its stdin, if it is in a world; nothing by itself.
#[test]
fn child_that_plays_what_it_is_told() {
    #[expect(clippy::disallowed_methods, reason = "the parent's word to its child")]
    let Some(dir) = std::env::var_os(INSIDE) else { return };
    let dir = Path::new(&dir);
    let desk = world::servers(dir);
    let arena = Arena::new(dir, desk);
    for line in std::io::stdin().lines() {
        let case = Case::of(&line.unwrap());
        let stock = arena.play(&case, Player::Stock);
        let ours = arena.play(&case, Player::Tfwrap);
        let result = json!({
            "kind": difference(&stock, &ours).map(|kind| kind.to_string()),
            "stock_works": stock.took_it,
            "told": told(&stock, &ours),
        });
        println!("\n{RESULT}{result}");
    }
}
