//! Directories, disks and locks that are files: what is in the way is named, with what helps there.

use super::Row;

const NO_AWS: &[&str] = &["dynamodb", "DynamoDB", "hash key", "region", "endpoint"];

#[test]
fn b1_b10_the_state_directory_is_left_as_it_is() {
    let modes = "; stat -c %a odd > after; cmp before after";
    let make = "mkdir odd; chmod 1777 odd; stat -c %a odd > before";
    let odd = "export TFWRAP_STATE_DIR=HERE/odd; ";
    let says = &[
        "`HERE/odd` (from `TFWRAP_STATE_DIR`) can be written by others (mode 1777)",
        "/tmp/tfwrap-",
    ];
    for (typed, code) in [("plan", 0), ("run -- true", 78), ("hold", 78)] {
        let typed = format!("{odd}c=0; tfwrap {typed} || c=$?{modes}; exit $c");
        Row { make, typed: &typed, code, says, never: NO_AWS }.play();
    }
    for (make, what) in [
        ("mkdir real; ln -s real odd", "is a symbolic link; name the directory itself"),
        ("touch odd", "is not a directory"),
        ("mkdir odd; chmod 770 odd", "(mode 0770)"),
    ] {
        let says = &["`HERE/odd` (from `TFWRAP_STATE_DIR`)", what];
        let typed = format!("{odd}tfwrap run -- true");
        Row { make, typed: &typed, code: 78, says, ..Row::default() }.play();
        let typed = format!("{odd}tfwrap plan");
        Row { make, typed: &typed, code: 0, says, ..Row::default() }.play();
    }
    // The control: one that others may read is used.
    let make = "mkdir odd; chmod 755 odd; stat -c %a odd > before";
    let typed = format!("{odd}tfwrap run -- true{modes}");
    Row { make, typed: &typed, ..Row::default() }.play();
}

#[test]
fn b7_b8_b9_what_is_wrong_with_a_file_lock_is_said_of_the_file() {
    let row = |make, typed, code, says| Row { make, typed, code, says, never: NO_AWS };
    let socket = socket();
    let mut rows = vec![
        row(
            "",
            "tfwrap --lock file:///nope/dir/x.lock run -- true",
            69,
            &["`/nope/dir`", "make the directory"][..],
        ),
        row(
            "",
            "tfwrap --lock file:///proc/x run -- true",
            69,
            &["`/proc/x.tfwrap.lock`: no such"],
        ),
        row(
            "echo precious > text",
            "tfwrap --lock file://HERE/text run -- true",
            78,
            &["`HERE/text` is not a tfwrap lock file: name a file that does not exist yet"],
        ),
        row(
            "mkfifo pipe",
            "tfwrap --lock file://HERE/pipe run -- true",
            78,
            &["HERE/pipe` is a pipe, not a tfwrap lock file", "check with `ls -ld`"],
        ),
        row(
            "mkdir dir",
            "tfwrap --lock file://HERE/dir run -- true",
            78,
            &["HERE/dir` is a directory, not a tfwrap lock file", "check with `ls -ld`"],
        ),
        row(
            &socket,
            "tfwrap --lock file://HERE/odd run -- true",
            78,
            &["HERE/odd` is a socket, not a tfwrap lock file", "check with `ls -ld`"],
        ),
        row(
            &socket,
            "mv odd x.tfwrap.lock; tfwrap --lock file://HERE/x run -- true",
            78,
            &["HERE/x.tfwrap.lock` is a socket, not a tfwrap lock file", "check with `ls -ld`"],
        ),
        row(
            "mkfifo x.tfwrap.lock",
            "tfwrap --lock file://HERE/x run -- true",
            78,
            &["HERE/x.tfwrap.lock` is a pipe, not a tfwrap lock file", "check with `ls -ld`"],
        ),
        row(
            "ln -s main.tf ln",
            "tfwrap --lock file://HERE/ln run -- true",
            78,
            &["`HERE/ln` is a symbolic link, which tfwrap does not follow"],
        ),
        row(
            "mkdir dir; ln -s dir ln",
            "tfwrap --lock file://HERE/ln/x run -- true",
            78,
            &["`HERE/ln` is a symbolic link, which tfwrap does not follow"],
        ),
        // What it leaves in somebody's directory bears the lock's name.
        row(
            "mkdir dir",
            "tfwrap --no-history --lock file://HERE/dir/x run -- true; ls -A dir >&2; test \"$(ls -A dir)\" = x.tfwrap.lock",
            0,
            &["x.tfwrap.lock"],
        ),
    ];
    if nix::unistd::geteuid().is_root() {
        // Others may not write into `/dev`.
        rows.push(row(
            "",
            "tfwrap --lock file:///dev/null run -- true",
            78,
            &["`/dev/null` is a device, not a tfwrap lock file"],
        ));
        rows.push(row(
            "cp \"$T\" tfwrap; chmod 755 . tfwrap; mkdir -m 700 own; mkdir -m 777 state",
            "export TFWRAP_STATE_DIR=/tmp/tfwrap-said-65534 HOME=/; \
             setpriv --reuid 65534 --regid 65534 --clear-groups ./tfwrap --no-backend-lock \
             --lock file://HERE/own/x run -- true",
            77,
            &["give this user write access to that directory"],
        ));
    }
    for row in rows {
        row.play();
    }
}

