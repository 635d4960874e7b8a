// The page: asks the server how the jobs are, for as long as somebody can see it.

import { get, isFailure, logIn, post, Refused, whenUnauthorized } from "./api.js";
import { Card, isActive } from "./card.js";
import { StartForm } from "./form.js";
import { figure, say, show } from "./text.js";

const BUSY_MS = 1000;
const IDLE_MS = 3000;
const LOST_MS = 3000;
const HISTORY_MS = 10000;
const PAGE = 20;
const part = (id) => document.getElementById(id);

const cards = new Map(); // job id -> Card
const active = new Set();
let older = []; // jobs of older pages, which are not asked for again
let next = null;
let historyAt = -HISTORY_MS;
let timer = 0;
let turn = 0; // the newest round: an older one that comes back late changes nothing

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

function announce(job, before) {
  if (before && before !== job.state) say(part("said"), `${job.source || "All uploads"} to ${job.dest}: ${job.state}`);
}

function place(box, jobs) {
  let at = box.firstElementChild;
  for (const job of jobs) {
    let card = cards.get(job.id);
    if (!card) {
      card = new Card(job, { cancel, resume, forget });
      cards.set(job.id, card);
    } else {
      const before = card.job.state;
      card.update(job);
      announce(job, before);
    }
    if (card.box === at) at = at.nextElementSibling;
    else box.insertBefore(card.box, at);
  }
  while (at) {
    const following = at.nextElementSibling;
    at.remove();
    at = following;
  }
}

function draw(running, history) {
  active.clear();
  for (const job of running) active.add(job.id);
  const newest = history.filter((job) => !isActive(job) && !active.has(job.id));
  const shown = new Set(newest.map((job) => job.id));
  const ended = [...newest, ...older.filter((job) => !shown.has(job.id) && !active.has(job.id))];
  place(part("active"), running);
  place(part("ended"), ended);
  say(part("active-count"), running.length ? figure(running.length) : "");
  show(part("active-none"), running.length === 0);
  show(part("ended-none"), ended.length === 0);
  show(part("more"), next !== null);
  const kept = new Set([...running, ...ended].map((job) => job.id));
  for (const id of cards.keys()) if (!kept.has(id)) cards.delete(id);
  document.title = running.length ? `(${running.length}) Bucket sync` : "Bucket sync";
}

let history = [];

async function look(force = false) {
  clearTimeout(timer);
  if (document.hidden) return connection("wait", "paused");
  const mine = ++turn;
  let pause = LOST_MS;
  try {
    const { value: now } = await get("/runnings");
    const ids = now.jobs.map((job) => job.id);
    const ended = [...active].some((id) => !ids.includes(id));
    if (force || ended || performance.now() - historyAt > HISTORY_MS) {
      const { value: page } = await get(`/jobs?limit=${PAGE}`);
      if (mine !== turn) return undefined;
      history = page.jobs;
      if (!older.length) next = page.next;
      historyAt = performance.now();
    }
    if (mine !== turn) return undefined;
    draw(now.jobs, history);
    connection("live", "live");
    pause = now.count ? BUSY_MS : IDLE_MS;
  } catch (error) {
    if (mine !== turn) return undefined;
    if (!isFailure(error)) throw error;
    connection("lost", error instanceof Refused ? error.message : "no answer, trying again");
  }
  timer = setTimeout(look, pause);
  return undefined;
}

async function act(path, fields, job, button) {
  button.disabled = true;
  try {
    await post(path, fields);
  } catch (error) {
    if (!isFailure(error)) throw error;
    if (error instanceof Refused && error.problem.param === "access_key" && path !== "/cancel") {
      askForKeys(path, fields, job, button);
    } else {
      const card = cards.get(job.id);
      if (card) card.refuse(error.message);
    }
  }
  button.disabled = false;
  await look(true);
}

const cancel = (job, button) => act("/cancel", { id: job.id, ...(job.cancel_requested && { now: "1" }) }, job, button);
const resume = (job, button) => act("/resume", { id: job.id }, job, button);

// A new sync of the same, which takes the disks that are missing for gone.
function forget(job, button) {
  const dialog = part("forget-dialog");
  say(part("forget-text"), `Disks that are not mounted now will be taken for gone for good. Every object of the bucket ${job.dest}
    whose file was on them will be deleted; if the folder holds no file, the bucket itself.`);
  part("forget-close").onclick = () => dialog.close();
  part("forget-form").onsubmit = (event) => {
    event.preventDefault();
    dialog.close();
    const { source, dest, storage_url, wait, options } = job;
    act("/sync", { source, dest, storage_url, wait, ...options, forget_mounts: 1 }, job, button);
  };
  dialog.showModal();
}

function askForKeys(path, asked, job, button) {
  const dialog = part("keys-dialog");
  say(part("keys-go"), path === "/resume" ? "Resume" : "Start");
  say(part("keys-why"), path === "/resume" ? "They were removed when it ended." : "They are not handed on to a new job.");
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

part("more").addEventListener("click", async () => {
  try {
    const { value } = await get(`/jobs?limit=${PAGE}&before=${next}`);
    older = [...older, ...value.jobs];
    next = value.next;
  } catch (error) {
    if (!isFailure(error)) throw error; // else the next round says that there is no answer
  }
  await look(true);
});

const form = new StartForm((job) => {
  say(part("said"), `${job.source || "All uploads"} to ${job.dest}: queued`);
  look(true);
});

document.addEventListener("visibilitychange", () => look(true));
look(true).then(() => form.list()).then(() => form.look());
