// Where we are: `#VIEW?name=value&…`. All of a view's choices stand in the address, so that it can be linked, and so that
// the browser's Back works. Behind the `#`: the server sees none of it, and every path stays relative to the page.

export const HOME = "jobs";

export function here() {
  const [view, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  return { view: view || HOME, params: new URLSearchParams(query) };
}

// An address with these fields; those that are empty are left out.
export function link(view, fields = {}) {
  const full = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(full).toString();
  return `#${view}${query ? `?${query}` : ""}`;
}

// `replace`: while somebody types, Back does not go through every letter.
export function go(view, fields, { replace = false } = {}) {
  const target = link(view, fields);
  if (target === location.hash) return;
  if (!replace) location.hash = target;
  else {
    history.replaceState(null, "", target);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}
