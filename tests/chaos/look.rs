//! What must hold after each round.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;

use crate::lane::End;
use crate::plan::{Kind, Mode};
use crate::support::s3_server::aws_like;
use crate::support::servers::{self, BUCKET, dynamodb};

type Item = HashMap<String, AttributeValue>;

const LINEAGE: &str = "0f4c9a52-6f43-4ba9-8a3e-77aa33c1d0be";

/// What a round was like.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// How many children began, and ended by themselves.
    pub(crate) begun: usize,
    pub(crate) ended: usize,
    pub(crate) overlaps: usize,
    /// Locks that nobody was left to give back: of tfwrap, and of stock Terraform.
    pub(crate) left: usize,
    pub(crate) of_stock: usize,
    work: String,
    ends: Vec<(Kind, Option<i32>)>,
    said: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(work: &str, ends: Vec<End>) -> Self {
        let count = |what: &str| work.lines().filter(|line| line.starts_with(what)).count();
        Self {
            begun: count("begin "),
            ended: count("end "),
            overlaps: count("overlap "),
            left: 0,
            of_stock: 0,
            work: work.to_owned(),
            ends: ends.iter().map(|end| (end.kind, end.code)).collect(),
            said: ends.into_iter().map(|end| end.said).collect(),
        }
    }

    /// Whether a stock Terraform was killed while it had the lock.
    fn stock_died_holding(&self) -> bool {
        let began = |line: &&str| line.starts_with("begin ") && line.contains(" Stock-");
        self.work.lines().filter(began).any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let index = words[3].trim_start_matches("Stock-").parse::<usize>().expect("a number");
            let by = words[4].trim_start_matches("by=");
            let ended = self.work.lines().any(|line| line == format!("end {by}"));
            !ended && self.ends[index].1 == Some(137)
        })
    }
}

/// Who holds the lock, or what is left of it.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) id: String,
    pub(crate) is_stock: bool,
    /// Where the record is.
    pub(crate) mode: Mode,
}

fn holder(info: &str, mode: Mode, is_stock: bool) -> Holder {
    let info: Value = serde_json::from_str(info).expect("JSON");
    Holder { id: info["ID"].as_str().expect("an ID").to_owned(), is_stock, mode }
}

/// The eyes on one state.
pub(crate) struct Look {
    table: String,
    key: String,
    /// Whether the state is where lock files can be.
    is_fleet: bool,
    bystander: Item,
    /// Of the state, the last time.
    serial: AtomicU64,
    runtime: tokio::runtime::Runtime,
}

impl Look {
    pub(crate) fn new(table: &str, key: &str, is_fleet: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let info = r#"{"ID":"1","Operation":"OperationTypeApply","Info":"","Who":"jane@desk","Version":"1.11.4","Created":"2026-01-02T03:04:05Z","Path":"x"}"#;
        let bystander = [("LockID", text("bystander")), ("Info", text(info))];
        let bystander: Item = bystander.map(|(name, value)| (name.to_owned(), value)).into();
        runtime.block_on(async {
            dynamodb().create_lock_table(table).await;
            dynamodb().put_raw(table, bystander.clone()).await;
        });
        servers::s3().create_bucket(BUCKET);
        let state = format!(
            r#"{{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"{LINEAGE}","outputs":{{}},"resources":[]}}"#
        );
        if is_fleet {
            aws_like().put(key, state.as_bytes());
        } else {
            servers::s3().put(BUCKET, key, state.as_bytes());
        }
        Self {
            table: table.to_owned(),
            key: key.to_owned(),
            is_fleet,
            bystander,
            serial: AtomicU64::new(1),
            runtime,
        }
    }

    fn item(&self, lock_id: &str) -> Option<Item> {
        self.runtime.block_on(dynamodb().get_raw(&self.table, lock_id))
    }

    fn lock_id(&self) -> String {
        format!("{BUCKET}/{}", self.key)
    }

