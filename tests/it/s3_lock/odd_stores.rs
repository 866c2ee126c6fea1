//! What networks and stores do to the requests for a lock file.

use std::time::Duration;

use tfwrap::clock::uptime;

use super::{dead, dir, lock_at, under, until_held};
use crate::support::harness::{Gate, Running, pause, run};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3_server::{Manners, start};
use crate::support::servers::BUCKET;

/// A redirect as AWS sends it to whoever asks in the wrong region.
const ELSEWHERE: &str = "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: us-west-2\r\n\
                         content-type: application/xml\r\nconnection: close\r\n\
                         content-length: 46\r\n\r\n<Error><Code>PermanentRedirect</Code> </Error>";

fn status(status: u16, code: &'static str) -> Fault {
    Fault::Status(status, code)
}

/// What passes by itself, and what is read back.
#[test]
fn what_a_network_does_to_a_request_costs_time_and_never_the_lock() {
    let server = start(Manners::Aws);
    let proxy = Proxy::before(&server.url);
    let conflict = || status(409, "ConditionalRequestConflict");
    for (n, rule) in [
        // Somebody else's conditional request is under way: neither held nor an error.
        Rule::on("PUT", conflict()).times(3),
        Rule::on("DELETE", conflict()).times(2),
        // Held, and free by the time that one looks.
        Rule::on("PUT", status(412, "PreconditionFailed")).times(2),
        Rule::on("PUT", Fault::DropReply).times(1),
        Rule::on("PUT", Fault::FailAfter).times(1),
        Rule::on("PUT", Fault::EmptyReply).times(1),
        Rule::on("PUT", Fault::SERVER_ERROR).times(2),
        Rule::on("PUT", status(503, "SlowDown")).times(2),
        // What every SDK of AWS' tries again, whatever its status.
        Rule::on("PUT", status(400, "RequestTimeout")).times(1),
        Rule::on("DELETE", status(400, "RequestTimeout")).times(2),
        Rule::on("DELETE", status(400, "PriorRequestNotComplete")).times(1),
        Rule::on("DELETE", Fault::DropReply).times(1),
        Rule::on("DELETE", Fault::FailAfter).times(1),
        Rule::on("DELETE", Fault::Refuse).times(1),
    ]
    .into_iter()
    .enumerate()
    {
        let (dir, name) = (dir(), format!("faults/{n}"));
        let shown = format!("{rule:?}");
        proxy.plan([rule.key(&format!("/{BUCKET}/{name}.tflock"))]);
        let lock = lock_at(proxy.url(), &name);
        let done = run(&mut under(dir.path(), &lock, &[], &["touch", "ran"])).expect_code(0);
        assert!(dir.path().join("ran").exists(), "{shown}: {}", done.stderr);
        let left = server.keys("faults/");
        let stays = |key: &String| key.contains("/line.") || key.contains("/history.");
        assert!(left.iter().all(stays), "{shown}: {left:?}");
    }
}

/// A create that is refused for ever, and nobody who has the lock.
#[test]
fn a_lock_that_is_refused_for_nobody_is_waited_for_until_the_end_and_said() {
    let server = start(Manners::Aws);
    let proxy = Proxy::before(&server.url);
    let dir = dir();
    for (n, (limit, fault, line)) in [
        ("0s", status(412, "PreconditionFailed"), true),
        ("2s", status(412, "PreconditionFailed"), true),
        ("2s", status(409, "ConditionalRequestConflict"), false),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("nobody/{n}");
        let key = format!("/{BUCKET}/{name}.tflock");
        proxy.plan([Rule::on("PUT", fault).key(&key)]);
        let lock = lock_at(proxy.url(), &name);
        let args = ["--lock-timeout", limit, "--no-line"];
        let args = if line { &args[..2] } else { &args };
        let done = run(&mut under(dir.path(), &lock, args, &["touch", "ran"])).expect_code(75);
        assert!(!dir.path().join("ran").exists());
        let says = "refused each time, although no holder can be seen";
        assert!(done.stderr.contains(says), "{}", done.stderr);
        assert_eq!(
            done.stderr.contains("still waiting") || done.stderr.contains("waiting for"),
            limit != "0s",
            "{}",
            done.stderr
        );
        assert!(proxy.count_of("PUT", &key) < 30);
    }
}

