// What the tests share: a job's directory and environment, and programs in place of tfwrap.

import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const ACTION = fileURLToPath(new URL("..", import.meta.url));

export const VERSION = "9.9.9";

// A bash script in place of tfwrap; the action asks each for its version.
export function program(path, script, version = VERSION) {
  writeFileSync(path, `#!/bin/bash\n[ "$1" = --version ] && { echo "tfwrap ${version}"; exit; }\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

const dirs = [];
after(() => dirs.forEach((dir) => rmSync(dir, { recursive: true, force: true })));

export function directory() {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), "tfwrap-action-")));
  dirs.push(dir);
  return dir;
}

// A job, whose tfwrap is this script. Its `action` is the directory of the action.
export function world(script, action = ACTION) {
  const dir = directory();
  const path = program(join(dir, "tfwrap"), script);
  const files = ["GITHUB_STATE", "GITHUB_PATH", "GITHUB_OUTPUT"].map((name) => [name, join(dir, name)]);
  for (const [, file] of files) writeFileSync(file, "");
  const env = (inputs) => ({
    PATH: process.env.PATH,
    ...Object.fromEntries(files),
    GITHUB_WORKSPACE: dir,
    RUNNER_TEMP: dir,
    RUNNER_TOOL_CACHE: join(dir, "cache"),
    INPUT_PATH: path,
    ...Object.fromEntries(Object.entries(inputs).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value])),
  });
  const lines = (name) => readFileSync(join(dir, name), "utf8").split("\n").filter((line) => line !== "");
  // The last one counts.
  const pairs = (name) =>
    Object.fromEntries(lines(name).map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
  const job = { dir, env, lines, state: () => pairs("GITHUB_STATE"), outputs: () => pairs("GITHUB_OUTPUT") };
  job.start = (entry, env) => {
    const state = Object.entries(job.state()).map(([name, value]) => [`STATE_${name}`, value]);
    const child = spawn(process.execPath, [join(action, "action", entry)], { env: { ...Object.fromEntries(state), ...env } });
    child.output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (child.output += data));
    child.ended = new Promise((done) => child.on("close", (code, signal) => done({ code, signal, output: child.output })));
    // Resolves once this was said.
    child.said = async (wanted) => {
      for (let left = 600; !child.output.includes(wanted); left--) {
        if (left === 0) throw new Error(`not said: ${wanted}; but: ${child.output}`);
        await sleep(50);
      }
    };
    return child;
  };
  job.main = (inputs, more = {}) => job.start("main.mjs", { ...env(inputs), ...more }).ended;
  job.post = (inputs, more = {}) => job.start("post.mjs", { ...env(inputs), ...more }).ended;
  return job;
}

// What the child said, without the two lines around it.
export function inside(output) {
  const found = /^::stop-commands::([0-9a-f-]{36})\n([^]*)\n::\1::\n([^]*)$/.exec(output);
  if (found === null) throw new Error(`not between a token: ${JSON.stringify(output)}`);
  const [, token, said, after] = found;
  return { token, said, after };
}
