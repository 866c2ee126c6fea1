// Runs tfwrap as a child and passes on every signal.
//
// The runner signals this process alone and kills it after 10 s. tfwrap then lives on and gives
// the lock back once Terraform has ended; post.mjs waits for that.

import { spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync } from "node:fs";
import { constants } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { startTime } from "./process.mjs";

const ACTION_DIR = fileURLToPath(new URL("..", import.meta.url));

// Options of tfwrap, by how they take their value.
const VALUES = ["lock-timeout", "lease", "on-lock-lost", "grace", "second-signal", "terraform", "config", "log-format", "color"];
const LISTS = ["lock"];
const FLAGS = ["no-backend-lock", "no-line", "quiet", "verbose"];

class InputError extends Error {}

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] ?? "").trim();

const lines = (name) =>
  (process.env[`INPUT_${name.toUpperCase()}`] ?? "").split(/\r?\n/).filter((line) => line !== "");

function flag(name) {
  const value = input(name);
  if (!["true", "false", ""].includes(value)) {
    throw new InputError(`input ${name}: \`${value}\` is neither \`true\` nor \`false\``);
  }
  return value === "true";
}

function tfwrapArguments() {
  const command = lines("command");
  if (command.length === 0) throw new InputError("input command: it is empty");
  return [
    // One word each, so that no value is taken for an option.
    ...VALUES.filter((name) => input(name) !== "").map((name) => `--${name}=${input(name)}`),
    ...LISTS.flatMap((name) => lines(name).map((value) => `--${name}=${value.trim()}`)),
    ...FLAGS.filter(flag).map((name) => `--${name}`),
    ...command,
  ];
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

// Workflow commands end at a line end; the runner undoes these escapes.
const escape = (text) => text.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");

function fail(message, code) {
  console.log(`::error title=tfwrap::${escape(message)}`);
  process.exitCode = code;
}

function environment() {
  // The inputs are not Terraform's business.
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("INPUT_")));
}

function rememberChild(pid) {
  const file = process.env.GITHUB_STATE;
  if (!file) return;
  try {
    appendFileSync(file, `pid=${pid}\nstart=${startTime(pid) ?? ""}\n`);
  } catch (error) {
    // Only the waiting after a cancel is lost by it.
    console.log(`::warning title=tfwrap::${escape(`cannot write the step's state: ${error.message}`)}`);
  }
}

function main() {
  const args = tfwrapArguments();
  const cwd = resolve(process.env.GITHUB_WORKSPACE ?? ".", input("working-directory"));
  // Without it, the error would name the program as missing.
  if (!existsSync(cwd)) throw new InputError(`input working-directory: \`${cwd}\` does not exist`);
  const program = binary();
  // In place before there is a child: without a handler the signal would end this process alone.
  let child;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => child?.kill(signal));
  }
  child = spawn(program, args, { cwd, env: environment(), stdio: "inherit" });
  child.on("error", (error) => {
    const hint = "install tfwrap in an earlier step, or set the input `path` or `build`";
    fail(`cannot start \`${program}\`: ${error.message}\nhint: ${hint}`, 127);
  });
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? 128 + constants.signals[signal];
  });
  if (child.pid !== undefined) rememberChild(child.pid);
}

try {
  main();
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  fail(error.message, 64);
}
