//! `.tfwrap.yaml` as a pull request brings it: what it may not say, what it cannot break, and
//! whose it may be.

use super::Row;

/// Makes a file that says `plan`, should anybody run it.
const HELPER: &str =
    "printf '#!/bin/sh\\necho EVIL >&2\\n' > helper; chmod +x helper; mkdir .git; ";

const EVIL: &[&str] = &["EVIL"];

#[test]
fn a_file_that_was_found_names_no_program_and_no_endpoint() {
    let (refused, goes_on) = (
        ["plan", "-chdir=sub plan", "status", "unlock 1", "run -- true", "hold"],
        ["version", "recover", "release", "fmt", "validate", "plan -lock=false"],
    );
    for (n, (yaml, what)) in [
        ("terraform: ./helper", &["line 1", "`terraform: ./helper`", "TFWRAP_TERRAFORM"][..]),
        ("terraform: /bin/sh", &["line 1", "TFWRAP_TERRAFORM"]),
        ("terraform: helper", &["line 1", "on PATH"]),
        ("terraform: sh", &["line 1", "on PATH"]),
        (
            "lock:\\n- file:///tmp/x\\n- dynamodb://t/k?endpoint=http://127.0.0.1:1",
            &["line 3", "`dynamodb://t/k`", "`endpoint`", "TFWRAP_LOCK"],
        ),
        ("lock: [dynamodb://t/k?profile=other]", &["line 1", "`profile`", "TFWRAP_LOCK"]),
        ("lease: [", &["line 2"]),
        ("no-such: 1", &["line 1", "`no-such`"]),
        ("lock-timeout: 90", &["line 1", "unit"]),
    ]
    .into_iter()
    .enumerate()
    {
        // All of them for the first one only.
        let count = if n == 0 { 6 } else { 2 };
        let make = format!("{HELPER}printf '{yaml}\\n' > .tfwrap.yaml; mkdir sub; cp main.tf sub");
        let row = Row { make: &make, never: EVIL, says: what, ..Row::default() };
        for typed in &refused[..count] {
            let typed = format!("tfwrap {typed}");
            Row { typed: &typed, code: 78, ..row }.play();
        }
        // What depends on nothing in it goes on.
        let says = &[&["warning: `", "continuing without that file"][..], what].concat();
        for typed in &goes_on[..count] {
            let typed = format!("tfwrap {typed}");
            Row { typed: &typed, code: 0, says, ..row }.play();
        }
    }
}

#[test]
fn a_named_file_may_say_it_and_a_found_one_the_rest() {
    let helper = format!("{HELPER}echo 'terraform: ./helper' > .tfwrap.yaml; ");
    for typed in ["--config .tfwrap.yaml version", "--config HERE/.tfwrap.yaml plan"] {
        let typed = format!("tfwrap {typed}");
        Row { make: &helper, typed: &typed, says: EVIL, ..Row::default() }.play();
    }
    let typed = "TFWRAP_CONFIG=.tfwrap.yaml tfwrap plan";
    Row { make: &helper, typed, says: EVIL, ..Row::default() }.play();
    let make = "printf 'unlocked: [plan]\\nterraform: terraform\\n' > .tfwrap.yaml";
    let says = &["`plan` runs without a lock: `unlocked` in `HERE/.tfwrap.yaml` line 1"];
    Row { make, typed: "tfwrap plan", says, ..Row::default() }.play();
    let make = "echo 'lock: [file://HERE/extra]' > .tfwrap.yaml";
    let typed = "tfwrap run -- sh -c 'echo \"$TFWRAP_HELD\" >&2'";
    Row { make, typed, says: &["file://HERE/extra#"], ..Row::default() }.play();
    for (typed, says) in [
        ("tfwrap --config '' plan", &["is empty"][..]),
        ("tfwrap --config nope plan", &["`nope`: cannot be read"]),
        ("tfwrap --lock 'dynamodb://t/k?region=evil.example/' plan", &["is not an AWS region"]),
    ] {
        let code = if typed.contains("--lock") { 64 } else { 78 };
        Row { typed, code, says, ..Row::default() }.play();
    }
}

#[test]
fn a_found_file_is_in_no_more_hands_than_the_directory() {
    let yaml = "echo 'lease: never' > .tfwrap.yaml; ";
    let mut rows = vec![
        // As GitLab's docker executor checks out: everything 0777 and 0666.
        ("chmod 777 .; chmod 666 .tfwrap.yaml", 0, ""),
        ("chmod 666 .tfwrap.yaml", 78, "can be written by everybody (mode 0666)"),
        ("chmod 600 .tfwrap.yaml", 0, ""),
    ];
    if nix::unistd::geteuid().is_root() {
        rows.extend([
            // As in a container job of GitHub's: root in a checkout of user 1001.
            ("chown 1001:1001 . .tfwrap.yaml main.tf", 0, ""),
            ("chown 1001 .tfwrap.yaml", 78, "belongs to user 1001"),
            ("chown 1001 .", 0, ""),
            // A umask of 002.
            ("chgrp 1001 . .tfwrap.yaml; chmod g+w . .tfwrap.yaml", 0, ""),
            ("chgrp 1001 .tfwrap.yaml; chmod g+w .tfwrap.yaml", 78, "by the group 1001"),
        ]);
    }
    for (make, code, said) in rows {
        let make = format!("{yaml}{make}");
        let hint = if code == 0 { "" } else { "TFWRAP_CONFIG=HERE/.tfwrap.yaml" };
        let row = Row { make: &make, code, ..Row::default() };
        Row { typed: "tfwrap plan", says: &[said, hint], ..row }.play();
        Row { typed: "tfwrap version", code: 0, says: &[said, hint], ..row }.play();
        // Whoever names it has looked at it.
        Row { typed: "tfwrap --config .tfwrap.yaml plan", code: 0, ..row }.play();
    }
}
