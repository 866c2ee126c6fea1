// Drives both entries as the runner does.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, rmdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { ACTION, VERSION, directory, inside, program, world } from "./testing.mjs";

const WORDS = 'printf "<%s>" "$@"';

test("every input becomes one word, the command comes last", async () => {
  const { output } = await world(`${WORDS}; env | grep -e ^INPUT_ -e ^ACTIONS_`).main(
    {
      command: "apply\n-auto-approve\n\n-var=x=$(id) `id` 'a b'\r\n",
      "lock-timeout": "5m",
      lock: "file:///a b\ndynamodb://t/k\n",
      quiet: "true",
      verbose: "false",
      color: "",
    },
    { ACTIONS_RUNTIME_TOKEN: "of-actions", INPUT_OF_THE_USER: "stays" },
  );
  assert.equal(
    inside(output).said,
    "<--lock-timeout=5m><--lock=file:///a b><--lock=dynamodb://t/k><--quiet>" +
      "<apply><-auto-approve><-var=x=$(id) `id` 'a b'>INPUT_OF_THE_USER=stays\n",
  );
});

test("a command on one line is split, and no shell reads it", async () => {
  for (const [command, words] of [
    ["apply -auto-approve", "<apply><-auto-approve>"],
    ["plan -out='a b' -var \"x=$HOME\"\n", "<plan><-out=a b><-var><x=$HOME>"],
    ["\n  plan\n  \n", "<plan>"],
  ]) {
    assert.equal(inside((await world(WORDS).main({ command })).output).said, words);
  }
});

test("every input of action.yml is used, and no other", () => {
  const yaml = readFileSync(join(ACTION, "action.yml"), "utf8");
  const inputs = yaml.slice(yaml.indexOf("\ninputs:"), yaml.indexOf("\noutputs:"));
  const declared = [...inputs.matchAll(/^ {2}([a-z-]+):$/gm)].map(([, name]) => name).sort();
  const source = readFileSync(join(ACTION, "action/inputs.mjs"), "utf8");
  const tables = [...source.matchAll(/^const (?:VALUES|LISTS|FLAGS|OWN) = (.*);$/gm)].flatMap(([, list]) => JSON.parse(list));
  assert.deepEqual(declared, tables.sort());
});

test("the working directory is relative to the workspace", async () => {
  const job = world("pwd");
  mkdirSync(join(job.dir, "infra"));
  assert.equal(inside((await job.main({ command: "plan", "working-directory": "infra" })).output).said, `${job.dir}/infra\n`);
});

test("the exit code passes through", async () => {
  for (const code of [0, 2, 75]) assert.equal((await world(`exit ${code}`).main({ command: "plan" })).code, code);
  assert.equal((await world("kill -9 $$").main({ command: "plan" })).code, 137);
});

test("changes are a success where that is asked for, and no other code is", async () => {
  for (const [code, ends] of [[0, 0], [2, 0], [1, 1], [75, 75]]) {
    const result = await world(`exit ${code}`).main({ command: "plan -detailed-exitcode", "success-on-changes": "true" });
    assert.equal(result.code, ends);
  }
});

test("the exit code is an output wherever tfwrap has not said its own, before changes become a success", async () => {
  const inputs = { command: "plan -detailed-exitcode -lock=false", "success-on-changes": "true" };
  for (const code of [0, 1, 2, 64, 78, 127]) {
    const job = world(`exit ${code}`);
    await job.main(inputs);
    assert.equal(job.outputs().exitcode, `${code}`);
  }
  const killed = world("kill -9 $$");
  await killed.main(inputs);
  assert.equal(killed.outputs().exitcode, "137");
  // Of an earlier run it says nothing.
  const job = world("exit 2");
  writeFileSync(join(job.dir, "GITHUB_OUTPUT"), "exitcode=0\n");
  await job.main(inputs);
  assert.equal(job.outputs().exitcode, "2");
});

