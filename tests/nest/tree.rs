//! A job: commands in commands.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::support::dice::Dice;
use crate::support::harness::{fake_terraform, wrapper};

/// Whether tfwrap is there at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Taken,
    None,
}

/// What stands around something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wrap {
    Shell,
    /// That passes a TERM on to its child.
    Trap,
    Exec,
    Python,
    Node,
    Pipe,
    Setsid,
}

/// How a hold ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    Released,
    /// Cut short, and then again.
    Twice,
    ByTrap,
    /// Not before its longest time.
    Never,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A scripted Terraform: works so long, and takes so long to heed an interrupt.
    Apply {
        number: usize,
        works: u64,
        heeds: u64,
        plainly: bool,
        /// Behind a script that gives it a session of its own.
        apart: bool,
    },
    /// A real one around a scripted child.
    Terraform {
        number: usize,
        works: u64,
    },
    Run(Box<Self>),
    Hold(Vec<Self>, Ends),
    Steps(Vec<Self>),
    /// Side by side, in the shell's background.
    Jobs(Vec<Self>),
    Make(Vec<Self>),
    Timeout(u64, Box<Self>),
    Wrapped(Wrap, Box<Self>),
    Recover {
        waits: bool,
    },
    Release,
}

/// A tree of these grows no further than so many.
const MOST: usize = 9;

pub(crate) struct Grower<'a> {
    pub(crate) dice: &'a mut Dice,
    /// Whether things happen that are stops of themselves.
    pub(crate) calm: bool,
    pub(crate) count: usize,
}

impl Grower<'_> {
    pub(crate) fn tree(&mut self, depth: usize) -> Node {
        self.count += 1;
        if depth >= 4 || self.count >= MOST {
            return self.leaf();
        }
        let chance = self.dice.between(0, 100);
        // A job is not just one command.
        match if depth == 0 { chance * 3 / 4 } else { chance } {
            0..18 => Node::Run(self.below(depth).into()),
            18..36 => {
                let ends = match self.dice.between(0, 10) {
                    0..6 => Ends::Released,
                    6 => Ends::Twice,
                    7 | 8 => Ends::ByTrap,
                    _ => Ends::Never,
                };
                Node::Hold(self.some(depth), ends)
            }
            36..44 => Node::Jobs(self.some(depth)),
            44..52 => Node::Make(self.some(depth)),
            52..58 => Node::Steps(self.some(depth)),
            58..62 if !self.calm => {
                Node::Timeout(self.dice.between(300, 2500), self.below(depth).into())
            }
            58..78 => {
                use Wrap as W;
                let all = [W::Shell, W::Trap, W::Exec, W::Python, W::Node, W::Pipe, W::Setsid];
                Node::Wrapped(self.dice.one(&all), self.below(depth).into())
            }
            _ => self.leaf(),
        }
    }

    fn below(&mut self, depth: usize) -> Node {
        self.tree(depth + 1)
    }

    fn some(&mut self, depth: usize) -> Vec<Node> {
        (0..self.dice.between(1, 4)).map(|_| self.tree(depth + 1)).collect()
    }

    fn leaf(&mut self) -> Node {
        let number = self.count;
        self.count += 1;
        let works = self.dice.between(200, 2500);
        let heeds = self.dice.between(100, 1500);
        match self.dice.between(0, 20) {
            0..14 => {
                let (plainly, apart) = (self.dice.percent(50), self.dice.percent(25));
                Node::Apply { number, works, heeds, plainly, apart }
            }
            14..17 => Node::Terraform { number, works },
            17 => Node::Recover { waits: !self.calm && self.dice.percent(40) },
            18 => Node::Release,
            // One that a guardian has to kill.
            _ => Node::Apply { number, works: 5000, heeds: 20_000, plainly: false, apart: false },
        }
    }
}

/// How nodes are written as commands.
pub(crate) struct Writer {
    /// Where the children note their begin and end; with a suffix, where they log signals, and the
    /// makefiles.
    pub(crate) work: PathBuf,
    pub(crate) job: usize,
    pub(crate) lock: Lock,
    pub(crate) terraform: PathBuf,
    /// The script before one that is apart.
    pub(crate) apart: PathBuf,
}

