//! Everything that reads what others wrote, each with what it likes to read. Of these, `fuzz` makes
//! its targets.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tempfile::TempDir;
use tfwrap::backend::{BackendQuery, resolve};
use tfwrap::env::Env;
use tfwrap::held::{self, Held};
use tfwrap::lock::history::{History, MOST_BYTES, PastRun};
use tfwrap::lock::lease::Lease;
use tfwrap::lock::line::{Line, Waiter};
use tfwrap::lock::{Holder, LockInfo, Uptime};
use tfwrap::receipt::ReceiptFile;
use tfwrap::report::{
    LockHistory, histories_as_html, histories_as_json, histories_as_mermaid, histories_as_text,
};
use tfwrap::settings::{ConfigFile, LockUrl};
use tfwrap::store::Record;
use tfwrap::terraform::{Dialect, Invocation};
use tfwrap::{duration, target};

/// Reads bytes of others.
pub(crate) struct Parser {
    pub(crate) name: &'static str,
    /// What is well formed, to begin with.
    pub(crate) samples: &'static [&'static [u8]],
    /// Whether they are what they should be.
    pub(crate) read: fn(&[u8]) -> bool,
}

const STATE: &[u8] = include_bytes!("../../src/backend/testdata/s3-record.json");
const PLAN: &[u8] = include_bytes!("../../src/backend/testdata/s3.tfplan");