// As the runner reads it: the last one counts, in either form.
function runnersOutputs(job) {
  const outputs = {};
  const lines = job.lines("GITHUB_OUTPUT");
  while (lines.length > 0) {
    const [, name, form, rest] = /^(.*?)(<<|=)(.*)$/.exec(lines.shift());
    outputs[name] = form === "=" ? rest : lines.splice(0, lines.indexOf(rest) + 1).slice(0, -1).join("\n");
  }
  return outputs;
}

test("the outputs are those of the step's own tfwrap, whatever one that it has run says", async () => {
  const words = { 0: "success", 1: "failure", 2: "success", 74: "not-released", 76: "lost", 130: "interrupted" };
  const said = (code) => `exitcode=${code}\\noutcome=${words[code]}\\nwaited-seconds=1\\n`;
  const wrapped = (code) => `exitcode<<E\\n${code}\\nE\\n`;
  for (const [written, end, expected] of [
    // What its own says stays: of a plan with changes, of a lock that was not released or was lost.
    [said(2), "exit 2", ["2", "success"]],
    [said(74), "exit 74", ["74", "not-released"]],
    [said(76), "exit 76", ["76", "lost"]],
    [said(0) + said(130), "exit 130", ["130", "interrupted"]],
    // Its own is killed, or runs without a lock.
    [said(0), "kill -9 $$", ["137", "interrupted"]],
    [said(0), "exit 5", ["5", "failure"]],
    [said(1), "exit 0", ["0", "success"]],
    [said(2), "exit 0", ["0", "success"]],
    [said(76), "exit 1", ["1", "failure"]],
    // The wrapper of Terraform ends with 0 where it says 2, and only there.
    [wrapped(2), "exit 0", ["2", undefined]],
    [`${wrapped(2)}outcome=success\\n`, "exit 0", ["2", "success"]],
    [wrapped(2) + wrapped(0), "exit 0", ["0", undefined]],
    [wrapped(2), "exit 1", ["1", undefined]],
    [wrapped(1) + said(1), "exit 0", ["0", "success"]],
    [wrapped(2) + said(0), "exit 5", ["5", "failure"]],
    // Whoever writes another output may not end its line.
    ["x=1", "exit 5", ["5", undefined]],
    ["exitcode=1", "exit 5", ["5", undefined]],
    ["x<<E\\n1\\nE", "exit 5", ["5", undefined]],
    // A value says nothing.
    ["x<<E\\nexitcode=5\\nE\\n", "exit 5", ["5", undefined]],
    ["x=exitcode=5\\n", "exit 5", ["5", undefined]],
    ["x=1<<E\\nexitcode=5\\n", "exit 5", ["5", undefined]],
  ]) {
    const job = world(`printf '${written}' >>"$GITHUB_OUTPUT"; ${end}`);
    await job.main({ command: "plan -detailed-exitcode", "success-on-changes": "true" });
    const outputs = runnersOutputs(job);
    assert.deepEqual([outputs.exitcode, outputs.outcome], expected, `${written} ${end}`);
  }
});

test("what is wrong with an input is said and nothing runs", async () => {
  const job = world("echo ran");
  for (const inputs of [
    { command: "plan", quiet: "yes" },
    { command: "plan", "success-on-changes": "2" },
    { command: "plan", "working-directory": "no/such" },
    { command: "plan", "working-directory": "tfwrap" },
    { command: "plan | tee log" },
    { command: "apply -auto-approve\n-input=false" },
    { command: "plan", build: "true" },
    { command: "plan", version: "0.1.0" },
    { command: "plan", color: "purple" },
    { color: "purple" },
    { "log-format": "xml" },
    { quiet: "true", verbose: "true" },
    { "lock-timeout": "5m" },
    { "no-line": "true" },
  ]) {
    const { code, output } = await job.main(inputs);
    assert.equal(code, 64, output);
    assert.match(output, /^::error title=tfwrap::inputs? [^\n]*\n$/);
    // For a step that reads it after `continue-on-error`, and nothing else.
    assert.deepEqual(job.outputs(), { exitcode: "64" });
    rmSync(join(job.dir, "GITHUB_OUTPUT"));
  }
  assert.deepEqual(job.lines("GITHUB_STATE"), []);
});

