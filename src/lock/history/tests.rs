use proptest::prelude::*;

use super::*;
use crate::lock::{LockId, LockInfo};

fn run(id: &str) -> PastRun {
    PastRun { id: id.to_owned(), asked: 1_795_252_571_000, ..PastRun::default() }
}

fn full() -> PastRun {
    PastRun {
        id: "28e8a6c8-39d1-5a99-58ed-ea0d4970a5f4".to_owned(),
        who: "ci@runner-7".to_owned(),
        actor: Some("alice".to_owned()),
        operation: "OperationTypeApply".to_owned(),
        info: "https://ci.example/run/7 (deploy by alice)".to_owned(),
        asked: 1_795_252_571_000,
        waited: 30_000,
        held: Some(120_500),
        outcome: "success".to_owned(),
        code: 0,
        commit: Some("1f2e3d".to_owned()),
        pipeline: Some(Pipeline {
            repository: "acme/infra".to_owned(),
            workflow: "deploy".to_owned(),
            reference: "refs/heads/main".to_owned(),
            number: 7,
        }),
        behind: vec![Awaited { id: "1-2".to_owned(), waited: 29_000, ..Awaited::default() }],
        took_over: true,
        within: Some("0-1".to_owned()),
    }
}

fn lease(text: &str) -> Record {
    Record { info: None, lease: Some(text.to_owned()) }
}

fn ids(record: &Record) -> Vec<String> {
    History::of(Some(record)).unwrap().runs().map(|run| run.unwrap().id).collect()
}

#[test]
fn the_format_is_this_one() {
    let record = History::default().with(&full());
    let expected = r#"{"version":1,"dropped":0,"runs":[{"id":"28e8a6c8-39d1-5a99-58ed-ea0d4970a5f4","who":"ci@runner-7","actor":"alice","operation":"OperationTypeApply","info":"https://ci.example/run/7 (deploy by alice)","asked":1795252571000,"waited":30000,"held":120500,"outcome":"success","code":0,"commit":"1f2e3d","pipeline":{"repository":"acme/infra","workflow":"deploy","ref":"refs/heads/main","number":7},"behind":[{"id":"1-2","who":"","operation":"","info":"","waited":29000}],"took_over":true,"within":"0-1"}]}"#;
    assert_eq!(record, lease(expected));
    assert_eq!(History::of(Some(&record)).unwrap().runs().collect::<Vec<_>>(), [Some(full())]);
    let least = History::default().with(&run("1"));
    assert_eq!(ids(&least), ["1"]);
    assert_eq!(key(&LockKey("b/k".to_owned())).0, "b/k.tfwrap/history");
}

#[test]
fn runs_of_one_pipeline_are_in_order_and_no_others() {
    type Field = fn(&mut Pipeline) -> &mut String;
    let run = |number| Pipeline { number, ..full().pipeline.unwrap() };
    assert!(run(7).is_before(&run(8)));
    for number in [7, 6] {
        assert!(!run(7).is_before(&run(number)), "{number}");
    }
    // Of each text: another one, one that may have been cut, and one that is unknown.
    let fields: [(Field, bool); 3] = [
        (|it| &mut it.repository, false),
        (|it| &mut it.reference, false),
        (|it| &mut it.workflow, true),
    ];
    for (field, may_be_empty) in fields {
        let with = |number, text: &str| {
            let mut pipeline = run(number);
            text.clone_into(field(&mut pipeline));
            pipeline
        };
        assert!(!with(7, "a").is_before(&with(8, "b")));
        let long = |length| "x".repeat(length);
        assert!(with(7, &long(59)).is_before(&with(8, &long(59))));
        assert!(!with(7, &long(60)).is_before(&with(8, &long(60))));
        assert_eq!(with(7, "").is_before(&with(8, "")), may_be_empty);
    }
}

#[test]
fn the_last_run_comes_first_and_the_oldest_go() {
    let mut record = History::default().with(&run("0"));
    for n in 1..MOST_RUNS + 20 {
        record = History::of(Some(&record)).unwrap().with(&run(&n.to_string()));
    }
    let ids = ids(&record);
    assert_eq!((ids.len(), ids[0].as_str(), ids[99].as_str()), (MOST_RUNS, "119", "20"));
    assert_eq!(History::of(Some(&record)).unwrap().dropped, 20);
}

