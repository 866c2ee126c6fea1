//! Giving back: through lost replies and outages, and where it cannot be done, with a command that
//! does it.

use std::collections::HashMap;
use std::fs;

use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{Stage, says};
use crate::support::harness::{run, tfwrap};
use crate::support::proxy::{Fault, Rule};
use crate::support::servers::{Endpoint, REGION, dynamodb, local_backend_dir};

/// A printed `aws dynamodb delete-item …`, understood as the AWS command line would.
#[derive(Debug)]
pub(super) struct Command {
    options: HashMap<String, String>,
}

impl Command {
    /// The one in this text.
    #[track_caller]
    pub(super) fn printed_in(said: &str) -> Self {
        let start = said.find("aws dynamodb delete-item").expect(said);
        let line = said[start..].lines().next().unwrap();
        let words = shell_words::split(line).expect(line);
        let pairs = words[3..].chunks(2);
        let options = pairs.map(|pair| {
            let name = pair[0].strip_prefix("--").expect(line);
            (name.to_owned(), pair.get(1).expect(line).clone())
        });
        Self { options: options.collect() }
    }

    fn option(&self, name: &str) -> &str {
        self.options.get(name).unwrap_or_else(|| panic!("--{name} in {self:?}"))
    }

    fn strings(&self, name: &str) -> HashMap<String, AttributeValue> {
        let value: serde_json::Value = serde_json::from_str(self.option(name)).unwrap();
        let members = value.as_object().unwrap().iter();
        members
            .map(|(name, value)| {
                (name.clone(), AttributeValue::S(value["S"].as_str().unwrap().to_owned()))
            })
            .collect()
    }

    /// Does what it says; whether its condition held.
    pub(super) async fn apply(&self) -> bool {
        assert_eq!(self.option("region"), REGION);
        assert_eq!(self.options.len(), 6, "nothing else was asked for: {self:?}");
        let server = Endpoint { url: self.option("endpoint-url").to_owned() };
        let sent = server
            .client()
            .delete_item()
            .table_name(self.option("table-name"))
            .set_key(Some(self.strings("key")))
            .condition_expression(self.option("condition-expression"))
            .set_expression_attribute_values(Some(self.strings("expression-attribute-values")))
            .send()
            .await;
        match sent {
            Ok(_) => true,
            Err(error) => {
                let code = error.as_service_error().and_then(|error| error.code());
                assert_eq!(code, Some("ConditionalCheckFailedException"), "{error:?}");
                false
            }
        }
    }
}

#[tokio::test]
async fn a_removal_that_was_applied_and_not_answered_is_no_loss() {
    let stage = Stage::new("release/lost").await;
    for fault in [Fault::DropReply, Fault::HalfReply, Fault::FailAfter] {
        stage.plan(&[("DeleteItem", fault.clone(), 1)]);
        let done = run(&mut stage.around("true"));
        let done = stage.went_well(done, &format!("{fault:?}")).await;
        assert_eq!(done.stderr, "", "{fault:?}");
    }
    // The control: one that somebody else removed is a loss.
    stage.proxy.plan([]);
    let url = &dynamodb().url;
    let lock =
        format!("dynamodb://{}/{}?region={REGION}&endpoint={url}", stage.table, stage.lock_id());
    let remover = local_backend_dir();
    let script = "touch in; while ! test -e go; do sleep 0.05; done";
    let ours = crate::support::harness::Running::start(&mut stage.around(script));
    crate::support::harness::eventually("the lock is held", || stage.path().join("in").exists());
    stage.cleared().await;
    fs::write(stage.path().join("go"), "").unwrap();
    says(&ours.finish().expect_code(76), &["lost"]);
    let mut free = tfwrap(remover.path());
    free.args(["--no-backend-lock", "--lock", &lock, "--lock-timeout=0s", "run", "--", "true"]);
    run(&mut free).expect_code(0);
}

#[tokio::test]
async fn a_removal_through_errors_is_sent_again() {
    let stage = Stage::new("release/errors").await;
    for fault in [
        Fault::SERVER_ERROR,
        Fault::THROTTLED,
        Fault::Refuse,
        Fault::CONFLICT,
        Fault::Status(400, "ExpiredTokenException"),
    ] {
        stage.plan(&[("DeleteItem", fault.clone(), 4)]);
        let before = stage.requests("DeleteItem");
        let done = run(&mut stage.around("true"));
        let done = stage.went_well(done, &format!("{fault:?}")).await;
        assert!(!done.stderr.contains("error"), "{fault:?}: {}", done.stderr);
        assert_eq!(stage.requests("DeleteItem") - before, 5, "{fault:?}");
    }
}