test("of few values each is known, as action.yml says it", async () => {
  const inputs = readFileSync(join(ACTION, "action.yml"), "utf8").split("\noutputs:")[0].split(/^ {2}(?=[a-z-]+:$)/m);
  for (const name of ["plan-lock", "outdated", "summary", "on-lock-lost", "second-signal", "log-format", "color"]) {
    const { code, output } = await world("echo ran").main({ command: "plan", [name]: "none" });
    assert.equal(code, 64);
    assert.ok(output.startsWith(`::error title=tfwrap::input ${name}: \`none\` is none of \``), output);
    const described = inputs.find((text) => text.startsWith(`${name}:\n`)).split("(default")[0];
    for (const [, value] of output.split(" is none of ")[1].matchAll(/`([a-z]+)`/g)) {
      assert.match(described, new RegExp(`\\b${value}\\b`));
      assert.equal((await world(WORDS).main({ command: "plan", [name]: value })).code, 0);
    }
  }
});

test("an input that was mixed up with a URL is shown without its secrets", async () => {
  for (const name of ["version", "path", "plan-lock", "recover-wait", "build", "working-directory", "lock-timeout"]) {
    const { code, output } = await world("echo ran").main({ command: "plan", [name]: "https://user:hunter2@h/x?t=hunter2" });
    assert.ok(!output.includes("hunter2"), `${name}: ${output}`);
    if (name !== "lock-timeout" && name !== "recover-wait") assert.notEqual(code, 0, name);
    for (const wrong of ["https:/h/x?token=hunter2", "https:/u:hunter2@h", "https://u:`hunter2@h/x", "https:/h#hunter2"]) {
      const { output } = await world("echo ran").main({ command: "plan", [name]: wrong });
      assert.ok(!output.includes("hunter2"), `${name}: ${output}`);
    }
  }
});

test("without a command tfwrap is on the path and the post step armed", async () => {
  const job = world(WORDS);
  const { code, output } = await job.main({ command: "\n", quiet: "true" });
  assert.deepEqual({ code, output }, { code: 0, output: "" });
  const [bin, ...others] = job.lines("GITHUB_PATH");
  assert.deepEqual(others, []);
  assert.equal(spawnSync(join(bin, "tfwrap"), ["x"], { encoding: "utf8" }).stdout, "<x>");
  // What else is beside the program must not come before what the job finds now.
  assert.deepEqual(spawnSync("ls", [bin], { encoding: "utf8" }).stdout, "tfwrap\n");
  assert.deepEqual(job.outputs(), { version: VERSION, path: join(job.dir, "tfwrap") });
  assert.equal(inside((await job.post({ quiet: "true" })).output).said, "<--quiet><recover><--wait=4m>");
});

test("a name is looked up on the path, and one that is there stays where it is", async () => {
  const job = world("");
  const other = directory();
  program(join(other, "tfwrap"), "echo found");
  const { output } = await job.main({ command: "plan", path: "tfwrap" }, { PATH: `${other}:${process.env.PATH}` });
  assert.equal(inside(output).said, "found\n");
  assert.deepEqual(job.lines("GITHUB_PATH"), []);
  const missing = await job.main({ command: "plan", path: "no-such-tfwrap" });
  assert.equal(missing.code, 64);
  assert.match(missing.output, /^::error title=tfwrap::input path: there is no `no-such-tfwrap` on `PATH`%0Ahint: /);
});

test("a missing binary, or another one, is said with a way out", async () => {
  const job = world("");
  const missing = await job.main({ command: "plan", path: "/no/such/tfwrap" });
  assert.equal(missing.code, 127);
  assert.deepEqual(job.outputs(), { exitcode: "127" });
  assert.match(missing.output, /^::error title=tfwrap::cannot start `\/no\/such\/tfwrap`[^\n]*%0Ahint: [^\n]*\n$/);
  const other = await job.main({ command: "plan", path: "/bin/true" });
  assert.equal(other.code, 69);
  assert.match(other.output, /^::error title=tfwrap::`\/bin\/true --version` does not answer as tfwrap does/);
});

