//! What a table is like.

use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification,
    ScalarAttributeType, TableDescription, TableStatus, Tag,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::super::aws::{Asked, AwsClients, classify};
use super::super::dynamodb::KEY;
use super::super::{FlawKind, StoreError};
use super::ServerDate;

/// As far as it matters for locks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableFacts {
    /// `ACTIVE`, or what it is on its way to.
    pub status: String,
    /// Its key, the hash key first.
    pub keys: Vec<KeyAttribute>,
    /// Whether it cannot be deleted.
    pub is_protected: bool,
    /// The other regions in which it is written, too.
    pub replicas: Vec<String>,
    /// Its name for policies.
    pub arn: Option<String>,
}

/// A part of a table's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAttribute {
    /// Its name.
    pub name: String,
    /// Its type: `S`, `N` or `B`.
    pub kind: String,
}

impl TableFacts {
    /// Whether it can be used now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        // An update goes on beside.
        matches!(self.status.as_str(), "ACTIVE" | "UPDATING")
    }

    /// What makes its key another than that of a lock table; nothing where it is one.
    #[must_use]
    pub fn wrong_key(&self) -> Option<String> {
        let (hash, range) = (self.keys.first()?, self.keys.get(1));
        if hash.name != KEY {
            let case = if hash.name.eq_ignore_ascii_case(KEY) { " (case counts)" } else { "" };
            return Some(format!("its hash key is `{}` and must be `{KEY}`{case}", hash.name));
        }
        if hash.kind != "S" {
            return Some(format!("its hash key `{KEY}` is of type {} and must be S", hash.kind));
        }
        range.map(|range| format!("it has a range key, `{}`, and must have none", range.name))
    }
}

pub(super) async fn describe(
    clients: &AwsClients,
    table: &str,
    date: &ServerDate,
) -> Result<TableFacts, StoreError> {
    let (client, place) = clients.dynamodb()?;
    let object = format!("DynamoDB table `{table}` {place}");
    let asked = Asked { action: "dynamodb:DescribeTable", object: &object, must: None };
    let request = client.describe_table().table_name(table);
    let send = || async {
        let sent = request.clone().customize().interceptor(date.clone()).send().await;
        sent.map_err(|error| classify(asked, &error))
    };
    let answer = clients.identity().signed(send).await?;
    answer.table.as_ref().map(facts).ok_or_else(|| StoreError::NotTheStore {
        detail: format!("{object} was described without a word"),
        sent: true,
    })
}

/// What is done to a table.
#[derive(Debug, Clone)]
pub enum TableChange {
    /// It is made: on demand, with the key of a lock table.
    Make {
        /// Whether it must not be deleted.
        is_protected: bool,
        /// Its tags.
        tags: Vec<(String, String)>,
    },
    /// It must not be deleted any more.
    Protect,
    /// It gets these tags; by its ARN.
    Tag(String, Vec<(String, String)>),
    /// Its past can be restored from now on.
    Recovery,
}

