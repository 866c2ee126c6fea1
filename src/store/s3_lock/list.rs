//! All lock files of a bucket, page by page.
//!
//! Needs `s3:ListBucket`, and `s3:GetObject` on each.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::super::aws::classify;
use super::super::dynamodb::of_listing;
use super::super::{RegisterPage, StoreError};
use super::{LockObjects, SUFFIX};
use crate::lock::LockKey;

/// How many of them are read at a time.
const AT_A_TIME: usize = 16;

/// In the name of what a try of the server's conditions leaves when it is killed.
const PROBES: &str = ".tfwrap/probe/";

impl LockObjects {
    /// The lock files of one page of the listing.
    pub(super) async fn page(&self, from: Option<&str>) -> Result<RegisterPage, StoreError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.set_continuation_token(from.map(str::to_owned));
        let send = || async {
            let answer = request.clone().send().await;
            answer.map_err(|error| classify(self.asked("s3:ListBucket"), &error))
        };
        let answer = self.identity.signed(send).await.map_err(of_listing)?;
        let next = answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true));
        let names = answer.contents.unwrap_or_default();
        let names = names.into_iter().filter_map(|object| object.key);
        let keys = names.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned));
        let keys = keys.filter(|key| !key.contains(PROBES)).map(LockKey);
        let read = stream::iter(keys).map(|key| async {
            let found = self.get(&key).await?;
            // It may have been given back since.
            Ok::<_, StoreError>(found.map(|stored| (key, stored)))
        });
        let read: Vec<_> = read.buffered(AT_A_TIME).try_collect().await?;
        Ok(RegisterPage { registers: read.into_iter().flatten().collect(), next })
    }
}
