//! `tfwrap table`: the lock table that it makes, and the policy that it prints.

mod enforced;

use std::path::Path;
use std::process::Command;

use aws_sdk_dynamodb::types::{BillingMode, KeyType, ScalarAttributeType, TableDescription};
use serde_json::{Value, json};

use crate::support::harness::{Finished, run, s3_dir, tfwrap};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3_server::{aws_like, backend_dir};
use crate::support::servers::{REGION, dynamodb, local_backend_dir, s3_backend_dir, terraform};

fn create(dir: &Path, url: &str, args: &[&str]) -> Finished {
    let mut command = tfwrap(dir);
    command.args(["table", "create"]).args(args);
    command.env("AWS_REGION", REGION).env("AWS_ENDPOINT_URL_DYNAMODB", url);
    run(&mut command)
}

async fn described(table: &str) -> TableDescription {
    let found = dynamodb().client().describe_table().table_name(table).send().await.unwrap();
    found.table.unwrap()
}

#[tokio::test]
async fn a_lock_table_is_made_once_and_is_terraforms() {
    let (dir, table) = (local_backend_dir(), "table-made");
    let url = &dynamodb().url;
    let made = create(dir.path(), url, &[table]).expect_code(0);
    let expected = format!("dynamodb://{table}: made, hash key `LockID` (S)\n");
    assert_eq!((made.stdout, made.stderr.as_str()), (expected, ""));
    let found = described(table).await;
    let [key] = found.key_schema() else { panic!("{found:?}") };
    assert_eq!((key.attribute_name(), key.key_type()), ("LockID", &KeyType::Hash));
    assert_eq!(found.attribute_definitions()[0].attribute_type(), &ScalarAttributeType::S);
    let billing = found.billing_mode_summary().and_then(|it| it.billing_mode()).cloned();
    assert_eq!(billing, Some(BillingMode::PayPerRequest));
    let again = create(dir.path(), url, &[table]).expect_code(0);
    assert!(again.stdout.contains("was there already"), "{}", again.stdout);

    // The one of `--lock`'s own words.
    let other = format!("table-made-too?region={REGION}&endpoint={url}");
    run(tfwrap(dir.path()).args(["table", "create", &other])).expect_code(0);
    let lock = format!("dynamodb://table-made-too/x?region={REGION}&endpoint={url}");
    let mut command = tfwrap(dir.path());
    command.args(["--no-backend-lock", "--lock", &lock, "run", "--", "true"]);
    run(&mut command).expect_code(0);
}

#[tokio::test]
async fn without_a_name_it_is_the_backends_and_terraform_works_with_it() {
    let (key, table) = ("table/backend/terraform.tfstate", "table-backend");
    let dir = s3_backend_dir(key, table);
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let apply = |mut command: Command| run(command.args(["apply", "-auto-approve", "-no-color"]));
    apply(tfwrap(dir.path())).expect_code(69);
    let made = run(tfwrap(dir.path()).args(["table", "create"])).expect_code(0);
    assert!(made.stdout.starts_with(&format!("dynamodb://{table}: made")), "{}", made.stdout);
    apply(tfwrap(dir.path())).expect_code(0);
    apply(terraform(dir.path())).expect_code(0);
}

