//! Files with a backend in them, by dice: mostly valid, and written as nobody would.

use std::fmt::Write as _;

use crate::support::dice::Dice;

/// What stands beside the block.
const BESIDE: [&str; 12] = [
    "# terraform { backend \"local\" { path = \"comment\" } }\n",
    "/* terraform {\n backend \"local\" {\n path = \"comment\"\n }\n} */\n",
    "// \u{e9} {\n",
    "locals {\n  a = <<EOT\nterraform {\n  backend \"local\" {\n    path = \"heredoc\"\n  }\n}\nEOT\n}\n",
    "locals {\n  b = \"${jsonencode({ a = \"}\", b = \"{\" })}\"\n}\n",
    "locals {\n  c = { terraform = { backend = \"local\" } }\n}\n",
    "locals {\n  d = <<-EOT\n    %{ for x in [\"{\"] ~}\n    $${x} ${x}\n    %{ endfor ~}\n  EOT\n}\n",
    "variable \"backend\" {\n  default = \"}\"\n}\n",
    "output \"o\" {\n  value = 1 > 0 ? \"{\" : \"\\\"}\"\n}\n",
    "terraform {\n  required_version = \">= 1.0\"\n}\n",
    "terraform {\n}\n",
    "\n\n\t \n",
];

/// Parts of a text in quotes, as they are written.
const PARTS: [&str; 34] = [
    "k",
    "k",
    "k",
    "key",
    "a/b",
    "state",
    "x.tfstate",
    "-",
    "_",
    " ",
    "\u{e9}",
    "e\u{301}",
    "\u{540d}",
    "\u{1f600}",
    "\\n",
    "\\t",
    "\\\"",
    "\\\\",
    "\\u00e9",
    "e\\u0301",
    "\\U0001F600",
    "$${x}",
    "%%{x}",
    "$",
    "%",
    "$$",
    "#",
    "//",
    "/*",
    "{",
    "}",
    "'",
    "<<EOT",
    "\u{212b}",
];

/// Parts that are code.
const CODE: [&str; 10] = [
    "${\"in\"}",
    "${1}",
    "${true}",
    "${1.50}",
    "${\"\"}",
    "%{ if true }t%{ else }f%{ endif }",
    "${~ \"x\" ~}",
    "${\"a${\"b\"}\"}",
    "${1 + 1}",
    "${upper(\"x\")}",
];

/// Lines of a heredoc.
const LINES: [&str; 17] = [
    "k", "a/b", "  k", "\tk", "", "k  ", "\\n", "\\\"", "\"", "$${x}", "$", "e\u{301}", "}", "# c",
    "EOT k", "EOT # c", "%%{",
];

/// What is no text, where a text is due.
const BARE: [&str; 17] = [
    "5",
    "05",
    "1.0",
    "1.50",
    "1e3",
    "1E-2",
    "12345678901234567890123",
    "0.1",
    "0",
    "true",
    "false",
    "-5",
    "1e30",
    "123456789.125",
    "100000000000000000000000000000000000000001",
    "9007199254740993",
    "4.9e-324",
];

/// The files of the case of this number.
pub(super) fn case(seed: u64, number: usize) -> Vec<(String, Vec<u8>)> {
    let number = u64::try_from(number).expect("not so many");
    let mut by = Writer { dice: Dice::new(seed.wrapping_mul(1_000_003) ^ number) };
    by.files()
}

struct Writer {
    dice: Dice,
}

impl Writer {
    fn maybe(&mut self, chance: u64) -> bool {
        self.dice.percent(chance)
    }

    fn times(&mut self, low: u64, high: u64) -> u64 {
        self.dice.between(low, high)
    }