/// `--outdated` compares with it.
#[test]
fn the_last_apply_is_kept_until_there_is_another() {
    let plan = |n: usize| PastRun { info: "x".repeat(200 * (n % 2)), ..run(&n.to_string()) };
    let apply = |id: &str| PastRun { id: id.to_owned(), ..full() };
    let mut record = History::default().with(&apply("older"));
    record = History::of(Some(&record)).unwrap().with(&apply("newer"));
    for failed in ["failure", "interrupted", "outdated", "timed-out", "lost"] {
        let failed = PastRun { outcome: failed.to_owned(), ..apply(failed) };
        record = History::of(Some(&record)).unwrap().with(&failed);
    }
    for n in 0..3 * MOST_RUNS {
        record = History::of(Some(&record)).unwrap().with(&plan(n));
        assert!(record.lease.as_ref().unwrap().len() <= MOST_BYTES);
        let history = History::of(Some(&record)).unwrap();
        assert_eq!(history.last_applied(), Ok(Some(apply("newer"))), "{n}");
    }
    assert_eq!(ids(&record).len(), MOST_RUNS);
    assert!(!ids(&record).contains(&"newer".to_owned()), "it is no run of the last ones");
    record = History::of(Some(&record)).unwrap().with(&apply("newest"));
    assert_eq!(History::of(Some(&record)).unwrap().last_applied(), Ok(Some(apply("newest"))));
    assert!(!record.lease.unwrap().contains("newer"));
}

