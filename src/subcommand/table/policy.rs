//! The least policy of AWS' IAM with which these locks can be taken: just what `doctor` tries,
//! narrowed to their keys and to what lies beside them.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::backend::{AwsSettings, Encryption, ObjectSettings};
use crate::cli::PolicyFormat;
use crate::lock::LockKey;
use crate::target::{LockTarget, StoreSpec};

/// What is allowed, on what, for which values of what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    sid: Cow<'static, str>,
    actions: Vec<&'static str>,
    resources: Vec<String>,
    condition: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    test: &'static str,
    variable: &'static str,
    values: Vec<String>,
}

/// All of it. `listed` is the bucket in which a workspace is looked for.
pub(super) fn text(
    targets: &[LockTarget],
    listed: Option<&LockTarget>,
    format: PolicyFormat,
) -> String {
    let statements = statements(targets, listed);
    match format {
        PolicyFormat::Json => as_json(&statements),
        PolicyFormat::Terraform => as_hcl(&statements),
    }
}

fn statements(targets: &[LockTarget], listed: Option<&LockTarget>) -> Vec<Statement> {
    let mut all: Vec<Statement> = Vec::new();
    for target in targets {
        match &target.store {
            StoreSpec::DynamoDb { table, aws } => {
                add(&mut all, items(table, aws, &target.key, target.of_backend));
            }
            StoreSpec::S3 { bucket, objects, aws, .. } => {
                add(&mut all, lock_files(bucket, objects, aws, &target.key));
                if let Encryption::Kms(key) = &objects.encryption {
                    add(&mut all, encryption(key, aws));
                }
                add(&mut all, listing(bucket, aws));
            }
            StoreSpec::File { .. } | StoreSpec::LocalState { .. } => {}
        }
    }
    if let Some(StoreSpec::S3 { bucket, aws, .. }) = listed.map(|it| &it.store) {
        add(&mut all, listing(bucket, aws));
    }
    // IAM takes each of them once in a policy.
    for at in 1..all.len() {
        let before = all[..at].iter().filter(|it| it.sid.starts_with(&*all[at].sid)).count();
        if before > 0 {
            all[at].sid = format!("{}{}", all[at].sid, before + 1).into();
        }
    }
    all
}

/// What differs in its objects or keys only is one statement.
fn add(all: &mut Vec<Statement>, new: Statement) {
    let is_alike = |known: &&mut Statement| {
        let keys = |it: &Statement| it.condition.is_some();
        known.sid == new.sid
            && known.actions == new.actions
            && keys(known) == keys(&new)
            && (!keys(&new) || known.resources == new.resources)
    };
    let Some(known) = all.iter_mut().find(is_alike) else {
        all.push(new);
        return;
    };
    let extend = |to: &mut Vec<String>, from: Vec<String>| {
        for value in from {
            if !to.contains(&value) {
                to.push(value);
            }
        }
    };
    extend(&mut known.resources, new.resources);
    if let (Some(known), Some(new)) = (&mut known.condition, new.condition) {
        extend(&mut known.values, new.values);
    }
}

fn items(table: &str, aws: &AwsSettings, key: &LockKey, of_backend: bool) -> Statement {
    let key = literal(&key.0);
    let mut values = vec![key.clone(), format!("{key}.tfwrap/*")];
    if of_backend {
        // Terraform's digest of the state.
        values.push(format!("{key}-md5"));
    }
    let arn = if table.starts_with("arn:") {
        table.to_owned()
    } else {
        format!("arn:{}:dynamodb:{}:*:table/{table}", partition(aws), region(aws))
    };
    Statement {
        sid: "LockItems".into(),
        actions: vec!["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:DeleteItem"],
        resources: vec![arn],
        condition: Some(Condition {
            test: "ForAllValues:StringLike",
            variable: "dynamodb:LeadingKeys",
            values,
        }),
    }
}

fn lock_files(
    bucket: &str,
    objects: &ObjectSettings,
    aws: &AwsSettings,
    key: &LockKey,
) -> Statement {
    let (bucket, key) = (bucket_arn(bucket, aws), literal(&key.0));
    let mut actions = vec!["s3:GetObject", "s3:PutObject", "s3:DeleteObject"];
    if objects.acl.is_some() {
        actions.push("s3:PutObjectAcl");
    }
    Statement {
        sid: "LockFiles".into(),
        actions,
        resources: vec![
            format!("{bucket}/{key}.tflock"),
            format!("{bucket}/{key}.tfwrap/*.tflock"),
        ],
        condition: None,
    }
}