/// Makes a socket `odd`.
fn socket() -> String {
    let bind = "import socket; socket.socket(socket.AF_UNIX).bind(\"odd\")";
    format!("python3 -c '{bind}'")
}

/// As `echo x > FILE` of somebody who took it for a flag; the command that is printed helps.
#[test]
fn a_file_lock_that_is_overwritten_is_lost_at_once() {
    let cases = [
        ("echo theirs > odd", "15s"),
        ("echo theirs > odd", "never"),
        ("mkfifo odd", "15s"),
        ("SOCKET", "15s"),
        ("ln -s main.tf odd", "15s"),
    ];
    std::thread::scope(|scope| {
        for (put, lease) in cases {
            scope.spawn(move || {
                let put = put.replace("SOCKET", &socket());
                let typed = format!(
                    "tfwrap --lease {lease} --lock file://HERE/locks/x run -- sh -c \
                     'trap \"exit 5\" INT; echo > ready; while :; do sleep 0.05; done' 2> said & \
                     until test -s ready; do sleep 0.05; done; {put}; mv odd locks/x; \
                     c=0; wait $! || c=$?; cat said >&2; \
                     sed -n 's/.*remove it with: //p' said > finish; sh finish; \
                     tfwrap --lock file://HERE/locks/x run -- true; exit $c"
                );
                let says = &["`file://HERE/locks/x` was lost while we held it", "remove it with: "];
                Row { make: "mkdir locks", typed: &typed, code: 76, says, never: NO_AWS }.play();
            });
        }
    });
}

/// A directory that all may write in is for the locks of all.
#[test]
fn b8_two_users_share_the_locks_of_a_directory_that_both_can_write() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let make = "cp \"$T\" tfwrap; chmod 755 . tfwrap; mkdir -m 1777 shared; mkdir -m 755 own";
    let nobody = "nobody() { TFWRAP_STATE_DIR=/tmp/tfwrap-said-65534 HOME=/ setpriv --reuid 65534 \
                  --regid 65534 --clear-groups ./tfwrap --no-backend-lock \"$@\"; }; ";
    let lock = "--lock file://HERE/shared/x";
    // One after the other, each being the first once; and one that waits sees who has it.
    for (typed, code, says) in [
        ("tfwrap LOCK run -- true; nobody LOCK run -- true; tfwrap LOCK run -- true", 0, &[][..]),
        ("nobody LOCK run -- true; tfwrap LOCK run -- true; nobody LOCK run -- true", 0, &[]),
        (
            "mkfifo go; tfwrap LOCK run -- sh -c 'echo > go; cat go > /dev/null' & read -r _ < go; c=0; \
             nobody LOCK --lock-timeout 0s run -- true || c=$?; echo > go; wait; exit $c",
            75,
            &["held by root@"],
        ),
    ] {
        let typed = format!("{nobody}{}", typed.replace("LOCK", lock));
        Row { make, typed: &typed, code, says, never: NO_AWS }.play();
    }
    // The control: in a directory of one user's own, nobody else can so much as hold it up.
    let typed = "tfwrap --lock file://HERE/own/x run -- true; stat -c %a own/x.tfwrap.lock >&2";
    Row { make, typed, says: &["600\n"], ..Row::default() }.play();
}

