// Waits for a tfwrap that outlived its step. When a job is cancelled, the runner kills the step
// after 10 s, often before Terraform could end in order; at the end of the job it kills everything
// that is left. In between, tfwrap may finish and give the lock back.

import { setTimeout as sleep } from "node:timers/promises";
import { startTime } from "./process.mjs";

// The runner leaves 285 s from the cancel on to everything together.
const LONGEST_MS = Number(process.env.TFWRAP_POST_WAIT_MS ?? 240_000);

const pid = process.env.STATE_pid ?? "";
const start = process.env.STATE_start ?? "";
const isAlive = () => start !== "" && startTime(pid) === start;

if (/^[0-9]+$/.test(pid) && isAlive()) {
  console.log(`tfwrap (process ${pid}) is still ending its run; waiting for it`);
  const deadline = performance.now() + LONGEST_MS;
  while (isAlive() && performance.now() < deadline) await sleep(200);
  if (isAlive()) {
    console.log(
      "::warning title=tfwrap::tfwrap did not end in time, so its lock may stay" +
        "%0Ahint: once no Terraform runs any more, `tfwrap unlock` with the ID of the output `lock-id`",
    );
  } else {
    console.log("tfwrap has ended");
  }
}
