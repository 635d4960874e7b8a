// The page: which view the address asks for, and how the jobs are, asked for as long as somebody can see it.
//
// How a part is added:
//   a button of a job   a row of ACTIONS in actions.js: it appears on the card, the job's page and, with `row`, in the history
//   a state, a phase    a row in labels.js, a colour in style.css
//   a part of a card    card.js; of the job's page: a section of PARTS in job.js; a column of the history: Row in history.js
//   a field of the form an option of a sync: a row of ROWS in options.js; else an input in index.html, its name in FIELDS of form.js
//   a view              `<section id="view-NAME" class="view" hidden>` and a link in the nav of index.html; a row of VIEWS here; its
//                       module (loaded when it is first opened) exports `make(box, desk)`, which gives an object with
//                       `title`, `open(params)` (the address came here, or its parameters are others),
//                       `async look(force)` (a round of one to three seconds; `force`: ask now) and `close()` (it was left)
// Every new file is named in web's dashboard module, which reads a fixed list. All paths are relative ("jobs?…", "./x.js"): the
// service may live below a path. No style and no script in the markup: the policy refuses both. What all views need
// may weigh 60 KiB together (a test measures it); what one view needs belongs into its own module.

import { get, isFailure, logIn, Lost, post, Refused, whenUnauthorized } from "./api.js";
import { Card } from "./card.js";
import { StartForm } from "./form.js";
import { History } from "./history.js";
import { routeOf, STATES } from "./labels.js";
import { Limit } from "./limit.js";
import { Mirrors } from "./mirrors.js";
import { go, here, HOME } from "./route.js";
import { figure, say, show } from "./text.js";

const BUSY_MS = 1000;
const IDLE_MS = 3000;
const LOST_MS = 3000;
const SILENT_MS = 60_000; // the longest pause, while the server takes questions and answers none
const part = (id) => document.getElementById(id);

const VIEWS = {
  [HOME]: { make: () => ({ title: "", open: (params) => past.open(params), look: lookHome, close() {} }) },
  job: { load: () => import("./job.js") },
};

const cards = new Map(); // job id -> Card, of those that run
const last = new Map(); // job id -> its state, of those that ran at the last look
let timer = 0;
let lostPause = LOST_MS;
let turn = 0; // the newest round: an older one that comes back late changes nothing
let view = null; // {name, made}

// -- the token -------------------------------------------------------------------------------------------

let loggingIn = null;

