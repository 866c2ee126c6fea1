//! Which program is run, and which of the two it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::harness::{program, run, tfwrap};

fn script(path: &Path, text: &str) {
    program(path, &format!("#!/bin/sh\n{text}\n"));
}

/// `PATH` with another entry first.
fn path_behind(entry: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "Terraform and the shell must be found")]
    let path = std::env::var("PATH").unwrap();
    format!("{entry}:{path}")
}

#[test]
fn another_terraform_than_the_shells_is_never_run_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    script(&dir.path().join("bin/terraform"), "touch ran");
    let ran = dir.path().join("ran");
    for (entry, named) in [("./bin", "./bin/terraform"), ("bin", "bin/terraform")] {
        let path = path_behind(entry);
        let done = run(tfwrap(dir.path()).env("PATH", &path).arg("plan")).expect_code(78);
        for words in [&format!("`{named}`"), "--terraform", "TFWRAP_TERRAFORM"] {
            assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
        }
        let mut below = tfwrap(dir.path());
        let done = run(below.env("PATH", &path).args(["run", "--", "terraform", "version"]));
        assert!(done.expect_code(78).stderr.contains(&format!("`{named}`")));
        assert!(!ran.exists());
        // The way out that it names.
        let done = run(tfwrap(dir.path()).env("PATH", &path).args(["--terraform", named, "plan"]));
        done.expect_code(0);
        fs::remove_file(&ran).unwrap();
    }
    // An empty entry is the working directory.
    script(&dir.path().join("terraform"), "touch ran");
    let path = path_behind("");
    let done = run(tfwrap(dir.path()).env("PATH", &path).arg("plan")).expect_code(78);
    assert!(done.stderr.contains("`./terraform`"), "{}", done.stderr);
    // Alone, it says why it was not found.
    let done = run(tfwrap(dir.path()).env("PATH", "./bin").arg("plan")).expect_code(127);
    for words in ["`./bin/terraform`", "relative", "--terraform ./bin/terraform"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    assert!(!ran.exists());
}

#[test]
fn whose_files_count_is_told_by_the_link_or_by_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let tools = dir.path().join("tools");
    let says = |name: &str| format!("test $1 = version && touch asked && echo '{name} v1.9.0'");
    script(&tools.join("tofu1.9.0"), &says("OpenTofu"));
    script(&tools.join("tf"), &says("OpenTofu"));
    script(&tools.join("other"), &says("Terraform"));
    script(&tools.join("dumb"), "exit 1");
    fs::create_dir(tools.join("linked")).unwrap();
    symlink(tools.join("tofu1.9.0"), tools.join("linked/terraform")).unwrap();
    fs::write(
        dir.path().join("versions.tofu"),
        "terraform {\n  backend \"local\" {\n    path = \"of-tofu.tfstate\"\n  }\n}\n",
    )
    .unwrap();
    let locked = |program: &str| {
        let mut command = tfwrap(dir.path());
        command.env("TFWRAP_TERRAFORM", tools.join(program));
        let done = run(command.args(["run", "--", "find", ".", "-name", "*.lock.info"]));
        done.expect_code(0).stdout.trim().to_owned()
    };
    let (of_tofu, of_terraform) =
        ("./.of-tofu.tfstate.lock.info", "./.terraform.tfstate.lock.info");
    let asked = dir.path().join("asked");
    for (program, lock, is_asked) in [
        ("linked/terraform", of_tofu, false),
        ("tofu1.9.0", of_tofu, false),
        ("tf", of_tofu, true),
        ("other", of_terraform, true),
        ("dumb", of_terraform, false),
    ] {
        assert_eq!(locked(program), lock, "{program}");
        assert_eq!(asked.exists(), is_asked, "{program}");
        let _ = fs::remove_file(&asked);
    }
    // Nobody is asked where nothing depends on it.
    fs::remove_file(dir.path().join("versions.tofu")).unwrap();
    assert_eq!(locked("tf"), of_terraform);
    assert!(!asked.exists());
    // Whoever names an OpenTofu means that by both names; there is no other on PATH.
    for (program, found) in [("tofu1.9.0", "terraform tofu"), ("other", "terraform")] {
        let mut command = tfwrap(dir.path());
        command.env("TFWRAP_TERRAFORM", tools.join(program));
        let there = "for it in terraform tofu; do ! command -v $it >&2 || echo $it; done | xargs";
        let done = run(command.args(["run", "--", "sh", "-c", there])).expect_code(0);
        assert_eq!(done.stdout.trim(), found, "{program}");
    }
}
