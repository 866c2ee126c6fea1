// When a process started, so that its number is not mistaken for a later process'.

import { readFileSync } from "node:fs";

// In clock ticks since boot; undefined when there is no such process, or no /proc.
export function startTime(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may hold anything, so count from its end: state is field 3.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[22 - 3];
  } catch {
    return undefined;
  }
}