impl Writer {
    /// The command of a node, in words.
    pub(crate) fn words(&self, node: &Node) -> Vec<String> {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let before = |words: &[&str], node: &Node| [own(words), self.words(node)].concat();
        let apply = ["apply", "-auto-approve", "-no-color"];
        let is_locked = self.lock == Lock::Taken;
        let work = self.work.display();
        match node {
            Node::Apply { number, works, heeds, plainly, apart } => {
                let id = format!("{}-{number}", self.job);
                let stops: String = ["SIGINT", "SIGTERM", "SIGHUP"]
                    .map(|signal| format!("on {signal} exit 1 after {heeds}; "))
                    .concat();
                let script = format!(
                    "log {work}.signals-{id}; {stops}begin {work} {id}; sleep {works}; end {work}"
                );
                let mut env = own(&["env", &format!("FAKE_TERRAFORM_SCRIPT={script}")]);
                if *apart {
                    env.push(format!("TFWRAP_TERRAFORM={}", self.apart.display()));
                }
                let fake = fake_terraform().display().to_string();
                let command = match (is_locked, plainly) {
                    (false, _) => own(&[fake.as_str()]),
                    // Under `run` and `hold` that is tfwrap, elsewhere not: there it is called so.
                    (true, true) => own(&["sh", "-c", PLAINLY, &wrapper().display().to_string()]),
                    (true, false) => tfwrap(&apply),
                };
                [env, command].concat()
            }
            Node::Terraform { number, works } => {
                let fake = fake_terraform();
                let script =
                    format!("begin {work} {}-{number}; sleep {works}; end {work}", self.job);
                let script = shell_words::quote(&script).into_owned();
                let inner = format!("exec env FAKE_TERRAFORM_SCRIPT={script} {}", fake.display());
                if !is_locked {
                    return own(&["sh", "-c", &inner]);
                }
                let terraform = format!("TFWRAP_TERRAFORM={}", self.terraform.display());
                let env = own(&["env", &terraform, &format!("TF_VAR_command={inner}")]);
                [env, tfwrap(&apply)].concat()
            }
            Node::Run(below) if is_locked => [tfwrap(&["run", "--"]), self.words(below)].concat(),
            Node::Run(below) => self.words(below),
            Node::Hold(steps, ends) => own(&["sh", "-c", &self.hold(steps, *ends)]),
            Node::Steps(steps) => own(&["sh", "-c", &self.lines(steps, "\n")]),
            Node::Jobs(jobs) => own(&["sh", "-c", &format!("{}wait", self.lines(jobs, " &\n"))]),
            Node::Make(targets) => self.make(targets),
            Node::Timeout(millis, below) => {
                before(&["timeout", &format!("{}.{:03}", millis / 1000, millis % 1000)], below)
            }
            Node::Wrapped(wrap, below) => self.wrap(*wrap, below),
            Node::Recover { .. } | Node::Release if !is_locked => own(&["true"]),
            Node::Recover { waits: false } => tfwrap(&["recover"]),
            Node::Recover { waits: true } => tfwrap(&["recover", "--wait", "4s"]),
            Node::Release => tfwrap(&["release"]),
        }
    }

    fn line(&self, node: &Node) -> String {
        shell_words::join(self.words(node))
    }

    fn lines(&self, nodes: &[Node], end: &str) -> String {
        nodes.iter().fold(String::new(), |mut text, node| {
            write!(text, "{}{end}", self.line(node)).expect("text");
            text
        })
    }

    fn hold(&self, steps: &[Node], ends: Ends) -> String {
        let steps = self.lines(steps, "\n");
        if self.lock == Lock::None {
            return steps;
        }
        let release = shell_words::join(tfwrap(&["release"]));
        let (trap, end) = match ends {
            Ends::Released => (String::new(), format!("{release} || exit\n")),
            Ends::Twice => (String::new(), format!("timeout 0.3 {release}; {release}\n")),
            Ends::ByTrap => {
                (format!("trap {} EXIT\n", shell_words::quote(&release)), String::new())
            }
            Ends::Never => (String::new(), String::new()),
        };
        let hold = shell_words::join(tfwrap(&["hold", "--format", "shell"]));
        format!("held=$({hold}) || exit\neval \"$held\"\n{trap}{steps}code=$?\n{end}exit $code\n")
    }

    fn make(&self, targets: &[Node]) -> Vec<String> {
        let names: Vec<String> = (0..targets.len()).map(|index| format!("t{index}")).collect();
        let mut text = format!("all: {}\n", names.join(" "));
        let mut scripts = Vec::new();
        for (name, target) in names.iter().zip(targets) {
            let script = self.file("sh");
            scripts.push((script.clone(), self.line(target)));
            write!(text, "{name}:\n\tsh {script}\n").expect("text");
        }
        for (script, line) in scripts {
            std::fs::write(script, line).expect("it can be written");
        }
        let file = self.file("mk");
        std::fs::write(&file, text).expect("it can be written");
        ["make", "-s", "-j2", "-f", &file, "all"].map(str::to_owned).to_vec()
    }

    /// A new one beside the others.
    fn file(&self, kind: &str) -> String {
        let name = |index: usize| format!("{}.{}-{index}.{kind}", self.work.display(), self.job);
        let free = (0..1000).map(name).find(|name| !std::path::Path::new(name).exists());
        let free = free.expect("not so many");
        std::fs::write(&free, "").expect("it can be written");
        free
    }

    fn wrap(&self, wrap: Wrap, below: &Node) -> Vec<String> {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let line = self.line(below);
        match wrap {
            Wrap::Shell => own(&["bash", "-c", &format!("{line}\nexit $?")]),
            Wrap::Trap => {
                let script = format!(
                    "trap 'kill -TERM $child; wait $child' TERM INT\n{line} &\nchild=$!\nwait $child"
                );
                own(&["bash", "-c", &script])
            }
            Wrap::Exec => own(&["sh", "-c", &format!("exec {line}")]),
            Wrap::Python => [own(&["python3", "-c", PYTHON]), self.words(below)].concat(),
            Wrap::Node => [own(&["node", "-e", NODE, "--"]), self.words(below)].concat(),
            Wrap::Pipe => own(&["sh", "-c", &format!("{line} | cat")]),
            Wrap::Setsid => [own(&["setsid", "-w"]), self.words(below)].concat(),
        }
    }
}

fn tfwrap(words: &[&str]) -> Vec<String> {
    let program = wrapper().display().to_string();
    [&[program.as_str()], words].concat().iter().map(|&word| word.to_owned()).collect()
}

const PLAINLY: &str = "test -n \"${TFWRAP_HELD-}\" && exec terraform apply -auto-approve; \
                       exec \"$0\" apply -auto-approve";
const PYTHON: &str = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]) % 256)";
const NODE: &str = "const {spawnSync} = require('child_process'); \
                    const [program, ...words] = process.argv.slice(1); \
                    const done = spawnSync(program, words, {stdio: 'inherit'}); \
                    process.exit(done.status ?? 1)";