/// A removal that is held up on its way, and done when someone else has the lock already.
#[tokio::test]
async fn a_late_removal_leaves_the_next_holder_alone() {
    let mut stage = Stage::new("release/late").await;
    // What arrives here has left the one that holds it back.
    let server = stage.behind_another_proxy();
    stage.plan(&[("DeleteItem", Fault::Hold, 1)]);
    let done = run(&mut stage.around("true"));
    stage.went_well(done, "held back").await;
    let theirs = stage.taken_by_a_stranger().await;
    let removals = format!("DeleteItem {}", stage.lock_id());
    assert_eq!(server.count(&removals), 1);
    stage.proxy.release();
    server.arrived(&removals, 2).await;
    // Behind it in the line of the server.
    run(&mut stage.with(&["--lock-timeout=0s"], "true")).expect_code(75);
    assert_eq!(stage.info().await, Some(theirs));
}

/// The lock is left behind. The printed command removes just it, and nobody else's.
async fn is_left_behind(stage: &Stage, said: &str) {
    let id = id_of(&stage.info().await.expect("the lock is left"));
    assert!(said.contains(&id), "{id} in {said}");
    let command = Command::printed_in(said);
    stage.proxy.plan([]);
    let (stranger, ours) = (stage.taken_by_a_stranger().await, said);
    assert!(!command.apply().await, "it must not remove a stranger's: {ours}");
    assert_eq!(stage.info().await, Some(stranger), "the stranger's is untouched");
    stage.cleared().await;
    // Its own, as it was left.
    let info = format!(r#"{{"ID":"{id}","Operation":"run"}}"#);
    let text = AttributeValue::S;
    let item = HashMap::from([
        ("LockID".to_owned(), text(stage.lock_id())),
        ("Info".to_owned(), text(info)),
    ]);
    dynamodb().put_raw(&stage.table, item).await;
    assert!(command.apply().await, "it removes ours: {ours}");
    assert_eq!(stage.info().await, None);
}

fn id_of(info: &str) -> String {
    tfwrap::lock::LockInfo::parse(info).unwrap().id.0
}

#[tokio::test]
async fn a_denied_removal_is_74_with_the_command_that_finishes() {
    let stage = Stage::new("release/denied").await;
    stage.plan(&[("DeleteItem", Fault::DENIED, usize::MAX)]);
    let done = run(&mut stage.around("true")).expect_code(74);
    says(&done, &["could not be released", "`dynamodb:DeleteItem`", "finish with: "]);
    assert_eq!(stage.requests("DeleteItem"), 1, "a missing permission does not come by itself");
    // As printed, byte for byte, and of the very item that is there.
    let left = stage.info().await.unwrap();
    let command = Command::printed_in(&done.stderr);
    stage.proxy.plan([]);
    assert!(command.apply().await);
    assert_eq!(stage.info().await, None, "{left}");
    stage.plan(&[("DeleteItem", Fault::DENIED, usize::MAX)]);
    let done = run(&mut stage.around("true")).expect_code(74);
    is_left_behind(&stage, &done.stderr).await;
}

#[tokio::test]
async fn an_outage_for_the_whole_retry_time_is_74_with_the_command_that_finishes() {
    let stage = Stage::new("release/outage").await;
    for fault in [Fault::SERVER_ERROR, Fault::Refuse, Fault::Status(400, "ExpiredTokenException")] {
        stage.plan(&[("DeleteItem", fault.clone(), usize::MAX)]);
        let mut command = stage.around("true");
        let done = run(command.env("TFWRAP_RELEASE_PATIENCE", "1s")).expect_code(74);
        says(&done, &["could not be released", "finish with: "]);
        is_left_behind(&stage, &done.stderr).await;
    }
}

#[tokio::test]
async fn a_failed_child_keeps_its_code_when_the_lock_cannot_be_given_back() {
    let stage = Stage::new("release/both").await;
    stage.plan(&[("DeleteItem", Fault::DENIED, usize::MAX)]);
    for (script, code) in [("exit 3", 3), ("kill -9 $$", 137)] {
        let done = run(&mut stage.around(script)).expect_code(code);
        says(&done, &["could not be released"]);
        is_left_behind(&stage, &done.stderr).await;
        stage.plan(&[("DeleteItem", Fault::DENIED, usize::MAX)]);
    }
}

#[tokio::test]
async fn a_child_that_cannot_start_keeps_no_lock_even_through_errors() {
    let stage = Stage::new("release/no-child").await;
    stage.proxy.plan([Rule::on("DeleteItem", Fault::DropReply).times(1)]);
    let mut command = tfwrap(stage.path());
    run(command.args(["run", "--", "no-such-command"])).expect_code(127);
    assert_eq!(stage.info().await, None);
}