/// Without it AWS denies a look at a lock that is free, and a workspace is not found.
fn listing(bucket: &str, aws: &AwsSettings) -> Statement {
    Statement {
        sid: "Listing".into(),
        actions: vec!["s3:ListBucket"],
        resources: vec![bucket_arn(bucket, aws)],
        condition: None,
    }
}

fn encryption(key: &str, aws: &AwsSettings) -> Statement {
    let arn = |key: &str| format!("arn:{}:kms:{}:*:key/{key}", partition(aws), region(aws));
    // An alias is no resource: then whatever key S3 uses for us.
    let is_alias = key.contains("alias/");
    let resource = match key {
        _ if is_alias => arn("*"),
        key if key.starts_with("arn:") => key.to_owned(),
        key => arn(key),
    };
    let via = Condition {
        test: "StringEquals",
        variable: "kms:ViaService",
        values: vec![format!("s3.{}.amazonaws.com", region(aws))],
    };
    Statement {
        sid: "Encryption".into(),
        actions: vec!["kms:GenerateDataKey", "kms:Decrypt"],
        resources: vec![resource],
        condition: is_alias.then_some(via),
    }
}

fn bucket_arn(bucket: &str, aws: &AwsSettings) -> String {
    if bucket.starts_with("arn:") {
        return bucket.to_owned();
    }
    format!("arn:{}:s3:::{bucket}", partition(aws))
}

fn region(aws: &AwsSettings) -> &str {
    aws.region.as_deref().unwrap_or("*")
}

fn partition(aws: &AwsSettings) -> &'static str {
    match region(aws) {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        region if region.starts_with("eusc-") => "aws-eusc",
        _ => "aws",
    }
}

/// As IAM takes it for itself: its wildcards and variables stand in braces.
fn literal(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '*' | '?' | '$' => {
                let _ = write!(out, "${{{c}}}");
            }
            c => out.push(c),
        }
    }
    out
}

fn as_json(statements: &[Statement]) -> String {
    let one = |list: &[String]| match list {
        [only] => json!(only),
        all => json!(all),
    };
    let statements = statements.iter().map(|it| {
        let mut statement = json!({
            "Sid": it.sid,
            "Effect": "Allow",
            "Action": it.actions,
            "Resource": one(&it.resources),
        });
        if let Some(Condition { test, variable, values }) = &it.condition {
            statement["Condition"] = json!({ *test: { *variable: values } });
        }
        statement
    });
    let statements: Vec<Value> = statements.collect();
    let policy = json!({ "Version": "2012-10-17", "Statement": statements });
    format!("{policy:#}\n")
}

fn as_hcl(statements: &[Statement]) -> String {
    let mut out = String::from("data \"aws_iam_policy_document\" \"tfwrap\" {\n");
    for (n, Statement { sid, actions, resources, condition }) in statements.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let actions: Vec<_> = actions.iter().map(|it| (*it).to_owned()).collect();
        let _ = writeln!(
            out,
            "  statement {{\n    sid       = {}\n    actions   = {}\n    resources = {}",
            quoted(sid),
            list(&actions),
            list(resources)
        );
        if let Some(Condition { test, variable, values }) = condition {
            let _ = writeln!(
                out,
                "\n    condition {{\n      test     = {}\n      variable = {}\n      values   = {}\n    }}",
                quoted(test),
                quoted(variable),
                list(values)
            );
        }
        out.push_str("  }\n");
    }
    out + "}\n"
}

fn list(values: &[String]) -> String {
    let values: Vec<_> = values.iter().map(|it| quoted(it)).collect();
    format!("[{}]", values.join(", "))
}

