//! The paths that Terraform makes for itself: stock and tfwrap in twin directories come to the same
//! end, lock the same file, and leave the same files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::aftermath::{EndsHolds, STATE_DIR};
use crate::support::harness::{Finished, eventually, run, tfwrap};
use crate::support::servers::terraform;

/// Notes whose locks are held while it is applied.
const MAIN: &str = r#"
resource "terraform_data" "x" {
  triggers_replace = timestamp()
  provisioner "local-exec" {
    command = "find -L . -name '*.lock.info' | sort > locks"
  }
}
"#;

/// A case: what makes the directory, the environment, the arguments.
struct Case<'a> {
    make: &'a str,
    env: &'a [(&'a str, &'a str)],
    args: &'a [&'a str],
}

const APPLY: &[&str] = &["apply", "-auto-approve", "-no-color"];

fn case<'a>(make: &'a str, env: &'a [(&'a str, &'a str)], args: &'a [&'a str]) -> Case<'a> {
    Case { make, env, args }
}

impl Case<'_> {
    fn directory(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("main.tf"), MAIN).unwrap();
        run(Command::new("sh").args(["-ec", self.make]).current_dir(dir.path())).expect_code(0);
        dir
    }

    fn run(&self, command: &mut Command) -> Finished {
        run(command.envs(self.env.iter().copied()).args(self.args))
    }

    /// Runs both, and gives what stock came to.
    fn same(&self) -> Finished {
        let (theirs, ours) = (self.directory(), self.directory());
        let stock = self.run(&mut terraform(theirs.path()));
        let wrapped = self.run(&mut tfwrap(ours.path()));
        let told = format!("{:?} {:?} {:?}", self.make, self.env, self.args);
        let both = format!("{told}\n{}{}", wrapped.stdout, wrapped.stderr);
        assert_eq!(wrapped.status.code(), stock.status.code(), "{both}");
        assert_eq!(tree(ours.path()), tree(theirs.path()), "{both}");
        stock
    }
}

/// The files with what is in them, but for what no two states share.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let list = run(Command::new("find").args([".", "-mindepth", "1"]).current_dir(dir)).stdout;
    let mut tree = BTreeMap::new();
    for name in list.lines().filter(|name| !name.starts_with("./.tfwrap-state")) {
        let text = match fs::read_to_string(dir.join(name)) {
            Ok(text) if text.contains("\"lineage\"") => "a state".to_owned(),
            Ok(text) => text,
            Err(error) => error.kind().to_string(),
        };
        tree.insert(name.to_owned(), text);
    }
    tree
}

#[test]
fn what_terraform_joins_is_joined_as_text() {
    let links = "mkdir -p far/below; ln -s far/below lnk; mkdir -p dd far/dd; ";
    let dev = "mkdir -p .terraform terraform.tfstate.d/dev; printf dev > .terraform/environment; ";
    let through_link =
        format!("{links} printf here > dd/environment; printf there > far/dd/environment");
    let in_both = format!("{dev} {links}");
    let backend = |attributes: &str| {
        format!(
            "{links} mkdir -p .terraform wsd/dev far/wsd/dev; cat > backend.tf <<'X'\n\
             terraform {{\n  backend \"local\" {{\n    {attributes}\n  }}\n}}\nX\n\
             CHECKPOINT_DISABLE=1 terraform init > /dev/null"
        )
    };
    let workspace_dir = backend("workspace_dir = \"lnk/../wsd\"");
    let path = backend("path = \"lnk/../x.tfstate\"");
    let missing = backend("path = \"no-such/../x.tfstate\"");
    let in_link =
        format!("{links} mkdir -p far/terraform.tfstate.d; ln -s far/terraform.tfstate.d");
    let absolute = "mkdir -p .terraform; printf /abs > .terraform/environment";
    let below = "mkdir -p sub terraform.tfstate.d/dev/below; cp main.tf sub";
    let chdir_link = format!("{links} cp main.tf far");
    for case in [
        case(dev, &[("TF_DATA_DIR", "no-such/../.terraform")], APPLY),
        case(&in_both, &[("TF_DATA_DIR", "lnk/../.terraform")], APPLY),
        case(&through_link, &[("TF_DATA_DIR", "lnk/../dd")], APPLY),
        case(&workspace_dir, &[("TF_WORKSPACE", "dev")], APPLY),
        case(&path, &[], APPLY),
        case(&missing, &[], APPLY),
        case(&in_link, &[("TF_WORKSPACE", "..")], APPLY),
        case(absolute, &[], APPLY),
        case(below, &[("TF_WORKSPACE", ".")], APPLY),
        case(&chdir_link, &[], &["-chdir=lnk/..", "apply", "-auto-approve"]),
        case(below, &[("TF_DATA_DIR", "../dd")], &["-chdir=sub", "apply", "-auto-approve"]),
        case(links, &[], &["apply", "-auto-approve", "-state=lnk/../y.tfstate"]),
    ] {
        case.same();
    }
    // The control: these differ in what is applied, so a wrong file would be seen.
    let stock = case(&through_link, &[("TF_DATA_DIR", "lnk/../dd")], APPLY);
    let dir = stock.directory();
    stock.run(&mut terraform(dir.path())).expect_code(0);
    assert!(dir.path().join("terraform.tfstate.d/here/terraform.tfstate").exists());
}