/// What does not pass: told at once, in words and with its code, and nothing was run.
#[test]
fn what_does_not_heal_is_said_before_anything_is_run() {
    let server = start(Manners::Aws);
    let proxy = Proxy::before(&server.url);
    let dir = dir();
    let missing = lock_at(proxy.url(), "x").replacen(BUCKET, "no-such-bucket", 1);
    let lock = lock_at(proxy.url(), "x");
    for (lock, fault, code, says) in [
        (&lock, Fault::Page(ELSEWHERE), 78, "is in another region, `us-west-2`"),
        (&lock, status(403, "AccessDenied"), 77, "`s3:DeleteObject` on bucket"),
        (&lock, status(501, "NotImplemented"), 78, "`NotImplemented`"),
        (&missing, Fault::Pass, 69, "does not exist"),
    ] {
        proxy.plan([Rule::all(fault)]);
        let done = run(&mut under(dir.path(), lock, &[], &["touch", "ran"]));
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
        assert_eq!(done.status.code(), Some(code), "{}", done.stderr);
        assert!(!dir.path().join("ran").exists());
    }
}

/// Nothing of the stranger's is touched, and nothing runs.
#[test]
fn a_store_that_ignores_conditions_is_found_out_before_it_is_used() {
    let server = start(Manners::None);
    let theirs = dead("1-2-3", "");
    for (name, before) in [("free", None), ("held", Some(theirs.as_bytes()))] {
        let (dir, key) = (dir(), format!("{name}.tflock"));
        if let Some(body) = before {
            server.put(&key, body);
        }
        let lock = lock_at(&server.url, name);
        let options = ["--lock-timeout=0s"];
        let done = run(&mut under(dir.path(), &lock, &options, &["touch", "ran"])).expect_code(78);
        assert!(done.stderr.contains("ignores `If-None-Match`"), "{}", done.stderr);
        assert!(!dir.path().join("ran").exists());
        assert_eq!(server.get(&key).map(|it| it.body).as_deref(), before);
        assert_eq!(server.versions(&key), usize::from(before.is_some()));
        assert_eq!(server.keys(&format!("{name}.tfwrap/")), [""; 0]);
    }
}

/// As Terraform itself does it, and said.
#[test]
fn a_store_that_honours_creates_only_is_locked_without_a_lease() {
    for manners in [Manners::CreatesOnly, Manners::NoVersions] {
        let server = start(manners);
        let proxy = Proxy::before(&server.url);
        let (dir, lock) = (dir(), lock_at(proxy.url(), "x"));
        let gate = Gate::new(dir.path(), "ours");
        let sh = ["sh", "-c", &gate.command()];
        let first = Running::start(&mut under(dir.path(), &lock, &["--lease=15s"], &sh));
        gate.reached();
        first.says("no lease and no queue");
        let held = server.text("x.tflock").expect("it is held");
        assert!(!held.contains("tfwrap\":"), "{held}");
        // Longer than a heartbeat would take.
        pause(Duration::from_secs(2));
        let options = ["--lock-timeout=1s"];
        let second = run(&mut under(dir.path(), &lock, &options, &["true"])).expect_code(75);
        assert!(second.stderr.contains("held by"), "{}", second.stderr);
        assert_eq!(server.text("x.tflock"), Some(held), "{manners:?}: it stays as it is");
        gate.open();
        first.finish().expect_code(0);
        assert_eq!(server.keys(""), [""; 0], "{manners:?}");
        // Its one request to remove is not answered: it was done, or nobody knows.
        // Or it was certainly not: then it is sent again.
        let busy = status(409, "OperationAborted");
        for (fault, code, sent) in [
            (Fault::DropReply, 0, 1),
            (busy, 0, 2),
            (Fault::THROTTLED, 0, 2),
            (Fault::Refuse, 74, 1),
        ] {
            proxy.plan([Rule::on("DELETE", fault).key(&format!("/{BUCKET}/x.tflock")).times(1)]);
            let before = proxy.count(&format!("DELETE /{BUCKET}/x.tflock"));
            let done = run(&mut under(dir.path(), &lock, &[], &["true"])).expect_code(code);
            assert_eq!(proxy.count(&format!("DELETE /{BUCKET}/x.tflock")), before + sent);
            let command = "aws s3api delete-object";
            assert_eq!(done.stderr.contains(command), code == 74, "{}", done.stderr);
        }
    }
}

