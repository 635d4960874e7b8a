// Talking to the server: conditional GETs, POSTs as forms, and what to do when the token is asked for.

// Where the server is, as this page is seen: a proxy may show it below a path.
const BASE = new URL("..", import.meta.url);

export function address(path) {
  const url = new URL(path.slice(1), BASE);
  return url.pathname + url.search;
}

const seen = new Map(); // path -> {etag, value}
let onUnauthorized = () => Promise.resolve();

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || `the server answered ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

export class Lost extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

// What a request may fail with; everything else is a mistake of this page, and is shown as one by the browser.
export function isFailure(error) {
  return error instanceof Refused || error instanceof Lost;
}

export function whenUnauthorized(callback) {
  onUnauthorized = callback;
}

async function send(path, options) {
  for (;;) {
    const answer = await fetch(address(path), { cache: "no-store", credentials: "same-origin", ...options }).catch(() => {
      throw new Lost();
    });
    if (answer.status !== 401) return answer;
    await onUnauthorized();
  }
}

// A connection may be lost in the middle of an answer.
async function read(answer) {
  try {
    return await answer.json();
  } catch {
    throw new Lost();
  }
}

async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return {};
  }
}

// {value, changed}: an answer that is the same as the last one is neither sent nor parsed again.
export async function get(path) {
  const known = seen.get(path);
  const answer = await send(path, { headers: known ? { "If-None-Match": known.etag } : {} });
  if (answer.status === 304 && known) return { value: known.value, changed: false };
  if (!answer.ok) throw new Refused(await problemOf(answer), answer.status);
  const value = await read(answer);
  const etag = answer.headers.get("ETag");
  if (etag) seen.set(path, { etag, value });
  return { value, changed: true };
}

// A field that is a list is sent once for each of its values.
export async function post(path, fields) {
  const pairs = Object.entries(fields).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  const answer = await send(path, { method: "POST", body: new URLSearchParams(pairs) });
  if (!answer.ok) throw new Refused(await problemOf(answer), answer.status);
  return read(answer);
}

// True when the token is the server's; the cookie is set then.
export async function logIn(token) {
  const body = new URLSearchParams({ token });
  const answer = await fetch(address("/login"), { method: "POST", body, redirect: "manual", credentials: "same-origin" });
  return answer.type === "opaqueredirect";
}