/// A string of Terraform's language. That writes IAM's own braces with `&`.
fn quoted(text: &str) -> String {
    let text = text.replace("${", "&{").replace("%{", "%%{");
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::env::Env;
    use crate::settings::LockUrl;

    fn target(url: &str) -> LockTarget {
        LockTarget::of_url(&LockUrl::parse(url).unwrap(), &Env::default(), Path::new("/")).unwrap()
    }

    fn json_of(targets: &[LockTarget]) -> Value {
        serde_json::from_str(&text(targets, None, PolicyFormat::Json)).unwrap()
    }

    #[test]
    fn locks_of_one_table_are_one_statement_with_all_their_keys() {
        let targets = ["a", "b"].map(|it| target(&format!("dynamodb://t/{it}?region=cn-north-1")));
        let policy = json_of(&targets);
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 1);
        assert_eq!(statements[0]["Resource"], "arn:aws-cn:dynamodb:cn-north-1:*:table/t");
        let keys = &statements[0]["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"];
        assert_eq!(*keys, json!(["a", "a.tfwrap/*", "b", "b.tfwrap/*"]));
        let elsewhere = [targets[0].clone(), target("dynamodb://u/b?region=cn-north-1")];
        let elsewhere =
            json_of(&[&elsewhere[..], &[target("dynamodb://v/b?region=cn-north-1")]].concat());
        let sids: Vec<_> =
            elsewhere["Statement"].as_array().unwrap().iter().map(|it| &it["Sid"]).collect();
        assert_eq!(sids, ["LockItems", "LockItems2", "LockItems3"]);
    }

    /// What lies beside a lock is under one prefix.
    #[test]
    fn the_queue_and_the_history_are_among_what_is_allowed() {
        use crate::lock::history;
        use crate::lock::line::{Slot, Ticket};
        let lock = LockKey("a".to_owned());
        let beside =
            [Slot::Line.key(&lock), Slot::Ticket(Ticket(7)).key(&lock), history::key(&lock)];
        let policy =
            json_of(&[target("dynamodb://t/a?region=r"), target("s3://b/a.tflock?region=r")]);
        let [items, objects] = [0, 1].map(|n| &policy["Statement"][n]);
        let item =
            items["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"][1].as_str();
        let object = objects["Resource"][1].as_str().unwrap();
        for key in beside.map(|key| key.0) {
            assert!(key.starts_with(item.unwrap().strip_suffix('*').unwrap()), "{key}");
            let (prefix, suffix) = object.split_once('*').unwrap();
            let name = format!("arn:aws:s3:::b/{key}.tflock");
            assert!(name.starts_with(prefix) && name.ends_with(suffix), "{name}");
        }
    }

    #[test]
    fn a_key_stands_for_itself() {
        let targets = [target("s3://b/a*${x}%25%7B\".tflock?region=eu-west-1")];
        let policy = json_of(&targets);
        let expected = "arn:aws:s3:::b/a${*}${$}{x}%{\".tflock";
        assert_eq!(policy["Statement"][0]["Resource"][0], expected);
        let hcl = text(&targets, None, PolicyFormat::Terraform);
        assert!(hcl.contains("\"arn:aws:s3:::b/a&{*}&{$}{x}%%{\\\".tflock\""), "{hcl}");
    }

    #[test]
    fn encryption_and_acl_have_their_permissions() {
        let mut lock = target("s3://b/k.tflock?region=eu-west-1");
        let mut of = |key: &str| {
            if let StoreSpec::S3 { objects, .. } = &mut lock.store {
                objects.encryption = Encryption::Kms(key.to_owned());
                objects.acl = Some("private".to_owned());
            }
            json_of(std::slice::from_ref(&lock))
        };
        let policy = of("1234");
        assert_eq!(policy["Statement"][0]["Action"][3], "s3:PutObjectAcl");
        assert_eq!(policy["Statement"][1]["Resource"], "arn:aws:kms:eu-west-1:*:key/1234");
        assert_eq!(policy["Statement"][1]["Condition"], Value::Null);
        assert_eq!(
            of("arn:aws:kms:x:1:key/2")["Statement"][1]["Resource"],
            "arn:aws:kms:x:1:key/2"
        );
        let alias = of("alias/states");
        assert_eq!(alias["Statement"][1]["Resource"], "arn:aws:kms:eu-west-1:*:key/*");
        let via = &alias["Statement"][1]["Condition"]["StringEquals"]["kms:ViaService"];
        assert_eq!(*via, json!(["s3.eu-west-1.amazonaws.com"]));
    }
}
