//! Which locks there are: the backend's, as a run would find it, and those of `--lock`.

use std::ffi::OsString;
use std::path::Path;

use super::backend_lock::{BackendLock, lock_of};
use super::{ChildCommand, Place, find_terraform};
use crate::backend::{self, Backend, BackendError, BackendQuery, Dialect, Resolved};
use crate::error::Error;
use crate::program::dialect;
use crate::settings::{LockUrl, Settings};
use crate::target::LockTarget;

/// The locks of a directory, for the commands that look at them.
#[derive(Debug)]
pub struct FoundLocks {
    /// In the order in which a run takes them.
    pub targets: Vec<LockTarget>,
    /// Things to say first.
    pub notes: Vec<String>,
    /// Things to say with `-v`.
    pub details: Vec<String>,
}

impl FoundLocks {
    /// None, for the commands that go by receipts.
    #[must_use]
    pub fn none() -> Self {
        Self { targets: Vec::new(), notes: Vec::new(), details: Vec::new() }
    }
}

/// The same where nothing depends on it, and nothing need be said: for `release`, which looks at
/// what no receipt tells of.
pub(super) fn if_any(settings: &Settings, place: &Place<'_>) -> FoundLocks {
    let targets = find(settings, place).map(|found| found.targets);
    FoundLocks { targets: targets.unwrap_or_default(), ..FoundLocks::none() }
}

/// What to ask of the directory where nobody has said which command of Terraform it is for.
pub(super) fn query<'a>(place: &'a Place<'_>, terraform: Option<&'a Path>) -> BackendQuery<'a> {
    BackendQuery {
        dialect: dialect_in(&place.dir, terraform),
        program: terraform,
        allow_hcl_fallback: true,
        ..BackendQuery::new(&place.dir, place.env)
    }
}

/// Finds what `run` would take.
pub(super) fn find(settings: &Settings, place: &Place<'_>) -> Result<FoundLocks, Error> {
    let settings = settings.whole()?;
    let terraform = find_terraform(settings, place).ok();
    let request = query(place, terraform.as_deref());
    let targets = further_locks(settings, place)?;
    let resolved = resolve(&request, &targets, settings)?;
    let targets = or_those_around(targets, resolved.as_ref(), place)?;
    let lock = lock_of(resolved.as_ref(), settings, &targets, place)?;
    let mut found = FoundLocks { targets, notes: Vec::new(), details: Vec::new() };
    match lock {
        BackendLock::Take(targets) => found.targets.extend(targets),
        BackendLock::Native => {}
        BackendLock::None { why } => found.notes.push(why),
    }
    if let Some(resolved) = resolved {
        found.details.push(resolved.in_words());
        found.notes.extend(resolved.notes);
    }
    in_order(&mut found.targets)?;
    Ok(found)
}

/// Whose configuration files count in `dir`.
pub(super) fn dialect_in(dir: &Path, terraform: Option<&Path>) -> Dialect {
    terraform.map_or_else(Dialect::default, |it| dialect(it, || backend::has_tofu_files(dir)))
}

pub(super) fn further_locks(
    settings: &Settings,
    place: &Place<'_>,
) -> Result<Vec<LockTarget>, Error> {
    settings
        .locks
        .iter()
        .map(|lock| {
            LockTarget::of_url(&lock.value, place.env, &place.dir).map_err(|what| Error::Config {
                message: format!("{}: {what}", lock.origin),
                hint: None,
            })
        })
        .collect()
}

/// The locks that were named to the `run` or `hold` around us.
pub(super) const NAMED_LOCKS: &str = "TFWRAP_NAMED_LOCKS";

/// What a Terraform starts has none of our locks, by whatever name.
pub(super) fn name_none(child: &mut ChildCommand, place: &Place<'_>) {
    if place.env.get(NAMED_LOCKS).is_some() {
        child.env.push((NAMED_LOCKS.into(), OsString::new()));
    }
}

/// Of a state whose lock only Terraform can take, the locks that were named to the `run` or `hold`
/// around us are its locks, too: for us, which have no others.
pub(super) fn or_those_around(
    further: Vec<LockTarget>,
    resolved: Option<&Resolved>,
    place: &Place<'_>,
) -> Result<Vec<LockTarget>, Error> {
    let is_other = resolved.is_some_and(|it| matches!(it.backend, Backend::Other(_)));
    if !further.is_empty() || !is_other {
        return Ok(further);
    }
    let named = place.env.get(NAMED_LOCKS).unwrap_or_default().split_ascii_whitespace();
    named
        .map(|text| LockTarget::of_url(&LockUrl::parse(text)?, place.env, &place.dir))
        .collect::<Result<_, _>>()
        .map_err(|what| Error::Config {
            message: format!("`{NAMED_LOCKS}`: {what}"),
            hint: Some(format!("unset `{NAMED_LOCKS}`, and name the lock by `--lock`")),
        })
}

/// What Terraform will use. With `--no-backend-lock` and locks of our own nothing needs to be
/// known about the backend.
pub(super) fn resolve(
    request: &BackendQuery<'_>,
    further: &[LockTarget],
    settings: &Settings,
) -> Result<Option<Resolved>, Error> {
    if settings.no_backend_lock.value && !further.is_empty() {
        return Ok(None);
    }
    backend::resolve(request).map(Some).map_err(of_backend)
}

/// What is wrong with Terraform's own files.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn of_backend(error: BackendError) -> Error {
    Error::Config { message: error.to_string(), hint: Some(error.hint()) }
}

/// How much the guardian and the receipt may have to say of the locks, in bytes of JSON: half of what
/// is read again ([`crate::guardian`]), and several times that goes through its socket.
const MOST_SAID: usize = 64 * 1024;