    fn files(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let name = self.dice.one(&["main.tf", "main.tf", "main.tf", "a.tf", "\u{e9}.tf"]);
        let is_json = self.maybe(25);
        if is_json {
            let beside = [
                "",
                "",
                ", \"locals\": {\"x\": \"${1}\"}",
                ", \"//\": {}",
                ", \"terraform\": {}",
                ", \"output\": {\"o\": {\"value\": 1e400}}",
            ];
            let beside = self.dice.one(&beside);
            files.push((format!("{name}.json"), self.json_file(beside)));
        } else {
            files.push((name.to_owned(), self.native_file(true)));
        }
        if self.maybe(15) {
            let names = ["override.tf", "x_override.tf", "override.tf.json"];
            let name = self.dice.one(&names);
            // It may declare nothing anew.
            let text = if name.ends_with("json") { self.json_file("") } else { self.overriding() };
            files.push((name.to_owned(), text));
        }
        if self.maybe(15) {
            files.push(("z.tf".to_owned(), self.native_file(false)));
        }
        if self.maybe(2) {
            files.push(("second.tf".to_owned(), self.native_file(true)));
        }
        if self.maybe(10) {
            let name =
                self.dice.one(&[".hidden.tf", "main.tf~", "#main.tf#", "main.tf.bak", "main.txt"]);
            files.push((
                name.to_owned(),
                b"terraform {\n backend \"local\" {\n path = \"left\"\n }\n}".to_vec(),
            ));
        }
        files
    }

    fn native_file(&mut self, has_backend: bool) -> Vec<u8> {
        let mut text = String::new();
        // Of a name that stands once in a configuration.
        let mut beside = BESIDE.to_vec();
        for _ in 0..self.times(0, 3) {
            let one = self.dice.one(&beside);
            beside.retain(|it| *it != one);
            text += one;
        }
        if has_backend {
            text += &self.terraform();
            if self.maybe(2) {
                text += &self.terraform();
            }
        } else {
            text += self.dice.one(&BESIDE[9..]);
        }
        self.as_bytes(text)
    }

    fn overriding(&mut self) -> Vec<u8> {
        let text = self.terraform();
        self.as_bytes(text)
    }

    fn as_bytes(&mut self, mut text: String) -> Vec<u8> {
        if self.maybe(15) {
            text += "# the end";
        }
        if self.maybe(12) {
            text = text.replace('\n', "\r\n");
        }
        if self.maybe(8) {
            text.insert(0, '\u{feff}');
        }
        let mut bytes = text.into_bytes();
        if self.maybe(5) {
            bytes.extend(b"\n# caf\xe9 \xff\n");
        }
        bytes
    }

