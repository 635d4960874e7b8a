// "More options" of the form that starts a sync: a row each for the rows of the server's table (a test holds the two together),
// and what the patterns leave of the folder, counted by the server while they are typed.

import { get, isFailure } from "./api.js";
import { bytes, count, element, say } from "./text.js";

const COUNT_MS = 400;
const BUSY_MS = 700; // until it has time for another count
const ACLS = ["private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "bucket-owner-read",
  "bucket-owner-full-control"];

// name, label, what it is (text, lines, the choices of a select, the value of a ticked box), an example or a hint.
const ROWS = [
  ["exclude", "Exclude, one .gitignore line each", "lines", "*.tmp\n/cache/"],
  ["include", "Include only, one .gitignore line each", "lines", "*.jpg\n/albums/"],
  ["prefix", "Key prefix", "text", "backups/vm1/"],
  ["plan", "Only plan: show what it would do, and wait for approval", 1],
  ["delete", "Delete nothing: only add and change", 0],
  ["max_delete", "Wait for approval when more than this would be deleted", "text", "100 or 10%"],
  ["verify", "Verify the result", [["", "no"], ["1", "list it, and compare"], ["deep", "read every object back"]]],
  ["bandwidth", "Bandwidth limit, bytes a second", "text", "512K, 1.5M"],
  ["wait", "Pause between operations, seconds", "number", "0: none, full speed"],
  ["storage_class", "Storage class", "text", "STANDARD_IA"],
  ["acl", "Access (ACL)", [["", "as the storage has it"], ...ACLS.map((name) => [name, name])]],
  ["sse", "Encryption at the storage", [["", "as the storage has it"], ...["AES256", "aws:kms", "aws:kms:dsse"].map((name) => [name, name])]],
  ["sse_kms_key_id", "Key for aws:kms", "text", "alias/backups"],
  ["tags", "Tags", "text", "team=photo&keep=1"],
  ["header", "Headers, a line each: pattern, name: value", "lines", "*.html Cache-Control: no-cache"],
  ["forget_mounts", "Disks that are not mounted now are gone for good: delete what was on them", 1],
];

function made(name, kind, example) {
  const common = { id: `option-${name}`, name, spellcheck: "false", autocapitalize: "none" };
  if (Array.isArray(kind)) return element("select", common, ...kind.map(([value, text]) => element("option", { value }, text)));
  if (kind === "lines") return element("textarea", { ...common, rows: "2", placeholder: example });
  if (kind === "number") return element("input", { ...common, type: kind, min: "0", max: "3600", step: "any", placeholder: example });
  return element("input", { ...common, ...(kind === "text" ? { type: kind, placeholder: example } : { type: "checkbox" }) });
}

export class Options {
  inputs = new Map();
  asked = 0;

  // `folder`: gives the chosen one; `onChange`: something else is asked for.
  constructor(box, folder, onChange) {
    this.folder = folder;
    this.summary = box.closest("details").querySelector("summary");
    this.filtered = element("p", { id: "filtered", class: "hint", role: "status" });
    for (const [name, label, kind, example] of ROWS) {
      const input = made(name, kind, example);
      this.inputs.set(name, { input, kind });
      const words = element("label", { for: input.id }, label);
      box.append(...(input.type === "checkbox" ? [element("div", { class: "tick" }, input, words)] : [words, input]));
      if (name === "include") box.append(this.filtered);
    }
    for (const name of ["exclude", "include"]) this.inputs.get(name).input.setAttribute("aria-describedby", "filtered");
    box.addEventListener("input", ({ target }) => {
      this.tell();
      onChange();
      if (target.name === "exclude" || target.name === "include") this.soon(COUNT_MS);
    });
  }

  // What is asked for, as /sync takes it; what is left empty is left out.
  values() {
    const found = {};
    for (const [name, { input, kind }] of this.inputs) {
      if (input.type === "checkbox") {
        if (input.checked) found[name] = kind;
        continue;
      }
      const text = kind === "lines" ? input.value.split("\n").filter((line) => line.trim()) : input.value;
      if (text.length) found[name] = text;
    }
    return found;
  }

  tell() {
    const many = Object.keys(this.values()).length;
    say(this.summary, many ? `More options (${many} set)` : "More options");
  }

  // It has started: what acts once is not asked for again.
  started() {
    this.inputs.get("forget_mounts").input.checked = false;
    this.tell();
  }

  soon(pause) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.count(), pause);
  }

  // How many files and bytes the patterns leave.
  async count() {
    clearTimeout(this.timer);
    const asked = ++this.asked;
    const { exclude = [], include = [] } = this.values();
    const wrong = (param) => {
      for (const name of ["exclude", "include"]) {
        if (param === name) this.inputs.get(name).input.setAttribute("aria-invalid", "true");
        else this.inputs.get(name).input.removeAttribute("aria-invalid");
      }
    };
    const answer = (text, bad = false) => {
      say(this.filtered, text);
      this.filtered.classList.toggle("bad", bad);
    };
    if (!exclude.length && !include.length) {
      wrong("");
      return answer("");
    }
    const lines = [...exclude.map((line) => ["exclude", line]), ...include.map((line) => ["include", line])];
    try {
      const { value } = await get(`folders?${new URLSearchParams([["source", this.folder()], ...lines])}`);
      if (asked !== this.asked) return undefined;
      wrong("");
      const left = value.filtered;
      if (!left) {
        this.soon(BUSY_MS);
        return answer("The server counts what is left …");
      }
      const more = left.complete ? "" : "more than ";
      const then = left.complete && !left.files ? " Objects in the bucket that the patterns select then have no file, and are deleted." : "";
      return answer(`The patterns leave ${more}${count(left.files, "file")}, ${bytes(left.bytes)}.${then}`, then !== "");
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (asked !== this.asked) return undefined;
      wrong(error.problem?.param);
      return answer(error.message, true);
    }
  }
}
