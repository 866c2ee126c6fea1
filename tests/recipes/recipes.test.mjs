// The commands of `docs/recipes.md`, taken from there and run with real Terraform on a local state, as the system
// in question would call them. `.ci/run recipes` starts it: TFWRAP is the program, TFWRAP_TEST_RECIPES_DIR a
// directory with the npm package `yaml`, for files.

import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const DIR = process.env.TFWRAP_TEST_RECIPES_DIR;
const { parse } = createRequire(join(DIR, "package.json"))("yaml");
const DOCUMENT = readFileSync(fileURLToPath(new URL("../../docs/recipes.md", import.meta.url)), "utf8");
const RECIPES = new Map(
  [...DOCUMENT.matchAll(/<!-- recipe: (\S+) -->\n```\w+\n([^]*?)```\n/g)].map(([, name, text]) => [name, text]),
);
const tried = new Set();

function recipe(name) {
  tried.add(name);
  return RECIPES.get(name) ?? assert.fail(`docs/recipes.md has no recipe \`${name}\``);
}

// One resource that keeps the record of the lock under which it was made.
const configuration = (seconds) => `
resource "terraform_data" "it" {
  provisioner "local-exec" {
    command = "cp .terraform.tfstate.lock.info lock.json; sleep ${seconds}"
  }
}
`;

// A directory with a configuration, and what is typed there: `bin` goes before PATH.
function project(name, { seconds = 0, variables = {}, bin = [] } = {}) {
  const dir = join(DIR, "projects", name);
  mkdirSync(join(dir, "bin"), { recursive: true });
  symlinkSync(process.env.TFWRAP, join(dir, "bin", "tfwrap"));
  writeFileSync(join(dir, "main.tf"), configuration(seconds));
  const path = [...bin.map((it) => join(dir, it)), join(dir, "bin"), process.env.PATH].join(":");
  const env = { PATH: path, HOME: dir, CHECKPOINT_DISABLE: "1", TF_CLI_ARGS: "-no-color", ...variables };
  const options = { cwd: dir, env, encoding: "utf8", timeout: 60_000 };
  return {
    dir,
    options,
    run: (...words) => {
      const { status, stdout, stderr } = spawnSync(words[0], words.slice(1), options);
      return { status, out: stdout + stderr };
    },
    json: (file) => JSON.parse(readFileSync(join(dir, file), "utf8")),
  };
}

const of = (name) => parse(recipe(name));
const bash = (script) => ["bash", "-e", "-o", "pipefail", "-c", script];

// What each system runs, one shell after the other; how it identifies the run, and the link to it.
const SYSTEMS = {
  buildkite: {
    shells: () => [bash(of("buildkite").steps[0].command.join("\n")), ["sh", "-c", recipe("buildkite-hook")]],
    variables: { BUILDKITE: "true", BUILDKITE_BUILD_URL: "https://ci.example/build/7", BUILDKITE_JOB_ID: "j7" },
  },
  jenkins: {
    shells: () => [...recipe("jenkins").matchAll(/ sh '([^']*)'/g)].map(([, line]) => ["sh", "-xe", "-c", line]),
    variables: { JENKINS_URL: "https://ci.example/", BUILD_URL: "https://ci.example/build/7", JENKINS_SERVER_COOKIE: "c", BUILD_TAG: "t" },
  },
  "azure-pipelines": {
    shells: () => of("azure-pipelines").jobs[0].steps.map((it) => ["bash", "--noprofile", "--norc", "-c", it.bash]),
    variables: { TF_BUILD: "True", SYSTEM_COLLECTIONURI: "https://ci.example/", SYSTEM_TEAMPROJECT: "infra", BUILD_BUILDID: "7", SYSTEM_JOBID: "j7" },
  },
  circleci: {
    shells: () => {
      const steps = of("circleci").jobs.apply.steps.filter((it) => it.run);
      return steps.map((it) => bash(it.run.command ?? it.run));
    },
    variables: { CIRCLECI: "true", CIRCLE_BUILD_URL: "https://ci.example/build/7" },
  },
  "bitbucket-pipelines": {
    shells: () => {
      const { step } = of("bitbucket-pipelines").pipelines.branches.main[0];
      return [bash(step.script.join("\n")), bash(step["after-script"].join("\n"))];
    },
    variables: { BITBUCKET_BUILD_NUMBER: "7", BITBUCKET_REPO_FULL_NAME: "acme/infra" },
    link: /^https:\/\/bitbucket\.org\/acme\/infra\/.*\/7/,
  },
};

