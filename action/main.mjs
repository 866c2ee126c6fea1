// Runs tfwrap on the command.
//
// The runner signals this process alone and kills it after 10 s. tfwrap then lives on and gives the
// lock back once Terraform has ended; post.mjs sees to that.

import { spawnSync } from "node:child_process";
import { appendFileSync, existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "./child.mjs";
import { InputError, annotate, fail, flag, input, lines, options, workingDirectory } from "./inputs.mjs";

const ACTION_DIR = fileURLToPath(new URL("..", import.meta.url));

function tfwrapArguments() {
  const command = lines("command");
  if (command.length === 0) throw new InputError("input command: it is empty");
  return [...options(), ...command];
}

function build() {
  const root = join(process.env.RUNNER_TEMP ?? "/tmp", "tfwrap-build");
  const args = ["install", "--locked", "--path", ACTION_DIR, "--root", root];
  const { status, error } = spawnSync("cargo", args, { stdio: "inherit" });
  if (status !== 0) throw new InputError(`building tfwrap failed: ${error?.message ?? `cargo exited with ${status}`}`);
  return join(root, "bin", "tfwrap");
}

function binary() {
  const path = input("path");
  if (path !== "") return resolve(path);
  return flag("build") ? build() : "tfwrap";
}

// For post.mjs: the last one counts.
function rememberProgram(program) {
  const file = process.env.GITHUB_STATE;
  if (!file) return;
  try {
    appendFileSync(file, `program=${program}\n`);
  } catch (error) {
    // Only the post step is lost by it.
    annotate("warning", `cannot write the step's state: ${error.message}`);
  }
}

function main() {
  const args = tfwrapArguments();
  const cwd = workingDirectory();
  // Without it, the error would name the program as missing.
  if (!existsSync(cwd)) throw new InputError(`input working-directory: \`${cwd}\` does not exist`);
  const program = binary();
  // Before the start: this process may be killed at any time after it.
  rememberProgram(program);
  run(program, args, cwd, () => rememberProgram(""));
}

try {
  main();
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  fail(error.message, 64);
}
