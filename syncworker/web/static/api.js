// Talking to the server, by paths relative to the page: conditional GETs, POSTs as forms, and what to do when the token is asked for.

const seen = new Map(); // path -> {etag, value}, the ones asked last
const SEEN_MAX = 40;
// A question is given up if its answer has not begun, or not ended, after so long: a network that goes away tells nobody.
const ANSWER_MS = 15_000;
const BODY_MS = 60_000;
let onUnauthorized = () => Promise.resolve();

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || `the server answered ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

export class Lost extends Error {
  constructor(isSilent = false) {
    super("The server does not answer.");
    this.isSilent = isSilent; // the question may still keep the server busy
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
    const giving = new AbortController();
    const giveUp = (after) => (options.method ? 0 : setTimeout(() => giving.abort(), after)); // an act is waited for
    const timer = giveUp(ANSWER_MS);
    const fixed = { cache: "no-store", credentials: "same-origin", signal: giving.signal };
    const answer = await fetch(path, { ...fixed, ...options }).catch(() => {
      throw new Lost(giving.signal.aborted);
    });
    clearTimeout(timer);
    giveUp(BODY_MS);
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
  seen.delete(path);
  if (etag) seen.set(path, { etag, value });
  if (seen.size > SEEN_MAX) seen.delete(seen.keys().next().value);
  return { value, changed: true };
}

async function plain(path) {
  const answer = await send(path, {});
  if (!answer.ok) throw new Refused(await problemOf(answer), answer.status);
  const body = await answer.text().catch(() => {
    throw new Lost();
  });
  return { answer, body };
}

export async function text(path) {
  return (await plain(path)).body;
}

// A page of JSON lines: its values, and the `after` of the page that follows, null: there is none.
export async function lines(path) {
  const { answer, body } = await plain(path);
  const after = /[?&]after=([0-9]+)[^>]*>; rel="next"/.exec(answer.headers.get("Link") || "");
  return { values: body.split("\n").filter(Boolean).map((line) => JSON.parse(line)), after: after ? after[1] : null };
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
  const answer = await fetch("login", { method: "POST", body, redirect: "manual", credentials: "same-origin" });
  return answer.type === "opaqueredirect";
}
