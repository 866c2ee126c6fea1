//! Lock files in S3.

use std::path::Path;
use std::process::Command;

use super::Said;
use crate::support::harness::{Gate, Running, run, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3_server::{Bucket, Manners, backend_dir, start};
use crate::support::servers::{BUCKET, REGION, local_backend_dir, terraform};

/// A lock of `--lock` and no other.
fn with_lock(dir: &Path, url: &str, bucket: &str) -> Command {
    let mut command = tfwrap(dir);
    let lock = format!("s3://{bucket}/a/lock.tflock?region={REGION}&endpoint={url}");
    command.args(["--no-backend-lock", "--lock", &lock]);
    command
}

#[track_caller]
fn expect_nothing_left(server: &Bucket) {
    let left: Vec<_> = server.keys("").into_iter().filter(|key| key.contains("tfwrap")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_bucket_that_is_well_passes_and_nothing_is_left() {
    let server = start(Manners::Aws);
    let dir = backend_dir(&server.url, "a/terraform.tfstate", "");
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let said = Said::of(&mut tfwrap(dir.path()));
    assert_eq!(said.code, 0, "{}", said.text);
    said.expect("lock", "pass", &format!("s3://{BUCKET}/a/terraform.tfstate.tflock"));
    said.expect("bucket", "pass", "versioning not known");
    said.expect("permissions", "pass", "s3:GetObject");
    said.expect("permissions", "pass", "s3:DeleteObject");
    said.expect("conditions", "pass", "refused as they should be");
    expect_nothing_left(&server);
}

#[test]
fn what_the_bucket_is_like_is_told_as_far_as_it_may_be_looked_at() {
    const ON: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
        <VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    const OFF: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<VersioningConfiguration/>";
    const LOCKED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<ObjectLockConfiguration>\
        <ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode>\
        <Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    const KMS: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
        <ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
        <SSEAlgorithm>aws:kms</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>\
        </ServerSideEncryptionConfiguration>";
    let server = start(Manners::Aws);
    let proxy = Proxy::before(&server.url);
    let dir = backend_dir(proxy.url(), "a/terraform.tfstate", "");
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let page = |part, page| Rule::on("GET", Fault::Page(page)).key_with(part);
    proxy.plan([page("?versioning", ON), page("?object-lock", LOCKED), page("?encryption", KMS)]);
    let said = Said::of(&mut tfwrap(dir.path()));
    said.expect(
        "bucket",
        "pass",
        "versioning on; Object Lock on, 30 days; default encryption aws:kms",
    );
    proxy.plan([
        page("?versioning", OFF),
        Rule::on("GET", Fault::Status(404, "ObjectLockConfigurationNotFoundError"))
            .key_with("?object-lock"),
        Rule::on("GET", Fault::Status(403, "AccessDenied")).key_with("?encryption"),
    ]);
    let said = Said::of(&mut tfwrap(dir.path()));
    let (_, detail) = said.check("bucket");
    let facts = "versioning off; Object Lock off; default encryption unknown (access denied)";
    assert!(detail.contains(facts), "{detail}");
    said.expect("bucket", "warn", "aws s3api put-bucket-versioning --bucket tfstate");
    said.expect("bucket", "warn", "--endpoint-url http://127.0.0.1:");
}

#[test]
fn a_store_that_does_not_look_at_conditions_is_told() {
    let dir = local_backend_dir();
    let server = start(Manners::None);
    let said = Said::of(&mut with_lock(dir.path(), &server.url, BUCKET));
    said.expect("conditions", "fail", "ignores `If-None-Match`");
    expect_nothing_left(&server);
    let server = start(Manners::CreatesOnly);
    let said = Said::of(&mut with_lock(dir.path(), &server.url, BUCKET));
    said.expect("conditions", "warn", "the condition of a create only");
    expect_nothing_left(&server);
}

#[test]
fn a_bucket_that_is_missing_or_may_not_be_used_is_told() {
    let dir = local_backend_dir();
    let server = start(Manners::Aws);
    let said = Said::of(&mut with_lock(dir.path(), &server.url, "none"));
    said.expect("bucket", "fail", "bucket `none`");
    let proxy = Proxy::before(&server.url);
    let asked = |rules: &[Rule]| {
        proxy.plan(rules.to_vec());
        let said = Said::of(&mut with_lock(dir.path(), proxy.url(), BUCKET));
        expect_nothing_left(&server);
        said
    };
    let denied = Fault::Status(403, "AccessDenied");
    let said = asked(&[Rule::on("ListObjectsV2", denied.clone())]);
    assert_eq!(said.code, 0, "{}", said.text);
    said.expect("bucket", "skip", "`s3:ListBucket`");
    let said = asked(&[Rule::on("PUT", denied.clone())]);
    said.expect("permissions", "fail", "`s3:PutObject`");
    // Who holds it can be seen without leave to write.
    said.expect("holder", "pass", "free");
    let gate = Gate::new(dir.path(), "held");
    let mut holder = with_lock(dir.path(), &server.url, BUCKET);
    let holder =
        Running::start(holder.args(["--no-history", "run", "--", "sh", "-c", &gate.command()]));
    gate.reached();
    proxy.plan([Rule::on("PUT", denied.clone())]);
    let said = Said::of(&mut with_lock(dir.path(), proxy.url(), BUCKET));
    said.expect("permissions", "fail", "`s3:PutObject`");
    said.expect("holder", "pass", " for run");
    gate.open();
    holder.finish().expect_code(0);
    // As AWS says it of what is not there, without `s3:ListBucket`.
    let said = asked(&[
        Rule::on("ListObjectsV2", denied.clone()),
        Rule::on("GET", denied).key_with("a/lock.tflock"),
    ]);
    said.expect("permissions", "warn", "`s3:ListBucket`");
    said.expect("conditions", "pass", "");
}
