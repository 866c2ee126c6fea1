//! Registers as items of a DynamoDB table: Terraform's lock table.
//!
//! `LockID` and `Info` are Terraform's own attributes; our lease is one more, which stock clients
//! neither read nor, on unlock, compare. The version of an item is what its two parts are, and is
//! compared in the condition of the write itself.
//!
//! Needs `dynamodb:GetItem`, `PutItem` and `DeleteItem`, as Terraform does, and nothing else.
//!
//! Its rules: `docs/protocol.md#f6-dynamodb`.

mod scan;

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure as OnFailure};
use serde::{Deserialize, Serialize};

use super::aws::{Asked, AwsClients, Identity, classify};
use super::{
    Expect, Record, RecordVersion, RegisterPage, Registers, RemoveReply, StoreError, Stored,
    WriteReply,
};
use crate::lock::LockKey;
pub(super) use scan::of_listing;

pub(super) const KEY: &str = "LockID";
const INFO: &str = "Info";
const LEASE: &str = "Tfwrap";

/// What a lock table must be, for whoever named another.
const MUST: &str = "a lock table needs a hash key `LockID` of type string, and no range key";

type Item = HashMap<String, AttributeValue>;

/// One lock table.
#[derive(Debug, Clone)]
pub struct DynamoTable {
    client: Client,
    table: String,
    /// The table and where it is, for messages.
    object: String,
    identity: Identity,
    credentials_end: Option<jiff::Timestamp>,
}

impl DynamoTable {
    /// Names a table. Nothing is sent.
    ///
    /// # Errors
    /// When the settings ask for what the client cannot do.
    pub fn new(clients: &AwsClients, table: impl Into<String>) -> Result<Self, StoreError> {
        let (client, place) = clients.dynamodb()?;
        let table = table.into();
        let object = format!("DynamoDB table `{table}` {place}");
        let (identity, credentials_end) = (clients.identity(), clients.credentials_end());
        Ok(Self { client, table, object, identity, credentials_end })
    }

    fn asked<'a>(&'a self, action: &'a str) -> Asked<'a> {
        Asked { action, object: &self.object, must: Some(MUST) }
    }
}

#[async_trait]
impl Registers for DynamoTable {
    fn credentials_end(&self) -> Option<jiff::Timestamp> {
        self.credentials_end
    }

    fn credentials(&self) -> Option<String> {
        self.identity.whose()
    }

    fn renews_credentials(&self) -> bool {
        self.identity.is_renewed()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.identity.ready().await
    }

    fn no_version(&self) -> RecordVersion {
        let nobodys = Record { info: None, lease: Some("no record has this".to_owned()) };
        stored(&item(&LockKey(String::new()), &nobodys)).version
    }

    async fn read(&self, key: &LockKey) -> Result<Option<Stored>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.key(KEY, AttributeValue::S(key.0.clone()));
        let send = || async {
            let answer = request.clone().send().await;
            answer.map_err(|error| classify(self.asked("dynamodb:GetItem"), &error))
        };
        let answer = self.identity.signed(send).await?;
        Ok(answer.item.as_ref().map(stored))
    }

    async fn list(&self, from: Option<&str>) -> Result<RegisterPage, StoreError> {
        self.page(from).await
    }

    async fn write(
        &self,
        key: &LockKey,
        record: &Record,
        expect: &Expect,
    ) -> Result<WriteReply, StoreError> {
        let condition = match expect {
            Expect::Absent => Condition::absent(),
            Expect::Version(version) => Condition::version(version)?,
        };
        let item = item(key, record);
        let version = stored(&item).version;
        let request = self.client.put_item().table_name(&self.table);
        let request = request.set_item(Some(item)).only_if(condition);
        let send = || async {
            let Err(error) = request.clone().send().await else {
                return Ok(WriteReply::Applied(version.clone()));
            };
            match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    Ok(WriteReply::Conflict(shown(refusal.item())))
                }
                _ => Err(classify(self.asked("dynamodb:PutItem"), &error)),
            }
        };
        self.identity.signed(send).await
    }

    async fn remove(
        &self,
        key: &LockKey,
        expect: &RecordVersion,
    ) -> Result<RemoveReply, StoreError> {
        let condition = Condition::version(expect)?;
        let request = self.client.delete_item().table_name(&self.table);
        let request = request.key(KEY, AttributeValue::S(key.0.clone())).only_if(condition);
        let send = || async {
            let Err(error) = request.clone().send().await else {
                return Ok(RemoveReply::Removed);
            };
            match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(refusal)) => {
                    Ok(RemoveReply::Conflict(shown(refusal.item())))
                }
                _ => Err(classify(self.asked("dynamodb:DeleteItem"), &error)),
            }
        };
        self.identity.signed(send).await
    }
}

/// What is known of one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    Absent,
    Text(String),
    /// Of a type that neither Terraform nor we write; by hand, then.
    OfType(String),
}

impl Part {
    fn of(item: &Item, name: &str) -> Self {
        match item.get(name) {
            None => Self::Absent,
            Some(AttributeValue::S(text)) => Self::Text(text.clone()),
            Some(other) => Self::OfType(type_name(other).to_owned()),
        }
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Absent | Self::OfType(_) => None,
        }
    }
}

