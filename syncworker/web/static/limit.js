// How fast one job, or all of them together, may send: a slider whose steps double; the last step is no limit.

import { isFailure, post } from "./api.js";
import { element, say, show } from "./text.js";

const LEAST = 64 * 1024;
const STEPS = 15; // to 1 GiB/s
const SETTLES_MS = 3000; // until the status of a running job has the new limit

const rateAt = (step) => (step < STEPS ? LEAST * 2 ** step : 0);
const stepOf = (rate) => (rate ? Math.min(STEPS - 1, Math.max(0, Math.round(Math.log2(rate / LEAST)))) : STEPS);

// In units of 1,024, in which limits are written.
function rateText(rate) {
  if (!rate) return "no limit";
  const units = ["B", "KiB", "MiB", "GiB"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(rate) / 10));
  const number = rate / 1024 ** unit;
  return `${Number.isInteger(number) ? number : number.toFixed(1)} ${units[unit]}/s`;
}

export class Limit {
  // `id`: of a job; none: all jobs together. `name`: the field of the answer that has this limit.
  constructor(label, id = "") {
    this.name = id ? "bandwidth" : "all_jobs";
    this.until = 0;
    this.slider = element("input", { type: "range", min: "0", max: String(STEPS), "aria-label": label });
    this.text = element("span", { class: "limit-text" });
    this.refused = element("p", { class: "refused", role: "alert", hidden: "" });
    const word = element("span", { "aria-hidden": "true" }, id ? "Limit" : "Limit of all jobs together");
    this.box = element("div", { class: "limit", hidden: "" }, word, this.slider, this.text, this.refused);
    this.slider.addEventListener("input", () => this.tell(rateAt(Number(this.slider.value))));
    this.slider.addEventListener("change", () => this.set(id));
  }

  async set(id) {
    const asked = { ...(id && { id }), bandwidth: String(rateAt(Number(this.slider.value))) };
    this.until = Date.now() + SETTLES_MS;
    try {
      const limits = await post("limit", asked);
      show(this.refused, false);
      this.tell(limits[this.name]);
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.until = 0;
      say(this.refused, error.message);
      show(this.refused, true);
    }
  }

  tell(rate) {
    const text = rateText(rate);
    say(this.text, text);
    if (this.slider.getAttribute("aria-valuetext") !== text) this.slider.setAttribute("aria-valuetext", text);
  }

  // `limit`: of the status of a running job; null hides the slider.
  update(limit) {
    show(this.box, Boolean(limit));
    if (!limit || Date.now() < this.until) return;
    const step = String(stepOf(limit[this.name]));
    if (this.slider.value !== step) this.slider.value = step;
    this.tell(limit[this.name]);
  }
}
