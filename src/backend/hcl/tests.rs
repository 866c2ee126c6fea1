use serde_json::json;

use super::*;

fn find_in<T: AsRef<[u8]>>(
    files: &[(&str, T)],
    dialect: Dialect,
) -> Result<Option<Declared>, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let root = format!("{}/", dir.path().display());
    let found = find(dir.path(), dialect).map_err(|error| error.to_string().replace(&root, ""))?;
    Ok(found.map(|found| Declared { place: found.place.replace(&root, ""), ..found }))
}

fn one(files: &[(&str, &str)]) -> Declared {
    find_in(files, Dialect::Terraform).unwrap().unwrap()
}

fn kind(files: &[(&str, &str)], dialect: Dialect) -> Option<String> {
    find_in(files, dialect).unwrap().map(|found| found.kind)
}

const S3: &str = r#"
# A comment with a backend in it.
terraform {
  required_version = ">= 1.0"
  backend "s3" {
    bucket         = "b" // the bucket
    key            = ("k")
    use_lockfile   = true
    max_retries    = 3
    endpoints      = { s3 = "http://s", "sts" : null }
    shared_config_files = ["a", "b"]
  }
}
"#;

#[test]
fn a_block_of_literal_values_is_read() {
    let found = one(&[("main.tf", S3)]);
    assert_eq!((found.kind.as_str(), found.place.as_str()), ("s3", "`main.tf:5`"));
    let expected = json!({
        "bucket": "b", "key": "k", "use_lockfile": true, "max_retries": 3,
        "endpoints": {"s3": "http://s", "sts": null}, "shared_config_files": ["a", "b"],
    });
    assert_eq!(Value::Object(found.attributes.unwrap()), expected);
}

