use proptest::prelude::*;

use super::*;
use crate::lock::history::{Pipeline, cut, millis};
use crate::lock::register::Record;
use crate::report::hostile;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn at(time: &str) -> i64 {
    time.parse::<Timestamp>().unwrap().as_millisecond()
}

fn run(id: &str, asked: &str, waited: u64, held: u64) -> PastRun {
    PastRun {
        id: id.to_owned(),
        who: format!("ci@runner-{id}"),
        operation: "OperationTypeApply".to_owned(),
        asked: at(asked),
        waited: waited * 1000,
        held: Some(held * 1000),
        outcome: "success".to_owned(),
        ..PastRun::default()
    }
}

fn awaited(id: &str, seconds: u64) -> Awaited {
    Awaited {
        id: id.to_owned(),
        who: format!("ci@runner-{id}"),
        operation: "OperationTypeApply".to_owned(),
        info: String::new(),
        waited: seconds * 1000,
    }
}

/// Written and read as the register is.
fn history(runs: &[PastRun]) -> LockHistory {
    let mut record: Option<Record> = None;
    for run in runs {
        record = Some(History::of(record.as_ref()).unwrap().with(run));
    }
    LockHistory::new("dynamodb://t/b/k".to_owned(), &History::of(record.as_ref()).unwrap())
}

fn a_week() -> LockHistory {
    history(&[
        run("old", "2026-11-01T09:00:00Z", 1000, 1000),
        PastRun {
            actor: Some("alice".to_owned()),
            info: "https://ci.example/run/1 (deploy by alice)".to_owned(),
            commit: Some("1f2e3d4c5b6a79880f1e2d3c4b5a69788f9e0d1c".to_owned()),
            pipeline: Some(Pipeline { number: 7, ..Pipeline::default() }),
            ..run("1", "2026-11-20T09:00:00Z", 0, 120)
        },
        PastRun {
            outcome: "failure".to_owned(),
            code: 1,
            behind: vec![awaited("1", 90)],
            ..run("2", "2026-11-20T09:00:30Z", 90, 30)
        },
        PastRun {
            outcome: "timed-out".to_owned(),
            code: 75,
            held: None,
            operation: "OperationTypePlan".to_owned(),
            behind: vec![awaited("1", 60), awaited("2", 30), awaited("stock", 10)],
            ..run("3", "2026-11-20T09:00:40Z", 100, 0)
        },
        PastRun { took_over: true, ..run("4", "2026-11-21T08:00:00Z", 0, 50) },
    ])
}

#[test]
fn the_first_line_says_what_share_of_the_week_was_waiting_and_for_whom() {
    assert_eq!(
        a_week().answer(now()),
        "in the last 7 days, 48% of the time was waiting: 4 runs waited 3m10s and held the lock for \
         3m20s; they waited 2m30s for alice (apply), 30s for ci@runner-2 (apply), 10s for ci@runner-stock \
         (apply)"
    );
    let little = history(&[run("1", "2026-11-20T09:00:00Z", 1, 3600)]);
    assert!(little.answer(now()).contains("less than 1% of the time"), "{}", little.answer(now()));
    let long_ago = history(&[run("1", "2026-11-01T09:00:00Z", 9, 9)]);
    assert_eq!(long_ago.answer(now()), "in the last 7 days, no run asked for this lock");
    assert_eq!(history(&[]).answer(now()), "no run is in the history");
    // A clock that is two hours ahead counts for nothing, nor does one that was never set.
    for time in ["2026-11-21T14:00:00Z", "1970-01-01T00:00:07Z"] {
        let odd = history(&[run("1", time, 9, 9)]);
        assert_eq!(odd.answer(now()), "no run has a time that can be right");
    }
}

#[test]
fn each_run_counts_with_what_was_within_the_week() {
    // It asked an hour before the week began, waited for two, and held for one.
    let across = PastRun {
        behind: vec![awaited("1", 6000), awaited("2", 1200)],
        ..run("x", "2026-11-14T11:00:00Z", 7200, 3600)
    };
    assert_eq!(
        history(&[across]).answer(now()),
        "in the last 7 days, 50% of the time was waiting: 1 run waited 1h and held the lock for 1h; \
         they waited 50m for ci@runner-1 (apply), 10m for ci@runner-2 (apply)"
    );
    // Its wait was over before.
    let before =
        PastRun { behind: vec![awaited("1", 600)], ..run("x", "2026-11-14T11:00:00Z", 600, 3600) };
    assert_eq!(
        history(&[before]).answer(now()),
        "in the last 7 days, nobody waited; 1 run held the lock for 10m"
    );
}