#[tokio::test]
async fn what_is_asked_for_is_there_afterwards_also_of_a_table_that_was_there() {
    const RECOVERY: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\n\
        connection: close\r\n\r\n{\"ContinuousBackupsDescription\":\
        {\"ContinuousBackupsStatus\":\"ENABLED\"}}";
    let dir = local_backend_dir();
    // The server of the tests knows no such operation.
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([
        // As it is while a new table's backups are not ready.
        Rule::on(
            "UpdateContinuousBackups",
            Fault::Status(400, "ContinuousBackupsUnavailableException"),
        )
        .times(1),
        Rule::on("UpdateContinuousBackups", Fault::Page(RECOVERY)),
    ]);
    let options = [
        "--deletion-protection",
        "--point-in-time-recovery",
        "--tag",
        "team=infra",
        "--tag",
        "a=b=c",
    ];
    let client = dynamodb().client();
    for (n, table) in ["table-options", "table-options-before"].into_iter().enumerate() {
        if n == 1 {
            dynamodb().create_lock_table(table).await;
        }
        let before = proxy.count("UpdateContinuousBackups");
        let done =
            create(dir.path(), proxy.url(), &[&[table][..], &options].concat()).expect_code(0);
        let says = "deletion protection on, point-in-time recovery on, tagged team=infra, a=b=c";
        assert!(done.stdout.contains(says), "{}", done.stdout);
        assert!(proxy.count("UpdateContinuousBackups") > before);
        let found = described(table).await;
        assert_eq!(found.deletion_protection_enabled(), Some(true));
        let arn = found.table_arn().unwrap();
        let tags = client.list_tags_of_resource().resource_arn(arn).send().await.unwrap();
        let mut tags: Vec<_> = tags.tags().iter().map(|it| (it.key(), it.value())).collect();
        tags.sort_unstable();
        assert_eq!(tags, [("a", "b=c"), ("team", "infra")]);
    }
    create(dir.path(), proxy.url(), &["table-options", "--tag", "nothing"]).expect_code(64);
}

#[tokio::test]
async fn a_table_that_is_no_lock_table_stays_as_it_is_and_is_78() {
    let (dir, table) = (local_backend_dir(), "table-wrong");
    dynamodb().create_table(table, "LockId").await;
    let done =
        create(dir.path(), &dynamodb().url, &[table, "--deletion-protection"]).expect_code(78);
    assert!(
        done.stderr.contains("is `LockId` and must be `LockID` (case counts)"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("make another table with `tfwrap table create"),
        "{}",
        done.stderr
    );
    assert_ne!(described(table).await.deletion_protection_enabled(), Some(true));
}

#[tokio::test]
async fn it_waits_until_the_table_is_active_and_through_what_gets_lost() {
    const CREATING: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\n\
        connection: close\r\n\r\n{\"Table\":{\"TableName\":\"t\",\"TableStatus\":\"CREATING\",\
        \"KeySchema\":[{\"AttributeName\":\"LockID\",\"KeyType\":\"HASH\"}],\
        \"AttributeDefinitions\":[{\"AttributeName\":\"LockID\",\"AttributeType\":\"S\"}]}}";
    let dir = local_backend_dir();
    let proxy = Proxy::before(&dynamodb().url);
    let creating = |after| Rule::on("DescribeTable", Fault::Page(CREATING)).after(after).times(2);
    proxy.plan([creating(1)]);
    create(dir.path(), proxy.url(), &["table-slow"]).expect_code(0);
    assert_eq!(proxy.count("DescribeTable"), 4);
    // Two callers at once, and the answer to one's own.
    proxy.plan([Rule::on("CreateTable", Fault::DropReply).times(1)]);
    create(dir.path(), proxy.url(), &["table-lost"]).expect_code(0);
    assert_eq!(described("table-lost").await.table_name(), Some("table-lost"));
}

#[tokio::test]
async fn who_may_not_make_it_is_told_what_it_takes() {
    let dir = local_backend_dir();
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("CreateTable", Fault::DENIED)]);
    let done = create(dir.path(), proxy.url(), &["table-denied"]).expect_code(77);
    assert!(done.stderr.contains("access denied: `dynamodb:CreateTable` on"), "{}", done.stderr);
    assert!(done.stderr.contains("needs `dynamodb:DescribeTable`"), "{}", done.stderr);
    // The look that comes first is a permission of `table create`, too, and not one of a run's.
    proxy.plan([Rule::on("DescribeTable", Fault::DENIED)]);
    let done = create(dir.path(), proxy.url(), &["table-denied"]).expect_code(77);
    assert!(done.stderr.contains("access denied: `dynamodb:DescribeTable` on"), "{}", done.stderr);
    assert!(done.stderr.contains("and `dynamodb:CreateTable`"), "{}", done.stderr);

    let mut command = tfwrap(dir.path());
    let done = run(command.args(["table", "create"])).expect_code(78);
    assert!(done.stderr.contains("names no lock table"), "{}", done.stderr);
    for args in [&["create", "a/b"][..], &["create", "t"], &["create", "tab?x=1"], &["make"], &[]] {
        let mut command = tfwrap(dir.path());
        run(command.arg("table").args(args)).expect_code(64);
    }
}

#[track_caller]
fn policy(dir: &Path, format: &str) -> String {
    let done = run(tfwrap(dir).args(["table", "policy", "--format", format])).expect_code(0);
    assert_eq!(done.stderr, "");
    done.stdout
}

#[tokio::test]
async fn the_policy_names_what_the_lock_needs_and_its_keys_only() {
    let dir = s3_dir("table/policy").await;
    let printed: Value = serde_json::from_str(&policy(dir.path(), "json")).unwrap();
    let key = dir.lock_id();
    let expected = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "LockItems",
            "Effect": "Allow",
            "Action": ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:DeleteItem"],
            "Resource": format!("arn:aws:dynamodb:{REGION}:*:table/{}", dir.table),
            "Condition": { "ForAllValues:StringLike": { "dynamodb:LeadingKeys": [
                key, format!("{key}.tfwrap/*"), format!("{key}-md5"),
            ] } },
        }],
    });
    assert_eq!(printed, expected);

    let bucket = backend_dir(&aws_like().url, "table/policy", "");
    run(terraform(bucket.path()).args(["init", "-no-color"])).expect_code(0);
    let printed: Value = serde_json::from_str(&policy(bucket.path(), "json")).unwrap();
    let files = "arn:aws:s3:::tfstate/table/policy";
    assert_eq!(
        printed["Statement"],
        json!([
            {
                "Sid": "LockFiles",
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
                "Resource": [format!("{files}.tflock"), format!("{files}.tfwrap/*.tflock")],
            },
            {
                "Sid": "Listing",
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": "arn:aws:s3:::tfstate",
            },
        ])
    );

    let local = local_backend_dir();
    let done = run(tfwrap(local.path()).args(["table", "policy"])).expect_code(78);
    assert!(done.stderr.contains("no lock here is in DynamoDB or S3"), "{}", done.stderr);
}

