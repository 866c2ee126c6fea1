//! What is set or named and cannot be used: each is named, with what is wrong and what helps.

use super::Row;

#[test]
fn a_variable_of_ours_that_cannot_be_read_is_said() {
    let held = "`TFWRAP_HELD` is not `LOCK#ID` for each lock: tfwrap ignores the unreadable part";
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

#[test]
fn a_setting_of_the_environment_that_cannot_be_used_is_named_and_has_a_hint() {
    for (name, value, what) in [
        ("LOCK_TIMEOUT", "5", "a unit is missing"),
        ("LEASE", "1s", "at least 15s"),
        ("GRACE", "x", "not a duration"),
        ("ORPHAN_GRACE", "-1s", "must not be negative"),
        ("MAX_HOLD", "\"$(printf '\\377')\"", "not UTF-8"),
        ("LOCK", "foo", "known forms are"),
        ("NO_BACKEND_LOCK", "maybe", "neither `true` nor `false`"),
        ("NO_LINE", "2", "neither `true` nor `false`"),
        ("ON_LOCK_LOST", "x", "none of `stop`, `warn`"),
        ("SECOND_SIGNAL", "x", "none of `hold`, `forward`"),
        ("LOG_FORMAT", "xml", "none of `text`, `json`"),
    ] {
        let typed = format!("export TFWRAP_{name}={value}; tfwrap plan");
        let (variable, hint) =
            (format!("`TFWRAP_{name}`: "), format!("correct or unset `TFWRAP_{name}`"));
        let says = &[variable.as_str(), what, hint.as_str()];
        Row { typed: &typed, code: 78, says, ..Row::default() }.play();
        // An empty one is none.
        let typed = format!("export TFWRAP_{name}=; tfwrap plan");
        Row { typed: &typed, ..Row::default() }.play();
    }
    let typed = "TFWRAP_TERRAFORM=nope tfwrap plan";
    let says = &["`nope` was not found on PATH", "`TFWRAP_TERRAFORM`"];
    Row { typed, code: 127, says, ..Row::default() }.play();
}

#[test]
fn a_command_that_cannot_be_run_is_named_and_one_that_is_not_there_waits_for_no_lock() {
    let never: &[&str] = &["released", "waiting"];
    for (typed, code, says) in [
        ("run -- nosuchcmd", 127, &["`nosuchcmd` is not found", "on PATH"][..]),
        ("run -- ./nosuch cmd", 127, &["`./nosuch` is not found", "ls -l ./nosuch"]),
        ("run -- ''", 64, &["the command of `run` is empty"]),
        (
            "run -- ./odd",
            126,
            &["its interpreter `/no/such` does not exist", "first line of ./odd"],
        ),
        ("run -- ./crlf", 126, &["its interpreter `/bin/sh\\r` does not exist", "sed -i"]),
        (
            "run -- ./main.tf",
            126,
            &["`./main.tf` cannot be executed: its mode", "chmod +x ./main.tf"],
        ),
        ("run -- .", 127, &["`.` is not found"]),
        ("run -- ./", 126, &["it is a directory", "ls -ld"]),
    ] {
        // Whoever holds the lock need not be waited for.
        let typed = format!(
            "held=$(tfwrap hold) && tfwrap {typed}; code=$?; eval \"$held\"; tfwrap release >/dev/null 2>&1; exit $code"
        );
        let make =
            "printf '#!/no/such\\n' > odd; printf '#!/bin/sh\\r\\n' > crlf; chmod +x odd crlf";
        Row { make, typed: &typed, code, says, never }.play();
    }
    // The controls: what is on PATH there alone, and what has a path of its own.
    let typed = "export TFWRAP_TERRAFORM=$(command -v terraform); PATH=/bin tfwrap run -- terraform version";
    Row { typed, ..Row::default() }.play();
    let make = "printf '#!/bin/sh\\n' > even; chmod +x even";
    Row {
        make,
        typed: "tfwrap run -- ./even && PATH=$PATH:. tfwrap run -- even",
        ..Row::default()
    }
    .play();
}

/// What lies in the place of a file, and what is said of it; nothing is asked for far away, and nobody is
/// waited for.
fn play(rows: &[(&str, &str, i32, &[&str])]) {
    for (make, typed, code, says) in rows.iter().copied() {
        Row { make, typed, code, says, never: &["Connection refused"] }.play();
    }
}

#[test]
fn what_lies_in_the_place_of_a_file_is_named() {
    let config = "TFWRAP_CONFIG=HERE/odd tfwrap plan";
    let program = "TFWRAP_TERRAFORM=./odd tfwrap plan";
    let unset = "hint: correct `TFWRAP_TERRAFORM`, or unset it: `terraform`";
    let looked = "check `ls -l HERE/odd`";
    play(&[
        ("mkdir odd", config, 78, &["is a directory, not", looked]),
        ("mkfifo odd", config, 78, &["is a pipe, not", looked]),
        ("ln -s odd odd", config, 78, &["Too many levels", looked]),
        ("", config, 78, &["No such file", looked, "`TFWRAP_CONFIG`"]),
        ("truncate -s 100M odd", config, 78, &["larger than 64 KiB", looked]),
        (
            "mkdir .tfwrap.yaml",
            "tfwrap plan",
            78,
            &["is a directory", "check `ls -l HERE/.tfwrap.yaml`"],
        ),
        ("mkdir odd", program, 126, &["HERE/odd` is not executable: it is a directory", unset]),
        (": > odd", program, 126, &["HERE/odd` is not executable: its mode", "chmod +x", unset]),
        ("", program, 127, &["error: `TFWRAP_TERRAFORM`: `HERE/odd` was not found", unset]),
        ("", "TFWRAP_TERRAFORM=gone tfwrap version", 127, &["RM`: `gone` was not found", unset]),
        (
            "printf '#!/nope\\n' > odd; chmod +x odd",
            program,
            126,
            &["`TFWRAP_TERRAFORM`: `HERE/odd` cannot be executed", unset],
        ),
        (
            "printf '#!/nope\\n' > odd; chmod +x odd",
            "TFWRAP_TERRAFORM=./odd tfwrap version",
            126,
            &["`TFWRAP_TERRAFORM`: `HERE/odd` cannot be executed", unset],
        ),
        ("cp \"$T\" odd", "TFWRAP_TERRAFORM=\"$T\" tfwrap plan", 78, &["is tfwrap itself", unset]),
        (
            "",
            "tfwrap --terraform ./odd plan",
            127,
            &["error: `--terraform`: `HERE/odd` was not found", "correct `--terraform`, or leave"],
        ),
        (
            "printf 'grace: 1s\\nterraform: ./odd\\n' > own.yaml",
            "tfwrap --config own.yaml plan",
            127,
            &["error: `own.yaml` line 2: `HERE/odd` was not found", "remove that line"],
        ),
        (
            "mkfifo terraform.tfstate",
            "tfwrap plan",
            78,
            &["HERE/terraform.tfstate` is a pipe", "move it away"],
        ),
        ("mkfifo terraform.tfstate", "tfwrap status", 78, &["HERE/terraform.tfstate` is a pipe"]),
        (
            "mkdir terraform.tfstate",
            "tfwrap plan",
            78,
            &["HERE/terraform.tfstate` is a directory", "move it away"],
        ),
        (
            "ln -s terraform.tfstate terraform.tfstate",
            "tfwrap plan",
            78,
            &["HERE/terraform.tfstate`: too many", "check with `ls -ld`"],
        ),
    ]);
    // The control: a device is a state that is always empty.
    let make = "ln -s /dev/null terraform.tfstate";
    Row { make, typed: "tfwrap plan", ..Row::default() }.play();
}

#[test]
fn what_lies_in_the_place_of_a_file_of_aws_is_named() {
    let lock = "--no-backend-lock --lock-timeout 0s --lock \
                'dynamodb://t/k?region=eu-west-1&endpoint=http://127.0.0.1:9' run -- true";
    let unset =
        "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; export AWS_EC2_METADATA_DISABLED=true";
    let aws = |set: &str| format!("{unset} {set}; tfwrap {lock}");
    let role = "AWS_ROLE_ARN=arn:aws:iam::1:role/r AWS_ENDPOINT_URL_STS=http://127.0.0.1:9";
    let token = aws(&format!("{role} AWS_WEB_IDENTITY_TOKEN_FILE=odd"));
    let (config, keys) = (aws("AWS_CONFIG_FILE=odd"), aws("AWS_SHARED_CREDENTIALS_FILE=odd"));
    let gone = aws("AWS_PROFILE=p AWS_CONFIG_FILE=odd");
    let (none, no_file) = ("no AWS credentials were found", "`HERE/odd` cannot be opened: no such");
    let seen = "check with `ls -l`";
    play(&[
        ("", &keys, 77, &[none, no_file]),
        ("ln -s odd odd", &keys, 77, &[none, "`HERE/odd` cannot be opened: too many"]),
        ("", &gone, 78, &["there is no profile `p`", no_file]),
        ("mkdir odd", &keys, 78, &["`HERE/odd`: is a directory"]),
        ("truncate -s 100M odd", &config, 78, &["`HERE/odd`: it is larger than 64 MiB"]),
        (": > odd", &token, 77, &["the web identity token `HERE/odd`: it is empty", seen]),
        ("echo > odd", &token, 77, &["the web identity token `HERE/odd`: it is empty"]),
        ("printf '\\351' > odd", &token, 77, &["token `HERE/odd`: it is not UTF-8", seen]),
        ("mkdir odd", &token, 77, &["the web identity token `HERE/odd`: is a directory", seen]),
        ("ln -s odd odd", &token, 77, &["token `HERE/odd`: too many symbolic", seen]),
    ]);
    // The control: files that nobody named need not be there.
    let (says, never) = (&[none], &["cannot be opened"]);
    Row { typed: &aws(""), code: 77, says, never, ..Row::default() }.play();
}

/// What is meant as a setting and counts for nothing is told, once and by the outermost tfwrap alone.
#[test]
fn what_is_nearly_a_setting_is_said_to_be_none() {
    let of_file =
        ["warning: `HERE/.tfwrap.yml` is not read", "mv HERE/.tfwrap.yml HERE/.tfwrap.yaml"];
    let of_variable =
        ["`TFWRAP_LOCKTIMEOUT` is no variable of tfwrap", "did you mean `TFWRAP_LOCK_TIMEOUT`?"];
    let wrong = "echo 'lock-timeout: 1s' > .tfwrap.yml";
    for typed in ["tfwrap plan", "tfwrap run -- true", "tfwrap status", "tfwrap -chdir=HERE plan"] {
        Row { make: wrong, typed, says: &of_file, ..Row::default() }.play();
        let typed = format!("TFWRAP_LOCKTIMEOUT=hunter2 {typed}");
        let row = Row { typed: &typed, says: &of_variable, never: &["hunter2"], ..Row::default() };
        row.play();
    }
    let typed = "TFWRAP_LOCKTIMEOUT=1s tfwrap run -- sh -c 'terraform plan && terraform plan'";
    let done = Row { make: wrong, typed, says: &of_file, ..Row::default() }.play();
    assert_eq!(done.stderr.matches("is not read").count(), 1, "{}", done.stderr);
    assert_eq!(done.stderr.matches("LOCKTIMEOUT").count(), 1, "{}", done.stderr);
    // What depends on no setting, and a file of the right name beside it.
    let quiet: &[&str] = &["tfwrap: "];
    Row { make: wrong, typed: "tfwrap fmt", never: quiet, ..Row::default() }.play();
    let both = format!("{wrong}; cp .tfwrap.yml .tfwrap.yaml");
    Row { make: &both, typed: "tfwrap plan", never: quiet, ..Row::default() }.play();
}

/// The words of a message that a reader would stumble over.
#[test]
fn what_was_found_is_said_in_plain_words() {
    let found = "backend: none is configured; workspace: `default` (no other one is selected)";
    Row { typed: "tfwrap -v plan", says: &[found], ..Row::default() }.play();
    let comma = ["names more than one lock: separate them by a space", "`--lock` once for each"];
    for (typed, code) in [
        ("TFWRAP_LOCK=file://HERE/a,file://HERE/b tfwrap plan", 78),
        ("tfwrap --lock file://HERE/a,s3://b/k.tflock plan", 64),
    ] {
        Row { typed, code, says: &comma, ..Row::default() }.play();
    }
    // A comma alone is a part of a name.
    let typed = "tfwrap --lock file://HERE/a,b plan";
    Row { typed, ..Row::default() }.play();
}

/// Of AWS's shared files, what keeps a profile from being found.
#[test]
fn a_shared_file_that_cannot_be_understood_is_named() {
    let typed = "HOME=HERE AWS_EC2_METADATA_DISABLED=true tfwrap --no-backend-lock \
                 --lock 'dynamodb://t/k?region=us-east-1' run -- true";
    for (make, says) in [
        ("printf '\\377[default]\\n' > .aws/config", "`HERE/.aws/config` is not UTF-8"),
        (
            "printf '#\\n[default\\nx=y\\n' > .aws/config",
            "`HERE/.aws/config` line 2 begins with `[`",
        ),
        ("printf '[a' > .aws/credentials", "`HERE/.aws/credentials` line 1 begins with `[`"),
    ] {
        let make = format!("mkdir .aws; {make}");
        let typed = format!("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; {typed}");
        let says = ["no AWS credentials were found", says];
        Row { make: &make, typed: &typed, code: 77, says: &says, ..Row::default() }.play();
    }
}
