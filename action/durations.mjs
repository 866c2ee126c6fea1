// Whether tfwrap takes a text for a duration: the same rules as in src/duration.rs, which are Go's.

const NANOSECONDS = { ns: 1n, us: 1000n, "\u00b5s": 1000n, "\u03bcs": 1000n, ms: 1_000_000n, s: 1_000_000_000n, m: 60_000_000_000n, h: 3_600_000_000_000n };
const PART = /([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)/g;
const LONGEST = 2n ** 63n - 1n;
// Of a fraction, what is behind these digits changes nothing.
const DIGITS = 18;

function nanoseconds([, number, unit]) {
  const [whole, fraction = ""] = number.split(".");
  const digits = fraction.slice(0, DIGITS);
  return BigInt(whole) * NANOSECONDS[unit] + (BigInt(digits) * NANOSECONDS[unit]) / 10n ** BigInt(digits.length);
}

export function isDuration(text) {
  const body = text.replace(/^\+/, "");
  if (body === "0") return true;
  const parts = [...body.matchAll(PART)];
  if (body === "" || parts.map(([part]) => part).join("") !== body) return false;
  return parts.reduce((total, part) => total + nanoseconds(part), 0n) <= LONGEST;
}