/// As `attribute_type` in a condition has it.
fn type_name(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::B(_) => "B",
        AttributeValue::Bool(_) => "BOOL",
        AttributeValue::Bs(_) => "BS",
        AttributeValue::L(_) => "L",
        AttributeValue::M(_) => "M",
        AttributeValue::N(_) => "N",
        AttributeValue::Ns(_) => "NS",
        AttributeValue::Null(_) => "NULL",
        AttributeValue::Ss(_) => "SS",
        _ => "S",
    }
}

fn item(key: &LockKey, record: &Record) -> Item {
    let mut item = Item::from([(KEY.to_owned(), AttributeValue::S(key.0.clone()))]);
    for (name, part) in [(INFO, &record.info), (LEASE, &record.lease)] {
        if let Some(text) = part {
            item.insert(name.to_owned(), AttributeValue::S(text.clone()));
        }
    }
    item
}

fn stored(item: &Item) -> Stored {
    let parts = [Part::of(item, INFO), Part::of(item, LEASE)];
    let record = Record { info: parts[0].text(), lease: parts[1].text() };
    let version = serde_json::to_string(&parts).expect("strings can be encoded");
    Stored { record, version: RecordVersion(version) }
}

/// The old item of a refusal. Not every server sends it, and none says in its place that there
/// was none.
#[expect(clippy::option_option, reason = "the content of a `Conflict`, described there")]
fn shown(item: Option<&Item>) -> Option<Option<Stored>> {
    item.filter(|item| !item.is_empty()).map(|item| Some(stored(item)))
}

/// A condition expression and what it names.
struct Condition {
    expression: String,
    names: HashMap<String, String>,
    values: Option<Item>,
}

impl Condition {
    fn absent() -> Self {
        let names = HashMap::from([("#key".to_owned(), KEY.to_owned())]);
        Self { expression: "attribute_not_exists(#key)".to_owned(), names, values: None }
    }

    fn version(version: &RecordVersion) -> Result<Self, StoreError> {
        let parts: [Part; 2] = serde_json::from_str(&version.0).map_err(|_| {
            StoreError::Misconfigured("a version of another store was expected".into())
        })?;
        // Without it, an absent item would meet the condition of a record without parts.
        let mut expression = "attribute_exists(#key)".to_owned();
        let mut names = HashMap::from([("#key".to_owned(), KEY.to_owned())]);
        let mut values = Item::new();
        for (part, attribute, name) in [(&parts[0], INFO, "info"), (&parts[1], LEASE, "lease")] {
            let (term, value) = match part {
                Part::Absent => (format!("attribute_not_exists(#{name})"), None),
                Part::Text(text) => (format!("#{name} = :{name}"), Some(text)),
                Part::OfType(kind) => (format!("attribute_type(#{name}, :{name})"), Some(kind)),
            };
            expression.push_str(" AND ");
            expression.push_str(&term);
            names.insert(format!("#{name}"), attribute.to_owned());
            if let Some(value) = value {
                values.insert(format!(":{name}"), AttributeValue::S(value.clone()));
            }
        }
        // DynamoDB refuses an empty map of values.
        let values = if values.is_empty() { None } else { Some(values) };
        Ok(Self { expression, names, values })
    }
}

/// A request with a condition. The SDK has the same methods on two types that share nothing.
trait Conditional {
    /// Makes it one, whose refusal shows what is there.
    fn only_if(self, condition: Condition) -> Self;
}

macro_rules! conditional {
    ($($request:ty),*) => {
        $(impl Conditional for $request {
            fn only_if(self, Condition { expression, names, values }: Condition) -> Self {
                self.condition_expression(expression)
                    .set_expression_attribute_names(Some(names))
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(OnFailure::AllOld)
            }
        })*
    };
}

conditional!(PutItemFluentBuilder, DeleteItemFluentBuilder);

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever stands there, it is held by somebody, and exactly that can be named in a condition.
    #[test]
    fn an_attribute_of_another_type_is_no_record_and_still_has_a_version() {
        let blob = aws_sdk_dynamodb::primitives::Blob::new(*b"\xff");
        let text = || "x".to_owned();
        let odd = [
            None,
            Some(AttributeValue::S(String::new())),
            Some(AttributeValue::S("\0\u{10ffff}{".repeat(50_000))),
            Some(AttributeValue::N("1e126".to_owned())),
            Some(AttributeValue::B(blob.clone())),
            Some(AttributeValue::Bool(true)),
            Some(AttributeValue::Null(true)),
            Some(AttributeValue::L(vec![AttributeValue::S(text())])),
            Some(AttributeValue::M(Item::from([(text(), AttributeValue::S(text()))]))),
            Some(AttributeValue::Ss(vec![text()])),
            Some(AttributeValue::Ns(vec!["1".to_owned()])),
            Some(AttributeValue::Bs(vec![blob])),
        ];
        let mut versions = std::collections::HashSet::new();
        for info in &odd {
            for lease in &odd {
                let mut item = Item::from([(KEY.to_owned(), AttributeValue::S("k".to_owned()))]);
                for (name, part) in [(INFO, info), (LEASE, lease)] {
                    item.extend(part.clone().map(|part| (name.to_owned(), part)));
                }
                let Stored { record, version } = stored(&item);
                let is_text = |part: &Option<_>| matches!(part, Some(AttributeValue::S(_)));
                assert_eq!(record.info.is_some(), is_text(info), "{info:?}");
                assert_eq!(record.lease.is_some(), is_text(lease), "{lease:?}");
                let condition = Condition::version(&version).unwrap();
                assert!(condition.expression.starts_with("attribute_exists(#key) AND "));
                assert!(versions.insert(version), "{info:?} {lease:?}");
            }
        }
    }
}
