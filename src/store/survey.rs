//! What is asked of AWS besides registers: what a table or a bucket is like, and who asks; and that a
//! table is made.

mod bucket;
mod table;

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use jiff::Timestamp;
use jiff::fmt::rfc2822;

use super::StoreError;
use super::aws::{AwsClients, Timeouts};
use crate::backend::AwsSettings;
pub use bucket::{BucketFacts, Known};
pub use table::{KeyAttribute, TableChange, TableFacts};

/// What is to be looked at.
#[derive(Debug, Clone)]
pub enum Survey {
    /// A table; needs `dynamodb:DescribeTable`.
    Table(Box<AwsSettings>, String),
    /// The same, and something is done to it.
    Change(Box<AwsSettings>, String, TableChange),
    /// A bucket; each part needs a permission of its own.
    Bucket(Box<AwsSettings>, String),
    /// Whose the credentials are: of STS, where that is asked at all.
    Caller(Box<AwsSettings>),
}

/// What was found.
#[derive(Debug)]
pub enum StoreFacts {
    /// Of a table.
    Table(TableFacts),
    /// Of a bucket.
    Bucket(BucketFacts),
    /// The ARN; nothing where nobody may be asked.
    Caller(Option<String>),
}

/// An answer, and the time that the server gave with it, right or not.
#[derive(Debug)]
pub struct Surveyed {
    /// What was found.
    pub facts: Result<StoreFacts, StoreError>,
    /// Its clock, to the second.
    pub date: Option<Timestamp>,
}

/// Looks.
pub async fn survey(asked: Survey) -> Surveyed {
    let date = ServerDate::default();
    let facts = look(asked, &date).await;
    Surveyed { facts, date: date.seen() }
}

async fn look(asked: Survey, date: &ServerDate) -> Result<StoreFacts, StoreError> {
    let clients = |aws| AwsClients::new(aws, Timeouts::default());
    match &asked {
        Survey::Table(aws, name) => {
            table::describe(&clients(aws).await?, name, date).await.map(StoreFacts::Table)
        }
        Survey::Change(aws, name, change) => {
            table::change(&clients(aws).await?, name, change).await.map(StoreFacts::Table)
        }
        Survey::Bucket(aws, name) => {
            bucket::look(&clients(aws).await?, name, date).await.map(StoreFacts::Bucket)
        }
        Survey::Caller(aws) => clients(aws).await?.caller().await.map(StoreFacts::Caller),
    }
}

/// Reads the clock of whoever answers.
#[derive(Debug, Clone, Default)]
struct ServerDate(Arc<Mutex<Option<Timestamp>>>);

impl ServerDate {
    fn seen(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ServerDate {
    fn name(&self) -> &'static str {
        "ServerDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| rfc2822::parse(date).ok()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(date.timestamp());
        }
        Ok(())
    }
}
