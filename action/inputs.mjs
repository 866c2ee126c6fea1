// The action's inputs, and what is said when one is wrong.

import { statSync } from "node:fs";
import { resolve } from "node:path";
import { isDuration } from "./durations.mjs";
import { InputError, workspace } from "./runner.mjs";
import { shownValue } from "./urls.mjs";
import { SplitError, split } from "./words.mjs";

// Options of tfwrap, by how they take their value.
const VALUES = ["lock-timeout", "lease", "plan-lock", "outdated", "summary", "on-lock-lost", "grace", "orphan-grace", "max-hold", "second-signal", "terraform", "config", "log-format", "color"];
const LISTS = ["lock"];
const FLAGS = ["no-backend-lock", "no-line", "no-history", "quiet", "verbose"];
// The action's own.
const OWN = ["command", "working-directory", "version", "path", "build", "success-on-changes", "recover-wait"];
// What `recover` of the post step uses. All others say how to run a command.
const OF_RECOVER = ["config", "log-format", "quiet", "verbose", "color"];
// The values of those that take one of a few.
const ONE_OF = {
  "plan-lock": ["exclusive", "optimistic"],
  outdated: ["run", "skip", "fail"],
  summary: ["auto", "always", "never"],
  "on-lock-lost": ["stop", "warn"],
  "second-signal": ["hold", "forward"],
  "log-format": ["text", "json"],
  color: ["auto", "always", "never"],
};

const variable = (name) => `INPUT_${name.toUpperCase()}`;
const raw = (name) => process.env[variable(name)] ?? "";

export const input = (name) => raw(name).trim();

const lines = (name) => raw(name).split(/\r?\n/).filter((line) => line.trim() !== "");

export function flag(name) {
  const value = input(name);
  if (!["true", "false", ""].includes(value)) {
    throw new InputError(`input ${name}: \`${shownValue(value)}\` is neither \`true\` nor \`false\``);
  }
  return value === "true";
}

// tfwrap's options, one word each, so that no value is taken for an option.
const optionsOf = (isMeant) => [
  ...VALUES.filter((name) => isMeant(name) && input(name) !== "").map((name) => `--${name}=${input(name)}`),
  ...LISTS.filter(isMeant).flatMap((name) => lines(name).map((value) => `--${name}=${value.trim()}`)),
  ...FLAGS.filter((name) => isMeant(name) && flag(name)).map((name) => `--${name}`),
];

export const options = () => optionsOf(() => true);

// Those that `recover` uses: nothing else may keep it from its work.
export const optionsOfRecover = () => optionsOf((name) => OF_RECOVER.includes(name));

// tfwrap says the same, but where there is no command only in the post step, which then recovers nothing.
export function expectOptions() {
  for (const [name, values] of Object.entries(ONE_OF)) {
    const value = input(name);
    if (value === "" || values.includes(value)) continue;
    throw new InputError(`input ${name}: \`${shownValue(value)}\` is none of ${values.map((known) => `\`${known}\``).join(", ")}`);
  }
  if (flag("quiet") && flag("verbose")) throw new InputError("inputs quiet and verbose: they exclude each other");
}

// The words of the command; none: only set up.
export function command() {
  const given = lines("command");
  if (given.length === 0) return [];
  if (given.length > 1) {
    // No command of tfwrap or Terraform has a blank in it.
    if (/\s/.test(given[0])) {
      throw new InputError(
        `input command: \`${given[0]}\` is several words, and of several lines each is one argument`,
        "put each argument on a line of its own, or the whole command on one line",
      );
    }
    return given;
  }
  try {
    return split(given[0]);
  } catch (error) {
    if (!(error instanceof SplitError)) throw error;
    throw new InputError(`input command: ${error.message}`);
  }
}

// What would be ignored is an error.
export function expectNoOptions() {
  const set = [...VALUES, ...LISTS, ...FLAGS, "success-on-changes"].find(
    (name) => !OF_RECOVER.includes(name) && !["", "false"].includes(input(name)),
  );
  if (set === undefined) return;
  const name = `TFWRAP_${set.replaceAll("-", "_").toUpperCase()}`;
  const hint = set === "success-on-changes" ? undefined : `for the steps that follow, set \`${name}\` in the \`env\` of the job`;
  throw new InputError(`input ${set}: it has no effect without \`command\``, hint);
}

// For the post step, which must not be the first to find it wrong.
export function recoverWait() {
  const value = input("recover-wait") || "4m";
  if (!isDuration(value)) throw new InputError(`input recover-wait: \`${shownValue(value)}\` is no duration`, "write it like `90s` or `4m`");
  return value;
}

// An input that names a file or a directory of this machine.
export function localPath(name) {
  const value = input(name);
  if (/^(?:[a-z][a-z0-9+.-]*:\/\/|https?:[/\\])/i.test(value)) throw new InputError(`input ${name}: \`${shownValue(value)}\` is a URL and no path`);
  return value;
}

export const workingDirectory = () => resolve(workspace(), input("working-directory"));

export function expectWorkingDirectory() {
  localPath("working-directory");
  const dir = workingDirectory();
  // Without it, the error would name the program as missing.
  const found = statSync(dir, { throwIfNoEntry: false });
  if (found === undefined) throw new InputError(`input working-directory: \`${dir}\` does not exist`);
  if (!found.isDirectory()) throw new InputError(`input working-directory: \`${dir}\` is not a directory`);
  return dir;
}

// What the runner gives to actions only: a script of the job has none of it, and no more has Terraform.
const OF_ACTIONS = ["ACTIONS_RUNTIME_URL", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_CACHE_URL", "ACTIONS_CACHE_SERVICE_V2", "ACTIONS_RESULTS_URL"];

// As a script of the job has it.
export function environment() {
  const ours = new Set([...[...VALUES, ...LISTS, ...FLAGS, ...OWN].map(variable), ...OF_ACTIONS]);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !ours.has(name)));
}
