//! What was answered wrongly once, by the numbers of the list of inputs.

use super::Row;

#[test]
fn b11_a_directory_whose_name_is_no_text_is_one_like_any_other() {
    let make = "d=$(printf 'd\\377'); mkdir \"$d\"; cp main.tf \"$d\"";
    let cd = "cd \"$(printf 'd\\377')\"; ";
    let never = &["warning", "UTF-8"];
    for typed in [
        "tfwrap plan",
        "tfwrap run -- terraform plan",
        "held=$(tfwrap hold); eval \"$held\"; terraform plan; tfwrap release",
    ] {
        let typed = format!("{cd}{typed}");
        Row { make, typed: &typed, never, ..Row::default() }.play();
    }
    // Whoever is killed there is found.
    let typed = format!(
        "{cd}tfwrap run -- sh -c 'kill -9 $PPID'; for i in $(seq 300); do tfwrap status | \
         grep -q free && exit 0; sleep 0.1; done; exit 9"
    );
    Row { make, typed: &format!("set +e; {typed}"), never, ..Row::default() }.play();
}

#[test]
fn b13_an_answer_that_nobody_gets_is_said_and_keeps_no_lock() {
    let free = "; tfwrap status | grep -q free || exit 9; exit $c";
    for stdout in [">&-", "> /dev/full"] {
        let typed = format!("c=0; tfwrap hold {stdout} || c=$?{free}");
        let says = &["the environment cannot be printed: stdout", "the lock is released"];
        Row { typed: &typed, code: 78, says, ..Row::default() }.play();
        let typed = format!("tfwrap status {stdout}");
        let says = &["cannot be written to stdout"];
        Row { typed: &typed, code: 78, says, ..Row::default() }.play();
    }
    // The control: who reads no more, and who wants none of it.
    for typed in [
        "tfwrap status | true",
        "tfwrap hold > /dev/null; tfwrap release",
        "tfwrap hold --format json > answer; tfwrap release",
    ] {
        Row { typed, ..Row::default() }.play();
    }
}

#[test]
fn b15_a_backend_that_locks_nothing_is_taken_at_its_word() {
    let record = |config: &str| {
        format!(
            "mkdir .terraform; echo '{{\"version\":3,\"backend\":{{\"type\":\"http\",\"config\":\
             {{\"address\":\"http://127.0.0.1:9/s\"{config}}},\"hash\":1}}}}' > \
             .terraform/terraform.tfstate"
        )
    };
    let lockless = record("");
    let row = Row { make: &lockless, ..Row::default() };
    // 1: Terraform itself runs, and refuses the record.
    let says = &["the backend locks nothing, and `--no-backend-lock` says to continue"][..];
    Row { typed: "tfwrap --no-backend-lock plan", code: 1, says, ..row }.play();
    let (says, never) =
        (&["no locking configured", "--no-backend-lock"][..], &["locks its state"][..]);
    Row { typed: "tfwrap plan", code: 78, says, never, ..row }.play();
    // The controls: told where to lock, it locks.
    let says = &["only Terraform can take the lock of the backend `http`"][..];
    let typed = "TF_HTTP_LOCK_ADDRESS=http://127.0.0.1:9/l tfwrap --no-backend-lock plan";
    Row { typed, code: 78, says, ..row }.play();
    let locks = record(",\"lock_address\":\"http://127.0.0.1:9/l\"");
    let typed = "tfwrap --no-backend-lock plan";
    Row { make: &locks, typed, code: 78, says, ..row }.play();
    let says = &["unset `TFWRAP_NO_BACKEND_LOCK`"];
    let typed = "TFWRAP_NO_BACKEND_LOCK=1 tfwrap plan";
    Row { typed, code: 64, says, ..Row::default() }.play();
}

#[test]
fn b16_the_help_of_run_is_its_own() {
    for typed in ["tfwrap run --help", "tfwrap run -h"] {
        let done = Row { typed, ..Row::default() }.play();
        assert!(!done.stdout.contains("error:"), "{}", done.stdout);
        assert!(done.stdout.contains("run -- <COMMAND>"), "{}", done.stdout);
    }
}
