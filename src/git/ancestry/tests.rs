use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::*;

/// Git as a user runs it, with these variables.
fn try_git(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=x", "-c", "user.email=x@x", "-C"]).arg(dir).args(args);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").envs(env.iter().copied()).output().expect("git")
}

fn git(dir: &Path, args: &[&str]) -> String {
    let done = try_git(dir, args, &[]);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

fn commit(dir: &Path, message: &str) -> String {
    git(dir, &["commit", "--quiet", "--allow-empty", "--message", message]);
    git(dir, &["rev-parse", "HEAD"])
}

fn program() -> PathBuf {
    let path = std::process::Command::new("sh").args(["-c", "command -v git"]).output().unwrap();
    PathBuf::from(String::from_utf8(path.stdout).unwrap().trim())
}

async fn is_before(dir: &Path, older: &str, newer: &str) -> Result<bool, String> {
    let (older, newer) = (older.to_owned(), newer.to_owned());
    AncestryQuery { git: program(), dir: dir.to_owned(), older, newer }.answer().await
}

/// A repository with two commits.
fn repository(format: &str) -> (tempfile::TempDir, String, String) {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "--quiet", &format!("--object-format={format}")]);
    let (older, newer) = (commit(dir.path(), "1"), commit(dir.path(), "2"));
    (dir, older, newer)
}

#[tokio::test]
async fn git_says_which_commit_is_older_in_each_kind_of_repository() {
    for format in ["sha1", "sha256"] {
        let (top, older, newer) = repository(format);
        let dir = top.path().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        git(top.path(), &["checkout", "--quiet", "-b", "other", &older]);
        let other = commit(top.path(), "3");
        git(top.path(), &["worktree", "add", "--quiet", "linked", "-b", "y"]);
        for packed in [false, true] {
            if packed {
                git(top.path(), &["gc", "--quiet"]);
            }
            for dir in [&dir, &top.path().join("linked")] {
                assert_eq!(is_before(dir, &older, &newer).await, Ok(true), "{format}");
                assert_eq!(is_before(dir, &newer, &older).await, Ok(false));
                assert_eq!(is_before(dir, &other, &newer).await, Ok(false));
                assert_eq!(is_before(dir, &newer, &newer).await, Ok(false), "not a strict one");
            }
        }
        let unknown = "0".repeat(older.len());
        let said = is_before(&dir, &older, &unknown).await;
        assert_eq!(said, Err("git does not know both commits".to_owned()));
        assert!(is_before(&dir, "--all", &newer).await.is_err());
        // The control: what follows would be seen.
        assert_eq!(git(top.path(), &["merge-base", &older, &newer]), older);
    }
    let nowhere = tempfile::tempdir().unwrap();
    let said = is_before(nowhere.path(), &"1".repeat(40), &"2".repeat(40)).await;
    assert_eq!(said, Err("there is no git repository".to_owned()));
}

#[tokio::test]
async fn where_a_shallow_clone_ends_nothing_is_known() {
    let (top, older, newer) = repository("sha1");
    let newest = commit(top.path(), "3");
    let url = format!("file://{}", top.path().display());
    let into = tempfile::tempdir().unwrap();
    for (depth, knows_older) in [("1", None), ("2", None), ("3", Some(true))] {
        let dir = into.path().join(depth);
        git(into.path(), &["clone", "--quiet", "--depth", depth, &url, depth]);
        assert_eq!(is_before(&dir, &older, &newest).await.ok(), knows_older, "{depth}");
    }
    let two = into.path().join("2");
    assert_eq!(is_before(&two, &newer, &newest).await, Ok(true), "both are there");
    assert_eq!(is_before(&two, &newest, &newer).await, Ok(false), "up to where it ends");
}

/// What a pull request's own `.git` cannot be, an unpacked archive's can.
#[tokio::test]
async fn the_configuration_of_the_repository_starts_nothing() {
    let (top, older, newer) = repository("sha1");
    let dir = top.path();
    let marker = dir.join("started");
    let program = dir.join("evil");
    fs::write(&program, format!("#!/bin/sh\ntouch '{}'\nexit 1\n", marker.display())).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).unwrap();
    let evil = program.to_str().unwrap();
    for (key, value) in [
        ("core.repositoryFormatVersion", "1"),
        ("core.fsmonitor", evil),
        ("core.hooksPath", dir.to_str().unwrap()),
        ("core.pager", evil),
        ("core.sshCommand", evil),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", "ssh://evil.invalid/x"),
        ("protocol.allow", "always"),
    ] {
        git(dir, &["config", key, value]);
    }
    let missing = "1".repeat(40);
    // The control: git itself, asked the same there, starts it.
    try_git(dir, &["merge-base", "--is-ancestor", &older, &missing], &[]);
    assert!(marker.exists(), "the repository is not as bad as it should be");
    fs::remove_file(&marker).unwrap();
    assert!(is_before(dir, &older, &missing).await.is_err());
    assert_eq!(is_before(dir, &older, &newer).await, Ok(true));
    assert!(!marker.exists());
}

#[tokio::test]
async fn replacements_and_another_owner_change_nothing() {
    let (top, older, newer) = repository("sha1");
    let dir = top.path();
    git(dir, &["checkout", "--quiet", "--orphan", "other"]);
    let alien = commit(dir, "alien");
    git(dir, &["replace", &newer, &alien]);
    let plain = ["merge-base", "--is-ancestor", &older, &newer];
    assert!(!try_git(dir, &plain, &[]).status.success(), "the control");
    assert_eq!(is_before(dir, &older, &newer).await, Ok(true));
    git(dir, &["replace", "--delete", &newer]);
    let foreign = [("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")];
    assert!(!try_git(dir, &plain, &foreign).status.success(), "the control");
    if nix::unistd::geteuid().is_root() {
        for path in [dir.to_owned(), dir.join(".git")] {
            std::os::unix::fs::chown(path, Some(54_321), None).unwrap();
        }
        assert!(!try_git(dir, &plain, &[]).status.success(), "the control");
        assert_eq!(is_before(dir, &older, &newer).await, Ok(true));
    }
}

#[tokio::test]
async fn nothing_is_left_of_one_that_is_not_waited_for() {
    let (top, older, newer) = repository("sha1");
    let slow = top.path().join("slow");
    fs::write(
        &slow,
        format!(
            "#!/bin/sh\necho $$ > '{0}/pid.next'; mv '{0}/pid.next' '{0}/pid'\nexec sleep 60\n",
            top.path().display()
        ),
    )
    .unwrap();
    fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let query = AncestryQuery { git: slow, dir: top.path().to_owned(), older, newer };
    let pid = top.path().join("pid");
    let begun = async {
        while !pid.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    {
        let asked = std::pin::pin!(query.answer());
        futures_util::future::select(asked, std::pin::pin!(begun)).await;
    }
    let id: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let gone = async {
        while nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), None).is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone)
        .await
        .expect("killed and reaped");
}