/// An entry that cannot be read may be of a later apply; one before the last apply says nothing.
#[test]
fn what_is_damaged_tells_of_no_last_apply() {
    let of = |text: &str| History::of(Some(&lease(text))).unwrap().last_applied();
    let applied = serde_json::to_string(&full()).unwrap();
    for (runs, told) in [
        (String::new(), Ok(None)),
        (applied.clone(), Ok(Some(full()))),
        (format!("7,{applied}"), Ok(Some(full()))),
        (format!("{applied},7"), Err(Damaged)),
        ("{}".to_owned(), Err(Damaged)),
    ] {
        assert_eq!(of(&format!(r#"{{"version":1,"runs":[{runs}]}}"#)), told, "{runs}");
    }
    assert_eq!(of(r#"{"version":1,"runs":["#), Err(Damaged));
    assert_eq!(of(r#"{"version":1,"applied":7,"runs":[]}"#), Err(Damaged));
    assert_eq!(History::of(None).unwrap().last_applied(), Ok(None));
}

#[test]
fn long_runs_leave_room_for_fewer() {
    let mut record = None;
    for n in 0..50 {
        let long = PastRun { info: "\u{10ffff}".repeat(200), ..run(&n.to_string()) };
        record = Some(History::of(record.as_ref()).unwrap().with(&long));
        assert!(record.as_ref().unwrap().lease.as_ref().unwrap().len() <= MOST_BYTES);
    }
    let kept = ids(&record.unwrap());
    assert!(kept[0] == "49" && (25..50).contains(&kept.len()), "{kept:?}");
}

/// Whatever others put into their record, it does not crowd out more than a few runs.
#[test]
fn the_longest_run_of_ours_is_not_too_long() {
    let mut watch = WaitWatch::default();
    for n in 0_u64..10 {
        let mut info = LockInfo::all_of(&"\u{10ffff}".repeat(10_000));
        info.id.0.insert(0, char::from_digit(u32::try_from(n).unwrap(), 10).unwrap());
        watch.observe(Uptime(Duration::from_secs(n)), Some(&Holder::Known(Box::new(info))));
    }
    let text = |most| "\u{10ffff}".repeat(most);
    let longest = PastRun {
        id: text(64),
        who: text(60),
        actor: Some(text(60)),
        operation: text(40),
        info: text(200),
        commit: Some(text(64)),
        pipeline: Some(Pipeline {
            repository: text(60),
            workflow: text(60),
            reference: text(60),
            number: u64::MAX,
        }),
        behind: watch.ended(Uptime(Duration::from_secs(99))),
        ..full()
    };
    assert_eq!(longest.behind.len(), MOST_AWAITED);
    let record = History::default().with(&longest);
    assert_eq!(History::of(Some(&record)).unwrap().runs().next(), Some(Some(longest)));
}

#[test]
fn a_lock_in_its_place_and_a_newer_version_are_left_alone() {
    let lock = Record { info: Some("{}".to_owned()), lease: None };
    assert_eq!(History::of(Some(&lock)).unwrap_err(), NotAHistory::Lock);
    for newer in [r#"{"version":2}"#, r#"{"version":2,"runs":{}}"#] {
        assert_eq!(History::of(Some(&lease(newer))).unwrap_err(), NotAHistory::Newer);
    }
}

#[test]
fn what_is_damaged_is_begun_anew_and_what_is_sound_is_kept() {
    for text in ["", "{", "[]", "null", r#"{"version":1}"#, r#"{"runs":[]}"#, &"[".repeat(100_000)]
    {
        let record = History::of(Some(&lease(text))).unwrap().with(&run("new"));
        assert_eq!(ids(&record), ["new"], "{text}");
    }
    // Half an object in S3.
    let half = r#"{"ID":"","Info":"","tfwrap":"{\"version\":1,\"ru"#;
    let half = Record { info: Some(half.to_owned()), lease: None };
    let history = History::of(Some(&half)).unwrap();
    assert_eq!(
        (history.last_applied(), ids(&history.with(&run("new")))),
        (Err(Damaged), vec!["new".to_owned()])
    );
    let mixed = format!(
        r#"{{"version":1,"runs":[{{"id":"a","asked":1,"new":[1,{{}}]}},7,{{"id":"b","asked":{}}},
           {{"id":"c","asked":1,"waited":{}}},{{"id":"d","asked":1,"info":"{}"}}]}}"#,
        i64::MAX,
        u64::MAX,
        "x".repeat(MOST_OF_A_RUN)
    );
    let history = History::of(Some(&lease(&mixed))).unwrap();
    let sound: Vec<_> = history.runs().map(|run| run.map(|run| run.id)).collect();
    assert_eq!(sound, [None, None, None, None, Some("a".to_owned())]);
    let written = history.with(&run("e")).lease.unwrap();
    assert!(written.contains(r#"{"id":"a","asked":1,"new":[1,{}]}"#), "{written}");
    assert!(written.len() < 1000, "what was too long went: {written}");
}

#[test]
fn a_wait_is_counted_for_whoever_was_seen() {
    let holder = |id: &str| {
        let mut info = LockInfo::all_of("x");
        info.id = LockId(id.to_owned());
        Holder::Known(Box::new(info))
    };
    let at = |millis| Uptime(Duration::from_millis(millis));
    let mut watch = WaitWatch::default();
    watch.observe(at(0), None);
    watch.observe(at(500), Some(&holder("a")));
    watch.observe(at(1500), Some(&holder("a")));
    watch.observe(at(3000), Some(&holder("b")));
    watch.observe(at(9000), Some(&Holder::Unreadable));
    let seen = watch.ended(at(9100));
    let times: Vec<_> = seen.iter().map(|it| (it.id.as_str(), it.waited)).collect();
    assert_eq!(times, [("b", 6000), ("a", 2500)], "the record of `b` went before its lock");
    let mut watch = WaitWatch::default();
    watch.observe(at(0), Some(&holder("a")));
    watch.observe(at(500), Some(&Holder::Unreadable));
    let seen = watch.ended(at(1500));
    let times: Vec<_> = seen.iter().map(|it| (it.id.as_str(), it.waited)).collect();
    assert_eq!(times, [("", 1000), ("a", 500)]);
    assert_eq!(WaitWatch::default().ended(at(1)), []);
}

#[test]
fn many_short_looks_lose_nothing() {
    let mut watch = WaitWatch::default();
    for n in 0..=10_000 {
        watch.observe(Uptime(Duration::from_micros(n * 100)), Some(&Holder::Unreadable));
    }
    assert_eq!(watch.ended(Uptime(Duration::from_secs(1)))[0].waited, 1000);
}

proptest! {
    #![proptest_config(crate::seeded::seeded(256))]

    #[test]
    fn any_text_is_survived_and_kept_in_bounds(
        text in crate::report::hostile_text(), id in crate::report::hostile_text(),
    ) {
        let run = PastRun { info: cut(&text, 200), ..run(&cut(&id, 64)) };
        for record in [
            lease(&text),
            lease(&format!(r#"{{"version":1,"runs":[{text}]}}"#)),
            lease(&format!(r#"{{"version":1,"applied":{text},"runs":[]}}"#)),
        ] {
            if let Ok(history) = History::of(Some(&record)) {
                prop_assert!(history.runs().count() <= text.len());
                let written = history.with(&run);
                prop_assert!(written.lease.as_ref().unwrap().len() <= MOST_BYTES);
                let back = History::of(Some(&written)).unwrap();
                prop_assert_eq!(back.runs().next(), Some(Some(run.clone())));
            }
        }
    }
}

/// No sum of them is more than a number can hold.
#[test]
fn who_was_waited_for_is_bounded_in_number_and_time() {
    let awaited = r#"{"id":"x","waited":18446744073709551615}"#;
    let behind = vec![awaited; 150].join(",");
    let run = format!(
        r#"{{"id":"a","asked":0,"waited":1,"outcome":"success","code":0,"behind":[{behind}]}}"#
    );
    let text = format!(r#"{{"version":1,"dropped":0,"runs":[{run}]}}"#);
    let record = Record { info: None, lease: Some(text) };
    let history = History::of(Some(&record)).unwrap();
    let runs: Vec<_> = history.runs().collect();
    let run = runs[0].as_ref().unwrap();
    assert_eq!(run.behind.len(), MOST_AWAITED);
    assert!(run.behind.iter().all(|awaited| awaited.waited == TOO_LONG), "{:?}", run.behind);
}
