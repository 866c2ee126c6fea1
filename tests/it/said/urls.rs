//! A URL from the user may have a secret in it: it is shown without.

use super::Row;

/// A lock by this URL, and what must be said of it.
fn lock(env: &str, url: &str, code: i32, says: &[&str]) {
    let keys =
        "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_REGION=eu-west-1 AWS_MAX_ATTEMPTS=1";
    let typed = format!(
        "export {keys} {env}; tfwrap --lock-timeout 0s --no-backend-lock --lock '{url}' run -- true"
    );
    let never = &["hunter2", "ter2"];
    let _done = Row { typed: &typed, code, says, never, ..Row::default() }.play();
}

#[test]
fn a_wrong_lock_is_shown_without_what_may_be_secret() {
    for (url, says) in [
        ("https://u:hunter2@ho st/x.tflock", "`https://…` is not a URL"),
        ("s3://u:hun/ter2@b/k.tflock", "`s3://…` is not a URL"),
        ("https://https//u:hunter2@h/x", "`https://…`: unknown scheme"),
        ("s3://CORP/alice:hunter2@bucket/k", "`s3://…` is not a lock file"),
        ("s3/u:hunter2#1@bucket/k", "`…` is not a URL"),
        ("s3?://u:hunter2?a=1@bucket/k", "`…` is not a URL"),
        ("file://u:1?hunter2=@b_u/k", "`file://…`"),
        ("s3://b/k.tfloc?endpoint=http://u:hunter2@h", "`s3://…` is not a lock file"),
        ("dynamodb://t/k?token=hunter2", "`dynamodb://t/k?token=…`: unknown parameter `token`"),
        ("s3://b/k.tflock#hunter2", "`s3://b/k.tflock#…`: write `#` as `%23`"),
        ("s3://b/k.tflock,s3://b/l.tflock?a=hunter2", "?a=…` names more than one lock"),
        ("s3://b/k.tflock?endpoint=http://u:hunter2@h h/", "the S3 endpoint `http://…` is not"),
    ] {
        lock("", url, 64, &[says]);
    }
}

#[test]
fn an_endpoint_and_a_proxy_are_shown_without_what_may_be_secret() {
    let at = "http://u:hunter2@127.0.0.1:9";
    lock(
        "",
        &format!("dynamodb://t/k?endpoint={at}/%3Fx=hunter2"),
        69,
        &["at `http://127.0.0.1:9/?x=…`"],
    );
    lock(
        &format!("AWS_ENDPOINT_URL='{at}/?t=hunter2'"),
        "s3://b/k.tflock",
        78,
        &["endpoint `http://127.0.0.1:9/?t=…` of `AWS_ENDPOINT_URL` has a query"],
    );
    lock(
        &format!("HTTP_PROXY={at}"),
        "s3://b/k.tflock?endpoint=http://h.example",
        69,
        &["through the proxy `http://127.0.0.1:9`"],
    );
}

#[test]
fn a_url_in_the_place_of_an_id_or_a_region_is_shown_without_what_may_be_secret() {
    let never = &["hunter2", "ter2"];
    let github = "GITHUB_ACTIONS=true TFWRAP_LOG_FORMAT=";
    for format in ["text", "json"] {
        for (command, code, shown) in [
            ("unlock --yes s3://u:hunter2@b/k.tflock", 1, "`s3://b/k.tflock`"),
            ("release s3://u:hunter2@b/k.tflock", 64, "`s3://b/k.tflock`"),
            ("unlock --yes https:/u:hunter2@b", 1, "`…`"),
        ] {
            let typed = format!("export {github}{format}; tfwrap {command}");
            let hint = "this is a URL, as a lock has one, and not the lock's ID: `tfwrap status`";
            let says = if shown == "`…`" { vec![shown] } else { vec![shown, hint] };
            Row { typed: &typed, code, says: &says, never, ..Row::default() }.play();
        }
    }
    let typed = "AWS_REGION=https://u:hunter2@h tfwrap --lock s3://b/k.tflock --no-backend-lock run -- true";
    let says = &["`AWS_REGION`", "`https://h` is not an AWS region"];
    Row { typed, code: 78, says, never, ..Row::default() }.play();
}
