//! Whether a workspace's state exists, as Terraform itself sees it: by listing, not by asking for
//! the object (a permission to list is what Terraform has for certain, and what it goes by).

use super::StoreError;
use super::aws::{Asked, AwsClients, classify};

/// One page finds the key unless the server ignores where to start.
const PAGES: usize = 50;

/// Whether there is a state object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateObject {
    /// Terraform will see the workspace.
    Exists,
    /// Terraform will create it, under the lock.
    Missing,
}

/// Looks for `key` in Terraform's own listing of workspaces, that of `listing_prefix`.
///
/// # Errors
/// [`StoreError::Denied`] names `s3:ListBucket`; the rest as for any store.
pub async fn workspace_state(
    clients: &AwsClients,
    bucket: &str,
    listing_prefix: &str,
    key: &str,
) -> Result<StateObject, StoreError> {
    let (client, place) = clients.s3()?;
    let identity = clients.identity();
    let object = format!("bucket `{bucket}` {place}");
    let asked = Asked { action: "s3:ListBucket", object: &object, must: None };
    // The last name before the key that a listing can start after.
    let mut before = key.to_owned();
    before.pop();
    let mut token = None;
    for _ in 0..PAGES {
        let request = client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(listing_prefix)
            .set_start_after(Some(before.clone()).filter(|before| !before.is_empty()))
            .set_continuation_token(token.take());
        let send =
            || async { request.clone().send().await.map_err(|error| classify(asked, &error)) };
        let page = identity.signed(send).await?;
        if page.contents().iter().any(|object| object.key() == Some(key)) {
            return Ok(StateObject::Exists);
        }
        // Listings are in the order of the keys' UTF-8 bytes.
        let past = page.contents().last().is_some_and(|object| object.key() > Some(key));
        match page.next_continuation_token {
            Some(next) if page.is_truncated == Some(true) && !past => token = Some(next),
            _ => return Ok(StateObject::Missing),
        }
    }
    let detail = format!("the listing of {object} has no end before `{key}`");
    Err(StoreError::Unavailable { detail, sent: false })
}
