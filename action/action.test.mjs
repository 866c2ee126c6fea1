// Drives both scripts as the runner does: `node --test action/`.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const script = (name) => fileURLToPath(new URL(name, import.meta.url));

function world(stub) {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), "tfwrap-action-")));
  const path = join(dir, "tfwrap");
  writeFileSync(path, `#!/bin/bash\n${stub}\n`);
  chmodSync(path, 0o755);
  const state = join(dir, "state");
  writeFileSync(state, "");
  const env = (inputs) => ({
    PATH: process.env.PATH,
    GITHUB_STATE: state,
    GITHUB_WORKSPACE: dir,
    RUNNER_TEMP: dir,
    INPUT_PATH: path,
    ...Object.fromEntries(Object.entries(inputs).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value])),
  });
  const entries = () => readFileSync(state, "utf8").split("\n").filter((line) => line !== "");
  return { dir, env, state: () => Object.fromEntries(entries().map((line) => line.split("="))) };
}

const main = (env) => spawnSync(process.execPath, [script("main.mjs")], { env, encoding: "utf8" });

// The runner gives it what main wrote into its state, and the inputs again.
const post = (world, inputs) => {
  const env = { ...world.env(inputs), STATE_program: world.state().program };
  return spawnSync(process.execPath, [script("post.mjs")], { env, encoding: "utf8" });
};

// Resolves with all output once `wanted` appeared in it.
const until = (child, wanted) =>
  new Promise((found) => {
    let seen = "";
    child.stdout.on("data", (data) => {
      seen += data;
      if (seen.includes(wanted)) found(seen);
    });
  });

const exit = (child) => new Promise((done) => child.on("exit", (code, signal) => done({ code, signal })));

test("every input becomes one word, the command comes last", () => {
  const { env } = world('printf "<%s>" "$@"; env | grep ^INPUT_');
  const { stdout } = main(
    env({
      command: "apply\n-auto-approve\n\n-var=x=$(id) `id` 'a b'\r\n",
      "lock-timeout": "5m",
      lock: "file:///a b\ndynamodb://t/k\n",
      quiet: "true",
      verbose: "false",
      color: "",
    }),
  );
  assert.equal(
    stdout,
    "<--lock-timeout=5m><--lock=file:///a b><--lock=dynamodb://t/k><--quiet>" +
      "<apply><-auto-approve><-var=x=$(id) `id` 'a b'>",
  );
});

test("every input of action.yml is used, and no other", () => {
  const yaml = readFileSync(script("../action.yml"), "utf8");
  const inputs = yaml.slice(yaml.indexOf("\ninputs:"), yaml.indexOf("\noutputs:"));
  const declared = [...inputs.matchAll(/^ {2}([a-z-]+):$/gm)].map(([, name]) => name).sort();
  const source = readFileSync(script("inputs.mjs"), "utf8");
  const tables = [...source.matchAll(/^const (?:VALUES|LISTS|FLAGS) = (.*);$/gm)].flatMap(([, list]) => JSON.parse(list));
  assert.deepEqual(declared, [...tables, "command", "working-directory", "path", "build"].sort());
});

test("the working directory is relative to the workspace", () => {
  const { dir, env } = world("pwd");
  spawnSync("mkdir", [join(dir, "infra")]);
  assert.equal(main(env({ command: "plan", "working-directory": "infra" })).stdout, `${dir}/infra\n`);
});

test("the exit code passes through", () => {
  for (const code of [0, 2, 75]) assert.equal(main(world(`exit ${code}`).env({ command: "plan" })).status, code);
  assert.equal(main(world("kill -9 $$").env({ command: "plan" })).status, 137);
});

test("what is wrong with an input is said and nothing runs", () => {
  const { env } = world("echo ran");
  for (const inputs of [
    { command: "\n" },
    { command: "plan", quiet: "yes" },
    { command: "plan", "working-directory": "no/such" },
  ]) {
    const { status, stdout } = main(env(inputs));
    assert.equal(status, 64);
    assert.match(stdout, /^::error title=tfwrap::input (command|quiet|working-directory): [^\n]*\n$/);
  }
});

test("a missing binary is said with a way out", () => {
  const { env } = world("");
  const { status, stdout } = main({ ...env({ command: "plan" }), INPUT_PATH: "/no/such/tfwrap" });
  assert.equal(status, 127);
  assert.match(stdout, /^::error title=tfwrap::cannot start `\/no\/such\/tfwrap`[^\n]*%0Ahint: [^\n]*\n$/);
});

test("`build` builds the action's own source", () => {
  const { dir, env } = world("");
  const cargo = join(dir, "cargo");
  writeFileSync(cargo, '#!/bin/bash\necho "cargo $*"\nmkdir -p "${@: -1}/bin"\nprintf "#!/bin/bash\\necho built" > "${@: -1}/bin/tfwrap"\nchmod +x "${@: -1}/bin/tfwrap"\n');
  chmodSync(cargo, 0o755);
  const { stdout } = main({ ...env({ command: "plan", build: "true" }), INPUT_PATH: "", PATH: `${dir}:${process.env.PATH}` });
  const source = fileURLToPath(new URL("..", import.meta.url));
  assert.equal(stdout, `cargo install --locked --path ${source} --root ${dir}/tfwrap-build\nbuilt\n`);
});

test("each signal is passed on once and the child's end is waited for", async () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    const { env } = world(`n=0; trap 'n=$((n+1)); echo got $n' ${signal.slice(3)}; echo ready; until ((n)); do sleep 0.05; done; exit 7`);
    const child = spawn(process.execPath, [script("main.mjs")], { env: env({ command: "apply" }) });
    const got = until(child, "got 1");
    await until(child, "ready");
    child.kill(signal);
    await got;
    assert.deepEqual(await exit(child), { code: 7, signal: null });
  }
});

test("tfwrap outlives a killed step, and post has its program", async () => {
  const { dir, env, state } = world('echo ready; until [ -e "$GITHUB_WORKSPACE/go" ]; do sleep 0.05; done');
  const child = spawn(process.execPath, [script("main.mjs")], { env: env({ command: "apply" }) });
  const gone = exit(child);
  await until(child, "ready");
  child.kill("SIGKILL");
  await gone;
  assert.deepEqual(state(), { program: join(dir, "tfwrap") });
  writeFileSync(join(dir, "go"), "");
});

test("post recovers with the options and in the directory of main", () => {
  const there = world('printf "<%s>" "$@"; pwd; env | grep ^INPUT_');
  spawnSync("mkdir", [join(there.dir, "infra")]);
  const inputs = { command: "apply", "orphan-grace": "1m", quiet: "true", "working-directory": "infra" };
  main(there.env(inputs));
  assert.equal(post(there, inputs).stdout, `<--orphan-grace=1m><--quiet><recover><--wait=4m>${there.dir}/infra\n`);
  spawnSync("rmdir", [join(there.dir, "infra")]);
  assert.equal(post(there, inputs).stdout, `<--orphan-grace=1m><--quiet><recover><--wait=4m>${there.dir}\n`);
});

test("post fails when something is left", () => {
  const there = world('[ "$1" = apply ] || exit 74');
  assert.equal(main(there.env({ command: "apply" })).status, 0);
  assert.equal(post(there, { command: "apply" }).status, 74);
});

test("post does nothing where tfwrap was never started", () => {
  for (const inputs of [{ command: "\n" }, { command: "plan", path: "/no/such/tfwrap" }]) {
    const there = world("echo ran");
    main(there.env(inputs));
    const { status, stdout } = post(there, inputs);
    assert.deepEqual({ status, stdout }, { status: 0, stdout: "" });
  }
});