test("`build` builds the action's own source", async () => {
  const job = world("");
  const built = `#!/bin/bash\\n[ "$1" = --version ] && echo tfwrap 1.2.3 || echo built\\n`;
  const cargo = join(job.dir, "cargo");
  writeFileSync(cargo, `#!/bin/bash\necho "cargo \${*:1:5}"\nmkdir -p "\${@: -1}/bin"\nprintf '${built}' > "\${@: -1}/bin/tfwrap"\nchmod +x "\${@: -1}/bin/tfwrap"\n`, { mode: 0o755 });
  const { output } = await job.main({ command: "plan", path: "", build: "true" }, { PATH: `${job.dir}:${process.env.PATH}` });
  const line = `cargo install --locked --path ${ACTION} --root\n`;
  assert.ok(output.startsWith(line), output);
  assert.equal(inside(output.slice(line.length)).said, "built\n");
  assert.equal(job.outputs().version, "1.2.3");
  // What fails within a line does not hide the error.
  program(cargo, "printf half; exit 3");
  const failed = await job.main({ command: "plan", path: "", build: "true" }, { PATH: `${job.dir}:${process.env.PATH}` });
  assert.equal(failed.code, 69);
  assert.equal(failed.output, "half\n::error title=tfwrap::building tfwrap failed: cargo exited with 3\n");
});

test("workflow commands in the output stay text, and tfwrap's annotations come after it", async () => {
  const hostile = ["::add-mask::x", "::set-env name=PATH::/evil", "##[error]x", "::stop-commands::x", "::error title=tfwrap::forged"];
  const own = "::error title=tfwrap::the lock is lost%0Ahint: look";
  const script = [
    ...hostile.flatMap((line) => [`echo '${line}'`, `echo '${line}' >&2`]),
    `echo '${own}' >> "$TFWRAP_ANNOTATIONS"`,
    `echo '::set-env name=A::b' >> "$TFWRAP_ANNOTATIONS"`,
    `printf '::error title=tfwrap::x\\r::set-env name=A::b\\n::warning title=tfwrap::x\\e[2J\\n' >> "$TFWRAP_ANNOTATIONS"`,
    'printf "no line end"',
  ];
  const { output } = await world(script.join("\n")).main({ command: "plan" });
  const { token, said, after } = inside(output);
  assert.equal(said, `${hostile.flatMap((line) => [line, line]).join("\n")}\nno line end`);
  assert.equal(after, `${own}\n`);
  // Nobody can know it before.
  assert.notEqual(inside((await world("").main({ command: "plan" })).output).token, token);
});

test("the child writes to the runner's own pipe, which outlives this process", async () => {
  const job = world('echo ready; for _ in {1..600}; do [ ! -e "$GITHUB_WORKSPACE/go" ] || break; sleep 0.05; done; echo still heard');
  const child = job.start("main.mjs", job.env({ command: "apply" }));
  await child.said("ready");
  child.kill("SIGKILL");
  await new Promise((done) => child.on("exit", done));
  writeFileSync(join(job.dir, "go"), "");
  await child.said("still heard");
  assert.equal((await child.ended).signal, "SIGKILL");
});

test("post says what a killed step could not, and lets commands through again", async () => {
  const job = world(`case "$*" in *recover*) echo recovered;; *) echo '::error title=tfwrap::lost' >> "$TFWRAP_ANNOTATIONS"; echo ready; exec sleep 30;; esac`);
  const child = job.start("main.mjs", job.env({ command: "apply" }));
  await child.said("ready");
  const token = /^::stop-commands::(.*)$/m.exec(child.output)[1];
  child.kill("SIGKILL");
  child.stdout.destroy();
  child.stderr.destroy();
  const { output } = await job.post({ command: "apply" });
  assert.ok(output.startsWith(`\n::${token}::\n`), output);
  const { said, after } = inside(output.slice(`\n::${token}::\n`.length));
  assert.deepEqual({ said, after }, { said: "recovered\n", after: "::error title=tfwrap::lost\n" });
});

test("after a tfwrap that was killed nothing is resumed before the step is over", async () => {
  const job = world("echo ready; kill -9 $$");
  const { code, output } = await job.main({ command: "plan" });
  assert.equal(code, 137);
  assert.match(output, /^::stop-commands::[0-9a-f-]{36}\nready\n$/);
  const post = await job.post({ command: "plan" });
  assert.ok(post.output.startsWith(`\n::${job.state().token}::\n`), post.output);
});

