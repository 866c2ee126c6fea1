// What this process says to the runner: workflow commands on stdout, lines in the runner's files.

import { appendFileSync, mkdirSync, mkdtempSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

// Why the action cannot go on, what to do about it, and the exit code for it.
export class ActionError extends Error {
  constructor(message, hint, code = 69) {
    super(hint === undefined ? message : `${message}\nhint: ${hint}`);
    this.code = code;
  }
}

// What is wrong with an input.
export class InputError extends ActionError {
  constructor(message, hint) {
    super(message, hint, 64);
  }
}

export const workspace = () => resolve(process.env.GITHUB_WORKSPACE ?? ".");

// A new directory that the runner removes at the end of the job.
export function temporaryDirectory() {
  const parent = process.env.RUNNER_TEMP || tmpdir();
  mkdirSync(parent, { recursive: true });
  return mkdtempSync(join(parent, "tfwrap-"));
}

const RETRY_MS = 20;

// Not by `process.stdout`, which makes the pipe non-blocking for tfwrap and Terraform, too.
export function say(text) {
  let bytes = Buffer.from(text);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(1, bytes));
    } catch (error) {
      // Nobody reads it any more.
      if (error.code === "EPIPE") return;
      if (error.code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
    }
  }
}

// Workflow commands end at a line end; the runner undoes these escapes.
const escape = (text) => text.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");

export const annotation = (kind, message) => `::${kind} title=tfwrap::${escape(message)}\n`;

// Appends a line to the file that the runner names: `GITHUB_STATE`, `GITHUB_OUTPUT`, `GITHUB_PATH`.
export function tell(variable, line) {
  const file = process.env[variable];
  if (!file) return;
  if (/[\r\n]/.test(line)) throw new ActionError(`a line break in \`${JSON.stringify(line)}\`, which is meant for ${variable}`);
  try {
    appendFileSync(file, `${line}\n`);
  } catch (error) {
    // The run itself does not need it.
    say(annotation("warning", `cannot write to ${variable}: ${error.message}`));
  }
}
