//! A lock that can be taken: a store and a key in it, with the names that people and processes
//! know it by.

mod by_record;
mod identity;
pub(crate) mod lock_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::{AwsSettings, BackendError, ObjectSettings, S3Backend, aws_from_env};
use crate::env::Env;
use crate::file_id::FileId;
use crate::lock::{LockId, LockKey};
use crate::path_watch::MOST_LINKS;
use crate::report::shell_command;
use crate::settings::{LockPlace, LockUrl};
use crate::store::{
    AwsClients, Conditions, DynamoTable, FileStore, LocalState, LockObjects, Registers, StoreError,
    Timeouts,
};

/// A store and a key in it; says nothing of who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTarget {
    /// Where the register is.
    pub store: StoreSpec,
    /// Its key there.
    pub key: LockKey,
    /// Whether it is the lock of the backend, so that Terraform itself can break it.
    pub of_backend: bool,
}

/// Which store, not yet opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreSpec {
    /// A DynamoDB table.
    DynamoDb {
        /// Its name.
        table: String,
        /// How to get there.
        aws: Box<AwsSettings>,
    },
    /// Lock files in a bucket; the key of a lock is that of its state.
    S3 {
        /// Its name.
        bucket: String,
        /// How they are written.
        objects: ObjectSettings,
        /// Which conditions it is known to look at.
        #[serde(default)]
        conditions: Conditions,
        /// How to get there.
        aws: Box<AwsSettings>,
    },
    /// A directory of registers.
    File {
        /// Which.
        #[serde(with = "crate::path_text")]
        dir: PathBuf,
    },
    /// The state file of the local backend.
    LocalState {
        /// Which.
        #[serde(with = "crate::path_text")]
        path: PathBuf,
    },
}

/// What a lock is known by, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    rank: u8,
    place: String,
    aws: Option<Box<AwsSettings>>,
}

impl Register {
    /// The one global order in which several locks are taken, so that no two runs wait for each
    /// other: S3, then DynamoDB, then file, then local state, each by name
    /// (`docs/protocol.md#a6-several-locks`).
    #[must_use]
    pub fn order(&self) -> (u8, &str, [Option<&str>; 3]) {
        let aws = self.aws.as_deref();
        let way = [
            aws.and_then(|aws| aws.region.as_deref()),
            aws.and_then(|aws| match self.rank {
                RANK_OF_S3 => aws.endpoints.s3.as_deref(),
                _ => aws.endpoints.dynamodb.as_deref(),
            }),
            aws.and_then(|aws| aws.profile.as_deref()),
        ];
        (self.rank, &self.place, way)
    }

    /// Whether both may be one, reached with other settings: only a look in the register tells.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        (self.rank, &self.place) == (other.rank, &other.place)
    }
}

/// S3 comes first.
const RANK_OF_S3: u8 = 0;

/// A path with all links followed, or where it would be if it were made.
#[must_use]
pub fn real_path(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        if let Ok(real) = std::fs::canonicalize(&path) {
            return real;
        }
        // A link that leads to what is not there yet.
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real_path(parent).join(name),
        _ => path,
    }
}

impl LockTarget {
    /// The DynamoDB lock of an S3 backend.
    #[must_use]
    pub fn of_table(backend: &S3Backend, table: &str) -> Self {
        let store =
            StoreSpec::DynamoDb { table: table.to_owned(), aws: Box::new(backend.aws.clone()) };
        Self { store, key: backend.lock_key(), of_backend: true }
    }

    /// The lock of a local state.
    #[must_use]
    pub fn of_state_file(path: &Path) -> Self {
        Self {
            key: LockKey(path.display().to_string()),
            store: StoreSpec::LocalState { path: path.to_owned() },
            of_backend: true,
        }
    }