test("a wrong time to recover is said before anything runs", async () => {
  for (const wrong of ["240", "-1m", "abc", "1d", "9999999h"]) {
    const { code, output } = await world("echo ran").main({ command: "plan", "recover-wait": wrong });
    assert.equal(code, 64);
    assert.match(output, /^::error title=tfwrap::input recover-wait: [^\n]*\n$/);
  }
});

test("each signal is passed on once and the child's end is waited for", async () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    const job = world(`n=0; trap 'n=$((n+1)); echo got $n' ${signal.slice(3)}; echo ready; for _ in {1..600}; do ((n == 0)) || break; sleep 0.05; done; sleep 0.2; exit 7`);
    const child = job.start("main.mjs", job.env({ command: "apply" }));
    await child.said("ready");
    child.kill(signal);
    const { code, output } = await child.ended;
    assert.equal(code, 7);
    assert.equal(inside(output).said, "ready\ngot 1\n");
  }
});

test("post recovers in the directory of main with the options that recovering uses", async () => {
  const job = world(`${WORDS}; pwd; env | grep ^INPUT_`);
  mkdirSync(join(job.dir, "infra"));
  // Of the others none can be wrong for it.
  const others = { "lock-timeout": "5", "orphan-grace": "1m", lock: "x", "no-line": "true" };
  const inputs = { command: "apply", ...others, "log-format": "json", quiet: "true", "working-directory": "infra" };
  await job.main(inputs);
  const said = async () => inside((await job.post(inputs)).output).said;
  assert.equal(await said(), `<--log-format=json><--quiet><recover><--wait=4m>${job.dir}/infra\n`);
  rmdirSync(join(job.dir, "infra"));
  assert.equal(await said(), `<--log-format=json><--quiet><recover><--wait=4m>${job.dir}\n`);
});

test("post recovers whatever the job did to the directory of its files", async () => {
  const job = world(`${WORDS}; echo '::error title=tfwrap::left' >> "$TFWRAP_ANNOTATIONS"`);
  await job.main({ command: "apply" });
  const { annotations } = job.state();
  rmSync(dirname(annotations), { recursive: true });
  const again = inside((await job.post({})).output);
  assert.deepEqual(again, { ...again, said: "<recover><--wait=4m>", after: "::error title=tfwrap::left\n" });
  rmSync(dirname(annotations), { recursive: true });
  writeFileSync(dirname(annotations), "");
  const { output } = await job.post({});
  assert.match(output, /^::warning title=tfwrap::no annotations from here on: [^\n]*\n::stop-commands::/);
  assert.ok(output.includes("<recover><--wait=4m>"), output);
});

test("what the command puts in the place of the annotations neither blocks nor fails the step", async () => {
  for (const put of ["mkfifo", "mkdir"]) {
    const job = world(`rm "$TFWRAP_ANNOTATIONS"; ${put} "$TFWRAP_ANNOTATIONS"; exit 3`);
    const { code, output } = await job.main({ command: "apply" });
    assert.equal(code, 3, output);
    assert.equal(inside(output).after, "");
  }
});

test("a file in the place of the directory of the annotations does not fail the step", async () => {
  const job = world('dir=$(dirname "$TFWRAP_ANNOTATIONS"); rm -r "$dir"; echo >"$dir"; exit 3');
  const { code, output } = await job.main({ command: "apply" });
  assert.equal(code, 3, output);
  assert.match(inside(output).after, /^::warning title=tfwrap::no annotations of this command: [^\n]*\n$/);
});

test("post waits as long as it is told to", async () => {
  const job = world(WORDS);
  await job.main({ command: "apply" });
  assert.equal(inside((await job.post({ "recover-wait": "90s" })).output).said, "<recover><--wait=90s>");
});

