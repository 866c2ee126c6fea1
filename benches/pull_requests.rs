//! A day of pull requests: twenty plans and three applies of one state, in a random order, the next one a second
//! after the last. Three ways by turns: Terraform's own waiting, tfwrap whose plans take the lock, tfwrap whose
//! plans do not. Terraform asks a slow server of this bench for as long as a provider would be asked, so that
//! planning takes its time and no processor's.
//!
//! An apply waits from its start until it works, less what that takes with nobody there.
//!
//! `cargo bench --bench pull_requests -- --seed 1`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

#[path = "../tests/support/s3_server.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod s3_server;
#[path = "../tests/support/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

#[path = "../tests/support/dice.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod dice;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use dice::Dice;
use support::{Backend, Place, apply, now, pause, quartile, say_where, start, timed};

#[derive(Debug, Parser)]
struct Args {
    /// How many rounds, each in all three ways.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How many plans in a round.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    plans: u8,
    /// How many applies.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    applies: u8,
    /// Between two arrivals, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    apart: u64,
    /// How long the server keeps Terraform waiting in each plan and each apply, in seconds.
    #[arg(long, default_value_t = 3)]
    asking: u64,
    /// How long an apply works after that, in seconds.
    #[arg(long, default_value_t = 3)]
    work: u8,
    /// Of the order; each round has another one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the state is.
    #[arg(long, value_enum, default_value_t = Backend::Dynamodb)]
    backend: Backend,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How plans and applies get along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stock,
    Exclusive,
    Optimistic,
}

impl Way {
    const ALL: [Self; 3] = [Self::Stock, Self::Exclusive, Self::Optimistic];

    fn name(self) -> &'static str {
        match self {
            Self::Stock => "`terraform -lock-timeout=30m`",
            Self::Exclusive => "`tfwrap`",
            Self::Optimistic => "`tfwrap --plan-lock optimistic`",
        }
    }

    fn command(self, place: &Place) -> Command {
        let mut command = match self {
            Self::Stock => return place.terraform(),
            Self::Exclusive | Self::Optimistic => place.tfwrap(),
        };
        command.args(["--log-format", "json"]);
        if self == Self::Optimistic {
            command.args(["--plan-lock", "optimistic"]);
        }
        command
    }

    fn flags(self) -> &'static [&'static str] {
        if self == Self::Stock { &["-lock-timeout=30m"] } else { &[] }
    }

    fn plan(self, place: &Place) -> Command {
        let mut command = self.command(place);
        command.args(["plan", "-no-color"]).args(self.flags());
        command
    }

    /// Writes down when it begins to work.
    fn apply(self, place: &Place, number: u8, work: u8) -> Command {
        let begins = place.path().join(format!("begins-{number}"));
        let work = format!("date +%s.%N > '{}'; sleep {work}", begins.display());
        apply(self.command(place), self.flags(), &work)
    }
}

fn main() {
    let args = Args::parse();
    let place = Place::new(args.backend, "pull-requests");
    say_where(&place);
    ask_slowly(&place, Duration::from_secs(args.asking));
    timed(&mut apply(place.terraform(), &[], "true"));
    println!(
        "{}: {} plans and {} applies, {} s apart; each asks for {} s, an apply then works for {} s; seed {}\n",
        args.backend.name(),
        args.plans,
        args.applies,
        Duration::from_millis(args.apart).as_secs_f64(),
        args.asking,
        args.work,
        args.seed,
    );
    let alone = Way::ALL.map(|way| {
        let started = wall();
        timed(&mut way.apply(&place, 0, 0));
        begin_of(&place, 0) - started
    });
    println!(
        "| round | | wall | an apply waits, mean | most | a plan takes, p50 | most | planned again | failed |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for round in 0..args.rounds {
        for (way, alone) in Way::ALL.into_iter().zip(alone) {
            play(&args, &place, round, way, alone);
        }
    }
}

/// Lets all of them arrive, and says how it went.
fn play(args: &Args, place: &Place, round: u16, way: Way, alone: f64) {
    let order = order(args, args.seed + u64::from(round));
    let from = now();
    let mut all = Vec::new();
    for (number, is_apply) in (1..).zip(order) {
        let mut command =
            if is_apply { way.apply(place, number, args.work) } else { way.plan(place) };
        all.push((number, is_apply, wall(), start(&mut command)));
        pause(Duration::from_millis(args.apart));
    }
    let (mut waits, mut plans) = (Vec::new(), Vec::new());
    let (mut replanned, mut failed) = (0, 0);
    for (number, is_apply, started, one) in all {
        let (output, took) = one.end();
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            failed += 1;
            eprintln!("{said}");
        } else if is_apply {
            waits.push((begin_of(place, number) - started - alone).max(0.0));
        } else {
            plans.push(took.as_secs_f64());
            replanned += usize::from(said.contains(r#""event":"replanned""#));
        }
    }
    let wall = from.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "there are few of them")]
    let mean = waits.iter().sum::<f64>() / waits.len() as f64;
    println!(
        "| {} | {} | {wall:.1} s | **{mean:.1} s** | {:.1} s | {:.1} s | {:.1} s | {replanned} | {failed} |",
        round + 1,
        way.name(),
        quartile(&waits, 4),
        quartile(&plans, 2),
        quartile(&plans, 4),
    );
}

/// Whether the next to come applies.
fn order(args: &Args, seed: u64) -> Vec<bool> {
    let mut order = vec![false; usize::from(args.plans)];
    let mut dice = Dice::new(seed);
    for _ in 0..args.applies {
        let count = u64::try_from(order.len()).expect("few");
        order.insert(usize::try_from(dice.between(0, count + 1)).expect("few"), true);
    }
    order
}

/// When an apply began to work, by the wall clock, in seconds.
fn begin_of(place: &Place, number: u8) -> f64 {
    let text = std::fs::read_to_string(place.path().join(format!("begins-{number}")));
    text.expect("it has worked").trim().parse().expect("a time")
}

fn wall() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// Gives the configuration something to ask for, as long as a provider is asked.
fn ask_slowly(place: &Place, span: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for asking in listener.incoming().flatten() {
            std::thread::spawn(move || answer(asking, span));
        }
    });
    let data = format!(
        "data \"terraform_remote_state\" \"slow\" {{\n  backend = \"http\"\n  config = {{ address = \"http://{address}/\" }}\n}}\n"
    );
    std::fs::write(place.path().join("slow.tf"), data).expect("a file");
}

fn answer(mut asking: TcpStream, span: Duration) {
    const STATE: &str = r#"{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"slow","outputs":{},"resources":[]}"#;
    let _request = asking.read(&mut [0; 4096]);
    pause(span);
    let length = STATE.len();
    // Whoever has asked may be gone.
    drop(write!(
        asking,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{STATE}"
    ));
}
