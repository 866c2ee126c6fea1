// What this process says to the runner on stdout, and how it ends.

import { writeSync } from "node:fs";
import { resolve } from "node:path";

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

// A program that is at fault itself ends with it in Node.
const BUG = 1;

// Runs an entry of the action. What a person can do something about is said without a stack. `failed` is told the
// exit code of what it cannot do.
export async function entry(main, failed = () => {}) {
  try {
    await main();
  } catch (error) {
    const isOfTheSystem = error.syscall !== undefined;
    const isExpected = error instanceof ActionError || isOfTheSystem;
    const code = isOfTheSystem ? 69 : isExpected ? error.code : BUG;
    failed(code);
    if (!isExpected) throw error;
    say(annotation("error", error.message));
    process.exitCode = code;
  }
}