#[test]
fn b2_a_hold_without_a_receipt_is_none_and_release_knows_what_it_does_not_know() {
    let hold = "held=$(tfwrap hold); eval \"$held\"; id=${TFWRAP_HELD#*#}; ";
    let rows = [
        (
            "tfwrap release wrong-id || c=$?; tfwrap release; exit $c",
            64,
            &["has the lock ID `wrong-id`; held there: `", "released"][..],
        ),
        ("tfwrap release \"$id\"; tfwrap release \"$id\"", 0, &["released", "nothing is held"]),
        (
            "TFWRAP_STATE_DIR=HERE/other tfwrap release || c=$?; tfwrap release; exit $c",
            74,
            &["still held", "`HERE/other`", "TFWRAP_STATE_DIR", "released"],
        ),
        (
            "env -u TFWRAP_HELD TFWRAP_STATE_DIR=HERE/other \"$T\" release; tfwrap release",
            0,
            &["no hold is known in `HERE/other`", "released"],
        ),
    ];
    for (typed, code, says) in rows {
        let typed = format!("{hold}c=0; {typed}");
        Row { typed: &typed, code, says, never: NO_AWS, ..Row::default() }.play();
    }
    for (typed, says) in [
        ("tfwrap release 1234", &["has the lock ID", "held there: nothing"][..]),
        ("tfwrap release ''", &["for '[ID]': it is empty", "`tfwrap status` shows the ID"]),
    ] {
        Row { typed, code: 64, says, ..Row::default() }.play();
    }
}

/// What tfwrap takes out of a pipe, Terraform would not find, and go on as somebody else. And a pipe
/// that nobody writes to would hold both up, deaf to signals.
#[test]
fn files_of_aws_that_can_be_read_once_only_are_refused() {
    let lock = "--lock 'dynamodb://t/k?region=eu-west-1' --lock-timeout 3s run -- true";
    let keys = "AWS_ACCESS_KEY_ID=k AWS_SECRET_ACCESS_KEY=s ";
    for (set, code) in [
        ("AWS_SHARED_CREDENTIALS_FILE=HERE/pipe ", 78),
        ("AWS_CONFIG_FILE=HERE/pipe ", 78),
        ("AWS_CA_BUNDLE=HERE/pipe ", 78),
        ("AWS_ROLE_ARN=arn:aws:iam::1:role/r AWS_WEB_IDENTITY_TOKEN_FILE=HERE/pipe ", 77),
    ] {
        let keys = if code == 78 { keys } else { "" };
        let typed = format!(
            "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; export {set}{keys}; tfwrap {lock}"
        );
        let says = &["HERE/pipe", "can be read only once"];
        Row { make: "mkfifo pipe", typed: &typed, code, says, ..Row::default() }.play();
    }
    // The system's certificates are those that can be read.
    let typed = format!(
        "export {keys} SSL_CERT_FILE=HERE/pipe; tfwrap {}",
        lock.replace("?region", "?endpoint=https://127.0.0.1:9&region").replace("3s", "0s")
    );
    Row { make: "mkfifo pipe", typed: &typed, code: 69, ..Row::default() }.play();
}

