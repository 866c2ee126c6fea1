//! All that a table keeps, page by page.
//!
//! Needs `dynamodb:Scan`, which no lock needs.

use aws_sdk_dynamodb::types::AttributeValue;

use super::super::aws::classify;
use super::super::{FlawKind, RegisterPage, StoreError};
use super::{DynamoTable, KEY, Part, stored};
use crate::lock::LockKey;

/// What the key of Terraform's digest of a state ends with. It is no lock.
const DIGEST: &str = "-md5";

impl DynamoTable {
    /// The items behind this key, as many as come at once.
    pub(super) async fn page(&self, from: Option<&str>) -> Result<RegisterPage, StoreError> {
        let from = from.map(|key| AttributeValue::S(key.to_owned()));
        let request = self.client.scan().table_name(&self.table).consistent_read(true);
        let request = request.set_exclusive_start_key(from.map(|key| [(KEY.into(), key)].into()));
        let send = || async {
            let answer = request.clone().send().await;
            answer.map_err(|error| classify(self.asked("dynamodb:Scan"), &error))
        };
        let answer = self.identity.signed(send).await.map_err(of_listing)?;
        let next = answer.last_evaluated_key.and_then(|key| Part::of(&key, KEY).text());
        let items = answer.items.unwrap_or_default();
        let registers = items.iter().filter_map(|item| {
            let (key, stored) = (Part::of(item, KEY).text()?, stored(item));
            let is_digest = key.ends_with(DIGEST)
                && stored.record.info.is_none()
                && stored.record.lease.is_none();
            (!is_digest).then_some((LockKey(key), stored))
        });
        Ok(RegisterPage { registers: registers.collect(), next })
    }
}

/// What helps is another permission than those that locks need.
pub(in super::super) fn of_listing(error: StoreError) -> StoreError {
    match error {
        StoreError::Denied(why) if why.kind == FlawKind::Named => {
            StoreError::Denied(FlawKind::Listing.flaw(why.text))
        }
        error => error,
    }
}
