// What can be done with a job: a row each, for its card, its page and (`row`) its line of the history.
// Another action is another row of ACTIONS:
//   name      of the button's data-action
//   text      of a job: what stands on the button
//   shown     of a job: whether there is one; disabled: whether it is grey
//   run       does it: `desk.act(path, fields, job, button)` posts, shows what is refused, asks for keys that are needed
//   row, primary   in the history as well; filled with colour

import { get } from "./api.js";
import { isActive, isResumable, routeOf } from "./labels.js";
import { approve } from "./plan.js";
import { count, element, figure, say, show } from "./text.js";

const ABOUT_DISKS = new Set(["DiskNotMounted", "DestinationFactsLost"]);

export const ACTIONS = [
  {
    name: "cancel",
    // Pressed once more while it waits: drop what is in flight.
    text: (job) => (job.state === "running" && job.cancel_requested && job.delay ? "Cancel now" : "Cancel"),
    shown: (job) => isActive(job) || job.state === "waiting",
    disabled: (job) => job.cancel_requested && !job.delay,
    run: (job, button, desk) => desk.act("cancel", { id: job.id, ...(job.cancel_requested && { now: "1" }) }, job, button),
  },
  {
    name: "approve",
    row: true,
    primary: true,
    text: () => "Approve…",
    shown: (job) => job.state === "waiting" && Boolean(job.plan),
    run: approve,
  },
  {
    name: "pause",
    text: () => "Pause",
    shown: (job) => isActive(job) && !job.pause_requested && !job.cancel_requested,
    run: (job, button, desk) => desk.act("pause", { id: job.id }, job, button),
  },
  {
    name: "continue",
    text: () => "Continue",
    shown: (job) => isActive(job) && job.pause_requested && !job.cancel_requested,
    run: (job, button, desk) => desk.act("continue", { id: job.id }, job, button),
  },
  {
    name: "resume",
    row: true,
    text: () => "Resume",
    shown: isResumable,
    run: (job, button, desk) => desk.act("resume", { id: job.id }, job, button),
  },
  {
    name: "again",
    row: true,
    text: () => "Run again",
    shown: (job) => !isActive(job) && job.state !== "waiting",
    run: runAgain,
  },
  {
    name: "forget",
    text: () => "Sync without the missing disk…",
    shown: (job) => job.state === "failed" && Boolean(job.error) && ABOUT_DISKS.has(job.error.code),
    run: forget,
  },
];

// The fields of a /sync that asks for the same once more. `forget_mounts` acts once, and never by this.
export function askedOf(job) {
  if (job.mirror) return { mirror: job.mirror };
  const { forget_mounts: _, ...options } = job.options;
  return { source: job.source, dest: job.dest, storage_url: job.storage_url, wait: job.wait, ...options };
}

// Whether a sync of these options may delete a whole bucket because its folder is empty.
export const mayDeleteBucket = ({ prefix, exclude, include, delete: deletes, plan }) =>
  !prefix && !exclude && !include && deletes !== 0 && !plan;

export async function runAgain(job, button, desk) {
  button.disabled = true;
  const where = { source: job.source, dest: job.dest, storage_url: job.storage_url };
  const { value } = await get(`folders?${new URLSearchParams(where)}`).catch(() => ({ value: null }));
  button.disabled = false;
  const empty = value?.chosen?.empty !== false; // nobody knows: ask as well
  if (empty && mayDeleteBucket(job.options) && value?.bucket_delete !== "refuse") {
    const known = value?.bucket?.objects_known;
    const many = known === null || known === undefined ? "every object"
      : `${value.bucket.more ? `more than ${figure(known)} objects` : count(known, "object")}`;
    const why = value?.chosen?.empty ? "The folder holds no file" : "It is not known whether the folder holds files";
    const then = value?.chosen?.empty ? "will be deleted" : "will be deleted if it holds none";
    const text = `${why}: the bucket ${job.dest} ${then}, with ${many} in it.`;
    if (!(await desk.confirm("Delete the bucket?", text, "Delete the bucket", job.dest))) return;
  }
  await desk.act("sync", askedOf(job), job, button);
}

// A new sync of the same, which takes the disks that are missing for gone.
async function forget(job, button, desk) {
  const text = `Disks that are not mounted now will be taken for gone for good. Every object of the bucket ${job.dest}
    whose file was on them will be deleted; if the folder holds no file, the bucket itself.`;
  if (!(await desk.confirm("Sync without the missing disk?", text, "Sync and delete"))) return;
  const { source, dest, storage_url, wait, options } = job;
  await desk.act("sync", { source, dest, storage_url, wait, ...options, forget_mounts: 1 }, job, button);
}

// The buttons of one job, kept up to date; `refused` is where it is said what the server did not want.
export class Buttons {
  constructor(desk, wanted = () => true) {
    this.box = element("div", { class: "buttons" });
    this.refused = element("p", { class: "refused", role: "alert", hidden: "" });
    this.made = ACTIONS.filter(wanted).map((action) => {
      const button = element("button", { type: "button", "data-action": action.name, ...(action.primary && { class: "primary" }) });
      button.addEventListener("click", () => action.run(this.job, button, desk));
      button.refuse = (text) => this.refuse(text);
      this.box.append(button);
      return { action, button };
    });
  }

  update(job) {
    if (this.job && this.job.state !== job.state) show(this.refused, false);
    this.job = job;
    for (const { action, button } of this.made) {
      const text = action.text(job);
      show(button, action.shown(job));
      say(button, text);
      button.disabled = Boolean(action.disabled?.(job));
      button.setAttribute("aria-label", `${text.replace("…", "")} ${routeOf(job)}`);
    }
  }

  refuse(text) {
    say(this.refused, text);
    show(this.refused, true);
  }
}
