// When a bucket was last an exact copy: asked of the history, for "is the backup of X younger than a day?".

import { get } from "./api.js";
import { link } from "./route.js";
import { ago, element, when } from "./text.js";

const DAY_SECONDS = 86400;

// A run that looked at all: no plan, and not only the folders that had changed.
const isWhole = (job) => !job.options.plan && !job.scope;

// The newest job of this bucket that ended well, null: none among the last fifty that did.
export async function lastSuccess(dest, isSame = () => true) {
  const { value } = await get(`jobs?${new URLSearchParams({ dest, state: "done", limit: 50 })}`);
  return value.jobs.find((job) => isWhole(job) && isSame(job)) || null;
}

export function successLine(job, what) {
  if (!job) return [element("strong", { class: "bad" }, `No success of ${what} is known.`)];
  const seconds = (Date.now() - Date.parse(job.finished_at)) / 1000;
  const fresh = seconds < DAY_SECONDS;
  return [
    `Last success of ${what}: `,
    element("a", { href: link("job", { id: job.id }) }, element("time", { datetime: job.finished_at }, when(job.finished_at))),
    element("strong", { class: fresh ? "good" : "bad" }, `, ${ago(seconds)}: ${fresh ? "younger" : "older"} than a day`),
  ];
}
