//! A random place for Terraform.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arena::Arena;
use crate::support::dice::Dice;
use crate::support::harness;
use crate::support::servers::REGION;

const STATE: &str = r#"{"version":4,"terraform_version":"1.11.4","serial":3,"lineage":"0f4c9a52-6f43-4ba9-8a3e-77aa33c1d0be","outputs":{},"resources":[RESOURCES],"check_results":null}"#;
const RESOURCE: &str = r#"{"mode":"managed","type":"terraform_data","name":"NAME","provider":"provider[\"terraform.io/builtin/terraform\"]","instances":[{"schema_version":0,"attributes":{"id":"4f0e3f4d-32f1-4b9c-8d5b-0e6f7a8b9c0NUMBER","input":{"value":"1","type":"string"},"output":{"value":"1","type":"string"},"triggers_replace":null},"sensitive_attributes":[]}]}"#;

const CONFIG: &str = r#"
variable "x" {
  default = "1"
}
resource "terraform_data" "a" {
  input = var.x
}
resource "terraform_data" "b" {
  input = "1"
}
resource "terraform_data" "c" {
}
output "x" {
  value = var.x
}
"#;

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    /// No block at all.
    None,
    Local {
        path: Option<String>,
        workspace_dir: Option<String>,
    },
    S3 {
        key: String,
        prefix: Option<String>,
        lock: Lock,
    },
}

/// What locks a state in S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Item,
    File,
    Both,
}

impl Lock {
    fn lines(self, arena: &Arena) -> String {
        let item = format!("    dynamodb_table = \"{}\"\n", arena.table());
        let file = "    use_lockfile = true\n";
        match self {
            Self::Item => item,
            Self::File => file.to_owned(),
            Self::Both => item + file,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// Where the configuration is, from the arena.
    pub(crate) dir: String,
    pub(crate) backend: Backend,
    /// Workspaces that exist beside the default one.
    pub(crate) workspaces: Vec<String>,
    /// Whether the default one has a state.
    pub(crate) seeded: bool,
    /// What stands in `.terraform/environment`.
    pub(crate) selected: Option<String>,
    /// `TF_DATA_DIR`.
    pub(crate) data_dir: Option<String>,
    pub(crate) is_initialised: bool,
    /// Under which name a plan was saved.
    pub(crate) plan: Option<String>,
}

impl Scene {
    pub(crate) fn new(dice: &mut Dice, arena: &Path) -> Self {
        let here = arena.display();
        let dir = dice.one(&["infra", "infra", "a b", "ünï cödé", "deep/er", "x'y"]).to_owned();
        let backend = match dice.between(0, 10) {
            0..2 => Backend::None,
            2..6 => Backend::Local {
                path: dice.percent(60).then(|| {
                    let paths = [
                        "s.tfstate",
                        "./s.tfstate",
                        "sub/s.tfstate",
                        "lnk/../s.tfstate",
                        "lnk/s.tfstate",
                        "no-such/../s.tfstate",
                        "../other/s.tfstate",
                        "a b.tfstate",
                        "ABS/s.tfstate",
                    ];
                    dice.one(&paths).replace("ABS", &here.to_string())
                }),
                workspace_dir: dice.percent(30).then(|| {
                    dice.one(&["wsd", "lnk/../wsd", "./w s/", "ABS/wsd", "lnk"])
                        .replace("ABS", &here.to_string())
                }),
            },
            _ => Backend::S3 {
                key: dice.one(&["k", "a/b/terraform.tfstate", "ä b/k+k", "./k"]).to_owned(),
                prefix: dice.percent(35).then(|| dice.one(&["", "p", "w s/x", "env:"]).to_owned()),
                lock: Lock::Item,
            },
        };
        let names = ["dev", "dev", "pro-d", "ünï"];
        let workspaces = match dice.between(0, 4) {
            0 => vec![],
            1 | 2 => vec![dice.one(&names).to_owned()],
            _ => vec!["dev".to_owned(), "w1".to_owned()],
        };
        let selected = match dice.between(0, 24) {
            0..12 => None,
            12..20 => Some(workspaces.first().map_or("dev", String::as_str).to_owned()),
            20 => Some(" dev \n".to_owned()),
            21 => Some("gone".to_owned()),
            22 => Some(dice.one(&["..", "", "/abs", "a/b", "."]).to_owned()),
            _ => Some("default\n".to_owned()),
        };
        let data_dirs =
            ["dd", "./d d", "no-such/../.terraform", "lnk/../dd", "ABS/dd", "lnk/dd", ""];
        let data_dir =
            dice.percent(25).then(|| dice.one(&data_dirs).replace("ABS", &here.to_string()));
        let plans = ["p.bin", "./p.bin", "plan word", "ABS/p.bin", "../other/p"];
        let plan = dice.percent(25).then(|| dice.one(&plans).replace("ABS", &here.to_string()));
        let mut scene = Self {
            dir,
            backend,
            workspaces,
            seeded: dice.percent(90),
            selected,
            data_dir,
            is_initialised: dice.percent(96),
            plan,
        };
        scene.lock_with(dice.one(&[Lock::Item, Lock::Item, Lock::File, Lock::Both]));
        scene
    }

    fn lock_with(&mut self, with: Lock) {
        if let Backend::S3 { lock, .. } = &mut self.backend {
            *lock = with;
        }
    }

    /// Where the control plays: nothing special.
    pub(crate) fn plain(dice: &mut Dice) -> Self {
        let backend = if dice.percent(50) {
            Backend::None
        } else {
            let lock = dice.one(&[Lock::Item, Lock::File, Lock::Both]);
            Backend::S3 { key: "k".to_owned(), prefix: None, lock }
        };
        Self {
            dir: "infra".to_owned(),
            backend,
            workspaces: vec!["dev".to_owned(), "w1".to_owned()],
            seeded: true,
            selected: Some("dev".to_owned()),
            data_dir: None,
            is_initialised: true,
            plan: None,
        }
    }

    pub(crate) fn dir_in(&self, arena: &Arena) -> PathBuf {
        arena.path().join(&self.dir)
    }

    fn block(arena: &Arena, backend: &Backend) -> String {
        let line = |name: &str, value: &Option<String>| {
            value.as_ref().map_or(String::new(), |value| format!("    {name} = {value:?}\n"))
        };
        let block = match backend {
            Backend::None => return String::new(),
            Backend::Local { path, workspace_dir } => format!(
                "  backend \"local\" {{\n{}{}  }}\n",
                line("path", path),
                line("workspace_dir", workspace_dir)
            ),
            Backend::S3 { key, prefix, lock } => format!(
                r#"  backend "s3" {{
    bucket                      = "{bucket}"
    key                         = "{key}"
{prefix}
    region                      = "{REGION}"
{lock}
    use_path_style              = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
    skip_metadata_api_check     = true
    skip_region_validation      = true
    endpoints = {{
      s3       = "{s3}"
      dynamodb = "{dynamodb}"
    }}
  }}
"#,
                bucket = arena.bucket,
                prefix = line("workspace_key_prefix", prefix),
                lock = lock.lines(arena),
                s3 = arena.s3.url,
                dynamodb = arena.dynamodb.url,
            ),
        };
        format!("terraform {{\n{block}}}\n")
    }

