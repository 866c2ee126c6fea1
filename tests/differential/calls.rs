//! A random command line in a random environment.

use std::path::Path;

use crate::scene::Scene;
use crate::support::dice::Dice;

#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Where it is typed, from the arena.
    pub(crate) cwd: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

/// The commands, the likelier ones more often.
const COMMANDS: [&str; 56] = [
    "plan",
    "plan",
    "plan",
    "plan",
    "apply",
    "apply",
    "apply",
    "apply",
    "apply",
    "apply",
    "apply",
    "apply",
    "apply",
    "apply",
    "destroy",
    "refresh",
    "import",
    "state rm",
    "destroy",
    "destroy",
    "refresh",
    "refresh",
    "import",
    "import",
    "import",
    "taint",
    "taint",
    "untaint",
    "untaint",
    "state mv",
    "state mv",
    "state mv",
    "state rm",
    "state rm",
    "state rm",
    "state push",
    "state push",
    "state pull",
    "state list",
    "state replace-provider",
    "workspace new",
    "workspace new",
    "workspace select",
    "workspace delete",
    "workspace delete",
    "workspace delete",
    "workspace list",
    "output",
    "show",
    "validate",
    "init",
    "version",
    "fmt",
    "force-unlock",
    "console",
    "providers",
];

const LOCK_FLAGS: [&str; 18] = [
    "-lock=true",
    "-lock",
    "--lock=true",
    "-lock=false",
    "--lock=false",
    "-lock=0",
    "-lock=F",
    "-lock=maybe",
    "-lock-timeout=0s",
    "-lock-timeout=1ms",
    "--lock-timeout=0s",
    "-lock-timeout=0",
    "-lock-timeout=-1s",
    "-lock-timeout=1",
    "-lock-timeout=x",
    "-lock-timeout 0s",
    "-lock false",
    "-lock=true -lock=false",
];

const WRONG: [&str; 6] = ["extra", "-no-such-flag", "-var", "--", "-", ""];

const WORKSPACES: [&str; 14] = [
    "dev", "dev", "dev", "dev", "default", "default", "typo", "typo", "", "..", "a/b", " dev",
    "w1", "pro-d",
];

impl Call {
    pub(crate) fn new(dice: &mut Dice, scene: &Scene, arena: &Path, by_name: bool) -> Self {
        let name = dice.one(&COMMANDS);
        let (mut cwd, chdir) = place(dice, scene, arena);
        let mut args: Vec<String> = chdir.into_iter().collect();
        args.extend(name.split(' ').map(str::to_owned));
        let words = args.len();
        let is_planned = name == "apply" && scene.plan.is_some() && dice.percent(60);
        args.extend(flags(dice, name, is_planned));
        if dice.percent(20) {
            args.extend(dice.one(&LOCK_FLAGS).split(' ').map(str::to_owned));
        }
        if is_planned {
            args.extend(scene.plan.clone());
        } else {
            args.extend(operands(dice, name, arena));
        }
        if dice.percent(4) {
            // Before the command it would be tfwrap's, but for a tfwrap by Terraform's name.
            let first = if by_name { 0 } else { words };
            let place = usize::try_from(dice.between(0, 100)).expect("a small number");
            args.insert(first + place % (args.len() + 1 - first), dice.one(&WRONG).to_owned());
        }
        let mut env = environment(dice, scene, name);
        if dice.percent(30) {
            // A shell's `PWD`, links and all; Go believes it where it is true.
            env.push(("PWD".to_owned(), arena.join(&cwd).display().to_string()));
        }
        if cwd.is_empty() {
            ".".clone_into(&mut cwd);
        }
        Self { cwd, args, env }
    }

    /// For the control: a change, with nothing special.
    pub(crate) fn plain(scene: &Scene) -> Self {
        let args = ["apply", "-auto-approve", "-var=x=2"].map(str::to_owned).to_vec();
        Self { cwd: scene.dir.clone(), args, env: Vec::new() }
    }
}

/// Where the command is typed, and its `-chdir`.
fn place(dice: &mut Dice, scene: &Scene, arena: &Path) -> (String, Option<String>) {
    let (dir, here) = (&scene.dir, arena.display());
    let place = |cwd: &str, chdir: &str| (cwd.to_owned(), Some(format!("-chdir={chdir}")));
    match dice.between(0, 40) {
        0..22 => (dir.clone(), None),
        22..24 => ("link".to_owned(), None),
        24..26 => ("other/deep/up".to_owned(), None),
        26..28 => place(dir, "."),
        28..30 => place("", dir),
        30..32 => place("", &format!("./{dir}/")),
        32..34 => place(&format!("{dir}/scripts"), ".."),
        34 => place("other", "../link"),
        35 => place("other/deep", &format!("{here}/{dir}")),
        // Through a link and up again: the kernel's `..`, not the text's.
        36 | 37 => place(dir, "lnk/../../link"),
        38 => place("", &format!("no-such/../{dir}")),
        _ => place(dir, "nope"),
    }
}