/// What is said to be the time of the first run.
fn reaches_back(runs: &[PastRun]) -> String {
    let history = history(runs);
    let said = history.answer(now());
    if let Some(rest) = said.strip_prefix("since ") {
        return rest.split_once(" (the history goes back no further), ").unwrap().0.to_owned();
    }
    assert!(said.starts_with("in the last 7 days, ") && history.is_complete(now()), "{said}");
    "a week".to_owned()
}

#[test]
fn a_history_that_does_not_reach_back_a_week_says_since_when() {
    let recent = |n: usize| run(&n.to_string(), "2026-11-20T09:00:00Z", 0, 1);
    assert_eq!(reaches_back(&[recent(1)]), "2026-11-20T09:00:00Z", "it is young");
    let cut: Vec<_> = (0..120).map(recent).collect();
    assert_eq!(reaches_back(&cut), "2026-11-20T09:00:00Z");
    assert!(history(&cut).answer(now()).contains("100 runs held"));
    let old = run("old", "2026-11-14T11:59:59Z", 0, 1);
    assert_eq!(reaches_back(&[old, recent(1)]), "a week");
}

#[test]
fn a_clock_that_is_behind_or_ahead_makes_no_history_longer() {
    let recent: Vec<_> =
        (0..120).map(|n| run(&n.to_string(), "2026-11-20T09:00:00Z", 0, 1)).collect();
    for time in ["1970-01-01T00:00:07Z", "2026-10-01T09:00:00Z", "2030-01-01T00:00:00Z"] {
        for place in [30, 60, 119] {
            let mut runs = recent.clone();
            runs[place] = run("odd", time, 0, 1);
            assert_eq!(reaches_back(&runs), "2026-11-20T09:00:00Z", "{time} at {place}");
        }
    }
    // The oldest that is kept has none before it to compare with, but a time at which there was no history.
    let mut runs = recent;
    runs[20] = run("odd", "1970-01-01T00:00:07Z", 0, 1);
    assert_eq!(reaches_back(&runs), "2026-11-20T09:00:00Z");
}

#[test]
fn of_many_that_were_waited_for_the_first_are_named() {
    let behind = |ids: [&str; 3]| ids.map(|id| awaited(id, 10)).to_vec();
    let runs = [["a", "b", "c"], ["d", "e", "a"]]
        .map(|ids| PastRun { behind: behind(ids), ..run("x", "2026-11-20T09:00:00Z", 30, 30) });
    let said = history(&runs).answer(now());
    assert!(said.contains("they waited 20s for ci@runner-a (apply), "), "{said}");
    assert!(said.ends_with(" and for 2 others"), "{said}");
}

#[test]
fn text_and_chart_and_page_are_these() {
    let none = LockHistory::new("s3://b/k.tflock".to_owned(), &History::default());
    let all = [a_week(), none];
    insta::assert_snapshot!("text", histories_as_text(&all, 20, now()));
    insta::assert_snapshot!("mermaid", histories_as_mermaid(&all, 20, now()));
    insta::assert_snapshot!("html", histories_as_html(&all, 20, now()));
    let document: serde_json::Value =
        serde_json::from_str(&histories_as_json(&all, 20, now())).unwrap();
    insta::assert_snapshot!("json", format!("{document:#}"));
}

#[test]
fn only_so_many_are_shown_and_all_are_counted() {
    let all = [a_week()];
    for (limit, lines) in [(0, 1), (1, 2), (2, 4)] {
        let text = histories_as_text(&all, limit, now());
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(text.contains("4 runs"), "{text}");
    }
}

#[test]
fn a_chart_says_what_it_leaves_out() {
    let short = |id: &str, at: &str| run(id, at, 0, 0);
    let runs = [
        short("1", "2026-11-20T09:00:00Z"),
        run("2", "2026-11-20T09:00:10Z", 0, 5),
        short("3", "2026-11-20T09:00:20Z"),
    ];
    let of = |runs: &[PastRun]| histories_as_mermaid(&[history(runs)], 20, now());
    assert!(of(&runs).contains("2 runs were too short to be drawn."), "{}", of(&runs));
    assert!(of(&runs[..1]).contains("1 run was too short to be drawn."));
    assert!(!of(&runs[1..2]).contains("too short"));
}

/// Every text of a run is this one.
fn hostile_run(text: &str) -> PastRun {
    let field = || text.to_owned();
    PastRun {
        id: field(),
        who: field(),
        actor: Some(field()),
        operation: field(),
        info: field(),
        asked: at("2026-11-20T09:00:00Z"),
        waited: 90_000,
        held: Some(u64::MAX / 1_000_000_000),
        outcome: field(),
        code: 255,
        commit: Some(field()),
        pipeline: Some(Pipeline {
            repository: field(),
            workflow: field(),
            reference: field(),
            number: u64::MAX,
        }),
        behind: vec![Awaited {
            id: field(),
            who: field(),
            operation: field(),
            info: field(),
            waited: u64::MAX,
        }],
        took_over: true,
        within: None,
    }
}