#[test]
fn the_lock_makes_nothing_that_terraform_would_not_make() {
    let dev = &[("TF_WORKSPACE", "dev")][..];
    let long = |length: usize| format!("-state={}", "x".repeat(length));
    let (short_enough, longest, too_long) = (long(240), long(244), long(245));
    let state =
        "CHECKPOINT_DISABLE=1 terraform apply -auto-approve > /dev/null; rm -f locks *.backup";
    for (case, code) in [
        (case("", &[], &["-chdir=nope", "state", "rm", "-state=../terraform.tfstate", "x.x"]), 1),
        (
            case(
                state,
                &[],
                &["-chdir=nope", "state", "rm", "-state=../terraform.tfstate", "terraform_data.x"],
            ),
            1,
        ),
        (case("", &[], &["apply", "-auto-approve", "-state=no-such/../x"]), 1),
        (case("", &[], &["apply", "-auto-approve", "-state=new/dir/x"]), 0),
        (case("", &[], &["workspace", "delete", "typo"]), 1),
        (case("", &[], &["workspace", "delete", "-input=false", "typo"]), 1),
        (case("", dev, APPLY), 0),
        (case("", dev, &["plan", "extra"]), 1),
        (case("", dev, &["plan", "-var-file=nope"]), 1),
        (case("rm main.tf", dev, &["plan"]), 1),
        (case("", dev, &["state", "mv", "terraform_data.x"]), 1),
        (case("", dev, &["state", "rm", "terraform_data.x"]), 1),
        (case("", dev, &["taint"]), 1),
        (case("", dev, &["import", "terraform_data.q", "x"]), 1),
        (case("", &[], &["plan", "extra"]), 1),
        (case("", &[], &["plan", "-lock-timeout=-1s"]), 0),
        (case("", &[], &["plan", "-lock-timeout", "-0"]), 0),
        (case("", &[], &["plan", "-lock-timeout=90", "-lock-timeout=1s"]), 1),
        (case("", &[("TF_CLI_ARGS_plan", "-lock-timeout=90")], &["plan", "-lock-timeout=1s"]), 1),
        (case("", &[("TF_DATA_DIR", ".")], APPLY), 0),
        (
            case(
                "mkdir .terraform",
                &[],
                &["apply", "-auto-approve", "-state=.terraform/terraform.tfstate"],
            ),
            0,
        ),
        (
            case(
                "mkdir .terraform",
                &[],
                &["apply", "-auto-approve", "-state=.terraform/environment"],
            ),
            0,
        ),
        (case("", &[], &["apply", "-auto-approve", &short_enough]), 0),
        (case("", &[], &["apply", "-auto-approve", "-backup=-", &longest]), 0),
        (case("touch terraform.tfstate.d", dev, APPLY), 1),
    ] {
        let told = format!("{:?} {:?}", case.env, case.args);
        assert_eq!(case.same().status.code(), Some(code), "stock has another end: {told}");
    }
    // Longer than Terraform can lock: no state file is left by either.
    let args = ["apply", "-auto-approve", &too_long];
    let case = case("", &[], &args);
    let dir = case.directory();
    assert_ne!(case.run(&mut tfwrap(dir.path())).status.code(), Some(0));
    assert_eq!(tree(dir.path()).into_keys().collect::<Vec<_>>(), ["./main.tf"]);
}

