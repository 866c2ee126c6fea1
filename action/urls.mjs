// How URLs from the user are shown: without user, password and the values of parameters, all of which may be
// secret. The same rules as in src/shown_url.rs.

// Of a URL, however wrong it may be.
export function shownUrl(url) {
  const text = String(url);
  const begin = text.indexOf("://");
  const scheme = begin === -1 ? "" : text.slice(0, begin + 3);
  let rest = begin === -1 ? text : text.slice(begin + 3);
  const authority = rest.split(/[/?#\\]/, 1)[0];
  if (authority.includes("@")) {
    rest = rest.slice(authority.lastIndexOf("@") + 1);
  } else if (authority.includes(":") && rest.includes("@")) {
    // A password may have a `/`, `?` or `#` in it, as it should not. Only before a port it is a host.
    const isHost = /^(\[[^\]]*\]|[^:]*):[0-9]{1,5}$/.test(authority);
    rest = `${isHost ? `${authority}/…` : ""}${rest.slice(rest.lastIndexOf("@") + (isHost ? 0 : 1))}`;
  }
  const [, path, query] = /^([^?#]*)(.*)$/s.exec(rest);
  if (query === "") return scheme + path;
  const [parameters, fragment] = query.split(/#(.*)/s, 2);
  const names = parameters.slice(1).split("&").map((parameter) => (parameter.includes("=") ? parameter.replace(/=.*$/s, "=…") : "…"));
  return `${scheme}${path}${parameters === "" ? "" : `?${names.join("&")}`}${fragment === undefined ? "" : "#…"}`;
}

// Of each URL in a text of others.
export const withoutSecrets = (text) => text.replace(/[a-z][a-z0-9+.-]*:\/\/[^\s`'"]+/gi, shownUrl);
