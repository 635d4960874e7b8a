// What states, phases and delays are called, and what can be said of a job in a line. A new state or phase: a row here,
// and its colour in style.css ([data-state="…"], [data-phase="…"]).

import { count, duration, figure } from "./text.js";

export const STATES = {
  queued: "queued",
  running: "running",
  waiting: "waits for approval",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
  interrupted: "interrupted",
};
export const PHASES = {
  starting: "starting",
  comparing: "comparing",
  transferring: "sending",
  deleting: "deleting",
  deleting_bucket: "deleting the bucket",
  verifying: "checking the bucket again",
  paused: "paused",
};
const DELAYS = {
  writes_in_flight: "stopping",
  storage_down: "storage away",
  storage_silent: "storage silent",
  slow_down: "slowed down by the storage",
  paused: "paused",
};
export const SKIPPED = {
  symlink_outside: "a link that leads out of the uploads folder",
  symlink_dangling: "a broken link",
  symlink_loop: "a link that leads to itself",
  socket: "a socket",
  fifo: "a named pipe",
  device: "a device",
  special: "a special file",
  vanished: "deleted since it was listed",
  being_written: "being written, sent by the next job",
};
const RESUMABLE = new Set(["failed", "cancelled", "interrupted"]);
const ACTIVE = new Set(["queued", "running"]);

export const isActive = (job) => ACTIVE.has(job.state);
export const isResumable = (job) => RESUMABLE.has(job.state);
export const folderOf = (job) => job.source || "all uploads";
export const titleOf = (job) => `${folderOf(job)} → ${job.dest}`;
export const routeOf = (job) => `${folderOf(job)} to ${job.dest}`;

// For how long the writes in flight have been waited for.
function cancelling(job) {
  const delay = job.delay;
  if (!delay) return "cancelling";
  const seconds = (Date.parse(job.updated_at) - Date.parse(delay.since)) / 1000;
  return `cancelling, waiting ${duration(Math.max(0, seconds))}`;
}

export function badgeOf(job) {
  if (job.state === "queued" && job.pause_requested) return "queued, paused";
  if (job.state !== "running") return STATES[job.state] || job.state;
  if (job.cancel_requested) return cancelling(job);
  return DELAYS[job.delay?.reason] || PHASES[job.phase] || job.phase || job.state;
}

export function messageOf(job) {
  return job.error && job.state !== "cancelled" ? `${job.error.message} (${job.error.code})` : job.message;
}

export function skippedText(job) {
  const reasons = Object.entries(job.skipped || {}).sort((a, b) => b[1] - a[1]);
  const why = reasons.map(([reason, many]) => `${figure(many)} ${reason}`).join(", ");
  return `${count(job.progress.files_skipped, "file")}${why ? ` (${why})` : ""}`;
}
