// Installs tfwrap and runs it on the command, if there is one.
//
// The runner signals this process alone and kills it after 10 s. tfwrap then lives on and gives the
// lock back once Terraform has ended; post.mjs sees to that.

import { join } from "node:path";
import { begin, run } from "./child.mjs";
import { tell, temporaryDirectory, watchOutput } from "./files.mjs";
import { command, expectNoOptions, expectOptions, expectWorkingDirectory, flag, options, recoverWait } from "./inputs.mjs";
import { install } from "./install.mjs";
import { entry } from "./runner.mjs";

// For post.mjs: the last one counts.
const remember = (name, value) => tell("GITHUB_STATE", `${name}=${value}`);
const rememberToken = (token) => remember("token", token);

// `plan -detailed-exitcode` says with 2 that there are changes.
const CHANGES = 2;

// As a shell says it.
const NOT_STARTED = 127;

const [codeSaid, outcomeSaid] = ["exitcode", "outcome"].map(watchOutput);

// In tfwrap's words.
const outcome = (code) => (code === 0 ? "success" : code > 128 ? "interrupted" : "failure");

// The outputs are those of the step's own tfwrap. It says nothing of what it ran without a lock, nor if it is killed:
// what is said last is then another's that it has run. The last one counts.
function tellCode(code) {
  const said = codeSaid();
  // The wrapper of `setup-terraform`, which alone says it in this form, hides 2 behind 0.
  const isHidden = code === 0 && said?.isLong && said.value === `${CHANGES}`;
  if (isHidden || said?.value === `${code}`) return;
  tell("GITHUB_OUTPUT", `exitcode=${code}`);
  if (outcomeSaid() !== undefined) tell("GITHUB_OUTPUT", `outcome=${outcome(code)}`);
}

// A step that reads it after `continue-on-error` finds the code of the action's own errors, too.
await entry(async () => {
  const words = command();
  if (words.length === 0) expectNoOptions();
  expectOptions();
  const args = [...options(), ...words];
  recoverWait();
  const cwd = expectWorkingDirectory();
  const changesSucceed = flag("success-on-changes");
  const program = await install();
  const file = join(temporaryDirectory(), "annotations");
  remember("program", program);
  remember("annotations", file);
  if (words.length === 0) return;

  const token = begin(file, rememberToken);
  const ended = await run({ program, args, cwd, file, token, remember: rememberToken });
  if (ended === undefined) remember("program", "");
  const code = ended ?? NOT_STARTED;
  tellCode(code);
  process.exitCode = code === CHANGES && changesSucceed ? 0 : code;
}, tellCode);
