//! `tfwrap table`: makes a lock table, and prints what its users need.

mod policy;

use std::fmt::Write as _;
use std::time::Duration;

use crate::backend::AwsSettings;
use crate::clock::uptime;
use crate::error::Error;
use crate::job::{TableJob, TableOrder};
use crate::lock::FlawKind;
use crate::report::{Notice, answer, clean_line, shell_command};
use crate::run::{EventLoop, store_requests};
use crate::shown_url::shown_url;
use crate::store::{StoreError, StoreFacts, Survey, TableChange, TableFacts};

/// How long a new table may take to become active; minutes are rare.
const PATIENCE: Duration = Duration::from_mins(5);

/// For how long a table may be busy with what was done to it before, or not answer.
const BUSY: Duration = Duration::from_secs(30);

/// How often it is looked at meanwhile.
const PERIOD: Duration = Duration::from_secs(1);

/// Does it.
pub(crate) async fn run(event_loop: &mut EventLoop, job: &TableJob) -> Result<(), Error> {
    let text = match job {
        TableJob::Create(order) => create(event_loop, order).await?,
        TableJob::Policy { format, targets, listed } => {
            policy::text(targets, listed.as_ref(), *format)
        }
    };
    Error::expect_answered(answer(&text))
}

/// Makes it, unless it is there; what is asked for beside that, of one that is there, too.
async fn create(event_loop: &mut EventLoop, order: &TableOrder) -> Result<String, Error> {
    let url = format!("dynamodb://{}", order.name);
    let found = look(event_loop, order).await?;
    let was_there = found.is_some();
    let mut facts = if let Some(facts) = found {
        facts
    } else {
        let (is_protected, tags) = (order.is_protected, order.tags.clone());
        ask(event_loop, order, TableChange::Make { is_protected, tags }).await?
    };
    let until = uptime().plus(PATIENCE);
    let mut is_told = false;
    loop {
        if let Some(what) = facts.wrong_key() {
            return Err(Error::Config {
                message: format!("`{url}` is there already, and is no lock table: {what}"),
                hint: Some(another_table(order.of_backend, &order.aws)),
            });
        }
        if facts.is_active() {
            break;
        }
        if uptime() >= until {
            let detail = format!("it is still {} after 5m", facts.status);
            let source = StoreError::Unavailable { detail, sent: false };
            return Err(Error::Store { lock: url, source });
        }
        if !is_told {
            is_told = true;
            let message = format!("`{url}` is {}: waiting until it is active", facts.status);
            event_loop.reporter.say(Notice::Detail { message });
        }
        event_loop.pause(uptime().plus(PERIOD)).await?;
        // One that was deleted meanwhile is made by whoever calls again.
        let Some(now) = look(event_loop, order).await? else {
            let source = StoreError::Missing(format!("`{url}` was deleted meanwhile"));
            return Err(Error::Store { lock: url, source });
        };
        facts = now;
    }
    if was_there {
        if order.is_protected && !facts.is_protected {
            ask(event_loop, order, TableChange::Protect).await?;
        }
        if let (false, Some(arn)) = (order.tags.is_empty(), facts.arn.clone()) {
            ask(event_loop, order, TableChange::Tag(arn, order.tags.clone())).await?;
        }
    }
    if order.has_recovery {
        ask(event_loop, order, TableChange::Recovery).await?;
    }
    Ok(said(order, &url, was_there, &facts))
}

/// The command that makes a table of this name, at the same place.
pub(super) fn create_command(name: &str, aws: &AwsSettings) -> String {
    let endpoint = aws.endpoints.dynamodb.as_deref().map(shown_url);
    let parts = [("region", &aws.region), ("endpoint", &endpoint), ("profile", &aws.profile)];
    let parts = parts.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
    let query = parts.collect::<Vec<_>>().join("&");
    shell_command(&["tfwrap", "table", "create", &format!("{name}?{query}")])
}

/// What helps where a table has another key. That of a backend is made by all that the backend says: keys, roles
/// and endpoints that no name of a table can hold.
pub(super) fn another_table(of_backend: bool, aws: &AwsSettings) -> String {
    if of_backend {
        return "a key cannot be changed: name another table as `dynamodb_table` in the backend, then run \
                `terraform init -reconfigure` and `tfwrap table create`"
            .to_owned();
    }
    let create = create_command("NAME", aws);
    format!("a key cannot be changed: make another table with `{create}`, and name that")
}

fn said(order: &TableOrder, url: &str, was_there: bool, facts: &TableFacts) -> String {
    let mut out = format!("{url}: {}", if was_there { "was there already" } else { "made" });
    let _ = write!(out, ", hash key `LockID` (S)");
    if order.is_protected || facts.is_protected {
        out.push_str(", deletion protection on");
    }
    if order.has_recovery {
        out.push_str(", point-in-time recovery on");
    }
    let tags: Vec<_> = order.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !tags.is_empty() {
        let _ = write!(out, ", tagged {}", tags.join(", "));
    }
    clean_line(&out) + "\n"
}

/// The table as it is; nothing where there is none.
async fn look(event_loop: &mut EventLoop, order: &TableOrder) -> Result<Option<TableFacts>, Error> {
    let survey = Survey::Table(order.aws.clone(), order.name.clone());
    match store_requests::survey(event_loop, survey).await?.facts {
        Ok(StoreFacts::Table(facts)) => Ok(Some(facts)),
        Ok(_) => Err(Error::Internal("an answer to something else".to_owned())),
        Err(StoreError::Missing(_)) => Ok(None),
        Err(source) => Err(failed(order, source)),
    }
}

async fn ask(
    event_loop: &mut EventLoop,
    order: &TableOrder,
    change: TableChange,
) -> Result<TableFacts, Error> {
    let until = uptime().plus(BUSY);
    loop {
        let survey = Survey::Change(order.aws.clone(), order.name.clone(), change.clone());
        match store_requests::survey(event_loop, survey).await?.facts {
            Ok(StoreFacts::Table(facts)) => return Ok(facts),
            Ok(_) => return Err(Error::Internal("an answer to something else".to_owned())),
            // Each of them may be asked for twice.
            Err(source) if source.is_worth_another_try() && uptime() < until => {
                event_loop.pause(uptime().plus(PERIOD)).await?;
            }
            Err(source) => return Err(failed(order, source)),
        }
    }
}

fn failed(order: &TableOrder, source: StoreError) -> Error {
    // The first request only looks, as many do; here it is one of those that make a table.
    let source = match source {
        StoreError::Denied(why) if why.kind == FlawKind::Named => {
            StoreError::Denied(FlawKind::Making.flaw(why.text))
        }
        source => source,
    };
    Error::Store { lock: format!("dynamodb://{}", order.name), source }
}