    /// Who holds the lock, if anybody does.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let item = self.item(&self.lock_id()).map(|item| {
            // What tfwrap puts beside Terraform's own two.
            holder(item["Info"].as_s().expect("text"), Mode::Item, item.len() == 2)
        });
        let file = aws_like().text(&format!("{}.tflock", self.key)).map(|text| {
            let info: Value = serde_json::from_str(&text).expect("JSON");
            holder(&text, Mode::File, info.as_object().is_some_and(|info| info.len() == 7))
        });
        match (file, item) {
            (Some(file), Some(item)) if file.id == item.id => {
                Some(Holder { mode: Mode::Both, ..file })
            }
            (file, item) => file.or(item),
        }
    }

    fn object(&self) -> Option<Vec<u8>> {
        if self.is_fleet {
            return aws_like().get(&self.key).map(|it| it.body);
        }
        servers::s3().get(BUCKET, &self.key)
    }

    /// When all that a round started has ended, or should have.
    pub(crate) fn check(&self, outcome: &Outcome, left: &[String]) -> Result<(), String> {
        let mut wrong = Vec::new();
        let mut check = |what: String, is_wrong: bool| wrong.extend(is_wrong.then_some(what));
        check(format!("overlaps: {}", outcome.work), outcome.overlaps > 0);
        check(format!("left running: {left:?}"), !left.is_empty());
        for (index, (kind, code)) in outcome.ends.iter().enumerate() {
            let said = &outcome.said[index];
            check(format!("{kind:?} {index} does not end: {said}"), code.is_none());
            // A bug, a panic.
            let is_ours = *kind != Kind::Stock;
            check(
                format!("{index} ended with {code:?}: {said}"),
                is_ours && matches!(code, Some(70 | 101)),
            );
            let released = !said.contains("Error releasing the state lock");
            check(format!("stock Terraform lost its lock: {said}"), !released);
        }
        check(
            "the bystander's record changed".to_owned(),
            self.item("bystander") != Some(self.bystander.clone()),
        );
        if outcome.stock_died_holding() {
            let stays = self.holder().is_some_and(|holder| holder.is_stock);
            check(format!("a stock Terraform's lock is gone: {}", outcome.work), !stays);
        }
        self.check_state().unwrap_or_else(|what| check(what, true));
        self.forget_digest();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    fn check_state(&self) -> Result<(), String> {
        let state = self.object().ok_or("the state is gone")?;
        let state: Value = serde_json::from_slice(&state).map_err(|error| error.to_string())?;
        let serial = state["serial"].as_u64().ok_or("no serial")?;
        let before = self.serial.swap(serial, Ordering::SeqCst);
        let whole = state["lineage"] == LINEAGE && serial >= before;
        if whole { Ok(()) } else { Err(format!("serial {before}, then: {state}")) }
    }

    /// A Terraform that was killed between the state and its digest leaves the two apart, and those
    /// after it refuse: a person would repair that.
    fn forget_digest(&self) {
        let key = AttributeValue::S(format!("{}-md5", self.lock_id()));
        let client = dynamodb().client();
        let request = client.delete_item().table_name(&self.table).key("LockID", key);
        self.runtime.block_on(request.send()).expect("it can be removed");
    }

    /// When the round is cleared: nothing of it is left but the line's one record.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        match self.holder() {
            Some(holder) => Err(format!("held by {holder:?}")),
            None => Ok(()),
        }
    }
}

/// All rounds together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) begun: usize,
    rounds: usize,
    ended: usize,
    left: usize,
    of_stock: usize,
    codes: BTreeMap<String, usize>,
}

impl Tally {
    pub(crate) fn add(&mut self, one: &Outcome) {
        self.rounds += 1;
        self.begun += one.begun;
        self.ended += one.ended;
        self.left += one.left;
        self.of_stock += one.of_stock;
        for (kind, code) in &one.ends {
            let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            *self.codes.entry(format!("{kind:?} {code}")).or_default() += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{} rounds: {} children began, {} ended by themselves; locks that nobody was left to \
             give back: {}, and {} of stock Terraform; exit codes: {:?}",
            self.rounds, self.begun, self.ended, self.left, self.of_stock, self.codes
        )
    }
}