/// What is said of each lock besides its name and the way to it.
const SAID_OF_EACH: usize = 256;

/// Refuses what could be held, but not be given back by anybody else.
fn expect_tellable(targets: &[LockTarget]) -> Result<(), Error> {
    let said = serde_json::to_vec(targets).map_or(usize::MAX, |text| text.len());
    let said = said.saturating_add(targets.len() * SAID_OF_EACH);
    if said <= MOST_SAID {
        return Ok(());
    }
    Err(Error::Config {
        message: format!(
            "{} locks take {said} bytes to describe, and the process that releases them after a \
             kill can keep at most {MOST_SAID}",
            targets.len()
        ),
        hint: Some("name fewer locks, or shorter ones".to_owned()),
    })
}

/// Puts the locks into the order in which they are taken.
pub(super) fn in_order(targets: &mut [LockTarget]) -> Result<(), Error> {
    expect_tellable(targets)?;
    targets.sort_by_cached_key(|target| {
        let register = target.register();
        let (rank, place, way) = register.order();
        (rank, place.to_owned(), way.map(|part| part.map(ToOwned::to_owned)))
    });
    match targets.array_windows().find(|[one, next]| one.register() == next.register()) {
        None => {
            join_halves(targets);
            Ok(())
        }
        Some([first, second]) => {
            let other = (first.url() != second.url())
                .then(|| format!("`{}` is another name of it; ", first.url()));
            Err(Error::Usage {
                message: format!("the lock `{}` is given twice", second.url()),
                hint: Some(format!(
                    "{}leave one of them out of `--lock`, `TFWRAP_LOCK` or `lock` in `.tfwrap.yaml`; the \
                     backend's own lock is taken without being named",
                    other.unwrap_or_default()
                )),
            })
        }
    }
}

/// What a backend has of two locks at once is one lock, and has the place of the second.
fn join_halves(targets: &mut [LockTarget]) {
    let of_backend = |targets: &[LockTarget]| targets.iter().position(|it| it.of_backend);
    let Some(first) = of_backend(targets) else { return };
    if let Some(second) = of_backend(&targets[first + 1..]) {
        targets[first..=first + second].rotate_left(1);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::env::Env;

    /// All runs take what they share in one order, by whatever names and in whatever order they were
    /// told of it: so no two wait for each other.
    #[test]
    fn no_two_runs_wait_for_each_other() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("z-real")).unwrap();
        symlink("z-real", top.path().join("a-link")).unwrap();
        let (env, at) = (Env::default(), |name: &str| top.path().join(name).display().to_string());
        let parsed = |text: String| {
            let url = crate::settings::LockUrl::parse(&text).unwrap();
            LockTarget::of_url(&url, &env, top.path()).unwrap()
        };
        let state = |name: &str| LockTarget::of_state_file(&top.path().join(name));
        let table = |rest: &str| parsed(format!("dynamodb://{rest}"));
        // Each lock by two names, in the order in which they are to be taken.
        let locks = [
            [table("t/a?region=eu-west-1"), table("t/a?region=eu-west-1&profile=p")],
            [table("t/b?region=eu-west-1"), table("t/b?region=us-east-1")],
            [parsed(format!("file://{}", at("m"))), parsed(format!("file://{}", at("./m")))],
            [
                parsed(format!("file://{}", at("z-real/f"))),
                parsed(format!("file://{}", at("a-link/f"))),
            ],
            [state("z-real/s"), state("a-link/s")],
        ];
        let which = |target: &LockTarget| locks.iter().position(|it| it.contains(target)).unwrap();
        for names in 0..1_usize << locks.len() {
            for first in 0..locks.len() {
                for backwards in [false, true] {
                    let mut told: Vec<_> =
                        (0..locks.len()).map(|n| locks[n][(names >> n) & 1].clone()).collect();
                    told.rotate_left(first);
                    if backwards {
                        told.reverse();
                    }
                    in_order(&mut told).unwrap();
                    let taken: Vec<_> = told.iter().map(which).collect();
                    assert!(taken.is_sorted(), "{names:b}: {taken:?}");
                }
            }
        }
    }

    /// Nothing comes between the two, so that they are asked for together.
    #[test]
    fn the_two_locks_of_a_backend_are_one_at_the_place_of_its_item() {
        let parsed = |text: &str, of_backend| {
            let text = format!("{text}?region=eu-west-1");
            let url = crate::settings::LockUrl::parse(&text).unwrap();
            let target = LockTarget::of_url(&url, &Env::default(), Path::new("/")).unwrap();
            LockTarget { of_backend, ..target }
        };
        let item = parsed("dynamodb://t/b/k", true);
        let mut targets = [
            parsed("dynamodb://t/z", false),
            item.clone(),
            parsed("s3://b/z.tflock", false),
            parsed("s3://b/k.tflock", true),
            parsed("dynamodb://t/a", false),
        ];
        in_order(&mut targets).unwrap();
        let urls: Vec<_> = targets.iter().map(LockTarget::url).collect();
        let (pair, around) =
            (["s3://b/k.tflock", "dynamodb://t/b/k"], ["s3://b/z.tflock", "dynamodb://t/a"]);
        assert_eq!(urls, [&around[..], &pair[..], &["dynamodb://t/z"][..]].concat());
        let sizes: Vec<_> = LockTarget::locks(&targets).map(<[_]>::len).collect();
        assert_eq!(sizes, [1, 1, 2, 1]);
        // Half of it is a lock like others.
        let mut targets = [item, parsed("s3://b/z.tflock", false)];
        in_order(&mut targets).unwrap();
        assert_eq!(LockTarget::locks(&targets).count(), 2);
    }
}
