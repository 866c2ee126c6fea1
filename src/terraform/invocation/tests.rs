//! Each row was tried with Terraform 1.11.4, or follows from one that was.

use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::*;

fn os(args: &[&str]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

fn parse_in(args: &[&str], env: &[(&str, &str)]) -> Invocation {
    let env: Env = env.iter().copied().collect();
    Invocation::parse(&os(args), &env, Dialect::Terraform).unwrap()
}

fn parse(args: &[&str]) -> Invocation {
    parse_in(args, &[])
}

fn variable(name: &str) -> Said {
    Said::Variable(name.to_owned())
}

#[test]
fn commands_with_a_lock_flag_run_under_the_lock() {
    for args in [
        &["plan"][..],
        &["apply", "-auto-approve"],
        &["apply", "p.bin", "-no-color"],
        &["destroy", "-lock"],
        &["refresh", "-var", "a=b", "-var-file=x"],
        &["import", "-config=x", "a.b", "-id"],
        &["taint", "-allow-missing", "a.b"],
        &["untaint", "a.b"],
        &["state", "mv", "-dry-run", "a", "b"],
        &["state", "rm", "a"],
        &["state", "push", "-force", "-"],
        &["state", "replace-provider", "-auto-approve", "a", "b"],
        &["workspace", "delete", "-force", "w"],
        &["env", "delete", "w"],
        &["-chdir=a", "plan", "-out=x"],
        &["plan", "--", "-help"],
        &["apply", ""],
    ] {
        assert_eq!(parse(args).lock_use(), LockUse::Locks, "{args:?}");
    }
}

#[test]
fn everything_else_is_handed_over() {
    for args in [
        &[][..],
        &["console"],
        &["init"],
        &["workspace", "new", "w"],
        &["workspace"],
        &["output", "-json"],
        &["state", "list"],
        &["never-heard-of"],
        &[""],
        &["plan", "-help"],
        &["plan", "-out", "-h"],
        &["plan", "x", "--help"],
        &["plan", "-v"],
        &["plan", "--", "-version"],
        &["-version", "plan"],
        &["--", "plan"],
        &["-lock=false", "plan"],
        &["--chdir=a", "plan"],
        &["-chdir", "a", "plan"],
        &["-chdir=", "plan"],
        &["-chdir=a", "-chdir=b", "plan"],
        &["plan", "-unknown"],
        &["plan", "-lock=no"],
        &["plan", "-lock-timeout"],
        &["plan", "-lock-timeout=90", "-lock-timeout=1s"],
        &["plan", "-concise"],
        &["plan", "-exclude", "a.b"],
        &["plan", "---lock"],
        &["state", "rm", "-out=x", "a"],
        &["state", "mv", "-state-out=b", "x", "y"],
    ] {
        let invocation = parse(args);
        assert_eq!(invocation.lock_use(), LockUse::HandsOver, "{args:?}");
        assert!(invocation.hand_over_reason().is_some(), "{args:?}");
        assert_eq!(invocation.locked_argv(), os(args), "{args:?}");
        assert_eq!(invocation.argv_with_lock_timeout(Duration::ZERO), os(args), "{args:?}");
    }
}

#[test]
fn chdir_is_the_first_argument_with_one_dash() {
    for (args, dir) in [
        (&["-chdir=a/b", "plan"][..], Some("a/b")),
        (&["-chdir=a=b", "output"], Some("a=b")),
        (&["plan", "-chdir=a"], None),
        (&["--chdir=a", "plan"], None),
    ] {
        assert_eq!(parse(args).chdir(), dir.map(PathBuf::from).as_ref(), "{args:?}");
    }
}

#[test]
fn no_lock_is_said_by_the_user_before_the_variables() {
    let all = "TF_CLI_ARGS";
    let plan = "TF_CLI_ARGS_plan";
    for (args, env, said) in [
        (&["plan"][..], &[][..], None),
        (&["plan", "-lock=false"], &[], Some(Said::Argument)),
        (&["plan", "--lock=0"], &[], Some(Said::Argument)),
        (&["plan", "-lock=false", "-lock"], &[], None),
        (&["plan", "-out", "-lock=false"], &[], None),
        (&["apply", "p.bin", "-lock=false"], &[], None),
        (&["plan", "-lock", "false"], &[], None),
        (&["plan"], &[(all, "-lock=false")], Some(variable(all))),
        (&["plan"], &[(plan, "-lock=false")], Some(variable(plan))),
        (&["plan"], &[(all, "-lock=true"), (plan, "-lock=false")], None),
        (&["plan"], &[(all, "-lock=f"), (plan, "-lock")], Some(variable(all))),
        (&["plan", "-lock=true"], &[(all, "-lock=false")], None),
        (&["plan"], &[("TF_CLI_ARGS_apply", "-lock=false")], None),
        (&["plan"], &[(all, "")], None),
    ] {
        let invocation = parse_in(args, env);
        assert_eq!(invocation.lock_use(), LockUse::Locks, "{args:?} {env:?}");
        assert_eq!(invocation.wants_no_lock().cloned(), said, "{args:?} {env:?}");
    }
}

#[test]
fn variables_that_end_or_break_the_flags_hand_the_call_over() {
    for value in ["p.bin", "--", "-var", "-help", "-version", "-unknown", "a|b", "-lock=no"] {
        let invocation = parse_in(&["apply"], &[("TF_CLI_ARGS_apply", value)]);
        assert_eq!(invocation.lock_use(), LockUse::HandsOver, "{value}");
    }
    for variable in ["TF_CLI_ARGS", "TF_CLI_ARGS_state_replace_provider"] {
        let env = Env::from_iter([(variable, "-lock='false")]);
        let args = os(&["state", "replace-provider", "a", "b"]);
        let error = Invocation::parse(&args, &env, Dialect::Terraform).unwrap_err();
        assert!(error.to_string().contains(variable), "{error}");
        assert!(error.hint().contains(variable), "{error}");
        let output = Invocation::parse(&os(&["output"]), &env, Dialect::Terraform);
        assert!(output.is_ok(), "handed over, never judged");
    }
}

#[test]
fn the_lock_timeout_that_counts_is_the_last_one() {
    let all = [("TF_CLI_ARGS", "-lock-timeout=3s")];
    for (args, env, expected) in [
        (&["plan"][..], &[][..], None),
        (&["plan", "-lock-timeout=5s"], &[], Some((5, Said::Argument))),
        (&["plan", "--lock-timeout", "5s"], &[], Some((5, Said::Argument))),
        (&["plan", "-lock-timeout=5s", "-lock-timeout=7s"], &[], Some((7, Said::Argument))),
        (&["plan"], &all, Some((3, variable("TF_CLI_ARGS")))),
        (&["plan", "-lock-timeout=-1s"], &all, Some((0, Said::Argument))),
        (&["plan", "-lock-timeout=-0"], &[], Some((0, Said::Argument))),
        (&["plan", "-lock-timeout=5s"], &all, Some((5, Said::Argument))),
    ] {
        let invocation = parse_in(args, env);
        let timeout = invocation.lock_timeout();
        let timeout = timeout.map(|(time, said)| (time.as_secs(), said.clone()));
        assert_eq!(timeout, expected, "{args:?}");
    }
    for env in [("TF_CLI_ARGS", "-lock-timeout=90"), ("TF_CLI_ARGS_plan", "-lock-timeout=x")] {
        let invocation = parse_in(&["plan", "-lock-timeout=1s"], &[env]);
        assert_eq!(invocation.lock_use(), LockUse::HandsOver, "Terraform refuses it: {env:?}");
    }
}

#[test]
fn the_lock_flag_stands_right_behind_the_command_and_replaces_the_users() {
    for (args, expected) in [
        (&["plan"][..], &["plan", "-lock=false"][..]),
        (&["-chdir=d", "plan", "-out=x"], &["-chdir=d", "plan", "-lock=false", "-out=x"]),
        (&["state", "mv", "a", "b"], &["state", "mv", "-lock=false", "a", "b"]),
        (
            &["apply", "-lock", "-lock-timeout", "5s", "--lock=true", "-auto-approve", "p"],
            &["apply", "-lock=false", "-auto-approve", "p"],
        ),
        (&["apply", "--lock-timeout=5s", "-lock=false"], &["apply", "-lock=false"]),
        (&["plan", "-out", "-lock"], &["plan", "-lock=false", "-out", "-lock"]),
        (&["apply", "--", "-lock"], &["apply", "-lock=false", "--", "-lock"]),
        (
            &["apply", "p", "-lock", "-no-color"],
            &["apply", "-lock=false", "p", "-lock", "-no-color"],
        ),
    ] {
        assert_eq!(parse(args).locked_argv(), os(expected), "{args:?}");
    }
}

#[test]
fn what_is_left_of_the_time_replaces_the_users_timeout_only() {
    let invocation = parse(&["apply", "-lock", "-lock-timeout", "5s", "-input=false"]);
    assert_eq!(
        invocation.argv_with_lock_timeout(Duration::from_millis(1500)),
        os(&["apply", "-lock-timeout=1500ms", "-lock", "-input=false"])
    );
}

#[test]
fn words_of_variables_never_reach_the_arguments() {
    let invocation = parse_in(&["plan", "-out=x"], &[("TF_CLI_ARGS", "-lock=true -no-color")]);
    assert_eq!(invocation.locked_argv(), os(&["plan", "-lock=false", "-out=x"]));
}

#[test]
fn arguments_that_are_no_text_pass_through() {
    let raw = OsString::from_vec(b"-var=x=\xff".to_vec());
    let args = ["apply".into(), "-lock".into(), raw.clone()];
    let invocation = Invocation::parse(&args, &Env::default(), Dialect::Terraform).unwrap();
    assert_eq!(invocation.locked_argv(), ["apply".into(), "-lock=false".into(), raw]);
    let timeout = OsString::from_vec(b"-lock-timeout=\xff".to_vec());
    let args = ["plan".into(), timeout];
    let invocation = Invocation::parse(&args, &Env::default(), Dialect::Terraform).unwrap();
    assert_eq!(invocation.lock_use(), LockUse::HandsOver);
}

#[test]
fn a_saved_plan_is_the_first_positional_of_apply() {
    for (args, plan) in [
        (&["apply", "p.bin"][..], Some("p.bin")),
        (&["apply", "-auto-approve", "-var", "a=b", "p.bin"], Some("p.bin")),
        (&["apply", "-no-color", "--", "-p"], Some("-p")),
        (&["apply", "--", "-concise"], Some("-concise")),
        (&["apply"], None),
        (&["apply", ""], None),
        (&["destroy", "p.bin"], None),
        (&["plan", "p.bin"], None),
    ] {
        assert_eq!(parse(args).plan_file(), plan.map(PathBuf::from), "{args:?}");
    }
}

#[test]
fn the_state_file_that_is_written_is_the_one_locked() {
    let flag = |path: &str, any_backend| Some(StateFlag { path: path.into(), any_backend });
    for (args, expected) in [
        (&["apply"][..], None),
        (&["apply", "-state=a"], flag("a", false)),
        (&["apply", "-state", "a", "-state-out=b"], flag("b", false)),
        (&["plan", "-state-out=b"], flag("b", false)),
        (&["refresh", "-state=a", "-state="], None),
        (&["apply", "-backup=c"], None),
        (&["state", "rm", "-state=a", "x"], flag("a", true)),
        (&["state", "mv", "-state=a", "-backup-out=o", "x", "y"], flag("a", true)),
        (&["state", "push", "x"], None),
    ] {
        assert_eq!(parse(args).state_flag(), expected, "{args:?}");
    }
    let invocation = parse_in(&["apply", "-state=a"], &[("TF_CLI_ARGS", "-state-out=b")]);
    assert_eq!(invocation.state_flag(), flag("b", false));
}

#[test]
fn workspace_delete_names_its_workspace() {
    for (args, expected) in [
        (&["workspace", "delete", "-force", "w"][..], Some("w")),
        (&["env", "delete", "w"], Some("w")),
        (&["workspace", "delete"], None),
        (&["taint", "w"], None),
    ] {
        assert_eq!(parse(args).workspace_argument(), expected.map(OsStr::new), "{args:?}");
    }
}

#[test]
fn arguments_are_never_printed() {
    let env: Env = [("TF_CLI_ARGS", "-var=b=hunter2")].into_iter().collect();
    for args in [["apply", "-var=a=hunter2"], ["output", "hunter2"]] {
        let invocation = Invocation::parse(&os(&args), &env, Dialect::Terraform).unwrap();
        assert!(!format!("{invocation:?}").contains("hunter2"));
    }
}

proptest! {
    #![proptest_config(crate::seeded::seeded(256))]

    /// Whatever the arguments are: what Terraform will read in the child's is the same as in the
    /// user's, but for the lock.
    #[test]
    fn the_childs_arguments_say_the_same_but_for_the_lock(
        command in prop::sample::select(vec!["plan", "apply", "state mv", "state rm"]),
        own in prop::collection::vec(prop::sample::select(vec![
            "-lock", "-lock=false", "--lock=t", "-lock-timeout=1s", "-lock-timeout", "--lock-timeout",
            "5s", "-state=a", "-state", "-state-out=b", "-out=x", "-out", "-var", "-no-color",
            "-auto-approve", "-dry-run", "--", "-", "p.bin", "", "-backup", "-h", "-v", "-lock=no",
        ]), 0..7),
        variable in prop::sample::select(vec!["", "-lock=false", "-lock -state=e", "-lock-timeout=9s"]),
    ) {
        let args: Vec<OsString> =
            command.split(' ').chain(own.iter().copied()).map(OsString::from).collect();
        let env: Env = [("TF_CLI_ARGS", variable)].into_iter().collect();
        let read = |args: &[OsString]| Invocation::parse(args, &env, Dialect::Terraform).unwrap();
        let before = read(&args);
        let locked = before.locked_argv();
        let waiting = before.argv_with_lock_timeout(Duration::from_secs(7));
        if before.lock_use() == LockUse::HandsOver {
            prop_assert_eq!(&locked, &args);
            prop_assert_eq!(&waiting, &args);
            return Ok(());
        }
        let after = read(&locked);
        prop_assert_eq!(after.wants_no_lock(), Some(&Said::Argument));
        let after_waiting = read(&waiting);
        prop_assert_eq!(after_waiting.wants_no_lock(), before.wants_no_lock());
        prop_assert_eq!(
            after_waiting.lock_timeout(),
            Some((Duration::from_secs(7), &Said::Argument))
        );
        for after in [&after, &after_waiting] {
            prop_assert_eq!(after.lock_use(), LockUse::Locks);
            prop_assert_eq!(after.plan_file(), before.plan_file());
            prop_assert_eq!(after.state_flag(), before.state_flag());
        }
    }
}