/// A lease that nobody could take over safely never ends for whoever waits here.
#[test]
fn a_leased_lock_is_waited_for_where_nothing_can_be_replaced() {
    let server = start(Manners::CreatesOnly);
    let (dir, lock) = (dir(), lock_at(&server.url, "x"));
    let theirs = dead("1-2-3", r#","tfwrap":{"beat":7,"ttl":15000}"#);
    server.put("x.tflock", theirs.as_bytes());
    let options = ["--lock-timeout=18s"];
    let done = run(&mut under(dir.path(), &lock, &options, &["true"])).expect_code(75);
    assert!(done.stderr.contains("1-2-3"), "{}", done.stderr);
    assert_eq!(server.text("x.tflock"), Some(theirs));
}

/// What it is tried with is answered by "busy with another request", or by something else than the store,
/// each in turn: no condition was ignored.
#[test]
fn a_store_that_is_busy_while_it_is_tried_is_not_taken_for_one_that_ignores_conditions() {
    let server = start(Manners::Aws);
    let proxy = Proxy::before(&server.url);
    let (dir, lock) = (dir(), lock_at(proxy.url(), "x"));
    for (operation, requests) in [("PUT", 4), ("DELETE", 3)] {
        for skipped in 0..requests {
            let busy = status(409, "ConditionalRequestConflict");
            for fault in [busy, Fault::Page("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")] {
                // Of a removal nobody could tell.
                if operation == "DELETE" && matches!(fault, Fault::Page(_)) {
                    continue;
                }
                let what = format!("{operation} {skipped} {fault:?}");
                let rule = Rule::on(operation, fault).key_with(".tfwrap/probe/");
                proxy.plan([rule.after(skipped).times(1)]);
                let options = ["--lease=15s", "--lock-timeout=30s", "--no-history"];
                let done = run(&mut under(dir.path(), &lock, &options, &["true"]));
                assert_eq!(done.status.code(), Some(0), "{what}: {}", done.stderr);
                assert!(!done.stderr.contains("no lease"), "{what}: {}", done.stderr);
                assert_eq!(server.keys(""), [""; 0], "{what}");
            }
        }
    }
}

/// A store that answers, if not everything, is asked for as long as the wait lasts, as Terraform does,
/// and not only as long as one that nobody has reached.
#[test]
fn a_store_that_fails_many_requests_while_it_is_tried_is_not_given_up() {
    let faults =
        [(status(503, "SlowDown"), 40), (status(500, "InternalError"), 12), (Fault::DropReply, 12)];
    let runs = faults.map(|(fault, times)| {
        std::thread::spawn(move || {
            let server = start(Manners::Aws);
            let proxy = Proxy::before(&server.url);
            let (dir, lock) = (dir(), lock_at(proxy.url(), "x"));
            let failing = Rule::on("PUT", fault.clone()).key_with(".tfwrap/probe/");
            proxy.plan([failing.times(times)]);
            let options = ["--lease=15s", "--lock-timeout=240s"];
            let began = uptime();
            let done = run(&mut under(dir.path(), &lock, &options, &["true"]));
            let took = uptime().since(began);
            assert_eq!(done.status.code(), Some(0), "{fault:?}: {}", done.stderr);
            assert!(took > Duration::from_secs(12), "{fault:?}: it was no long outage: {took:?}");
            assert!(done.stderr.contains("requests for `s3://"), "{fault:?}: {}", done.stderr);
            assert_eq!(server.keys("x.tfwrap/probe"), [""; 0]);
        })
    });
    for run in runs {
        run.join().expect("it is not given up");
    }
}

/// Nothing is made while nothing can be removed; and what was made before that is one object, not one
/// for each try. Of the lock itself nothing was asked, so nothing of it may appear.
#[test]
fn a_store_that_removes_nothing_for_a_while_is_left_one_object_at_most() {
    let server = start(Manners::Aws);
    let proxy = Proxy::before(&server.url);
    let (dir, lock) = (dir(), lock_at(proxy.url(), "x"));
    let removals = || Rule::on("DELETE", status(500, "InternalError")).key_with(".tfwrap/probe/");
    let options = ["--lease=15s", "--lock-timeout=6s"];
    for (skipped, most) in [(0, 0), (1, 1)] {
        let before = proxy.count("DELETE");
        proxy.plan([removals().after(skipped)]);
        let done = run(&mut under(dir.path(), &lock, &options, &["true"])).expect_code(69);
        assert!(!done.stderr.contains("may still appear"), "{}", done.stderr);
        assert!(proxy.count("DELETE") > before + 4, "it was tried again");
        let left = server.keys("");
        assert!(left.len() == most, "{left:?}");
    }
    let left = server.keys("");
    // And no further one where they are removed in time.
    proxy.plan([removals().times(7)]);
    let options = ["--lease=15s", "--lock-timeout=60s", "--no-history"];
    run(&mut under(dir.path(), &lock, &options, &["true"])).expect_code(0);
    assert_eq!(server.keys(""), left);
}

/// Object Lock, a retention, a policy without `s3:DeleteObject`.
#[test]
fn a_lock_file_that_may_not_be_removed_is_74_with_the_command() {
    let server = start(Manners::NoDeletes);
    let (dir, lock) = (dir(), lock_at(&server.url, "a b"));
    let done = run(&mut under(dir.path(), &lock, &[], &["true"])).expect_code(74);
    for words in
        ["`s3:DeleteObject` on bucket", "finish with: ", "aws s3api delete-object", "'a b.tflock'"]
    {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}

/// The lease is in the lock file: who died is taken over, and a record without one never is.
#[test]
fn a_dead_holders_lock_file_is_taken_over_by_its_lease_and_stock_terraforms_never() {
    let server = start(Manners::Aws);
    let (dir, lease) = (dir(), r#","tfwrap":{"beat":4,"ttl":15000}"#);
    server.put("dead.tflock", dead("1-1", lease).as_bytes());
    server.put("stock.tflock", dead("2-2", "").as_bytes());
    let names = [("dead", "60s", 0, "took over"), ("stock", "20s", 75, "held by them@there")];
    let runs: Vec<_> = names
        .iter()
        .map(|(name, limit, ..)| {
            let (lock, limit) = (lock_at(&server.url, name), format!("--lock-timeout={limit}"));
            Running::start(&mut under(dir.path(), &lock, &[&limit], &["true"]))
        })
        .collect();
    for (running, (_, _, code, says)) in runs.into_iter().zip(names) {
        let done = running.finish().expect_code(code);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    assert!(server.get("dead.tflock").is_none());
    assert_eq!(server.text("stock.tflock"), Some(dead("2-2", "")));
}

/// In line beside the lock, in objects that no policy on lock files leaves out.
#[test]
fn waiters_stand_in_line_in_objects_that_end_as_lock_files_do() {
    let server = start(Manners::Aws);
    let (dir, lock) = (dir(), lock_at(&server.url, "line"));
    let gate = Gate::new(dir.path(), "first");
    let sh = ["sh", "-c", &gate.command()];
    let first = Running::start(&mut under(dir.path(), &lock, &[], &sh));
    gate.reached();
    until_held(&server, "line.tflock", &first);
    let note = |name: &str| ["sh".to_owned(), "-c".to_owned(), format!("echo {name} >> order")];
    let mut waiting = Vec::new();
    for (place, name) in ["one", "two", "three"].into_iter().enumerate() {
        let words = note(name);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let running = Running::start(&mut under(dir.path(), &lock, &[], &words));
        until_held(&server, &format!("line.tfwrap/ticket/{place}.tflock"), &running);
        waiting.push(running);
    }
    assert!(server.keys("").iter().all(|key| key.ends_with(".tflock")));
    gate.open();
    first.finish().expect_code(0);
    for running in waiting {
        running.finish().expect_code(0);
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("order")).unwrap(), "one\ntwo\nthree\n");
    assert_eq!(server.keys(""), ["line.tfwrap/history.tflock", "line.tfwrap/line.tflock"]);
}