/// The same as JSON, and as Terraform itself would write it.
#[tokio::test]
async fn the_policy_is_terraforms_language_to_the_letter() {
    let dir = s3_dir("table/hcl").await;
    let hcl = policy(dir.path(), "terraform");
    let file = dir.path().join("policy.tf");
    std::fs::write(&file, &hcl).unwrap();
    run(terraform(dir.path()).args(["fmt", "-check", "-diff", "policy.tf"])).expect_code(0);
    let json: Value = serde_json::from_str(&policy(dir.path(), "json")).unwrap();
    let statement = &json["Statement"][0];
    let keys = &statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"];
    for value in [&statement["Sid"], &statement["Resource"], &statement["Action"], keys] {
        let texts = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for text in texts {
            assert!(hcl.contains(&text.to_string()), "{text} in {hcl}");
        }
    }
    assert_eq!(
        names_in(&hcl),
        ["sid", "actions", "resources", "condition", "test", "variable", "values"]
    );
}

/// The names in a statement, as a parser of the language has them.
fn names_in(text: &str) -> Vec<String> {
    let body: hcl_edit::structure::Body = text.parse().unwrap();
    let data = body.blocks().next().unwrap();
    assert_eq!(data.ident.as_str(), "data");
    let statement = data.body.blocks().next().unwrap();
    let mut names = Vec::new();
    for structure in &statement.body {
        if let Some(attribute) = structure.as_attribute() {
            names.push(attribute.key.to_string().trim().to_owned());
        }
        if let Some(block) = structure.as_block() {
            names.push(block.ident.to_string().trim().to_owned());
            let inner = block.body.attributes().map(|it| it.key.to_string().trim().to_owned());
            names.extend(inner);
        }
    }
    names
}