/// Each was seen to be written down so by `terraform init`, 1.11.4.
#[test]
fn a_value_is_read_as_terraform_reads_it() {
    let native = |value: &str| format!("terraform {{\nbackend \"s3\" {{\nkey = {value}\n}}\n}}");
    let json = |value: &str| {
        format!(r#"{{"terraform": {{"backend": {{"s3": {{"//": 1, "//": 2, "key": {value}}}}}}}}}"#)
    };
    for (name, text, expected) in [
        ("a.tf", native("<<EOT\n a $${x}\n\\n\nEOT"), json!(" a ${x}\n\\n\n")),
        ("a.tf", native("<<-EOT\na\n  b\n  EOT"), json!("a\n  b\n")),
        ("a.tf", native("1.50"), json!("1.5")),
        ("a.tf", native("1e3"), json!(1000)),
        ("a.tf", native("12345678901234567890123"), json!("12345678901234567890123")),
        ("a.tf.json", json("12345678901234567890123"), json!("12345678901234567890123")),
        ("a.tf.json", json("1.0"), json!(1)),
        ("a.tf.json", json(r#"["${x}$${y}"]"#), json!(["${x}$${y}"])),
    ] {
        let found = one(&[(name, &text)]).attributes.unwrap();
        assert_eq!(found["key"], expected, "{text}");
    }
}

#[test]
fn the_block_is_found_however_it_is_written() {
    for text in [
        "terraform {\n backend s3 {}\n}",
        "terraform {\n backend \"s3\" {\n }\n}",
        "terraform {\n backend\t\"s3\"{}\n}",
        "terraform {\n backend /* of */ \"s3\" {}\n}",
        "\u{feff}terraform {\r\n backend \"s3\" {}\r\n}\r\n",
        "terraform /* {\n */ {\n backend \"\\u00733\" /* } */ { # {\n }\n}",
        "terraform {\n required_version = \">= 1\"\n required_providers {\n }\n backend \"s3\" {}\n}",
        "locals {\n a = 1\n}\nterraform {\n}\nterraform {\n backend \"s3\" {}\n}",
    ] {
        assert_eq!(one(&[("main.tf", text)]).kind, "s3", "{text:?}");
    }
}

#[test]
fn what_stands_beside_the_block_does_not_matter() {
    let beside = r#"
variable "v" {
  type = object({ a = string, b = optional(list(number), [1, -2.5e3]) })
  validation {
    condition     = can(regex("^\\d+$", var.v.a)) && !(length(var.v.b) > 3 || false)
    error_message = "no: ${var.v.a} %{if true}x%{else}y%{endif} $${literal}"
  }
}
locals {
  h = <<-EOT
    a ${join(",", [for k, v in var.m : "${k}=${v}" if v != null])}
      %{ for x in var.l ~}
      b ${x}
      %{ endfor ~}
  EOT
  s = aws_instance.x[*].id
  t = var.l.*.name[0]
  o = { for k, v in var.m : k => v... }
  c = var.a ? { "k-1" = 1, (var.k) : 2 } : {}
  f = provider::terraform::encode_tfvars({ a = 1 })
  i = var.l[length(var.l) - 1]["x"]
}
resource "aws_x" "y" {
  provider = aws.z
  dynamic "setting" {
    for_each = toset(["a"])
    content { n = setting.value }
  }
  lifecycle { ignore_changes = [tags["a"]] }
}
moved {
  from = aws_x.a["k"]
  to   = module.m[0].aws_x.b
}
"#;
    assert_eq!(one(&[("main.tf", &format!("{beside}{S3}"))]).kind, "s3");
}

/// Each was seen to be taken by Terraform 1.11.4, which then found the block.
#[test]
fn what_no_parser_takes_but_terraforms_hides_no_block() {
    let deep = format!("a = {}1{}", "[".repeat(300), "]".repeat(300));
    let chained = format!("a = 1{}", " + 1".repeat(3000));
    let beside: [&[u8]; 24] = [
        b"# caf\xe9\n// \xff {\n/* \xfe { \" */",
        deep.as_bytes(),
        chained.as_bytes(),
        b"a = 1e1000",
        b"a = <<EOT\nterraform {\n backend \"gcs\" {}\n}\nEOT",
        b"a = <<EOT\n } \" ${x} \nEOT",
        b"a = <<EOT\nx$\nEOT",
        b"a = <<EOT\nx %\nEOT",
        b"a = <<EOT\nx $$\nEOT",
        b"a = <<EOT\n$\nEOT",
        b"a = <<EOT\n$${ %%{ $$${\nEOT",
        b"a = <<-EOT\r\n }\r\n EOT\r",
        b"a = <<-EOT\n  ${\"x\"}EOT\n EOT",
        b"a = <<-EOT\n  ${x}\n \xc2\xa0EOT\t",
        b"a = <<EOT\nEOT }\nEOT",
        b"a = <<EOT\n%{ if x }${<<IN\n}\nEOT\nIN\n}%{ endif ~}\nEOT",
        b"a = \"$\"\n b = \"%\"",
        b"a = \"$$${ } %%{ \\\" { \"",
        b"a = \"${ # c \"}\n \"x\"}\"",
        b"a = \"${<<EOT\n}\"\nEOT\n}\"",
        b"a = \"${ { b = \"}\" }[\"b\"] }\"",
        b"a = \"%{ if true ~} } %{~ endif }\"",
        b"a = terraform.workspace",
        b"a = {\n terraform = { backend = 1 }\n}",
    ];
    for beside in beside {
        let control = [b"locals {\n ", beside, b"\n}\n"].concat();
        let shown = String::from_utf8_lossy(&control).into_owned();
        assert!(find_in(&[("a.tf", &control)], Dialect::Terraform).unwrap().is_none(), "{shown}");
        let found = find_in(&[("a.tf", [control, S3.into()].concat())], Dialect::Terraform);
        assert_eq!(found.unwrap().map(|found| found.kind).as_deref(), Some("s3"), "{shown}");
    }
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let beside = [r#""\ud800""#, "1e1000", "\"caf\u{e9}\"", r#"{"\udfff": 1, "\udfff": 2}"#, &deep];
    for beside in beside {
        let text = format!(
            r#"{{"locals": {{"a": {beside}}}, "terraform": {{"backend": {{"s3": {{}}}}}}}}"#
        );
        // As one byte, it is no text.
        let text: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let found = find_in(&[("a.tf.json", text)], Dialect::Terraform).unwrap();
        assert_eq!(found.map(|found| found.kind).as_deref(), Some("s3"), "{beside}");
    }
}

#[test]
fn json_is_read_with_objects_or_lists_at_each_level() {
    for text in [
        r#"{"terraform": {"backend": {"s3": {"bucket": "b", "//": "${x}"}}}}"#,
        r#"[{"terraform": [{"required_version": "1"}, {"backend": [{"s3": [{"bucket": "b"}]}]}]}]"#,
        r#"{"terraform": [[{"backend": [[{"s3": {"bucket": "b"}}]]}]]}"#,
        r#"{"terraform": {"backend": {"s3": {"bucket": "b"}}}, "terraform": {}}"#,
        r#"{"terraform": {}, "terr\u0061form": {"cloud": [], "backend": {"s3": {"bucket": "b"}}}}"#,
    ] {
        let found = one(&[("main.tf.json", text)]);
        assert_eq!((found.kind.as_str(), found.place.as_str()), ("s3", "`main.tf.json`"));
        assert_eq!(Value::Object(found.attributes.unwrap()), json!({"bucket": "b"}));
    }
}

#[test]
fn a_cloud_block_counts_as_a_backend() {
    for (name, text) in [
        ("a.tf", "terraform {\n cloud {\n organization = \"o\"\n }\n}"),
        ("a.tf.json", r#"{"terraform": {"cloud": {"organization": "o"}}}"#),
    ] {
        assert_eq!(one(&[(name, text)]).kind, "cloud");
    }
}

#[test]
fn a_configuration_without_a_backend_declares_none() {
    for (name, text) in [
        ("a.tf", "resource \"x\" \"y\" {\n backend \"s3\" {}\n}"),
        ("a.tf", "terraform {}"),
        ("a.tf", "this is } no HCL, which Terraform says in its own words"),
        (
            "a.tf",
            "terraform {\n my_backend \"s3\" {\n}\n backend-y {\n}\n backend = {\n}\n cloud.x",
        ),
        ("a.tf", "terraform\n{\n backend \"s3\" {}\n}"),
        ("a.tf", "terraform {\n x \"y\" {\n backend \"s3\" {}\n}\n}\nx {\n backend \"s3\" {}\n}"),
        ("a.tf", "backend {\u{0}"),
        ("a.tf", "terraform {\n a = \"\n backend \"s3\" {}\n}\n"),
        ("a.tf.json", r#"{"terraform": {"backend": null, "cloud": null}}"#),
        ("a.tf.json", r#"{"terraform": {"backend": {"s3": null}, "cloud": []}}"#),
        ("a.txt", S3),
        (".a.tf", S3),
        ("a.tf~", S3),
        ("#a.tf#", S3),
        ("a.tofu", S3),
        ("a.tftest.hcl", S3),
    ] {
        assert!(find_in(&[(name, text)], Dialect::Terraform).unwrap().is_none(), "{name} {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("module.tf")).unwrap();
    assert!(find(dir.path(), Dialect::Terraform).unwrap().is_none(), "a directory is no file");
}

#[test]
fn a_file_is_found_by_any_name_that_terraform_reads() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff.tf");
    fs::write(dir.path().join("elsewhere"), S3).unwrap();
    std::os::unix::fs::symlink("elsewhere", dir.path().join(odd)).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling.tf")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("pipe.tf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(find(dir.path(), Dialect::Terraform).unwrap().unwrap().kind, "s3");
}

#[test]
fn override_files_win_and_the_last_of_them_does() {
    let local = "terraform {\n backend \"local\" {}\n}";
    let gcs = "terraform {\n backend \"gcs\" {}\n}";
    for name in ["override.tf", "dev_override.tf"] {
        assert_eq!(one(&[("z.tf", S3), (name, local)]).kind, "local", "{name}");
    }
    assert_eq!(one(&[("override.tf", local), ("z_override.tf", gcs), ("a.tf", S3)]).kind, "gcs");
    let json = r#"{"terraform": {"backend": {"gcs": {}}}}"#;
    assert_eq!(one(&[("a.tf", S3), ("override.tf.json", json)]).kind, "gcs");
}

#[test]
fn for_opentofu_its_own_files_stand_beside_or_in_place_of_the_others() {
    let gcs = "terraform {\n backend \"gcs\" {}\n}";
    let files = [("main.tf", S3), ("main.tofu", gcs)];
    assert_eq!(kind(&files, Dialect::OpenTofu).as_deref(), Some("gcs"));
    assert_eq!(kind(&files, Dialect::Terraform).as_deref(), Some("s3"));
    let files = [("main.tf", S3), ("other.tofu", "locals {}")];
    assert_eq!(kind(&files, Dialect::OpenTofu).as_deref(), Some("s3"));
    let files = [("main.tf", S3), ("main.tofu", "locals {}")];
    assert_eq!(kind(&files, Dialect::OpenTofu), None);
    let files = [("main.tf.json", r#"{"terraform": {"backend": {"s3": {}}}}"#), ("main.tofu", gcs)];
    assert!(find_in(&files, Dialect::OpenTofu).is_err(), "only the same syntax is replaced");
}

#[test]
fn what_cannot_be_read_names_file_and_line() {
    let two = format!("{S3}{S3}");
    for (name, text, message) in [
        ("a.tf", "terraform {\n\n backend {}\n}", "`a.tf:3`: a backend has one label, its type"),
        (
            "a.tf.json",
            "{\n\"terraform\": {\"backend\": hunter2",
            "`a.tf.json`: expected value at line 2",
        ),
        ("a.tf", two.as_str(), "`a.tf:18`: a second backend; the first one is in `"),
        ("a_override.tf", two.as_str(), "`a_override.tf:18`: a second backend; the first one is"),
        ("a.tf", "terraform {\n cloud \"x\" {}\n}", "`a.tf:2`: a `cloud` block has no label"),
    ] {
        let error = find_in(&[(name, text)], Dialect::Terraform).map(|_| ()).unwrap_err();
        assert!(error.starts_with(message), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_value_that_is_not_literal_names_its_line() {
    for (name, text, message) in [
        (
            "a.tf",
            "terraform {\nbackend \"s3\" {\nkey = <<-EOT\n  k\nEOT\n}\n}",
            "`a.tf:3`: the value of `key`",
        ),
        (
            "a.tf",
            "terraform {\nbackend \"s3\" {\nbucket = \"b\"\nkey = var.k\n}\n}",
            "`a.tf:4`: the value of `key`",
        ),
        (
            "a.tf",
            "terraform {\nbackend \"s3\" { # caf\u{fffd}\nkey = \"${x}\"\n}\n}",
            "`a.tf:3`: the value of `key`",
        ),
        (
            "a.tf",
            "terraform {\nbackend \"s3\" {\nkey = [f()]\n}\n}",
            "`a.tf:3`: the value of `key`",
        ),
        (
            "a.tf.json",
            r#"{"terraform": {"backend": {"s3": {"key": ["${x}"]}}}}"#,
            "`a.tf.json`: the value of `key`",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        let found = find(dir.path(), Dialect::OpenTofu).unwrap().unwrap();
        let error = found.attributes.unwrap_err().to_string();
        let error = error.replace(&format!("{}/", dir.path().display()), "");
        assert_eq!(error, format!("{message} is not a literal one"));
    }
}

#[test]
fn a_block_that_cannot_be_read_has_its_type_all_the_same() {
    for (name, text, place) in [
        ("a.tf", "terraform {\n  backend \"s3\" {\n    key = = \"hunter2\"\n", "`a.tf:3`: "),
        ("a.tf", "terraform {\n backend \"s3\" {\n\n key = 1e1000\n}\n}", "`a.tf:4`: "),
        ("a.tf.json", r#"{"terraform": {"backend": {"s3": {"key": 1e1000}}}}"#, "`a.tf.json`: "),
        (
            "a.tf.json",
            r#"{"terraform": {"backend": {"s3": {"k": 1, "k": 2}}}}"#,
            "`a.tf.json`: `k` ",
        ),
    ] {
        let found = one(&[(name, text)]);
        assert_eq!(found.kind, "s3");
        let Err(error) = found.attributes else { continue };
        let error = error.to_string();
        assert!(error.contains(&place[1..]) && !error.contains("hunter2"), "{error}");
    }
}