/// The page without what is ours: what is left may hold no markup.
fn assert_no_markup_of_others(page: &str) {
    let dom = page.split_once("</style>").unwrap().1;
    let known = [
        "html", "head", "body", "main", "section", "h1", "h2", "h3", "p", "ol", "li", "a", "span",
        "code", "time", "table", "caption", "thead", "tbody", "tr", "th", "td", "div",
    ];
    for tag in dom.split('<').skip(1) {
        let name = tag.trim_start_matches('/').split([' ', '>']).next().unwrap();
        assert!(known.contains(&name), "<{tag}");
        let attributes = tag.split('>').next().unwrap();
        for attribute in attributes.split(' ').skip(1).filter_map(|it| it.split_once('=')) {
            assert!(!attribute.0.starts_with("on"), "{tag}");
        }
    }
    for link in dom.split("href=\"").skip(1) {
        assert!(["#", "http://", "https://"].iter().any(|begin| link.starts_with(begin)), "{link}");
    }
}

fn assert_survived(all: &[LockHistory]) {
    for line in histories_as_text(all, 200, now()).lines() {
        hostile::assert_harmless_line(line);
    }
    let json = histories_as_json(all, 200, now());
    hostile::assert_harmless(json.trim_end());
    serde_json::from_str::<serde_json::Value>(&json).unwrap();
    let chart = histories_as_mermaid(all, 200, now());
    for line in chart.lines() {
        if !line.starts_with("    dateFormat") && !line.starts_with("    axisFormat") {
            hostile::assert_harmless_line(line);
        }
        if line.starts_with("    section") {
            assert!(!line.contains([':', '#', ';', '%', '`', '"', '<']), "{line}");
        }
        assert!(!line.contains('<'), "{line}");
    }
    assert_eq!(chart.matches("```").count() % 2, 0, "{chart}");
    let page = histories_as_html(all, 200, now());
    for line in page.split_once("</style>").unwrap().1.lines() {
        hostile::assert_harmless_line(line);
    }
    assert_no_markup_of_others(&page);
}

#[test]
fn a_hostile_register_reaches_nobody() {
    let text = cut(&hostile::text(), 190);
    let link = "https://evil.example/\"><script>alert(1)</script>";
    for text in
        [text.as_str(), link, "javascript:alert(1)", "https://u:p@evil.example/ x", "\u{2028}::x"]
    {
        let all = [history(&[hostile_run(text), hostile_run(text)])];
        assert_eq!(all[0].runs.len(), 2, "it is shown");
        assert_survived(&all);
    }
    let secret = history(&[hostile_run("https://u:p@evil.example/ x")]);
    assert!(!histories_as_html(&[secret], 1, now()).contains("href=\"https://u:p@"));
}

#[test]
fn the_largest_register_is_a_page_of_bounded_size() {
    let runs: Vec<_> = (0..100).map(|_| run("<&>'\"", "2026-11-20T09:00:00Z", 1, 1)).collect();
    let all = [history(&runs)];
    let page = histories_as_html(&all, 200, now());
    assert!(page.len() < 200_000, "{}", page.len());
    // Mermaid takes 50,000 characters.
    assert!(histories_as_mermaid(&all, 200, now()).len() < 50_000);
}

proptest! {
    #![proptest_config(crate::seeded::seeded(64))]

    #[test]
    fn any_register_is_survived_in_every_format(
        text in hostile::any_text(),
        asked in any::<i64>(),
        times in any::<[u64; 3]>(),
    ) {
        let [waited, held, seen] = times.map(|time| time % (2 * millis(Duration::from_hours(9000))));
        let mut odd = hostile_run(&text);
        (odd.asked, odd.waited, odd.held) = (asked % 500_000_000_000_000, waited, Some(held));
        odd.behind[0].waited = seen;
        let record = History::default().with(&odd).lease.unwrap();
        let registers = [
            text.clone(),
            record.clone(),
            format!(r#"{{"version":1,"runs":[{text}]}}"#),
            record.chars().take(text.len() * 7 % record.len()).collect(),
        ];
        for register in registers {
            let record = Record { info: None, lease: Some(register) };
            let Ok(history) = History::of(Some(&record)) else { continue };
            assert_survived(&[LockHistory::new(format!("s3://{text}"), &history)]);
        }
    }
}
