//! What `tfwrap history` says.

use serde_json::{Value, json};

use super::Stage;
use crate::support::harness::{Finished, Gate, Running, applying, run, tfwrap};
use crate::support::proxy::{Fault, Rule};
use crate::support::servers::local_backend_dir;

impl Stage {
    fn told(&self, args: &[&str]) -> Finished {
        run(tfwrap(self.path()).arg("history").args(args))
    }
}

#[tokio::test]
async fn the_first_line_says_what_was_waiting_and_each_format_has_the_runs() {
    let stage = Stage::initialised("history/formats").await;
    let said = stage.told(&[]).expect_code(0);
    let lock = format!("dynamodb://{}/{}", stage.table, stage.lock_id());
    assert_eq!(said.stdout, format!("{lock}: no run is in the history\n"));
    let gate = Gate::new(stage.path(), "first");
    let mut of_alice = tfwrap(stage.path());
    of_alice.env("TFWRAP_ACTOR", "alice").env("TFWRAP_RUN_URL", "https://ci.example/run/7");
    let first = Running::start(&mut applying(of_alice, &gate.command()));
    gate.reached();
    let second = Running::start(tfwrap(stage.path()).args(["plan", "-no-color"]));
    second.says("waiting");
    crate::support::harness::pause(std::time::Duration::from_millis(1200));
    gate.open();
    first.finish().expect_code(0);
    second.finish().expect_code(0);

    let text = stage.told(&[]).expect_code(0);
    assert_eq!(text.stderr, "");
    let lines: Vec<_> = text.stdout.lines().collect();
    // It is younger than a week.
    assert!(lines[0].starts_with(&format!("{lock}: since 20")), "{}", lines[0]);
    assert!(lines[0].contains("Z (the history goes back no further), "), "{}", lines[0]);
    assert!(lines[0].contains("% of the time was waiting: 2 runs waited "), "{}", lines[0]);
    assert!(lines[0].contains(" for alice (apply)"), "{}", lines[0]);
    assert!(lines[1].contains(" plan ") && lines[1].contains(" success"), "{}", lines[1]);
    assert!(lines[2].contains("waited for alice (apply) "), "{}", lines[2]);
    assert!(lines[3].contains(" alice ") && lines[3].contains("https://ci.example/run/7"));
    assert_eq!(lines.len(), 4);

    let document = stage.told(&["--format", "json", "--limit", "1"]).expect_code(0).stdout;
    let document: Value = serde_json::from_str(&document).expect(&document);
    assert_eq!(document["version"], 1);
    assert_eq!(document["locks"][0]["lock"], lock);
    assert_eq!(document["locks"][0]["week"]["runs"], 2);
    assert_eq!(document["locks"][0]["week"]["waited_for"][0]["who"], "alice (apply)");
    let [newest] = &document["runs"].as_array().unwrap()[..] else { panic!("{document}") };
    // The contract.
    for field in [
        "lock",
        "id",
        "who",
        "info",
        "operation",
        "asked",
        "waited_seconds",
        "held_seconds",
        "outcome",
        "exit_code",
        "commit",
        "pipeline",
    ] {
        assert!(newest.get(field).is_some(), "{field} in {newest}");
    }
    assert_eq!(
        (&newest["operation"], &newest["exit_code"]),
        (&json!("OperationTypePlan"), &json!(0))
    );
    assert!(newest["waited_seconds"].as_f64().unwrap() > 1.0, "{newest}");

    let chart = stage.told(&["--format", "mermaid"]).expect_code(0).stdout;
    assert!(
        chart.contains("```mermaid\ngantt\n") && chart.contains("section alice apply\n"),
        "{chart}"
    );
    let page = stage.told(&["--format", "html"]).expect_code(0).stdout;
    assert!(page.starts_with("<!doctype html>") && page.contains(">alice <"), "{page}");
    assert!(!page.contains("<script") && !page.contains("src="), "{page}");
}