fn flags(dice: &mut Dice, name: &str, is_planned: bool) -> Vec<String> {
    let mut flags = Vec::new();
    let mut add = |dice: &mut Dice, chance: u64, of: &[&str]| {
        if dice.percent(chance) {
            flags.extend(dice.one(of).split(' ').map(str::to_owned));
        }
    };
    match name {
        "plan" => {
            add(
                dice,
                30,
                &["-out=new.bin", "-out new.bin", "--out=../other/new plan", "-out=no/p"],
            );
            add(dice, 20, &["-destroy", "-refresh-only", "-refresh=false", "-detailed-exitcode"]);
            add(dice, 15, &["-var=x=2", "-var x=2", "-target=terraform_data.a", "-json"]);
        }
        "apply" | "destroy" => {
            add(dice, 95, &["-auto-approve", "--auto-approve", "-auto-approve=true"]);
            if !is_planned {
                add(dice, 40, &["-var=x=2", "-var x=2", "--var x=3", "-target=terraform_data.a"]);
                add(dice, 15, &["-destroy", "-replace=terraform_data.a", "-parallelism=1"]);
            }
        }
        "refresh" => add(dice, 30, &["-var=x=2", "-target=terraform_data.a"]),
        "taint" | "untaint" | "state rm" => {
            add(dice, 20, &["-allow-missing", "-dry-run", "-ignore-remote-version"]);
        }
        "state mv" => {
            add(dice, 25, &["-dry-run", "-state-out=out.tfstate", "-state-out=no/out.tfstate"]);
        }
        "state push" => add(dice, 40, &["-force"]),
        "workspace delete" => add(dice, 50, &["-force", "--force", "-force=true"]),
        "workspace new" => add(dice, 30, &["-state=../seed.json", "-state=nope"]),
        "workspace select" => add(dice, 30, &["-or-create", "-or-create=true"]),
        "init" => add(dice, 60, &["-reconfigure", "-migrate-state", "-backend=false"]),
        "force-unlock" => add(dice, 80, &["-force"]),
        "output" => add(dice, 50, &["-json", "-raw x"]),
        _ => {}
    }
    let takes_a_state = matches!(
        name,
        "plan"
            | "apply"
            | "destroy"
            | "refresh"
            | "import"
            | "taint"
            | "untaint"
            | "state mv"
            | "state rm"
    );
    if takes_a_state && !is_planned {
        let states = [
            "-state=terraform.tfstate",
            "-state=./terraform.tfstate",
            "-state=lnk/../terraform.tfstate",
            "-state=no-such/../x.tfstate",
            "-state=no-such/x.tfstate",
            "-state=../seed.json",
            "-state ../seed.json",
            "-state=../push.json -state-out=new.tfstate",
            "-backup=-",
            "-backup=saved",
        ];
        add(dice, 9, &states);
    }
    flags
}

fn operands(dice: &mut Dice, name: &str, arena: &Path) -> Vec<String> {
    let one = |dice: &mut Dice| {
        let some = ["terraform_data.a", "terraform_data.b"];
        if dice.percent(92) { dice.one(&some) } else { "terraform_data.no" }
    };
    let words = match name {
        "import" if dice.percent(92) => vec!["terraform_data.c", "an id"],
        "import" => vec!["nope", "an id"],
        "untaint" if dice.percent(80) => vec!["terraform_data.b"],
        "taint" | "untaint" | "state rm" => vec![one(dice)],
        "state mv" => {
            vec![one(dice), dice.one(&["terraform_data.z", "terraform_data.z", "terraform_data.b"])]
        }
        "state push" => {
            let file = dice.one(&["push.json", "push.json", "seed.json", "nope.json"]);
            return vec![arena.join(file).display().to_string()];
        }
        "state replace-provider" => {
            let provider = "terraform.io/builtin/terraform";
            return vec!["-auto-approve".to_owned(), provider.to_owned(), provider.to_owned()];
        }
        "workspace new" => vec![dice.one(&["fresh", "dev", "b/ad", ""])],
        "workspace select" => vec![dice.one(&["dev", "default", "typo"])],
        "workspace delete" => vec![dice.one(&["dev", "dev", "w1", "typo", "default", "a/b"])],
        "force-unlock" => vec!["5ca1ab1e-0000-4000-8000-000000000001"],
        _ => vec![],
    };
    words.into_iter().map(str::to_owned).collect()
}

fn environment(dice: &mut Dice, scene: &Scene, name: &str) -> Vec<(String, String)> {
    let mut env = Vec::new();
    let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
    if let Some(dir) = &scene.data_dir {
        set("TF_DATA_DIR", dir);
    }
    if dice.percent(16) {
        set("TF_WORKSPACE", dice.one(&WORKSPACES));
    }
    if dice.percent(11) {
        let values = [
            "-lock=false",
            "-lock-timeout=1ms",
            "-no-color",
            "-var 'x=a b'",
            "-var x=2",
            "-lock=true -no-color",
            "\"-lock=false\"",
            "-no-such-flag",
            "-state=../seed.json",
            "",
            "-var 'x=a\nb'",
        ];
        let of = format!("TF_CLI_ARGS_{}", name.replace([' ', '-'], "_"));
        let of = if dice.percent(70) { of.as_str() } else { "TF_CLI_ARGS" };
        set(of, dice.one(&values));
    }
    env
}
