//! What is set or named and cannot be used: each is named, with what is wrong and what helps.

use super::Row;

#[test]
fn a_variable_of_ours_that_cannot_be_read_is_said() {
    let held = "`TFWRAP_HELD` is not `LOCK#ID` for each lock: what cannot be read of it counts for nothing";
    let outer = "unset TFWRAP_HELD";
    let bytes = "\"$(printf 'a#\\377')\"";
    let never: &[&str] = &["hunter2", "\x1b"];
    for value in ["hunter2", "\"$(printf 'hunter2\\033[2J')\"", "'a#1 hunter2'", bytes] {
        for command in ["plan", "run -- true", "fmt", "release"] {
            // The part that can be read counts: it may name what a hold still has.
            let code = if command == "release" && value.contains("a#1") { 74 } else { 0 };
            let typed = format!("export TFWRAP_HELD={value}; tfwrap {command}");
            Row { typed: &typed, code, says: &[held, outer], never, ..Row::default() }.play();
        }
        let typed = format!(
            "export TFWRAP_HELD={value}; held=$(tfwrap hold); eval \"$held\"; \
             case $TFWRAP_HELD in *hunter2*) exit 9; esac; tfwrap release"
        );
        Row { typed: &typed, says: &[held, outer], never, ..Row::default() }.play();
    }
    for (set, says) in [
        ("TFWRAP_DEPTH=hunter2", "`TFWRAP_DEPTH` is not a number"),
        ("TFWRAP_PASSED_ON=hunter2", "`TFWRAP_PASSED_ON` is not what tfwrap sets it to"),
        ("TFWRAP_RUN_URL=javascript:hunter2", "`TFWRAP_RUN_URL` is not a link"),
        ("TFWRAP_ACTOR=\"$(printf 'hunter2\\377')\"", "`TFWRAP_ACTOR` is not UTF-8"),
    ] {
        let typed = format!("export {set}; tfwrap run -- true");
        Row { typed: &typed, says: &[says], never, ..Row::default() }.play();
    }
    let typed = "export TFWRAP_HELD=local:///x#1 TFWRAP_HOLD=hunter2/..; tfwrap release";
    let says = &["`TFWRAP_HOLD` is not the names of holds", "tfwrap release ID"];
    Row { typed, says, never, ..Row::default() }.play();
    // The controls: what tfwrap itself sets, and what is empty.
    let never = &["warning: `TFWRAP"];
    for typed in [
        "tfwrap run -- sh -c 'terraform plan && \"$T\" run -- true'",
        "held=$(tfwrap hold); eval \"$held\"; tfwrap plan; tfwrap release",
        "export TFWRAP_HELD= TFWRAP_HOLD= TFWRAP_DEPTH= TFWRAP_PASSED_ON= TFWRAP_RUN_URL= \
         TFWRAP_ACTOR=; tfwrap run -- true",
    ] {
        Row { typed, never, ..Row::default() }.play();
    }
}

#[test]
fn a_directory_or_a_lock_that_is_named_wrongly_has_a_hint() {
    let leave = "leave one of them out of `--lock`, `TFWRAP_LOCK`";
    for (typed, says) in [
        ("--chdir nope plan", &["`--chdir nope`: no such directory", "`mkdir -p nope`"][..]),
        ("--chdir 'no pe' plan", &["`mkdir -p 'no pe'`"]),
        ("--chdir main.tf plan", &["`--chdir main.tf`: not a directory", "`ls -ld main.tf`"]),
        ("--chdir loop status", &["`--chdir loop`: too many", "`ls -ld loop`"]),
        ("--chdir '' plan", &["`--chdir` is empty", "leave `--chdir` out"]),
        ("--lock file://HERE/l --lock file://HERE/l plan", &["l` is given twice", leave]),
        (
            "--lock file://HERE/l --lock file://HERE/here/l plan",
            &["is given twice", "`file://HERE/l` is another name of it", leave],
        ),
    ] {
        let typed = format!("tfwrap {typed}");
        let make = "ln -s loop loop; ln -s . here";
        Row { make, typed: &typed, code: 64, says, ..Row::default() }.play();
    }
    let typed = "TFWRAP_LOCK='file://HERE/l file://HERE/l' tfwrap plan";
    Row { typed, code: 64, says: &["is given twice", leave], ..Row::default() }.play();
}
