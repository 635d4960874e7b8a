// A plan that waits: its lines on the job's page, and the approval of it.

import { isFailure, lines } from "./api.js";
import { bytes, element, say, show, when } from "./text.js";

const PAGE = 100;

// Asks with the numbers of the plan; where the bucket itself is to go, its name must be typed. Approved is what was
// read: a plan with another etag is refused.
export async function approve(job, button, desk) {
  button.disabled = true;
  const last = new URLSearchParams({ id: job.id, after: Math.max(job.plan.lines - 1, 0), limit: 1 });
  let bucket;
  try {
    bucket = (await lines(`plan?${last}`)).values.some(({ op }) => op === "delete_bucket"); // always the last line
  } catch (error) {
    if (!isFailure(error)) throw error;
    button.disabled = false;
    button.refuse(error.message);
    return;
  }
  button.disabled = false;
  const title = bucket ? "Approve, and delete the bucket?" : "Approve the plan?";
  if (!(await desk.confirm(title, job.message, "Approve", bucket ? job.dest : ""))) return;
  await desk.act("approve", { id: job.id, etag: job.plan.etag }, job, button);
}

export class Plan {
  constructor() {
    this.after = "";
    this.body = element("tbody", {});
    const head = ["Operation", "Why", "Key", "Object", "Of"].map((name) => element("th", { scope: "col" }, name));
    const table = element("table", { class: "report" }, element("caption", { class: "aside" }, "Lines of the plan"),
      element("thead", {}, element("tr", {}, ...head)), this.body);
    this.first = element("button", { type: "button" }, "First lines of the plan");
    this.next = element("button", { type: "button" }, "Next lines of the plan");
    this.first.addEventListener("click", () => this.turn(""));
    this.next.addEventListener("click", () => this.turn(this.following));
    this.sums = element("p", {});
    this.box = element("section", { class: "panel part-plan", "aria-labelledby": "job-plan-title", hidden: "" },
      element("h3", { id: "job-plan-title" }, "Plan"), this.sums,
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Lines of the plan" }, table),
      element("p", { class: "buttons" }, this.first, this.next));
  }

  turn(after) {
    this.after = after;
    return this.update(this.job);
  }

  async update(job) {
    this.job = job;
    show(this.box, Boolean(job.plan));
    if (!job.plan) return;
    const stamp = `${job.plan.etag} ${job.plan.approved_at} ${this.after}`;
    if (this.stamp === stamp) return;
    this.stamp = stamp;
    const { plan } = job;
    say(this.sums, plan.approved_at ? `Approved ${when(plan.approved_at)}.` : job.message);
    const query = new URLSearchParams({ id: job.id, limit: PAGE, ...(this.after && { after: this.after }) });
    const page = await lines(`plan?${query}`).catch((error) => {
      if (!isFailure(error)) throw error;
      say(this.sums, error.message);
      return { values: [], after: null };
    });
    if (this.stamp !== stamp) return;
    this.body.replaceChildren(...page.values.map(({ op, reason, key, size, modified }) => element("tr", {},
      element("td", {}, op.replace("_", " ")), element("td", {}, reason),
      element("td", { class: "at-key" }, element("span", { class: "key" }, key)),
      element("td", {}, size === null ? "–" : bytes(size)), element("td", {}, modified ? when(modified) : "–"))));
    this.following = page.after;
    show(this.first, this.after !== "");
    show(this.next, page.after !== null);
  }
}