pub(crate) const PARSERS: [Parser; 13] = [
    Parser {
        name: "line",
        samples: &[
            br#"{"next":7,"head":3,"turns":2,"plans":[2,1],"writer":"w","count":9,"seen":{"id":"x","beat":4,"stood":5000}}"#,
        ],
        read: line,
    },
    Parser {
        name: "ticket",
        samples: &[
            br#"{"id":"x","beat":3,"free_after":2,"who":"u@h","operation":"OperationTypePlan","info":"i","joined":"2026-01-02T03:04:05Z"}"#,
        ],
        read: ticket,
    },
    Parser {
        name: "history",
        samples: &[
            br#"{"version":1,"dropped":3,"runs":[{"id":"a","asked":1},{"id":"x","who":"u@h","actor":"a","operation":"run","info":"https://h/ i","asked":1795252571000,"waited":30000,"held":5,"outcome":"success","code":0,"commit":"1f2e3d4c5b6a79880f1e2d3c4b5a69788f9e0d1c","pipeline":{"repository":"r","workflow":"w","ref":"b","number":7},"behind":[{"id":"a","who":"u","operation":"o","info":"i","waited":9}],"took_over":true,"within":"a"}]}"#,
        ],
        read: history,
    },
    Parser {
        name: "record",
        samples: &[
            b"{\"ID\":\"28e8a6c8-39d1-5a99-58ed-ea0d4970a5f4\",\"Operation\":\"OperationTypeApply\",\"Info\":\"\",\"Who\":\"root@vm\",\"Version\":\"1.11.4\",\"Created\":\"2026-11-21T09:11:59.981601334Z\",\"Path\":\"b/k\"}\n{\"beat\":7,\"ttl\":600000}",
        ],
        read: record,
    },
    Parser { name: "receipt", samples: &[include_bytes!("receipt.json")], read: receipt },
    Parser {
        name: "settings",
        samples: &[
            b"lock-timeout: 5m\nlease: never\nlock:\n  - dynamodb://t/k?region=r\n  - file:///tmp/x\nquiet: true\nunlocked: [plan]\n",
            b"a: &a [x, x]\nb: &b [*a, *a]\nlock: [*b, *b]\n",
        ],
        read: settings,
    },
    Parser { name: "recorded", samples: &[STATE, br#"{"version":3,"backend":null}"#], read: recorded },
    Parser { name: "environment", samples: &[b"blue\n", b"a b", b".."], read: environment },
    Parser { name: "plan", samples: &[PLAN], read: plan },
    Parser {
        name: "native",
        samples: &[
            b"terraform {\n  backend \"s3\" {\n    bucket = \"b\"\n    key = \"k\" # c\n    endpoints = { s3 = \"http://u\" }\n  }\n}\n",
            b"locals {\n  a = <<-EOT\n  ${join(\",\", [for k in x : \"%{ if k }}%{ endif }\"])}\n  EOT\n  /* } */\n}\nterraform {\n  cloud {\n  }\n}\n",
        ],
        read: native,
    },
    Parser {
        name: "json",
        samples: &[
            br#"[{"terraform":[{"backend":[{"s3":[{"bucket":"b","key":"k","//":"x"}]}]},{"cloud":{}}],"locals":{"a":[1e3,"\ud800"]}}]"#,
        ],
        read: json,
    },
    Parser {
        name: "arguments",
        samples: &[b"-lock-timeout=3m -var 'a=b c' -state=x \"y z\" p\\ q", b"-lock=false --"],
        read: arguments,
    },
    Parser {
        name: "words",
        samples: &[b"dynamodb://t/k?region=r&endpoint=http%3A%2F%2Fh#id s3://b/k#x", b"1h30m5.5s"],
        read: words,
    },
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn registers_own(bytes: &[u8]) -> Record {
    Record { info: None, lease: Some(text(bytes)) }
}

fn line(bytes: &[u8]) -> bool {
    let Some(line) = Line::of(&registers_own(bytes)) else { return false };
    // Whoever read it writes it back, and it can be read again.
    let end = line.end();
    assert!(end.passed() > end.0);
    let signed = line.clone().signed("us");
    let again = Line::of(&signed).expect("what was read can be written");
    assert_eq!((again.next, again.head), (line.next, line.head));
    true
}

fn history(bytes: &[u8]) -> bool {
    let Ok(history) = History::of(Some(&registers_own(bytes))) else { return false };
    let runs: Vec<_> = history.runs().flatten().collect();
    let (shown, now) = ([LockHistory::new("s3://b/k".to_owned(), &history)], Timestamp::UNIX_EPOCH);
    for text in [
        histories_as_text(&shown, usize::MAX, now),
        histories_as_json(&shown, usize::MAX, now),
        histories_as_mermaid(&shown, usize::MAX, now),
        histories_as_html(&shown, usize::MAX, now),
    ] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
    // Whoever adds a run keeps what was read, or says that it did not.
    let ours = PastRun { id: "ours".to_owned(), ..PastRun::default() };
    let (before, dropped) = (history.runs().count(), history.dropped);
    let written = history.with(&ours);
    assert!(written.lease.as_ref().is_some_and(|text| text.len() <= MOST_BYTES));
    let again = History::of(Some(&written)).expect("what was written can be read");
    let lost = (before + 1).saturating_sub(again.runs().count()) as u64;
    assert_eq!(again.dropped, dropped.saturating_add(lost));
    assert_eq!(again.runs().next(), Some(Some(ours)));
    runs.len() > 1
}

fn ticket(bytes: &[u8]) -> bool {
    let Some(waiter) = Waiter::of(&registers_own(bytes)) else { return false };
    assert_eq!(Waiter::of(&waiter.to_record()).as_ref(), Some(&waiter));
    true
}

fn record(bytes: &[u8]) -> bool {
    let (info, lease) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], Some(text(&bytes[end + 1..]))),
        None => (bytes, None),
    };
    let record = Record { info: Some(text(info)), lease };
    if let Some(info) = Holder::of(&record).info() {
        let again = LockInfo::parse(&info.to_json()).expect("what was read can be written");
        assert_eq!(again, *info);
    }
    let Some(lease) = record.lease.as_deref().and_then(Lease::parse) else { return false };
    assert_eq!(Lease::parse(&lease.to_text()), Some(lease));
    let fences = lease.term.fences().map(|(interrupt, kill)| Uptime(interrupt).plus(kill));
    assert!(fences.is_none_or(|at| at.since(Uptime::default()) >= lease.term.period()));
    Holder::of(&record).info().is_some()
}