/// A `run` has to hold the lock over all that comes, so it makes the directory; what stays empty
/// goes with the lock, also where tfwrap is killed.
#[test]
fn a_run_takes_away_what_its_lock_made() {
    let below = |command: &str| {
        let dir = case("", &[], &[]).directory();
        let mut run_it = tfwrap(dir.path());
        run_it.env("TF_WORKSPACE", "dev").args(["run", "--", "sh", "-c", command]);
        let done = run(&mut run_it);
        (dir, done)
    };
    let all = |dir: &TempDir| tree(dir.path()).into_keys().collect::<Vec<_>>();
    let (dir, done) = below("ls -A terraform.tfstate.d/dev");
    assert!(done.expect_code(0).stdout.contains(".terraform.tfstate.lock.info"));
    assert_eq!(all(&dir), ["./main.tf"]);
    // The control: what is not empty stays.
    let (dir, done) = below("touch terraform.tfstate.d/kept");
    done.expect_code(0);
    assert_eq!(all(&dir), ["./main.tf", "./terraform.tfstate.d", "./terraform.tfstate.d/kept"]);
    let (dir, _) = below("kill -9 $PPID");
    eventually("the guardian has given the lock back", || all(&dir) == ["./main.tf"]);
}

/// What is inside would be split off, and be stock Terraform or whatever a checkout has there.
#[test]
fn a_state_directory_that_path_cannot_name_is_refused_before_anything_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("main.tf"), MAIN).unwrap();
    let not_utf8 = OsStr::from_bytes(b"r\xff");
    let with = |name: &OsStr, words: &[&str]| {
        let mut command = tfwrap(dir.path());
        command.env_remove("TFWRAP_STATE_DIR").env("RUNNER_TEMP", dir.path().join(name));
        run(command.args(words))
    };
    for words in [&["hold"][..], &["run", "--", "true"]] {
        let said = with(OsStr::new("r:t"), words).expect_code(78).stderr;
        assert!(said.contains("r:t/tfwrap` (from `RUNNER_TEMP`) contains a `:`"), "{said}");
        assert!(said.contains("PATH from there") && said.contains("`TFWRAP_STATE_DIR`"), "{said}");
    }
    let said = with(not_utf8, &["hold"]).expect_code(78).stderr;
    assert!(said.contains("(from `RUNNER_TEMP`) is not UTF-8"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // The control: nobody's `PATH` names it, or nobody reads it as text.
    with(OsStr::new("r:t"), APPLY).expect_code(0);
    with(not_utf8, &["run", "--", "sh", "-c", "terraform plan"]).expect_code(0);
}

/// Terraform refuses that before it locks, so nobody is waited for.
#[test]
fn a_selected_workspace_is_refused_at_once_whoever_has_its_lock() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("main.tf"), MAIN).unwrap();
    for select in [&["init"][..], &["workspace", "new", "here"], &["workspace", "new", "there"]] {
        run(terraform(dir.path()).args(select)).expect_code(0);
    }
    let _ends = EndsHolds(dir.path().join(STATE_DIR));
    run(tfwrap(dir.path()).arg("hold").env("TF_WORKSPACE", "there")).expect_code(0);
    run(tfwrap(dir.path()).arg("hold").env("TF_WORKSPACE", "here")).expect_code(0);
    let delete = |name| {
        let mut command = tfwrap(dir.path());
        run(command.args(["--lock-timeout", "1s", "workspace", "delete", "-no-color", name]))
    };
    let refused = delete("there").expect_code(1);
    assert!(refused.stderr.contains("is your active workspace"), "{}", refused.stderr);
    // The control: this one would be deleted.
    delete("here").expect_code(75);
}