test("a process that is left behind sets nothing while annotations are said, and the post step ends that", async () => {
  const own = `::error title=tfwrap::${"é".repeat(5000)}`;
  const after = "::warning title=tfwrap::the last";
  const script = [
    `[ "$1" = recover ] && { touch "$GITHUB_WORKSPACE/go"; echo recovered; exit; }`,
    `printf '%s\n' '${own}' '${after}' >> "$TFWRAP_ANNOTATIONS"`,
    `(for _ in {1..6000}; do echo '::set-env name=A::b'; sleep 0.001; [ ! -e "$GITHUB_WORKSPACE/go" ] || break; done) &`,
    "exit 3",
  ];
  const job = world(script.join("\n"));
  const child = job.start("main.mjs", job.env({ command: "apply" }));
  const left = new Promise((done) => child.on("exit", done));
  assert.equal(await left, 3);
  const post = await job.post({ command: "apply" });
  const { output } = await child.ended;
  assert.ok(post.output.startsWith(`\n::${job.state().token}::\n`), post.output);
  // As the runner reads it.
  let token;
  const obeyed = [];
  for (const line of output.split("\n")) {
    if (token !== undefined) token = line === `::${token}::` ? undefined : token;
    else if (line.startsWith("::stop-commands::")) token = line.slice("::stop-commands::".length);
    else if (line.startsWith("::")) obeyed.push(line);
  }
  assert.notEqual(token, undefined);
  assert.equal(obeyed.length, 2, output);
  assert.match(obeyed[0], /^::error title=tfwrap::é{1000,2000}$/);
  assert.equal(obeyed[1], after);
});

test("what the runner's files are instead is said once with the file's name, and the command runs", async () => {
  for (const variable of ["GITHUB_STATE", "GITHUB_OUTPUT", "GITHUB_PATH"]) {
    for (const make of ["mkdir", "mkfifo", "no such directory"]) {
      const job = world("echo ran");
      const file = join(job.dir, variable === "GITHUB_STATE" ? "x/state" : "x");
      const path = make === "no such directory" ? join(job.dir, "none/x") : file;
      mkdirSync(dirname(file), { recursive: true });
      if (make !== "no such directory") spawnSync(make, [file]);
      const { code, output } = await job.main({ command: "plan" }, { [variable]: path });
      assert.equal(code, 0, output);
      const said = output.split("\n").filter((line) => line.startsWith("::warning "));
      assert.equal(said.length, 1, output);
      assert.ok(said[0].startsWith(`::warning title=tfwrap::cannot write to \`${path}\` (from \`${variable}\`): `), output);
      assert.ok(said[0].includes("%0Ahint: until it can be written, "), output);
      assert.ok(output.includes("\nran\n"), output);
    }
  }
});

test("a place for temporary files that cannot be had is an error and no stack", async () => {
  for (const RUNNER_TEMP of ["/proc/x", "/dev/null"]) {
    const { code, output } = await world("echo ran").main({ command: "plan" }, { RUNNER_TEMP });
    assert.equal(code, 69);
    assert.match(output, /^::error title=tfwrap::cannot write to `\/[a-z]+\/[a-z]+`: [^\n]*%0Ahint: [^\n]*`RUNNER_TEMP`[^\n]*\n$/);
  }
});

test("post fails when something is left", async () => {
  const job = world('[ "$1" = apply ] || exit 74');
  assert.equal((await job.main({ command: "apply" })).code, 0);
  assert.equal((await job.post({ command: "apply" })).code, 74);
});

test("post does nothing where there is no tfwrap", async () => {
  for (const inputs of [{ command: "plan", quiet: "maybe" }, { command: "plan", path: "/no/such/tfwrap" }]) {
    const job = world("echo ran");
    await job.main(inputs);
    const { code, output } = await job.post({ command: "plan" });
    assert.deepEqual({ code, output }, { code: 0, output: "" });
  }
});

test("a line break in what is handed to the runner is refused", async () => {
  const job = world("echo ran");
  const odd = join(job.dir, "a\nb=c");
  symlinkSync(join(job.dir, "tfwrap"), odd);
  const { code, output } = await job.main({ command: "plan", path: odd });
  assert.equal(code, 69);
  assert.match(output, /^::error title=tfwrap::a line break in /);
  assert.deepEqual(job.outputs(), { version: VERSION, exitcode: "69" });
});