for (const [name, { shells, variables, link }] of Object.entries(SYSTEMS)) {
  test(`${name}: applies under the lock, which names the run, and has nothing to recover`, () => {
    const here = project(name, { variables: { CI: "true", ...variables } });
    const said = shells().map((words) => here.run(...words));
    assert.ok(said.length >= 2);
    for (const { status, out } of said) assert.equal(status, 0, out);
    assert.match(said.at(-1).out, /nothing to recover/);
    assert.equal(here.json("terraform.tfstate").resources.length, 1);
    assert.match(here.json("lock.json").Info, link ?? /^https:\/\/ci\.example\//);
    assert.deepEqual(readdirSync(here.dir).filter((it) => it.endsWith(".lock.info")), []);
  });
}

test("Atlantis: its commands run through a tfwrap with the name of Terraform", () => {
  const terraform = execFileSync("sh", ["-c", 'readlink -f "$(command -v terraform)"'], { encoding: "utf8" }).trim();
  const variables = { TFWRAP_TERRAFORM: terraform, ATLANTIS_TERRAFORM_VERSION: "1.11.4", PULL_NUM: "7" };
  const here = project("atlantis", { variables, bin: ["first"] });
  mkdirSync(join(here.dir, "first"));
  symlinkSync(process.env.TFWRAP, join(here.dir, "first", "terraform"));
  const { status, out } = here.run("sh", "-ec", recipe("atlantis"));
  assert.equal(status, 0, out);
  assert.match(out, /^Terraform v1\.[^]*^default$/m);
  assert.equal(here.json("default.json").resource_changes.length, 1);
  assert.equal(here.json("terraform.tfstate").resources.length, 1);
  assert.match(here.json("lock.json").Who, /@/);
});

// The lines of a crontab, for a shell.
function crontab(dir, seconds) {
  const lines = recipe("cron").split("\n").filter((it) => /^[\d*]/.test(it));
  const commands = lines.map((it) => it.split(" ").slice(5).join(" ").replaceAll("/srv/infra", dir));
  return commands.map((it) => it.replace(" 2h ", ` ${seconds} `));
}

test("cron: applies, and a time-out is one interrupt after which the state is saved", () => {
  const here = project("cron");
  const [apply, recover] = crontab(here.dir, 60);
  assert.equal(here.run("sh", "-c", apply).status, 0);
  assert.equal(here.run("sh", "-c", recover).status, 0);
  assert.match(readFileSync(join(here.dir, "apply.log"), "utf8"), /Apply complete[^]*nothing to recover/);

  const slow = project("cron-slow", { seconds: 30 });
  const [late] = crontab(slow.dir, 4);
  assert.equal(slow.run("sh", "-c", late).status, 124);
  const said = readFileSync(join(slow.dir, "apply.log"), "utf8");
  assert.equal(said.split("Interrupt received").length, 2, said);
  assert.equal(slow.json("terraform.tfstate").resources.length, 1);
  assert.equal(slow.run("tfwrap", "status").out.includes("free"), true);
});

const setting = (unit, name) => new RegExp(`^${name}=(.*)$`, "m").exec(unit)[1];

test("systemd: the units are what it knows", { skip: spawnSync("systemd-analyze", ["--version"]).error && "no systemd-analyze" }, () => {
  const here = project("units");
  const service = recipe("systemd-service").replaceAll("/usr/local/bin/tfwrap", join(here.dir, "bin/tfwrap"));
  const files = { "terraform-apply.service": service, "terraform-apply.timer": recipe("systemd-timer") };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(here.dir, name), text);
  const { status, out } = here.run("systemd-analyze", "verify", ...Object.keys(files).map((it) => join(here.dir, it)));
  assert.deepEqual({ status, out }, { status: 0, out: "" });
  assert.equal(here.run("systemd-analyze", "calendar", setting(files["terraform-apply.timer"], "OnCalendar")).status, 0);
});

// There is no manager here: a stop with `KillMode=mixed` is a TERM to the main process, then `ExecStopPost`.
test("systemd: a stop is one interrupt, after which the state is saved", async () => {
  const unit = recipe("systemd-service");
  assert.equal(setting(unit, "KillMode"), "mixed");
  const words = (name) => setting(unit, name).replace("/usr/local/bin/", "").split(" ");
  const here = project("stop", { seconds: 30, variables: {} });
  here.options.env.TFWRAP_STATE_DIR = join(here.dir, "var");
  mkdirSync(join(here.dir, "var"), { mode: 0o700 });
  const [program, ...rest] = words("ExecStart");
  const main = spawn(join(here.dir, "bin", program), rest, { cwd: here.dir, env: here.options.env });
  let said = "";
  for (const stream of [main.stdout, main.stderr]) stream.on("data", (data) => (said += data));
  const ended = new Promise((resolve) => main.once("close", resolve));
  for (let n = 0; n < 600 && !existsSync(join(here.dir, "lock.json")); n += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  main.kill("SIGTERM");
  await ended;
  assert.equal(said.split("Interrupt received").length, 2, said);
  assert.equal(here.json("terraform.tfstate").resources.length, 1);
  const { status, out } = here.run(...words("ExecStopPost"));
  assert.equal(status, 0, out);
  assert.match(out, /nothing to recover/);
});

test("make: one command under the lock, and several under one", () => {
  const here = project("make");
  writeFileSync(join(here.dir, "Makefile"), recipe("make"));
  const deployed = here.run("make", "deploy");
  assert.equal(deployed.status, 0, deployed.out);
  assert.match(readFileSync(join(here.dir, "plan.txt"), "utf8"), /1 to add/);
  const applied = here.run("make", "apply");
  assert.equal(applied.status, 0, applied.out);
  assert.match(applied.out, /No changes/);
});

test("a saved plan is applied by another job, unless the state has changed", () => {
  const here = project("saved-plan");
  const job = (name) => here.run("sh", "-ec", recipe(name));
  for (const name of ["plan-job", "apply-job"]) {
    const { status, out } = job(name);
    assert.equal(status, 0, out);
  }
  assert.equal(here.json("terraform.tfstate").resources.length, 1);

  writeFileSync(join(here.dir, "more.tf"), 'resource "terraform_data" "more" {}\n');
  assert.equal(job("plan-job").status, 0);
  assert.equal(here.run("terraform", "apply", "-auto-approve").status, 0, "somebody else");
  const stale = job("apply-job");
  assert.equal(stale.status, 1);
  assert.match(stale.out, /Saved plan is stale/);
});

test("every recipe was tried", () => {
  assert.ok(RECIPES.size >= 10);
  assert.deepEqual([...RECIPES.keys()].filter((it) => !tried.has(it)), []);
});
