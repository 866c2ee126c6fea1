// How URLs from the user are shown: nothing of user, password, values of parameters and fragment, all of which may
// be secret. The rules are those of src/shown_url.rs, which says what is shown of a URL that is wrong.

// A host, perhaps with a port, and so no user. An IPv6 address is in brackets.
const HOST = /^(?:\[[0-9a-f:.]*\]|[^:@[\]\\%]*)(?::[0-9]{1,5})?$/i;

// What is shown of the text before the query; undefined if the query is not shown either.
function withoutUser(hasScheme, place, query) {
  const authority = place.split("/", 1)[0];
  const [inPlace, inQuery] = [place, query].map((text) => text.includes("@"));
  const isLikeUrl = hasScheme ? !(authority === "" && inQuery) : !inPlace && !place.includes("//");
  if (HOST.test(authority) && isLikeUrl) {
    return inPlace && authority.includes(":") ? `${authority}/…${place.slice(place.lastIndexOf("@"))}` : place;
  }
  return inPlace && !inQuery ? place.slice(place.lastIndexOf("@") + 1) : undefined;
}

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
  // Only at the begin: what is behind it may be secret. There may be slashes alone.
  const scheme = /^(?:[a-z0-9+.-]*:(?=\/\/))?\/*/i.exec(text)[0];
  const [, place, query] = /^([^?#]*)(.*)$/s.exec(text.slice(scheme.length));
  const shown = withoutUser(scheme !== "", place, query);
  return `${scheme}${shown === undefined ? "…" : `${shown}${queryShown(query)}`}`.replace(UNSAFE, escaped);
}

// Of each URL in a text of others. A password may have quotes in it: only those at the end are around it.
export const withoutSecrets = (text) => text.replace(/(?:[a-z][a-z0-9+.-]*:)?\/\/\S*[^\s`'"]/gi, shownUrl);