whenUnauthorized(() => {
  loggingIn ??= new Promise((resolve) => {
    const dialog = part("token-dialog");
    part("token-form").onsubmit = async (event) => {
      event.preventDefault();
      const right = await logIn(part("token").value).catch(() => false);
      show(part("token-wrong"), !right);
      if (!right) return;
      part("token").value = "";
      dialog.close();
      loggingIn = null;
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault(); // nothing can be shown without it
    dialog.showModal();
  });
  return loggingIn;
});

// -- the jobs --------------------------------------------------------------------------------------------

function connection(kind, text) {
  part("connection").dataset.kind = kind;
  say(part("connection"), text);
}

function announce(job, state) {
  say(part("said"), `${routeOf(job)}: ${STATES[state] || state}`);
}

function draw(running) {
  const box = part("active");
  everybody.update(running.find((job) => job.limit)?.limit);
  let at = box.firstElementChild;
  for (const job of running) {
    const card = cards.get(job.id) || new Card(job, desk);
    cards.set(job.id, card);
    card.update(job);
    if (last.has(job.id) && last.get(job.id) !== job.state) announce(job, job.state);
    if (card.box === at) at = at.nextElementSibling;
    else box.insertBefore(card.box, at);
  }
  while (at) {
    const following = at.nextElementSibling;
    cards.delete(at.dataset.job);
    at.remove();
    at = following;
  }
  past.leave(new Set(running.map((job) => job.id)));
  say(part("active-count"), running.length ? figure(running.length) : "");
  show(part("active-none"), running.length === 0);
}

function entitle(running) {
  const name = view?.made?.title;
  document.title = `${running ? `(${figure(running)}) ` : ""}${name ? `${name} · ` : ""}Bucket sync`;
}

// How the jobs ended that ran at the last look.
async function tellEnds(ended) {
  for (const id of ended) {
    const { value } = await get(`get?id=${id}`).catch((error) => {
      if (!(error instanceof Refused)) throw error;
      return {}; // removed since
    });
    if (value) announce(value, value.state);
  }
}

async function look(force = false) {
  clearTimeout(timer);
  if (document.hidden) return connection("wait", "paused");
  const mine = ++turn;
  let pause = lostPause;
  try {
    const { value: now } = await get("runnings");
    if (mine !== turn) return undefined;
    const ids = new Set(now.jobs.map((job) => job.id));
    const ended = [...last.keys()].filter((id) => !ids.has(id));
    draw(now.jobs);
    const begun = now.jobs.some((job) => !last.has(job.id));
    await view?.made?.look(force || begun || ended.length > 0);
    if (mine !== turn) return undefined;
    entitle(now.count);
    last.clear();
    for (const job of now.jobs) last.set(job.id, job.state);
    await tellEnds(ended);
    if (mine !== turn) return undefined;
    connection("live", "live");
    pause = now.count ? BUSY_MS : IDLE_MS;
    lostPause = LOST_MS;
  } catch (error) {
    if (mine !== turn) return undefined;
    if (!isFailure(error)) throw error;
    if (error instanceof Lost && error.isSilent) lostPause = Math.min(2 * lostPause, SILENT_MS);
    connection("lost", error instanceof Refused ? error.message : "no answer, trying again");
  }
  timer = setTimeout(look, pause);
  return undefined;
}

// -- what a view and a button work with ------------------------------------------------------------------

const desk = { act, confirm, look };

async function act(path, fields, job, button) {
  button.disabled = true;
  try {
    const made = await post(path, fields);
    if (made.id !== job.id) say(part("said"), `${routeOf(made)}: queued`);
    if (made.id !== job.id && here().view === "job") go("job", { id: made.id });
  } catch (error) {
    if (!isFailure(error)) throw error;
    if (error instanceof Refused && error.problem.param === "access_key" && path !== "cancel") {
      askForKeys(path, fields, job, button);
    } else button.refuse(error.message);
  }
  button.disabled = false;
  await look(true);
}

// Resolves to whether somebody said yes. `typed`: what must be typed before that.
function confirm(title, text, yes, typed = "") {
  const dialog = part("confirm-dialog");
  const input = part("confirm-typed");
  say(part("confirm-title"), title);
  say(part("confirm-text"), text);
  say(part("confirm-yes"), yes);
  show(part("confirm-typing"), typed !== "");
  input.value = "";
  const allow = () => {
    part("confirm-yes").disabled = input.value !== typed;
  };
  input.oninput = allow;
  allow();
  return new Promise((resolve) => {
    part("confirm-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close("yes");
    };
    part("confirm-close").onclick = () => dialog.close("");
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.returnValue = "";
    dialog.showModal();
  });
}

function askForKeys(path, asked, job, button) {
  const dialog = part("keys-dialog");
  const verb = { resume: "Resume", sync: "Start" }[path] || "Go on";
  say(part("keys-go"), verb);
  say(part("keys-why"), path === "sync" ? "They are not handed on to a new job." : "They were removed when it ended.");
  part("keys-close").onclick = () => dialog.close();
  part("keys-form").onsubmit = (event) => {
    event.preventDefault();
    const fields = { ...asked, access_key: part("keys-access").value, secret_key: part("keys-secret").value };
    if (part("keys-token").value) fields.session_token = part("keys-token").value;
    part("keys-token").value = "";
    part("keys-secret").value = "";
    dialog.close();
    act(path, fields, job, button);
  };
  dialog.showModal();
}

// -- views -----------------------------------------------------------------------------------------------

async function route() {
  const asked = here();
  const name = Object.hasOwn(VIEWS, asked.view) ? asked.view : HOME;
  const from = view?.name;
  if (from && from !== name) view.made?.close();
  for (const box of document.querySelectorAll(".view")) show(box, box.id === `view-${name}`);
  for (const one of document.querySelectorAll("nav a")) {
    if (one.hash.slice(1) === name) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  const entry = VIEWS[name];
  view = { name, made: entry.made };
  const mine = view;
  if (!entry.made) {
    entry.made = (await (entry.load ? entry.load() : entry)).make(part(`view-${name}`), desk);
    if (view !== mine) return undefined; // somebody has gone elsewhere meanwhile
    view.made = entry.made;
  }
  entry.made.open(asked.params);
  if (from && from !== name) scrollTo(0, 0);
  return look(true);
}

async function lookHome(force) {
  await Promise.all([mirrors.look(force), past.look(force)]);
}

const mirrors = new Mirrors(desk);
const everybody = new Limit("Limit of all jobs together");
part("limit").append(everybody.box);
const past = new History(desk);
const form = new StartForm((job) => {
  say(part("said"), `${routeOf(job)}: queued`);
  look(true);
});

addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => look(true));
route().then(() => form.list()).then(() => form.look());