#[tokio::test]
async fn a_hostile_register_is_shown_without_harm_and_without_delay() {
    let stage = Stage::new("history/hostile").await;
    let hostile =
        "\u{1b}[2J\u{7}\n::set-output name=x::y ##[error]z \u{202e}`x`<script>alert(1)</script>";
    let odd = json!({
        "id": hostile, "who": hostile, "actor": hostile, "operation": hostile, "info": hostile,
        "asked": 1_795_252_571_000_i64, "waited": 5, "held": 7, "outcome": hostile, "code": 3,
        "commit": hostile, "behind": [{"id": hostile, "who": hostile, "waited": u64::MAX}],
    });
    let runs = vec![odd; 300];
    for text in [
        json!({ "version": 1, "dropped": u64::MAX, "runs": runs }).to_string(),
        hostile.to_owned(),
        "[".repeat(300_000),
        format!("{{\"version\":1,\"runs\":[{}1]}}", "1,".repeat(150_000)),
    ] {
        stage.put_history(&text).await;
        for format in ["text", "json", "mermaid", "html"] {
            let said = stage.told(&["--format", format, "--limit", "1000000"]).expect_code(0);
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.stdout.contains(bad), "{}", said.stdout);
            for start in ["::set-output", "##[", "<script"] {
                let is_text = format == "text" || format == "json";
                assert!((is_text && start == "<script") || !said.stdout.contains(start), "{start}");
            }
        }
    }
    stage.put_history(r#"{"version":2,"runs":[]}"#).await;
    let said = stage.told(&[]).expect_code(78);
    assert!(said.stderr.contains("a newer version of tfwrap wrote it"), "{}", said.stderr);
}

#[tokio::test]
async fn what_cannot_be_read_has_its_code() {
    let stage = Stage::new("history/codes").await;
    stage.proxy.plan([Rule::on("GetItem", Fault::DENIED).key(&stage.history())]);
    let said = stage.told(&[]).expect_code(77);
    assert!(said.stderr.contains("dynamodb:GetItem"), "{}", said.stderr);
    stage.told(&["--format", "xml"]).expect_code(64);
    stage.told(&["x"]).expect_code(64);
    let dir = local_backend_dir();
    let said = run(tfwrap(dir.path()).arg("history")).expect_code(78);
    assert!(said.stderr.contains("no history is kept of `local://"), "{}", said.stderr);
    // And where one lock of two has one, that is shown.
    let lock = format!("file://{}/x", dir.path().display());
    let both =
        |args: &[&str]| run(tfwrap(dir.path()).args(["--lock", &lock]).args(args)).expect_code(0);
    both(&["plan", "-no-color"]);
    let said = both(&["history"]);
    assert!(said.stdout.starts_with(&format!("{lock}: since ")), "{}", said.stdout);
    assert!(said.stdout.contains(", nobody waited; 1 run held"), "{}", said.stdout);
}

#[tokio::test]
async fn doctor_reads_the_history_and_a_denial_is_no_failure() {
    let stage = Stage::initialised("history/doctor").await;
    run(tfwrap(stage.path()).args(["plan", "-no-color"])).expect_code(0);
    let written = stage.proxy.count(&format!("PutItem {}", stage.history()));
    let doctor = |options: &[&str]| {
        let done = run(tfwrap(stage.path()).args(options).args(["doctor", "--format", "json"]));
        let document: Value = serde_json::from_str(&done.expect_code(0).stdout).unwrap();
        let checks = document["checks"].as_array().unwrap();
        let check =
            checks.iter().find(|check| check["name"] == "history").expect("a check").clone();
        (check["status"].as_str().unwrap().to_owned(), check["detail"].to_string())
    };
    let (status, said) = doctor(&[]);
    assert!(status == "pass" && said.contains("1 run in "), "{status}: {said}");
    assert_eq!(doctor(&["--no-history"]).0, "skip");
    stage.proxy.plan([Rule::on("GetItem", Fault::DENIED).key(&stage.history())]);
    let (status, said) = doctor(&[]);
    assert!(status == "warn" && said.contains("dynamodb:GetItem"), "{status}: {said}");
    // It is only read.
    assert_eq!(stage.proxy.count(&format!("PutItem {}", stage.history())), written);
}
