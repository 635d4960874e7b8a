// The approval of a plan that waits; plan_view.js shows its lines.

import { isFailure, lines } from "./api.js";

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
