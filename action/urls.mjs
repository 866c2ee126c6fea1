// How URLs from the user are shown: without user, password and the values of parameters, all of which may be
// secret. The same rules as in src/shown_url.rs.

// A host, perhaps with a port. An IPv6 address is in brackets.
const HOST = /^(\[[^\]]*\]|[^:]*)(:[0-9]{0,5})?$/;

// What is behind who logs in.
function withoutUser(rest) {
  const authority = rest.split(/[/?#\\]/, 1)[0];
  if (authority.includes("@")) return rest.slice(authority.lastIndexOf("@") + 1);
  if (HOST.test(authority)) {
    // Before a port it is a host, but it may also be a user, and a password that begins with digits.
    const [, path, query] = /^([^?#]*)(.*)$/s.exec(rest);
    const isAmbiguous = authority.includes(":") && path.includes("@");
    return isAmbiguous ? `${authority}/…${path.slice(path.lastIndexOf("@"))}${query}` : rest;
  }
  // A password may have a `/`, `?` or `#` in it, as it should not.
  const behind = rest.split("@").slice(1);
  if (behind.length === 0) return rest;
  // With a query before the last `@`, nobody can tell whether that is in a password or in a parameter.
  return behind.slice(0, -1).some((part) => /[?#]/.test(part)) ? "…" : behind.at(-1);
}

// A line break would break the message, and other control characters the line.
const escaped = (character) => ({ "\r": "\\r", "\n": "\\n", "\t": "\\t" })[character] ?? `\\u{${character.codePointAt(0).toString(16)}}`;

// Of a URL, however wrong it may be, as one line.
export function shownUrl(url) {
  const text = String(url);
  // Only the begin counts: what is behind it may be secret. There may be no scheme.
  const scheme = /^(?:[^/?#\\:@]*:)?\/\/|/.exec(text)[0];
  const rest = withoutUser(text.slice(scheme.length));
  const [, path, query] = /^([^?#]*)(.*)$/s.exec(rest);
  const [parameters, fragment] = query.split(/#(.*)/s, 2);
  const names = parameters.slice(1).split("&").map((parameter) => (parameter.includes("=") ? parameter.replace(/=.*$/s, "=…") : "…"));
  const shown = `${scheme}${path}${parameters === "" ? "" : `?${names.join("&")}`}${fragment === undefined ? "" : "#…"}`;
  return shown.replace(/[\p{Cc}\u2028\u2029]/gu, escaped);
}

// Of each URL in a text of others.
export const withoutSecrets = (text) => text.replace(/(?:[a-z][a-z0-9+.-]*:)?\/\/[^\s`'"]+/gi, shownUrl);