/// Does it, unless it was done before.
pub(super) async fn change(
    clients: &AwsClients,
    table: &str,
    change: &TableChange,
) -> Result<TableFacts, StoreError> {
    let (client, place) = clients.dynamodb()?;
    let object = format!("DynamoDB table `{table}` {place}");
    let asked = |action| Asked { action, object: &object, must: None };
    let identity = clients.identity();
    match change {
        TableChange::Make { is_protected, tags } => {
            let action = "dynamodb:CreateTable";
            let request = client
                .create_table()
                .table_name(table)
                .billing_mode(BillingMode::PayPerRequest)
                .attribute_definitions(built(
                    AttributeDefinition::builder()
                        .attribute_name(KEY)
                        .attribute_type(ScalarAttributeType::S)
                        .build(),
                )?)
                .key_schema(built(
                    KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash).build(),
                )?)
                .set_deletion_protection_enabled(is_protected.then_some(true))
                .set_tags(Some(tags_of(tags)?).filter(|tags| !tags.is_empty()));
            let send = || async {
                let sent = request.clone().send().await;
                sent.map_err(|error| refused(asked(action), &error))
            };
            match identity.signed(send).await {
                Ok(made) => Ok(made.table_description.as_ref().map(facts).unwrap_or_default()),
                // Somebody was faster, or our own request was, whose answer was lost.
                Err(StoreError::Busy(_)) => describe(clients, table, &ServerDate::default()).await,
                Err(error) => Err(error),
            }
        }
        TableChange::Protect => {
            let action = "dynamodb:UpdateTable";
            let request = client.update_table().table_name(table).deletion_protection_enabled(true);
            let send = || async {
                let sent = request.clone().send().await;
                sent.map_err(|error| refused(asked(action), &error))
            };
            let done = identity.signed(send).await?;
            Ok(done.table_description.as_ref().map(facts).unwrap_or_default())
        }
        TableChange::Tag(arn, tags) => {
            let action = "dynamodb:TagResource";
            let request = client.tag_resource().resource_arn(arn).set_tags(Some(tags_of(tags)?));
            let send = || async {
                let sent = request.clone().send().await;
                sent.map_err(|error| refused(asked(action), &error))
            };
            identity.signed(send).await?;
            Ok(TableFacts::default())
        }
        TableChange::Recovery => {
            let action = "dynamodb:UpdateContinuousBackups";
            let recovery = PointInTimeRecoverySpecification::builder()
                .point_in_time_recovery_enabled(true)
                .build();
            let request = client
                .update_continuous_backups()
                .table_name(table)
                .point_in_time_recovery_specification(built(recovery)?);
            let send = || async {
                let sent = request.clone().send().await;
                sent.map_err(|error| refused(asked(action), &error))
            };
            identity.signed(send).await?;
            Ok(TableFacts::default())
        }
    }
}

/// What an error means of a table that is being made.
fn refused<E>(asked: Asked<'_>, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let Asked { action, object, .. } = asked;
    match error.as_service_error().and_then(ProvideErrorMetadata::code) {
        // It is being made, or changed, at this moment.
        Some(
            code @ ("ResourceInUseException"
            | "TableInUseException"
            | "ContinuousBackupsUnavailableException"),
        ) => StoreError::Busy(format!("{object} is busy: `{action}` was refused: `{code}`")),
        _ => match classify(asked, error) {
            StoreError::Denied(why) if why.kind == FlawKind::Named => {
                StoreError::Denied(FlawKind::Making.flaw(why.text))
            }
            error => error,
        },
    }
}

fn tags_of(tags: &[(String, String)]) -> Result<Vec<Tag>, StoreError> {
    tags.iter().map(|(key, value)| built(Tag::builder().key(key).value(value).build())).collect()
}

fn built<T>(part: Result<T, BuildError>) -> Result<T, StoreError> {
    part.map_err(|error| StoreError::Misconfigured(error.to_string().into()))
}

pub(super) fn facts(table: &TableDescription) -> TableFacts {
    let mut keys = table.key_schema().to_vec();
    keys.sort_by_key(|key| *key.key_type() != KeyType::Hash);
    let kind = |name: &str| {
        let found = table.attribute_definitions().iter().find(|it| it.attribute_name() == name);
        found.map_or_else(String::new, |it| it.attribute_type().as_str().to_owned())
    };
    let keys = keys.iter().map(|key| KeyAttribute {
        name: key.attribute_name().to_owned(),
        kind: kind(key.attribute_name()),
    });
    let replicas = table.replicas().iter().filter_map(|it| it.region_name.clone());
    TableFacts {
        status: table.table_status().map_or("", TableStatus::as_str).to_owned(),
        keys: keys.collect(),
        is_protected: table.deletion_protection_enabled() == Some(true),
        replicas: replicas.collect(),
        arn: table.table_arn().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_terraform_uses_is_right() {
        let wrong = |keys: &[(&str, &str)]| {
            let keys = keys.iter().map(|(name, kind)| KeyAttribute {
                name: (*name).to_owned(),
                kind: (*kind).to_owned(),
            });
            TableFacts { keys: keys.collect(), ..TableFacts::default() }.wrong_key()
        };
        assert_eq!(wrong(&[("LockID", "S")]), None);
        for (keys, says) in [
            (&[("LockId", "S")][..], "`LockId` and must be `LockID` (case counts)"),
            (&[("id", "S")], "`id` and must be `LockID`"),
            (&[("LockID", "N")], "of type N and must be S"),
            (&[("LockID", "S"), ("at", "N")], "a range key, `at`"),
        ] {
            let said = wrong(keys).unwrap();
            assert!(said.contains(says), "{said}");
        }
    }
}