/// What `aws sso login` leaves, and the token of a container: each with where it stands and what is wrong
/// with it, and nothing of it is shown.
#[test]
fn a_token_that_cannot_be_used_is_named_by_its_place() {
    let token = "HERE/.aws/sso/cache/a0f1490a20d0211c997b44bc357e1972deab8ae3.json";
    let make = "mkdir -p .aws/sso/cache; printf '[profile p]\\nsso_session = s\\nsso_account_id = 1\\n\
                sso_role_name = n\\n[sso-session s]\\nsso_region = eu-west-1\\nsso_start_url = u\\n' \
                > .aws/config; ";
    let lock = "tfwrap --no-backend-lock --lock 'dynamodb://t/k?region=eu-west-1' run -- true";
    let login = "`aws sso login --profile p`";
    for (file, says) in [
        (
            "printf '{\"accessToken\": \"hunter2\\\\n\", \"expiresAt\": \"2099-01-01T00:00:00Z\"}' > TOKEN",
            &["`TOKEN`, which has a line break in its `accessToken`", login][..],
        ),
        ("printf '{\"accessToken\": \"hunter2\"}' > TOKEN", &["`TOKEN`, which has no `expiresAt`"]),
        (": > TOKEN", &["`TOKEN`, which does not hold a JSON object"]),
        ("mkfifo TOKEN", &["(`TOKEN`: it is a pipe); move that file away", login]),
        ("mkdir TOKEN", &["(`TOKEN`: is a directory); move that file away", login]),
        ("ln -s TOKEN TOKEN", &["(`TOKEN`: too many", "move that file away", login]),
        ("true", &["does not exist (`TOKEN`: no such file", login]),
    ] {
        let make = format!("{make}{}", file.replace("TOKEN", token));
        let typed = format!(
            "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; AWS_PROFILE=p; export AWS_PROFILE; {lock}"
        );
        let says: Vec<_> = says.iter().map(|it| it.replace("TOKEN", token)).collect();
        let says: Vec<_> = says.iter().map(String::as_str).collect();
        let row = Row { make: &make, typed: &typed, code: 77, says: &says, never: &["hunter2"] };
        row.play();
    }
    let row = Row { code: 78, never: &["hunter2"], ..Row::default() };
    for (set, place) in [
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN=\"$(printf 'hunter2\\n2')\"",
            "`AWS_CONTAINER_AUTHORIZATION_TOKEN`",
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=HERE/token", "`HERE/token`"),
    ] {
        let says = format!("the token in {place} has a line break in it");
        let typed = format!(
            "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; {set}; \
             AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:9/; export AWS_CONTAINER_CREDENTIALS_FULL_URI \
             AWS_CONTAINER_AUTHORIZATION_TOKEN AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE; {lock}"
        );
        Row { make: "echo hunter2 > token", typed: &typed, says: &[&says], ..row }.play();
    }
}

/// Beside stock Terraform: it waits for ever for a reader of the pipe, refuses the directory and the loop,
/// and writes over what a link leads to and over whatever else is there.
#[test]
fn what_is_no_lock_info_is_neither_replaced_nor_removed() {
    let info = ".terraform.tfstate.lock.info";
    let left = "stat -c '%F %s' INFO; cat target 2>/dev/null || true";
    for (make, what) in [
        ("mkfifo INFO", "is a pipe"),
        ("mkdir INFO", "is a directory"),
        ("mkdir -p INFO/x", "is a directory"),
        ("echo precious > target; ln -s target INFO", "is a symbolic link"),
        ("ln -s target INFO", "is a symbolic link"),
        ("ln -s /dev/null INFO", "is a symbolic link"),
        ("ln -s INFO INFO", "is a symbolic link"),
        ("echo precious > INFO", "holds something else"),
    ] {
        let make = format!("{make}; ({left}) > before").replace("INFO", info);
        let says = format!("`HERE/{info}` {what}, not the lock info");
        for command in ["apply -auto-approve -input=false", "run -- false"] {
            let typed = format!(
                "c=0; tfwrap {command} || c=$?; ({left}) > after; cmp before after >&2; \
                 test ! -e terraform.tfstate; exit $c"
            );
            let typed = typed.replace("INFO", info);
            let says = &[says.as_str(), "move it away"];
            Row { make: &make, typed: &typed, code: 78, says, ..Row::default() }.play();
        }
    }
    // The controls: what a Terraform that was killed may leave is.
    for make in [": > INFO", "printf '{\"ID\":\"1' > INFO", "head -c 193 /dev/zero > INFO"] {
        let make = make.replace("INFO", info);
        let typed = format!("tfwrap run -- true; test ! -e {info}");
        Row { make: &make, typed: &typed, ..Row::default() }.play();
    }
    // And what comes there meanwhile stays.
    let typed = format!("tfwrap run -- sh -c 'rm {info}; mkfifo {info}'; test -p {info}");
    Row { typed: &typed, ..Row::default() }.play();
}