    /// Another state for the same directory.
    pub(crate) fn turned(&self) -> Backend {
        match &self.backend {
            Backend::S3 { prefix, lock, .. } => {
                let (key, prefix) = ("turned/k".to_owned(), prefix.clone());
                Backend::S3 { key, prefix, lock: *lock }
            }
            _ => Backend::Local { path: Some("turned.tfstate".to_owned()), workspace_dir: None },
        }
    }

    pub(crate) fn write_backend(&self, arena: &Arena, backend: &Backend) {
        let file = self.dir_in(arena).join("backend.tf");
        fs::write(file, Self::block(arena, backend)).expect("it can be written");
    }

    /// Stock Terraform in the configuration's directory.
    pub(crate) fn stock(&self, arena: &Arena, args: &[&str]) -> Command {
        let mut command = arena.command(Path::new("terraform"), &self.dir_in(arena));
        command.args(args);
        if let Some(dir) = &self.data_dir {
            command.env("TF_DATA_DIR", dir);
        }
        command
    }

    /// Puts everything up. What fails, fails for both players.
    pub(crate) fn put_up(&self, arena: &Arena) {
        arena.clear();
        let (top, dir) = (arena.path(), self.dir_in(arena));
        let make = |path: PathBuf| fs::create_dir_all(path).expect("a directory");
        make(dir.join("scripts"));
        make(top.join("other/deep"));
        let link = |to: &Path, at: PathBuf| {
            std::os::unix::fs::symlink(to, at).expect("a link");
        };
        link(&top.join("other/deep"), dir.join("lnk"));
        link(&dir, top.join("link"));
        link(Path::new("../../link"), top.join("other/deep/up"));
        fs::write(dir.join("main.tf"), CONFIG).expect("it can be written");
        let resource =
            |name: &str, number: &str| RESOURCE.replace("NAME", name).replace("NUMBER", number);
        let tainted = resource("b", "2")
            .replace("{\"schema_version", "{\"status\":\"tainted\",\"schema_version");
        let both = [resource("a", "1"), tainted].join(",");
        for (name, resources, serial) in
            [("seed.json", both, "3"), ("push.json", resource("a", "1"), "9")]
        {
            let state =
                STATE.replace("RESOURCES", &resources).replace(":3,", &format!(":{serial},"));
            fs::write(top.join(name), state).expect("it can be written");
        }
        self.write_backend(arena, &self.backend);
        let seed = top.join("seed.json").display().to_string();
        let stock = |args: &[&str]| harness::run(&mut self.stock(arena, args));
        if matches!(self.backend, Backend::None) {
            // `init` would only make an empty directory.
        } else if self.is_initialised {
            stock(&["init", "-no-color"]);
        } else {
            return;
        }
        if self.seeded {
            stock(&["state", "push", &seed]);
        }
        for name in &self.workspaces {
            stock(&["workspace", "new", name]);
            stock(&["state", "push", "-force", &seed]);
        }
        let data = self.data_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(".terraform");
        let environment = dir.join(data).join("environment");
        if !self.workspaces.is_empty() {
            drop(fs::remove_file(&environment));
        }
        if let Some(selected) = &self.selected {
            drop(fs::create_dir_all(dir.join(data)));
            drop(fs::write(environment, selected));
        }
        if let Some(plan) = &self.plan {
            stock(&["plan", &format!("-out={plan}"), "-var=x=planned"]);
        }
    }
}
