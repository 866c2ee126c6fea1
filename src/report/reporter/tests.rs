use std::io::Read as _;
use std::sync::mpsc;

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn detail(n: usize) -> Notice {
    Notice::Warning { message: format!("number {n}"), hint: None }
}

fn read(mut pipe: io::PipeReader) -> String {
    let mut said = String::new();
    pipe.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn everything_is_said_in_order() {
    let (reader, writer) = io::pipe().unwrap();
    let reporter = Reporter::to_writer(ReporterOptions::default(), writer).unwrap();
    for n in 0..100 {
        reporter.say(detail(n));
    }
    assert!(reporter.flush(LONG));
    drop(reporter);
    let said = read(reader);
    let numbers: Vec<&str> =
        said.lines().map(|line| line.strip_prefix("tfwrap: warning: number ").unwrap()).collect();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn a_stalled_stderr_costs_messages_but_no_time() {
    // Nobody reads: the pipe takes 64 KiB, then the writer thread hangs.
    let (reader, writer) = io::pipe().unwrap();
    let reporter = Reporter::to_writer(ReporterOptions::default(), writer).unwrap();
    let (done, is_done) = mpsc::channel();
    let talker = thread::spawn(move || {
        for _ in 0..2000 {
            let message = "x".repeat(1000);
            reporter.say(Notice::Warning { message, hint: None });
        }
        let flushed = reporter.flush(Duration::from_millis(50));
        done.send(flushed).unwrap();
        reporter
    });
    assert!(!is_done.recv_timeout(LONG).expect("the caller is not blocked"));
    let reporter = talker.join().unwrap();
    let reader = thread::spawn(move || read(reader));
    assert!(reporter.flush(LONG), "once it moves, everything left is said");
    reporter.say(detail(1));
    assert!(reporter.flush(LONG));
    drop(reporter);

    let said = reader.join().unwrap();
    let kept = said.matches(&"x".repeat(1000)).count();
    let report = said.lines().rev().nth(1).unwrap();
    assert_eq!(
        report,
        format!("tfwrap: warning: {} messages are missing here: stderr was stalled", 2000 - kept)
    );
    assert!(kept >= QUEUE && said.ends_with("tfwrap: warning: number 1\n"));
}

#[test]
fn a_closed_stderr_is_no_trouble() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let reporter = Reporter::to_writer(ReporterOptions::default(), writer).unwrap();
    for n in 0..1000 {
        reporter.say(detail(n));
    }
    assert!(reporter.flush(LONG));
    assert!(reporter.flush(LONG));
}

#[test]
fn a_non_blocking_stderr_gets_whole_lines() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (reader, writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let reporter = Reporter::to_writer(ReporterOptions::default(), writer).unwrap();
    let message = "y".repeat(3000);
    for _ in 0..200 {
        reporter.say(Notice::Warning { message: message.clone(), hint: None });
    }
    assert!(!reporter.flush(Duration::from_millis(30)), "200 lines do not fit into the pipe");
    let reader = thread::spawn(move || read(reader));
    assert!(reporter.flush(LONG));
    drop(reporter);
    assert_eq!(reader.join().unwrap(), format!("tfwrap: warning: {message}\n").repeat(200));
}

#[test]
fn verbosity_decides_what_is_said() {
    let notices = [
        Notice::Error { message: "e".into(), hint: None, code: 69 },
        Notice::Stopping { signal: "SIGTERM".into(), doing: "s".into() },
        Notice::Detail { message: "d".into() },
        Notice::Acquired {
            lock: "l".into(),
            id: "i".into(),
            waited: Duration::ZERO,
            contended: false,
        },
    ];
    let lines = |format, verbosity| {
        let (reader, writer) = io::pipe().unwrap();
        let options = ReporterOptions { format, verbosity, ..ReporterOptions::default() };
        let reporter = Reporter::to_writer(options, writer).unwrap();
        for notice in notices.iter().cloned() {
            reporter.say(notice);
        }
        assert!(reporter.flush(LONG));
        drop(reporter);
        read(reader).lines().count()
    };
    let counts = |format| {
        [Verbosity::Quiet, Verbosity::Normal, Verbosity::Verbose].map(|v| lines(format, v))
    };
    assert_eq!(counts(LogFormat::Text), [1, 2, 4]);
    assert_eq!(counts(LogFormat::Json), [1, 3, 4]);
}

#[test]
fn annotations_on_stderr_come_with_text_and_never_with_json() {
    for (format, expected) in [(LogFormat::Text, 1), (LogFormat::Json, 0)] {
        let (reader, writer) = io::pipe().unwrap();
        let annotations = Annotations::Stderr;
        let options = ReporterOptions { format, annotations, ..ReporterOptions::default() };
        let reporter = Reporter::to_writer(options, writer).unwrap();
        reporter.say(detail(1));
        assert!(reporter.flush(LONG));
        drop(reporter);
        assert_eq!(read(reader).matches("::warning ").count(), expected);
    }
}

/// What is said and what is kept of so many details: with a file for annotations that is there, and with
/// one that is not.
fn said_and_kept(format: LogFormat, details: usize) -> [(bool, String, String); 2] {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("annotations");
    [true, false].map(|there| {
        if there {
            std::fs::write(&path, "").unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        let (reader, writer) = io::pipe().unwrap();
        let annotations = Annotations::File(path.clone());
        let options = ReporterOptions { format, annotations, ..ReporterOptions::default() };
        let reporter = Reporter::to_writer(options, writer).unwrap();
        (1..=details).for_each(|n| reporter.say(detail(n)));
        assert!(reporter.flush(LONG));
        drop(reporter);
        (there, read(reader), std::fs::read_to_string(&path).unwrap_or_default())
    })
}

#[test]
fn annotations_go_into_the_file_and_to_stderr_where_there_is_none() {
    for (there, said, kept) in said_and_kept(LogFormat::Text, 2) {
        assert_eq!(said.matches("tfwrap: warning: ").count(), 2, "{said}");
        assert_eq!(said.matches("::warning ").count(), if there { 0 } else { 2 }, "{said}");
        assert_eq!(kept.lines().count(), if there { 2 } else { 0 }, "{kept}");
        assert!(kept.lines().all(|line| line.starts_with("::warning title=tfwrap::")), "{kept}");
    }
}

#[test]
fn with_json_a_file_gets_the_annotations_and_stderr_objects_only() {
    for (there, said, kept) in said_and_kept(LogFormat::Json, 1) {
        assert!(said.lines().all(|line| line.starts_with('{')), "{said}");
        let expected = if there { "::warning title=tfwrap::number 1\n" } else { "" };
        assert_eq!(kept, expected);
    }
}

#[test]
fn a_line_that_is_redrawn_is_gone_when_it_is_settled() {
    let (reader, writer) = io::pipe().unwrap();
    let options = ReporterOptions { redraw: true, ..ReporterOptions::default() };
    let reporter = Reporter::to_writer(options, writer).unwrap();
    let waiting = |waited| Notice::Waiting {
        lock: "l".into(),
        holder: None,
        waited: Duration::from_secs(waited),
        limit: LONG,
        free: false,
        ahead: None,
        plans_ahead: None,
        silent: None,
        unanswered: None,
        estimate: None,
    };
    reporter.say(waiting(0));
    reporter.say(waiting(10));
    thread::park_timeout(FRAME * 4);
    reporter.say(detail(1));
    reporter.settle(LONG);
    reporter.say(detail(2));
    assert!(reporter.flush(LONG));
    drop(reporter);
    let said = read(reader);
    assert_eq!(said.matches("waiting for the lock `l`").count(), 1, "{said:?}");
    assert!(said.matches("waited 10s of 20s").count() > 2, "it is redrawn unasked: {said:?}");
    assert!(said.contains("tfwrap: warning: number 1\n"), "{said:?}");
    assert!(said.ends_with("\r\u{1b}[2Ktfwrap: warning: number 2\n"), "{said:?}");
}

#[test]
fn json_is_never_redrawn() {
    let (reader, writer) = io::pipe().unwrap();
    let options =
        ReporterOptions { redraw: true, format: LogFormat::Json, ..ReporterOptions::default() };
    let reporter = Reporter::to_writer(options, writer).unwrap();
    for waited in [0, 10] {
        reporter.say(Notice::Waiting {
            lock: "l".into(),
            holder: None,
            waited: Duration::from_secs(waited),
            limit: LONG,
            free: false,
            ahead: None,
            plans_ahead: None,
            silent: None,
            unanswered: None,
            estimate: None,
        });
    }
    reporter.settle(LONG);
    assert!(reporter.flush(LONG));
    drop(reporter);
    let said = read(reader);
    assert_eq!((said.lines().count(), said.contains('\u{1b}')), (2, false), "{said}");
}

#[test]
fn what_a_child_leaves_unfinished_does_not_come_before_a_line_of_ours() {
    let (reader, mut writer) = io::pipe().unwrap();
    let theirs = writer.try_clone().unwrap();
    let reporter = Reporter::to_writer(ReporterOptions::default(), theirs).unwrap();
    let said = |reporter: &Reporter, n| {
        reporter.say(detail(n));
        assert!(reporter.flush(LONG));
    };
    said(&reporter, 1);
    reporter.share();
    reporter.had_no_child();
    said(&reporter, 2);
    reporter.share();
    for n in [3, 4] {
        writer.write_all(b"prompt: ").unwrap();
        said(&reporter, n);
    }
    writer.write_all(b"prompt: ").unwrap();
    reporter.unshare(true);
    said(&reporter, 5);
    said(&reporter, 6);
    drop((reporter, writer));
    let [one, two, three, four, five, six] =
        [1, 2, 3, 4, 5, 6].map(|n| format!("tfwrap: warning: number {n}\n"));
    let expected = format!("{one}{two}prompt: \n{three}prompt: \n{four}prompt: \n{five}{six}");
    assert_eq!(read(reader), expected);
}

#[test]
fn in_json_each_object_after_a_childs_start_begins_on_its_own_line() {
    let (reader, mut writer) = io::pipe().unwrap();
    let theirs = writer.try_clone().unwrap();
    let options = ReporterOptions { format: LogFormat::Json, ..ReporterOptions::default() };
    let reporter = Reporter::to_writer(options, theirs).unwrap();
    let mut said = |n, cut_off: &[u8]| {
        writer.write_all(cut_off).unwrap();
        reporter.say(detail(n));
        assert!(reporter.flush(LONG));
    };
    reporter.share();
    reporter.had_no_child();
    said(0, b"");
    reporter.share();
    said(1, b"prompt: ");
    reporter.unshare(false);
    for n in [2, 3] {
        // What it has left behind.
        said(n, b"...");
    }
    reporter.share();
    reporter.had_no_child();
    said(4, b"...");
    drop((reporter, writer));
    let objects = read(reader);
    let is_object = |line: &&str| line.starts_with(r#"{"ts":"#);
    assert_eq!(objects.lines().filter(is_object).count(), 5, "{objects}");
    assert!(objects.starts_with('{') && !objects.contains("\n\n"), "{objects}");
}

#[test]
fn messages_that_are_missing_are_counted_on_a_line_of_their_own() {
    let (reader, mut writer) = io::pipe().unwrap();
    let theirs = writer.try_clone().unwrap();
    let options = ReporterOptions { format: LogFormat::Json, ..ReporterOptions::default() };
    let reporter = Reporter::to_writer(options, theirs).unwrap();
    reporter.share();
    writer.write_all(b"prompt: ").unwrap();
    for n in 0..100_000 {
        reporter.say(detail(n));
        if reporter.queue.state().dropped > 0 {
            break;
        }
    }
    let reading = thread::spawn(move || read(reader));
    assert!(reporter.flush(LONG));
    drop((reporter, writer));
    let objects = reading.join().unwrap();
    assert!(objects.contains("\n\n{\"ts\":"), "{objects}");
    let dropped = objects.lines().find(|line| line.contains("dropped")).expect("a count");
    assert!(objects.contains(&format!("\n\n{dropped}\n")), "{dropped}");
}