    /// A lock of `--lock`. What the URL does not say comes from the environment, as for the AWS
    /// command line.
    ///
    /// # Errors
    /// In words: no region.
    pub fn of_url(url: &LockUrl, env: &Env, dir: &Path) -> Result<Self, String> {
        let place = &url.place;
        let aws = || {
            let mut aws =
                aws_from_env(env, dir, url.region.as_deref()).map_err(|error| match error {
                    BackendError::MissingRegion { .. } => format!(
                        "`{place}` has no region: add `?region=REGION`, or set `AWS_REGION`"
                    ),
                    error => format!("`{place}`: {error}"),
                })?;
            let endpoint = match place {
                LockPlace::S3 { .. } => &mut aws.endpoints.s3,
                LockPlace::DynamoDb { .. } | LockPlace::File(_) => &mut aws.endpoints.dynamodb,
            };
            if url.endpoint.is_some() {
                endpoint.clone_from(&url.endpoint);
            }
            aws.profile.clone_from(&url.profile);
            Ok::<_, String>(aws)
        };
        let (store, key) = match place {
            LockPlace::DynamoDb { table, lock_id } => {
                let store = StoreSpec::DynamoDb { table: table.clone(), aws: Box::new(aws()?) };
                (store, LockKey(lock_id.clone()))
            }
            LockPlace::S3 { bucket, state_key } => {
                return Ok(Self::of_object(bucket, state_key, aws()?));
            }
            LockPlace::File(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
                (StoreSpec::File { dir }, LockKey(name))
            }
        };
        Ok(Self { store, key, of_backend: false })
    }

    /// The lock that has this name ([`Self::url`]), where the environment tells the rest.
    #[must_use]
    pub fn of_name(name: &str, env: &Env, dir: &Path) -> Option<Self> {
        if let Some(path) = name.strip_prefix("local://") {
            return Some(Self::of_state_file(Path::new(path)));
        }
        Self::of_url(&LockUrl::parse(name).ok()?, env, dir).ok()
    }

    /// The name of the lock for messages and for [`crate::held::Held`]: what `--lock` takes.
    #[must_use]
    pub fn url(&self) -> String {
        let place = match &self.store {
            StoreSpec::DynamoDb { table, .. } => {
                LockPlace::DynamoDb { table: table.clone(), lock_id: self.key.0.clone() }
            }
            StoreSpec::S3 { bucket, .. } => {
                LockPlace::S3 { bucket: bucket.clone(), state_key: self.key.0.clone() }
            }
            StoreSpec::File { dir } => LockPlace::File(dir.join(&self.key.0)),
            // No `--lock`: it is the lock of a backend only.
            StoreSpec::LocalState { path } => return format!("local://{}", path.display()),
        };
        place.to_string()
    }

    /// The name of the table or bucket that it is in, with others.
    #[must_use]
    pub fn store_url(&self) -> String {
        match &self.store {
            StoreSpec::DynamoDb { table, .. } => format!("dynamodb://{table}"),
            StoreSpec::S3 { bucket, .. } => format!("s3://{bucket}"),
            StoreSpec::File { .. } | StoreSpec::LocalState { .. } => self.url(),
        }
    }

    /// Whether both are in one table or bucket, by whatever settings it is reached.
    #[must_use]
    pub fn shares_store(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(Self::register);
        let [(.., ours), (.., theirs)] = [ours.order(), theirs.order()];
        self.store_url() == other.store_url() && ours[..2] == theirs[..2]
    }

    /// The locks among these, in the order in which they are taken: each is one of them, or the two that
    /// a backend has at once.
    pub fn locks(targets: &[Self]) -> impl Iterator<Item = &[Self]> {
        targets.chunk_by(|one, next| one.of_backend && next.of_backend)
    }

