// How URLs from the user are shown: without user, password and the values of parameters, all of which may be
// secret. The same rules as in src/shown_url.rs.

// A host and its port. An IPv6 address is in brackets.
const HOST_AND_PORT = /^(\[.*|[^:]*):[0-9]{1,5}$/s;

// What is left to be shown without who logs in.
function withoutUser(rest) {
  const authority = rest.split(/[/?#\\]/, 1)[0];
  if (authority.includes("@")) return rest.slice(authority.lastIndexOf("@") + 1);
  if (!authority.includes(":")) return rest;
  // A password may have a `/`, `?` or `#` in it, as it should not. Only before a port it is a host.
  if (!HOST_AND_PORT.test(authority)) return rest.includes("@") ? withoutUser(rest.slice(rest.indexOf("@") + 1)) : rest;
  // Values of parameters are left out in any case.
  const path = rest.split(/[?#]/, 1)[0];
  return path.includes("@") ? `${authority}/…${rest.slice(path.lastIndexOf("@"))}` : rest;
}

// A line break would break the message, and other control characters the line.
const escaped = (character) => ({ "\r": "\\r", "\n": "\\n", "\t": "\\t" })[character] ?? `\\u{${character.codePointAt(0).toString(16)}}`;

// Of a URL, however wrong it may be, as one line.
export function shownUrl(url) {
  const text = String(url);
  // Only at the begin: what is behind it may be secret. There may be slashes alone.
  const scheme = /^(?:[a-z0-9+.-]*:(?=\/\/))?\/*/i.exec(text)[0];
  const rest = withoutUser(text.slice(scheme.length));
  const [, path, query] = /^([^?#]*)(.*)$/s.exec(rest);
  const [parameters, fragment] = query.split(/#(.*)/s, 2);
  const names = parameters.slice(1).split("&").map((parameter) => (parameter.includes("=") ? parameter.replace(/=.*$/s, "=…") : "…"));
  const shown = `${scheme}${path}${parameters === "" ? "" : `?${names.join("&")}`}${fragment === undefined ? "" : "#…"}`;
  return shown.replace(/[\p{Cc}\u2028\u2029]/gu, escaped);
}

// Of each URL in a text of others.
export const withoutSecrets = (text) => text.replace(/(?:[a-z][a-z0-9+.-]*:)?\/\/[^\s`'"]+/gi, shownUrl);
