//! A state that is reached by links of either kind: who says where that its lock is held.

use std::fs;

use crate::aftermath::{EndsHolds, STATE_DIR};
use crate::support::harness::{run, tfwrap, wrapper};
use crate::support::servers::local_backend_dir;

/// How the state `o/real` is linked in the directory `d`, where this and all else is called.
struct Form {
    set_up: &'static str,
    /// By which calls it is used.
    calls: &'static [&'static str],
}

const FORMS: &[Form] = &[
    Form { set_up: "ln -s ../o/real terraform.tfstate", calls: &["terraform $A"] },
    Form {
        set_up: "terraform $A -state=../o/real; ln ../o/real terraform.tfstate",
        calls: &["terraform $A"],
    },
    Form {
        set_up: "ln -s real ../o/next; ln -s ../o/next terraform.tfstate; ln -s ../d ../o/d",
        calls: &["terraform -chdir=../o/d $A", "cd ../o/d; terraform $A"],
    },
    Form {
        set_up: "ln -s ../o/real link; \
                 printf 'terraform {\\n backend \"local\" {\\n path = \"link\"\\n }\\n}\\n' > backend.tf; \
                 terraform init",
        calls: &["terraform $A"],
    },
    Form {
        set_up: "ln -s ../o terraform.tfstate.d; mkdir ../o/dev; \
                 ln -s ../real ../o/dev/terraform.tfstate; terraform init; terraform workspace select dev",
        calls: &["terraform $A", "TF_WORKSPACE=dev terraform $A"],
    },
    // Held by a name that is a link to another one than those by which it is used.
    Form {
        set_up: "terraform $A -state=../o/real; ln ../o/real again; ln -s again terraform.tfstate; \
                 ln -s ../o/real link",
        calls: &["terraform $A -state=link", "terraform $A -state=../o/real"],
    },
];

const SCRIPT: &str = r#"
export A='apply -auto-approve -no-color'
( $SET_UP )
terraform $A
"$TFWRAP" $A
"$TFWRAP" run -- sh -ec "$CALLS; ! $(command -v terraform) plan -no-color"
eval "$("$TFWRAP" hold)"
( $CALLS; "$TFWRAP" run -- sh -ec "$CALLS" )
"$TFWRAP" release
test -s ../o/real
test -z "$(find . .. -name '*.lock.info')"
"#;

#[test]
fn a_linked_state_is_used_by_all_below_whoever_has_its_lock() {
    for Form { set_up, calls } in FORMS {
        let top = local_backend_dir();
        let dir = top.path().join("d");
        fs::create_dir(&dir).unwrap();
        fs::create_dir(top.path().join("o")).unwrap();
        fs::rename(top.path().join("main.tf"), dir.join("main.tf")).unwrap();
        let _ends = EndsHolds(dir.join(STATE_DIR));
        let settings = tfwrap(&dir);
        let calls: Vec<_> = calls.iter().map(|call| format!("( {call} )")).collect();
        let script = SCRIPT.replace("$SET_UP", set_up).replace("$CALLS", &calls.join("; "));
        let mut shell = std::process::Command::new("sh");
        shell.args(["-exc", &script]).current_dir(&dir).env_clear();
        shell.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("TFWRAP", wrapper()).env("TFWRAP_LOCK_TIMEOUT", "1s");
        let done = run(&mut shell);
        assert_eq!(done.status.code(), Some(0), "{set_up}: {}{}", done.stdout, done.stderr);
        assert!(!done.stderr.contains("waiting"), "{set_up}: {}", done.stderr);
        // The control: who calls it by its path below the run is shut out.
        assert!(done.stderr.contains("Error acquiring the state lock"), "{}", done.stderr);
    }
}

/// Stock Terraform leaves nothing there either.
#[test]
fn a_link_that_is_turned_meanwhile_leaves_nothing_that_tells_of_the_lock() {
    const TURN: &str =
        "grep -q ID .terraform.tfstate.lock.info; ln -s two next; mv -T next terraform.tfstate";
    const THEIRS: &str = r#"{"ID":"theirs","Operation":"","Info":"","Who":"","Version":"","Created":"2026-01-02T03:04:05Z","Path":""}"#;
    let then = format!("{TURN}; printf %s '{THEIRS}' > .terraform.tfstate.lock.info");
    for (script, left) in [(TURN, None), (&then, Some(THEIRS))] {
        let dir = local_backend_dir();
        std::os::unix::fs::symlink("one", dir.path().join("terraform.tfstate")).unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let done = run(tfwrap(dir.path()).args(["run", "--", "sh", "-ec", script])).expect_code(76);
        assert!(done.stderr.contains("another file took the place"), "{}", done.stderr);
        let info = fs::read_to_string(dir.path().join(".terraform.tfstate.lock.info")).ok();
        assert_eq!(info.as_deref(), left);
    }
}