fn receipt(bytes: &[u8]) -> bool {
    let place = Place::with("run-x.json", bytes);
    let file = place.path("run-x.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let file = ReceiptFile::at(file);
    let Ok(receipt) = file.read() else { return false };
    file.write(&receipt).unwrap();
    assert_eq!(file.read().as_ref(), Ok(&receipt));
    true
}

fn settings(bytes: &[u8]) -> bool {
    let place = Place::with(".tfwrap.yaml", bytes);
    said(ConfigFile::named(&place.path(".tfwrap.yaml")).map(drop))
}

fn recorded(bytes: &[u8]) -> bool {
    Place::with(".terraform/terraform.tfstate", bytes).resolves(None)
}

fn environment(bytes: &[u8]) -> bool {
    let place = Place::with(".terraform/environment", bytes);
    place.put(".terraform/terraform.tfstate", STATE);
    place.resolves(None)
}

fn plan(bytes: &[u8]) -> bool {
    Place::with("p.bin", bytes).resolves(Some("p.bin"))
}

fn native(bytes: &[u8]) -> bool {
    Place::with("main.tf", bytes).resolves(None)
}

fn json(bytes: &[u8]) -> bool {
    Place::with("main.tf.json", bytes).resolves(None)
}

fn arguments(bytes: &[u8]) -> bool {
    let env = Env::from_iter([("TF_CLI_ARGS", OsStr::from_bytes(bytes))]);
    let mut good = true;
    for dialect in [Dialect::Terraform, Dialect::OpenTofu] {
        for command in ["plan", "apply", "init", "version"] {
            good &= said(Invocation::parse(&[command.into()], &env, dialect).map(|call| {
                assert!(call.locked_argv().len() <= 2);
            }));
        }
        let mut typed = vec!["apply".into()];
        typed.extend(bytes.split(|byte| *byte == b' ').map(|it| OsStr::from_bytes(it).to_owned()));
        said(Invocation::parse(&typed, &Env::default(), dialect).map(|call| {
            assert!(call.locked_argv().len() <= typed.len() + 1);
        }));
    }
    good
}

fn words(bytes: &[u8]) -> bool {
    let text = text(bytes);
    if let Ok(url) = LockUrl::parse(&text) {
        let found = target::LockTarget::of_url(&url, &Env::default(), Path::new("/w"));
        said(found.map(|target| drop((target.url(), target.register()))));
    }
    if let Ok(time) = duration::parse(&text) {
        assert!(duration::parse(&duration::format(time)).is_ok());
    }
    drop(duration::parse_flag(&text));
    let held = Held::from_env(&Env::from_iter([(held::VARIABLE, text)]));
    let again = Held::from_env(&Env::from_iter([(held::VARIABLE, held.to_value())]));
    assert_eq!(again, held);
    !held.is_empty()
}

/// Whether it went well; else it is said why not.
fn said<E: std::fmt::Display>(result: Result<(), E>) -> bool {
    let error = result.err().map(|error| error.to_string());
    assert_ne!(error.as_deref(), Some(""));
    error.is_none()
}

/// A directory with a configuration.
struct Place(TempDir);

impl Place {
    fn with(name: &str, bytes: &[u8]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put(name, bytes);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Whether it can be said which state is used, with what is declared alone if need be.
    fn resolves(&self, plan: Option<&str>) -> bool {
        // The sample's own backend is in no region.
        let env = Env::from_iter([("AWS_REGION", "r")]);
        let resolves = |allow_hcl_fallback| {
            let plan_file = plan.map(PathBuf::from);
            let request = BackendQuery::new(self.0.path(), &env);
            let request = BackendQuery { plan_file, allow_hcl_fallback, ..request };
            said(resolve(&request).map(|resolved| drop(resolved.in_words())))
        };
        resolves(false) | resolves(true)
    }
}
