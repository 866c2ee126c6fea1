//! What is said at the end of a run, and to GitHub.

use super::Row;

/// A Terraform that notes nothing and ends so.
const STUB: &str =
    "mkdir bin; printf '#!/bin/sh\\nexit ${STUB:-0}\\n' > bin/terraform; chmod +x bin/*; ";

#[test]
fn a_detailed_exit_code_is_read_wherever_it_is_said() {
    let github = "export GITHUB_ACTIONS=true GITHUB_OUTPUT=HERE/out PATH=HERE/bin:$PATH; ";
    let make = format!("{STUB}touch out");
    for (typed, outcome) in [
        ("tfwrap plan -detailed-exitcode", "success"),
        ("tfwrap plan -detailed-exitcode=1", "success"),
        ("tfwrap plan --detailed-exitcode=T", "success"),
        ("TF_CLI_ARGS_plan=-detailed-exitcode tfwrap plan", "success"),
        ("TF_CLI_ARGS=-detailed-exitcode tfwrap plan", "success"),
        ("tfwrap run -- terraform plan -detailed-exitcode", "success"),
        ("tfwrap plan -detailed-exitcode -detailed-exitcode=false", "failure"),
        ("tfwrap plan", "failure"),
        ("tfwrap run -- sh -c 'exit 2'", "failure"),
    ] {
        let typed = format!(
            "{github}export STUB=2; c=0; {typed} || c=$?; grep -qx outcome={outcome} out; exit $c"
        );
        Row { make: &make, typed: &typed, code: 2, ..Row::default() }.play();
    }
}

#[test]
fn what_a_wrapper_says_of_the_exit_code_stays() {
    // As `setup-terraform` installs it: 0 for 2, and the truth as an output of the step.
    let make = "mkdir bin; touch out; printf '#!/bin/sh\\nprintf \"exitcode<<gha_1\\\\n2\\\\ngha_1\\\\n\" \
                >> \"$GITHUB_OUTPUT\"\\n' > bin/terraform; chmod +x bin/terraform";
    for command in ["plan", "run -- terraform plan"] {
        let typed = format!(
            "export GITHUB_ACTIONS=true GITHUB_OUTPUT=HERE/out PATH=HERE/bin:$PATH; tfwrap {command}; \
             cat out >&2"
        );
        let (says, never) = (&["exitcode<<gha_1\n2\n", "outcome=success"], &["exitcode=0"]);
        Row { make, typed: &typed, says, never, ..Row::default() }.play();
    }
}

#[test]
fn only_a_terraform_that_is_called_by_its_path_is_said_to_be() {
    let make = "mkdir bin; printf '#!/bin/sh\\nexit 1\\n' > bin/terraform; chmod +x bin/terraform; \
                printf '#!/bin/sh\\nset -e\\n./bin/terraform apply\\n' > script; chmod +x script";
    for typed in
        ["false", "sh -c 'exit 1'", "terraform no-such-command", "sh -c 'terraform plan x'"]
    {
        let typed = format!("tfwrap run -- {typed}");
        Row { make, typed: &typed, code: 1, never: &["by its path"], ..Row::default() }.play();
    }
    for typed in
        ["bin/terraform apply", "sh -ec 'HERE/bin/terraform apply'", "./script", "sh script"]
    {
        let typed = format!("tfwrap run -- {typed}");
        let says = &["bin/terraform` by its path", "so that it goes through tfwrap"];
        Row { make, typed: &typed, code: 1, says, ..Row::default() }.play();
    }
}

#[test]
fn a_lock_that_protects_nothing_is_said_to() {
    let says = &["there is no Terraform configuration in `HERE`", "`HERE/terraform.tfstate`"];
    for typed in ["tfwrap run -- true", "held=$(tfwrap hold); eval \"$held\"; tfwrap release"] {
        Row { make: "rm main.tf", typed, says, ..Row::default() }.play();
        Row { typed, never: &["no Terraform configuration"], ..Row::default() }.play();
        let make = "mv main.tf main.tofu";
        Row { make, typed, never: &["no Terraform configuration"], ..Row::default() }.play();
    }
}

#[test]
fn a_plan_that_opentofu_encrypted_is_nothing_to_warn_of() {
    let make = format!(
        "{STUB}mv bin/terraform bin/tofu; echo '{{\"meta\":{{}},\"encrypted_data\":\"eA==\",\
         \"encryption_version\":\"v0\"}}' > sealed; echo '{{\"meta\":{{}}}}' > other"
    );
    let row = Row { make: &make, ..Row::default() };
    let typed = "tfwrap --terraform bin/tofu apply sealed";
    Row { typed, never: &["warning"], ..row }.play();
    let says = &["`other` is not a saved plan"];
    Row { typed: "tfwrap --terraform bin/tofu apply other", says, ..row }.play();
}

#[test]
fn a_file_of_githubs_that_is_missing_is_named() {
    let free = "; tfwrap status | grep -q free || exit 9; exit $c";
    for (env, what) in [
        ("GITHUB_ENV=HERE/no GITHUB_PATH=HERE/main.tf", "`HERE/no` (from `GITHUB_ENV`)"),
        ("GITHUB_ENV=HERE/main.tf GITHUB_PATH=HERE/no", "`HERE/no` (from `GITHUB_PATH`)"),
        ("GITHUB_PATH=HERE/main.tf", "`GITHUB_ENV` is not set"),
    ] {
        let typed = format!("c=0; {env} tfwrap hold --format github || c=$?{free}");
        let says = &[what, "the lock is released"];
        Row { make: "", typed: &typed, code: 78, says, ..Row::default() }.play();
    }
}

#[test]
fn a_shim_that_comes_back_to_us_has_the_lock() {
    // asdf's kind: takes itself off `PATH`, and looks again.
    let make = "mkdir real shims us; printf '#!/bin/sh\\necho real \"$@\" >&2\\n' > real/terraform; \
                printf '#!/bin/sh\\nPATH=HERE/us:HERE/real:/usr/bin:/bin exec terraform \"$@\"\\n' \
                > shims/terraform; chmod +x */terraform; ln -s \"$T\" us/terraform";
    let path = "PATH=HERE/us:HERE/shims:HERE/real:$PATH; ";
    let (says, never) = (&["real apply -lock=false -auto-approve"], &["without a lock"]);
    for typed in [
        "terraform apply -auto-approve",
        "tfwrap apply -auto-approve",
        "tfwrap run -- terraform apply -auto-approve",
    ] {
        let typed = format!("{path}{typed}");
        Row { make, typed: &typed, says, never, ..Row::default() }.play();
    }
    // Where Terraform takes its own lock, beside one that was named.
    let other = format!(
        "{make}; mkdir .terraform locks; echo '{{\"version\":3,\"backend\":{{\"type\":\"gcs\",\"config\":{{}}}}}}' \
         > .terraform/terraform.tfstate"
    );
    for typed in ["apply -auto-approve", "run -- terraform apply -auto-approve"] {
        let typed = format!("{path}tfwrap --lock file://HERE/locks/x {typed}");
        let says = &["real apply -lock-timeout="];
        Row { make: &other, typed: &typed, says, never: &["no `--lock`"], ..Row::default() }.play();
    }
    // The control: what was typed is typed.
    let typed = format!("{path}terraform apply -lock=false -auto-approve");
    Row { make, typed: &typed, says: &["runs without a lock"], ..Row::default() }.play();
}
