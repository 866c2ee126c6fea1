// The action's inputs, and what is said when one is wrong.

import { resolve } from "node:path";

// Options of tfwrap, by how they take their value.
const VALUES = ["lock-timeout", "lease", "outdated", "summary", "on-lock-lost", "grace", "orphan-grace", "max-hold", "second-signal", "terraform", "config", "log-format", "color"];
const LISTS = ["lock"];
const FLAGS = ["no-backend-lock", "no-line", "no-history", "quiet", "verbose"];

export class InputError extends Error {}

export const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] ?? "").trim();

export const lines = (name) =>
  (process.env[`INPUT_${name.toUpperCase()}`] ?? "").split(/\r?\n/).filter((line) => line !== "");

export function flag(name) {
  const value = input(name);
  if (!["true", "false", ""].includes(value)) {
    throw new InputError(`input ${name}: \`${value}\` is neither \`true\` nor \`false\``);
  }
  return value === "true";
}

// tfwrap's options, one word each, so that no value is taken for an option.
export const options = () => [
  ...VALUES.filter((name) => input(name) !== "").map((name) => `--${name}=${input(name)}`),
  ...LISTS.flatMap((name) => lines(name).map((value) => `--${name}=${value.trim()}`)),
  ...FLAGS.filter(flag).map((name) => `--${name}`),
];

export const workspace = () => process.env.GITHUB_WORKSPACE ?? ".";

export const workingDirectory = () => resolve(workspace(), input("working-directory"));

// Workflow commands end at a line end; the runner undoes these escapes.
const escape = (text) => text.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");

export const annotate = (kind, message) => console.log(`::${kind} title=tfwrap::${escape(message)}`);

export function fail(message, code) {
  annotate("error", message);
  process.exitCode = code;
}
