// Ends what the job has left, when its steps are over: `tfwrap recover` waits for a run that is
// still ending and gives back what dead ones held, of the action's command and of the job's other
// steps. After a cancel the runner kills the step within 10 s, often before Terraform could end in
// order, and at the end of the job everything that is left.

import { existsSync } from "node:fs";
import { begin, endOf, run } from "./child.mjs";
import { optionsOfRecover, recoverWait, workingDirectory } from "./inputs.mjs";
import { entry, workspace } from "./runner.mjs";

const { STATE_program: program = "", STATE_annotations: file = "", STATE_token: token = "" } = process.env;

await entry(async () => {
  if (program === "") return;
  // main.mjs was killed, or something that the command left behind could still write when it ended.
  if (token !== "") endOf(token);
  // The job may have removed the directory meanwhile.
  const cwd = existsSync(workingDirectory()) ? workingDirectory() : workspace();
  const args = [...optionsOfRecover(), "recover", `--wait=${recoverWait()}`];
  process.exitCode = (await run({ program, args, cwd, file, token: begin(file, () => {}), remember: () => {} })) ?? 127;
});
