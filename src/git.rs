//! Which commit is checked out, as git's own files say (gitrepository-layout(5)). No git is run for it: there
//! may be none, and it may refuse a directory of another owner. Which of two commits is older, git itself is
//! asked ([`AncestryQuery`]).

mod ancestry;

pub use ancestry::AncestryQuery;

use std::path::{Path, PathBuf};

use crate::opened::{self, Kind};

/// `HEAD` and a branch are a line; so is the file that a worktree has in place of `.git`.
const MOST_OF_A_LINE: u64 = 4096;

/// A repository with fifty thousand references has some five megabytes.
const MOST_PACKED: u64 = 16 << 20;

/// How often one reference may lead to another, as git has it.
const MOST_LINKS: usize = 5;

/// The commit of the work tree that this directory is in; nothing where that is not known, as with
/// references in another form (`reftable`).
#[must_use]
pub fn head(dir: &Path) -> Option<String> {
    let git = dir.ancestors().find_map(git_dir)?;
    let common = common_dir(&git);
    let mut said = line(&git.join("HEAD"))?;
    for _ in 0..MOST_LINKS {
        let Some(name) = said.strip_prefix("ref: ") else { break };
        if !name.starts_with("refs/") || name.split('/').any(|part| part == "..") {
            return None;
        }
        said = line(&git.join(name))
            .or_else(|| line(&common.join(name)))
            .or_else(|| packed(&common, name))?;
    }
    is_commit(&said).then_some(said)
}

/// Whether this can be the whole name of a commit, in SHA-1 or SHA-256.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn git_dir(dir: &Path) -> Option<PathBuf> {
    let path = dir.join(".git");
    if path.is_dir() {
        // Past one that is none, git goes on upwards.
        return is_repository(&path).then_some(path);
    }
    Some(dir.join(line(&path)?.strip_prefix("gitdir: ")?))
}

fn is_repository(git: &Path) -> bool {
    let is_head = |said: &String| said.starts_with("ref: refs/") || is_commit(said);
    let has = |name| git.join(name).is_dir();
    has("objects") && has("refs") && line(&git.join("HEAD")).as_ref().is_some_and(is_head)
}

/// A worktree of its own shares the branches, and all objects.
fn common_dir(git: &Path) -> PathBuf {
    line(&git.join("commondir")).map_or_else(|| git.to_owned(), |common| git.join(common))
}

fn packed(common: &Path, name: &str) -> Option<String> {
    let text = read(&common.join("packed-refs"), MOST_PACKED)?;
    let found = text.lines().find_map(|line| line.split_once(' ').filter(|(_, it)| *it == name))?;
    Some(found.0.to_owned())
}

fn line(path: &Path) -> Option<String> {
    Some(read(path, MOST_OF_A_LINE)?.trim_end().to_owned())
}

fn read(path: &Path, most: u64) -> Option<String> {
    let file = opened::to_read(path).ok().filter(|file| file.kind() == Kind::Regular)?;
    String::from_utf8(file.read_within(most).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Git itself is the oracle.
    fn git(dir: &Path, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=x", "-c", "user.email=x@x", "-C"]).arg(dir).args(args);
        let done = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn head_is_what_git_says_in_each_kind_of_repository() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("repository");
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        assert_eq!(head(&dir), None);
        git(&dir, &["init", "--quiet"]);
        assert_eq!(head(&dir), None, "no commit yet");
        let is_right = |dir: &Path| assert_eq!(head(dir), Some(git(dir, &["rev-parse", "HEAD"])));
        for step in [
            &["commit", "--quiet", "--allow-empty", "--message=1"][..],
            &["pack-refs", "--all"],
            &["checkout", "--quiet", "-b", "feature/x"],
            &["commit", "--quiet", "--allow-empty", "--message=2"],
            &["symbolic-ref", "refs/heads/other", "refs/heads/feature/x"],
            &["symbolic-ref", "HEAD", "refs/heads/other"],
            &["checkout", "--quiet", "--detach"],
            &["worktree", "add", "--quiet", "../linked", "-b", "y"],
        ] {
            git(&dir, step);
            is_right(&dir);
            is_right(&dir.join("a/b"));
        }
        let linked = top.path().join("linked");
        is_right(&linked);
        git(&linked, &["commit", "--quiet", "--allow-empty", "--message=3"]);
        is_right(&linked);
        git(&linked, &["pack-refs", "--all"]);
        is_right(&linked);
        assert_ne!(head(&dir), head(&linked));
    }

    /// As git itself does, past what only has the name.
    #[test]
    fn an_empty_repository_hides_none_above_it() {
        let top = tempfile::tempdir().unwrap();
        git(top.path(), &["init", "--quiet"]);
        git(top.path(), &["commit", "--quiet", "--allow-empty", "--message=1"]);
        let below = top.path().join("below");
        std::fs::create_dir_all(below.join(".git")).unwrap();
        assert_eq!(head(&below), Some(git(&below, &["rev-parse", "HEAD"])));
        git(&below, &["init", "--quiet"]);
        assert_eq!(head(&below), None, "one without a commit is one");
    }

    #[test]
    fn what_is_no_repository_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let git = dir.path().join(".git");
        for part in ["objects", "refs"] {
            std::fs::create_dir_all(git.join(part)).unwrap();
        }
        let head_of = |text: &str| {
            std::fs::write(git.join("HEAD"), text).unwrap();
            head(dir.path())
        };
        std::fs::write(dir.path().join("secret"), "0".repeat(40)).unwrap();
        let commit = "a1".repeat(20);
        assert_eq!(head_of(&format!("{commit}\n")), Some(commit));
        for odd in ["", "main", "ref: refs/../../secret", "ref: /etc/passwd", "ref: HEAD", "A1"] {
            assert_eq!(head_of(odd), None, "{odd}");
        }
        std::fs::write(git.join("refs/loop"), "ref: refs/loop").unwrap();
        assert_eq!(head_of("ref: refs/loop"), None);
        std::fs::remove_file(git.join("HEAD")).unwrap();
        nix::unistd::mkfifo(&git.join("HEAD"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(head(dir.path()), None, "a pipe");
    }
}