    /// Whether both are of one kind of store.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.store) == std::mem::discriminant(&other.store)
    }

    /// Whether the lock has a lease, which needs a record that can be changed on a condition.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        match self.store {
            StoreSpec::DynamoDb { .. } | StoreSpec::File { .. } => true,
            StoreSpec::S3 { conditions, .. } => conditions != Conditions::OfCreates,
            StoreSpec::LocalState { .. } => false,
        }
    }

    /// Whether waiters can stand in line for it: what shows where they stand is changed all the time.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.has_lease() || self.is_kept_by_kernel()
    }

    /// Whether there is a history beside it. One beside a local state would be a file that stays in its
    /// directory.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.has_lease()
    }

    /// Whether it lasts for as long as a process has the state file open, and no longer.
    #[must_use]
    pub fn is_kept_by_kernel(&self) -> bool {
        matches!(self.store, StoreSpec::LocalState { .. })
    }

    /// What `Path` in the lock info says.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.store {
            StoreSpec::File { dir } => dir.join(&self.key.0).display().to_string(),
            StoreSpec::S3 { bucket, .. } => format!("{bucket}/{}", self.key),
            StoreSpec::DynamoDb { .. } | StoreSpec::LocalState { .. } => self.key.0.clone(),
        }
    }

    /// What the lock is known by: two names of one register are one lock.
    #[must_use]
    pub fn register(&self) -> Register {
        let (rank, aws) = match &self.store {
            StoreSpec::S3 { aws, .. } => (RANK_OF_S3, Some(aws.clone())),
            StoreSpec::DynamoDb { aws, .. } => (1, Some(aws.clone())),
            StoreSpec::File { .. } => (2, None),
            StoreSpec::LocalState { .. } => (3, None),
        };
        let place = self.real_path().map_or_else(|| self.url(), |path| path.display().to_string());
        Register { rank, place, aws }
    }

    /// The same lock, of a local state by the name of the file that it really is.
    fn at_real_path(&self) -> Self {
        let mut target = self.clone();
        if let StoreSpec::LocalState { path } = &mut target.store {
            *path = real_path(path);
            target.key = LockKey(path.display().to_string());
        }
        target
    }

    /// Whether this is a name of the same lock: of a local state the file counts, by whatever path.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let (StoreSpec::LocalState { path }, Some(other)) =
            (&self.store, name.strip_prefix("local://").map(Path::new))
        else {
            return self.url() == name;
        };
        // Hard links only the file tells, and only the path where there is no file.
        let is_one_file = || FileId::of(path).is_some_and(|file| FileId::of(other) == Some(file));
        self.url() == name || is_one_file() || real_path(path) == real_path(other)
    }

    /// The same lock by the names under which it may be held, the likeliest first. What is said of the
    /// lock of a local state lies beside the name by which its holder took it, and by that name only:
    /// beside a link, where that is one. Last by the names that are left where the holder's leads
    /// nowhere any more (a directory was renamed).
    #[must_use]
    pub fn as_held<'a>(&self, held: impl Iterator<Item = &'a str>) -> Vec<Self> {
        if !matches!(self.store, StoreSpec::LocalState { .. }) {
            return vec![self.clone()];
        }
        let named = held.filter(|name| self.is_named(name));
        let paths = named.filter_map(|name| name.strip_prefix("local://"));
        let mut all: Vec<_> = paths.map(|path| Self::of_state_file(Path::new(path))).collect();
        all.extend([self.clone(), self.at_real_path()]);
        all.dedup();
        all
    }

    /// Where the register is a file: which it is, once all links are followed.
    #[must_use]
    pub fn real_path(&self) -> Option<PathBuf> {
        match &self.store {
            StoreSpec::DynamoDb { .. } | StoreSpec::S3 { .. } => None,
            // The file itself is made anew for each record; a link in its place is not followed.
            StoreSpec::File { dir } => Some(real_path(dir).join(&self.key.0)),
            StoreSpec::LocalState { path } => Some(real_path(path)),
        }
    }

    /// Opens the store. Nothing remote is touched before the first request.
    ///
    /// # Errors
    /// When the configuration of the client cannot work.
    pub async fn open(&self) -> Result<Arc<dyn Registers>, StoreError> {
        Ok(match &self.store {
            StoreSpec::DynamoDb { table, aws } => Arc::new(DynamoTable::new(
                &AwsClients::new(aws, Timeouts::default()).await?,
                table,
            )?),
            StoreSpec::S3 { bucket, objects, conditions, aws } => Arc::new(LockObjects::new(
                &AwsClients::new(aws, Timeouts::default()).await?,
                bucket,
                &self.key,
                objects,
                *conditions,
            )?),
            StoreSpec::File { dir } => Arc::new(FileStore::of_lock(dir, &self.key)),
            StoreSpec::LocalState { path } => Arc::new(LocalState::new(path)?),
        })
    }

    /// Opens the store of the waiting line beside the lock, and gives what its keys are made
    /// from. Beside the lock of a local state it is a directory.
    ///
    /// # Errors
    /// When the state's path has no name.
    pub fn open_line(
        &self,
        lock: &Arc<dyn Registers>,
    ) -> Result<(Arc<dyn Registers>, LockKey), StoreError> {
        match &self.store {
            StoreSpec::DynamoDb { .. } | StoreSpec::S3 { .. } | StoreSpec::File { .. } => {
                Ok((lock.clone(), self.key.clone()))
            }
            StoreSpec::LocalState { path } => {
                let dir = LocalState::new(path)?.line_dir();
                Ok((Arc::new(FileStore::anchored(dir)), LocalState::line_key()))
            }
        }
    }

    /// The command that removes a lock that was left behind, and only if it still has this ID.
    #[must_use]
    pub fn unlock_command(&self, id: &LockId) -> String {
        match &self.store {
            StoreSpec::DynamoDb { table, aws } => {
                let values = serde_json::json!({ ":id": { "S": id.0 } });
                by_record::delete_item(table, &self.key, aws, "contains(Info, :id)", &values)
            }
            StoreSpec::S3 { bucket, objects, aws, .. } => {
                lock_file::remove_with_id(bucket, &self.key, objects, aws, id)
            }
            StoreSpec::File { dir } => {
                let store = FileStore::of_lock(dir, &self.key);
                let turn = store.lock_file().display().to_string();
                let file = store.file_of(&self.key).display().to_string();
                // Of a pipe it would be read for ever.
                let script = "[ -f \"$2\" ] && grep -qF -- \"$1\" \"$2\" && rm -- \"$2\"";
                shell_command(&["flock", &turn, "sh", "-c", script, "sh", &id.0, &file])
            }
            // The kernel ends this lock with the last process that has the file open.
            StoreSpec::LocalState { path } => {
                shell_command(&["fuser", "-v", &path.display().to_string()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::store::{Expect, Record};

    #[test]
    fn a_path_is_real_before_and_after_it_is_made() {
        use std::os::unix::fs::symlink;
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("dir")).unwrap();
        symlink("dir", top.join("link")).unwrap();
        symlink("dir/to-come", top.join("dangling")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        for (path, real) in [
            ("link", "dir"),
            ("link/x/y", "dir/x/y"),
            ("link/../z", "z"),
            ("dangling", "dir/to-come"),
            ("loop/x", "loop/x"),
        ] {
            assert_eq!(real_path(&top.join(path)), top.join(real), "{path}");
        }
        std::fs::write(top.join("dir/to-come"), "").unwrap();
        assert_eq!(real_path(&top.join("dangling")), top.join("dir/to-come"));
    }

    #[test]
    fn a_state_is_looked_for_by_each_name_under_which_it_may_be_held() {
        use std::os::unix::ffi::OsStrExt as _;
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("state", top.join("link")).unwrap();
        let target = |name: &str| LockTarget::of_state_file(&top.join(name));
        let urls = ["hard", "link", "other", "state"].map(|name| target(name).url());
        let names = |name| target(name).as_held(urls.iter().map(String::as_str));
        // Before there is a state, by the paths.
        assert_eq!(names("state"), ["link", "state"].map(target));
        assert_eq!(names("link"), ["link", "state", "link", "state"].map(target));
        std::fs::write(top.join("state"), "").unwrap();
        std::fs::write(top.join("other"), "").unwrap();
        std::fs::hard_link(top.join("state"), top.join("hard")).unwrap();
        assert_eq!(names("state"), ["hard", "link", "state"].map(target));
        assert_eq!(names("other"), [target("other")]);
        // What no text can say is looked for as it is.
        let odd = LockTarget::of_state_file(Path::new(std::ffi::OsStr::from_bytes(b"/x/\xff")));
        assert!(odd.as_held(std::iter::once(odd.url().as_str())).contains(&odd));
    }

    #[tokio::test]
    async fn the_printed_command_removes_the_file_lock_of_that_id_only() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plain", ".a lock's \"name\"; $(touch x)"] {
            let target = LockTarget {
                store: StoreSpec::File { dir: dir.path().to_owned() },
                key: LockKey(name.to_owned()),
                of_backend: false,
            };
            let store = FileStore::of_lock(dir.path(), &target.key);
            let info = r#"{"ID":"1-2-3","Operation":"run"}"#.to_owned();
            let record = Record { info: Some(info), lease: None };
            store.write(&target.key, &record, &Expect::Absent).await.unwrap();
            let run = |id: &str| {
                let command = target.unlock_command(&LockId(id.to_owned()));
                Command::new("bash").args(["-c", &command]).status().unwrap().success()
            };
            assert!(!run("3-2-1"), "{name}");
            assert!(store.read(&target.key).await.unwrap().is_some(), "{name}: a stranger's");
            assert!(run("1-2-3"), "{name}");
            assert!(store.read(&target.key).await.unwrap().is_none(), "{name}: ours");
        }
    }
}
