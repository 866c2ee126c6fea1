//! What `table` makes, and whose permissions it prints.

use super::{Place, locks};
use crate::backend::{AwsSettings, Backend};
use crate::cli::{PolicyFormat, TableCommand};
use crate::error::Error;
use crate::settings::{LockUrl, Settings};
use crate::shown_url::shown_url;
use crate::target::{LockTarget, StoreSpec};

/// What `table` does.
#[derive(Debug)]
pub enum TableJob {
    /// Makes a table, unless it is there.
    Create(Box<TableOrder>),
    /// Prints what these locks need.
    Policy {
        /// How.
        format: PolicyFormat,
        /// In the order in which a run takes them.
        targets: Vec<LockTarget>,
        /// The bucket in which a workspace is looked for, with the way to it.
        listed: Option<LockTarget>,
    },
}

/// A table as it is to be.
#[derive(Debug)]
pub struct TableOrder {
    /// Its name.
    pub name: String,
    /// Whether the backend names it.
    pub of_backend: bool,
    /// How to get there.
    pub aws: Box<AwsSettings>,
    /// Whether it must not be deleted.
    pub is_protected: bool,
    /// Whether its past can be restored.
    pub has_recovery: bool,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

pub(super) fn of_table(
    command: &TableCommand,
    settings: &Settings,
    place: &Place<'_>,
) -> Result<TableJob, Error> {
    match command {
        TableCommand::Create(args) => {
            let (name, aws) = match &args.name {
                Some(name) => named(name, place)?,
                None => of_backend(settings, place)?,
            };
            Ok(TableJob::Create(Box::new(TableOrder {
                name,
                of_backend: args.name.is_none(),
                aws,
                is_protected: args.deletion_protection,
                has_recovery: args.point_in_time_recovery,
                tags: args.tag.clone(),
            })))
        }
        TableCommand::Policy(args) => {
            let (targets, listed) =
                (locks::find(settings, place)?.targets, listed(settings, place));
            let is_of_aws = |it: &LockTarget| {
                matches!(it.store, StoreSpec::DynamoDb { .. } | StoreSpec::S3 { .. })
            };
            if !targets.iter().any(is_of_aws) {
                return Err(Error::Config {
                    message: "no lock here is in DynamoDB or S3, so none needs a policy".to_owned(),
                    hint: Some(
                        "call it where the backend is `s3`, or name a lock: `tfwrap --lock \
                         'dynamodb://TABLE/NAME?region=REGION' --no-backend-lock table policy`"
                            .to_owned(),
                    ),
                });
            }
            Ok(TableJob::Policy { format: args.format, targets, listed })
        }
    }
}

/// The bucket that is listed before a run in another workspace than `default`.
pub(super) fn listed(settings: &Settings, place: &Place<'_>) -> Option<LockTarget> {
    match super::doctor::resolve(settings, place).ok()?.backend {
        Backend::S3(backend) if !backend.is_default_workspace() => {
            Some(LockTarget::of_lock_file(&backend))
        }
        _ => None,
    }
}

/// A table by its name, with what may follow the name of a table in `--lock`.
fn named(text: &str, place: &Place<'_>) -> Result<(String, Box<AwsSettings>), Error> {
    let usage = |message: String| Error::Usage {
        message,
        hint: Some(
            "name it as in `tfwrap table create locks`, or `tfwrap table create \
             'locks?region=eu-west-1'`"
                .to_owned(),
        ),
    };
    let name = text.split('?').next().unwrap_or_default();
    let is_name = (3..=255).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    if !is_name {
        let why = "has 3 to 255 letters, digits, `-`, `_` and `.`";
        // What has no `@` in it is no password.
        let shown =
            if text.contains('@') { shown_url(text) } else { name.escape_debug().to_string() };
        return Err(usage(format!("`{shown}` is no name of a table: one {why}")));
    }
    let query = &text[name.len()..];
    let url = LockUrl::parse(&format!("dynamodb://{name}/-{query}")).map_err(usage)?;
    let target =
        LockTarget::of_url(&url, place.env, &place.dir).map_err(|message| Error::Config {
            message: message.replacen(
                &format!("dynamodb://{name}/-"),
                &format!("dynamodb://{name}"),
                1,
            ),
            hint: None,
        })?;
    match target.store {
        StoreSpec::DynamoDb { table, aws } => Ok((table, aws)),
        _ => Err(Error::Internal("a table that is none".to_owned())),
    }
}

fn of_backend(settings: &Settings, place: &Place<'_>) -> Result<(String, Box<AwsSettings>), Error> {
    let targets = locks::find(settings, place)?.targets;
    let table = targets.into_iter().filter(|it| it.of_backend).find_map(|it| match it.store {
        StoreSpec::DynamoDb { table, aws } => Some((table, aws)),
        _ => None,
    });
    table.ok_or_else(|| Error::Config {
        message: "the backend here names no lock table".to_owned(),
        hint: Some(
            "name one: `tfwrap table create NAME`; or set `dynamodb_table` in the backend"
                .to_owned(),
        ),
    })
}
