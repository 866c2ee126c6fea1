// How URLs from the user are shown: nothing of user, password, values of parameters and fragment, all of which may
// be secret. The rules are those of src/shown_url.rs, which says what is shown of a URL that is wrong.

const SCHEME = /^[a-z][a-z0-9+.-]*:\/\//i;
// A host, perhaps with a port. An IPv6 address is in brackets.
const HOST = /^(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?$/i;
const AT = /@|%40/;

const parameterShown = (parameter) => `${/^[^=]*=(?==*[^=])/s.exec(parameter)?.[0] ?? ""}…`;

function queryShown(query) {
  const [parameters, fragment] = query.split(/#(.*)/s, 2);
  const names = parameters === "" ? "" : `?${parameters.slice(1).split("&").map(parameterShown).join("&")}`;
  return `${names}${fragment === undefined ? "" : "#…"}`;
}

// A line break would break the message, and other control characters the line.
const UNSAFE = /[\p{Cc}\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;
const escaped = (character) => ({ "\0": "\\0", "\r": "\\r", "\n": "\\n", "\t": "\\t" })[character] ?? `\\u{${character.codePointAt(0).toString(16)}}`;

// Of a URL, however wrong it may be, as one line.
export function shownUrl(url) {
  const text = String(url);
  const scheme = SCHEME.exec(text)?.[0] ?? "";
  const rest = text.slice(scheme.length);
  const [, authority, path, query] = /^([^/\\?#]*)([^?#]*)(.*)$/s.exec(rest);
  const host = authority.slice(authority.lastIndexOf("@") + 1);
  const hasHost = authority === "" || HOST.test(host);
  const isWellFormed = hasHost && !AT.test(path + query) && !(scheme === "" && rest.includes("//"));
  return `${scheme}${isWellFormed ? `${host}${path}${queryShown(query)}` : "…"}`.replace(UNSAFE, escaped);
}

// Of a value that should be something else, but may be a URL all the same.
export const shownValue = (text) => (/\/\/|[?#@]|%40/.test(text) ? shownUrl(text) : text);

// A value that is a URL, whatever is in it; another URL with a scheme or without; and what may have a user in it
// all the same. A password may have quotes in it: only those at the end are around it.
const URLS = /(?<=`)[a-z][a-z0-9+.-]*:\/\/[^`]*(?=`)|(?:[a-z][a-z0-9+.-]*:)?\/\/\S*[^\s`'")]|[^\s`'"(]*:\S*(?:@|%40)\S*[^\s`'")]/gi;

// Of each URL in a text of others.
export const withoutSecrets = (text) => text.replace(URLS, shownUrl);