    fn blank(&mut self) -> &'static str {
        self.dice.one(&[" ", " ", " ", "\t", "  ", "", " /* b */ "])
    }

    fn end_of_line(&mut self) -> &'static str {
        self.dice.one(&[
            "\n",
            "\n",
            "\n",
            "\n\n",
            " # c\n",
            " // c\n",
            " /* c */\n",
            "\t\n",
            " # }\n",
            " // \" {\n",
        ])
    }

    fn terraform(&mut self) -> String {
        let kind = self.dice.one(&["local", "local", "local", "s3", "s3"]);
        let label = match (self.times(0, 12), kind) {
            (0, kind) => format!("{kind} "),
            (1, "s3") => "\"\\u00733\"".to_owned(),
            (2, "local") => "\"loc\\u0061l\"".to_owned(),
            (_, kind) => format!("\"{kind}\""),
        };
        let mut text = format!("terraform{}{{{}", self.blank(), self.end_of_line());
        if self.maybe(15) {
            text += "  required_version = \"> 0.1\" # backend {\n";
        }
        let (one, two) = (self.blank(), self.blank());
        let _ = write!(text, "  backend{one} {label}{two}{{");
        if kind == "local" && self.maybe(8) {
            let path = self.quoted(1);
            let _ = writeln!(text, " path = {path} }}");
        } else {
            text += self.end_of_line();
            for (name, value) in self.attributes(kind) {
                let (one, two) = (self.blank(), self.blank());
                let _ = write!(text, "    {name}{one}={two}{value}");
                // A heredoc ends with its line.
                text += if value.ends_with('\n') { "" } else { self.end_of_line() };
            }
            if self.maybe(2) {
                text += self.dice.one(&[
                    "    nonsense = 1\n",
                    "    endpoints {\n    }\n",
                    "    path = \"again\"\n",
                    "    key = \"again\"\n",
                ]);
            }
            text += "  }\n";
        }
        text + "}\n"
    }

    fn attributes(&mut self, kind: &str) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if kind == "local" {
            for name in ["path", "workspace_dir"] {
                if self.maybe(if name == "path" { 85 } else { 25 }) {
                    all.push((name, self.text()));
                }
            }
            return all;
        }
        for name in [
            "use_path_style",
            "skip_credentials_validation",
            "skip_requesting_account_id",
            "skip_region_validation",
        ] {
            all.push((name, self.dice.one(&["true", "true", "\"true\"", "(true)"]).to_owned()));
        }
        for (name, chance) in [
            ("bucket", 97),
            ("key", 97),
            ("dynamodb_table", 70),
            ("workspace_key_prefix", 20),
            ("token", 5),
        ] {
            if self.maybe(chance) {
                all.push((name, self.text()));
            }
        }
        all.push((
            "region",
            self.dice
                .one(&[
                    "\"eu-west-1\"",
                    "\"us-\\u0065ast-1\"",
                    "<<EOT\neu-west-1\nEOT\n",
                    "(\"eu-west-1\")",
                ])
                .to_owned(),
        ));
        for (name, chance) in [("encrypt", 20), ("use_lockfile", 25)] {
            if self.maybe(chance) {
                all.push((
                    name,
                    self.dice
                        .one(&[
                            "true",
                            "false",
                            "\"true\"",
                            "\"false\"",
                            "null",
                            "1",
                            "\"1\"",
                            "!true",
                            "\"TRUE\"",
                        ])
                        .to_owned(),
                ));
            }
        }
        if self.maybe(10) {
            all.push((
                "max_retries",
                self.dice.one(&["3", "\"3\"", "3.0", "1e1", "null", "(2)"]).to_owned(),
            ));
        }
        if self.maybe(12) {
            all.push((
                "endpoints",
                self.dice
                    .one(&[
                        "{ dynamodb = \"http://d:1\" }",
                        "{ \"dynamodb\" : \"http://d:1\", sts = null }",
                        "{\n  # c\n  dynamodb = \"http://d:1\"\n  sts = \"http://s\"\n}",
                        "{}",
                        "null",
                        "{ (\"dynamodb\") = \"http://d:1\" }",
                        "{ dynamodb = \"http://d:1\", dynamodb = \"http://e:1\" }",
                    ])
                    .to_owned(),
            ));
        }
        if self.maybe(12) {
            all.push((
                "shared_config_files",
                self.dice
                    .one(&[
                        "[\"b\", \"a\"]",
                        "[\n  \"a\", # c\n  \"e\u{301}\",\n]",
                        "[]",
                        "null",
                        "[\"a\", \"a\"]",
                        "[1]",
                        "[\"$${a}\"]",
                    ])
                    .to_owned(),
            ));
        }
        all
    }

    fn text(&mut self) -> String {
        match self.times(0, 40) {
            0 => self.dice.one(&BARE).to_owned(),
            1 => self
                .dice
                .one(&[
                    "null",
                    "\"\"",
                    "var.x",
                    "local.x",
                    "path.module",
                    "[]",
                    "{}",
                    "\"\\q\"",
                    "\"a\nb\"",
                ])
                .to_owned(),
            2..=5 => self.heredoc(),
            6 | 7 => format!("({})", self.quoted(3)),
            8 => format!("true ? {} : \"other\"", self.quoted(2)),
            9 => {
                let code = self.dice.one(&CODE);
                format!("\"k{code}\"")
            }
            _ => self.quoted(4),
        }
    }

    fn quoted(&mut self, most: u64) -> String {
        let mut text = "\"s".to_owned();
        for _ in 0..self.times(0, most + 1) {
            text += self.dice.one(&PARTS);
        }
        text + "\""
    }

    fn heredoc(&mut self) -> String {
        let begin = self.dice.one(&["<<EOT", "<<-EOT", "<<-EOT", "<<\u{e9}1-x"]);
        let marker = begin.trim_start_matches(['<', '-']);
        let mut text = format!("{begin}\n");
        for _ in 0..self.times(0, 4) {
            text += self.dice.one(&["", "", "  ", "\t", "    "]);
            text += self.dice.one(&LINES);
            text += "\n";
        }
        format!("{text}{}{marker}\n", self.dice.one(&["", "  ", "\t"]))
    }

    fn json_file(&mut self, beside: &str) -> Vec<u8> {
        let kind = self.dice.one(&["local", "local", "s3"]);
        let mut body: Vec<String> = Vec::new();
        let string = |by: &mut Self| {
            let parts = [
                "k",
                "a/b",
                "\u{e9}",
                "e\u{301}",
                "\\u00e9",
                "e\\u0301",
                "\\ud83d\\ude00",
                "\\n",
                "\\\"",
                "\\\\",
                "\\/",
                "$",
                "%",
                "$${x}",
                "%%{x}",
                "${\\\"in\\\"}",
                "${x}",
                " ",
                "\\u0041",
                "//",
                "\\ud800",
            ];
            let mut text = "\"s".to_owned();
            for _ in 0..by.times(0, 4) {
                text += by.dice.one(&parts);
            }
            text + "\""
        };
        let value = |by: &mut Self| match by.times(0, 14) {
            0 => by.dice.one(&BARE).to_owned(),
            1 => by.dice.one(&["null", "\"\"", "[]", "{}"]).to_owned(),
            _ => string(by),
        };
        if kind == "local" {
            body.push(format!("\"path\": {}", value(self)));
            if self.maybe(20) {
                body.push(format!("\"workspace_dir\": {}", value(self)));
            }
        } else {
            for name in
                ["use_path_style", "skip_credentials_validation", "skip_requesting_account_id"]
            {
                body.push(format!("\"{name}\": {}", self.dice.one(&["true", "\"true\""])));
            }
            body.push("\"region\": \"eu-w\\u0065st-1\"".to_owned());
            for name in ["bucket", "key", "dynamodb_table"] {
                body.push(format!("\"{name}\": {}", value(self)));
            }
            if self.maybe(20) {
                let endpoints = [
                    "{\"dynamodb\": \"http://d:1\"}",
                    "{\"//\": 1, \"dynamodb\": \"http://d:1\"}",
                    "null",
                    "[{\"dynamodb\": \"http://d:1\"}]",
                ];
                body.push(format!("\"endpoints\": {}", self.dice.one(&endpoints)));
            }
            if self.maybe(20) {
                body.push(format!(
                    "\"use_lockfile\": {}",
                    self.dice.one(&["true", "\"true\"", "false", "1", "null"])
                ));
            }
        }
        if self.maybe(15) {
            body.push("\"//\": \"a comment\"".to_owned());
        }
        if self.maybe(3) {
            let again = body[0].clone();
            body.push(again);
        }
        let space = self.dice.one(&["", " ", "\n  ", "\t"]);
        let mut list = |text: String| match self.times(0, 8) {
            0 => format!("[{text}]"),
            1 => format!("[{space}{text}{space}]"),
            _ => text,
        };
        let body = list(format!("{{{space}{}{space}}}", body.join(&format!(",{space}"))));
        let backend = list(format!("{{\"{kind}\":{space}{body}}}"));
        let terraform = list(format!("{{\"backend\": {backend}}}"));
        let mut text = format!("{{{space}\"terraform\": {terraform}{beside}}}{space}");
        if self.maybe(8) {
            text.insert(0, '\u{feff}');
        }
        text.into_bytes()
    }
}
