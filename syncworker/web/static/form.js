// The form that starts a sync: the folders with their sizes, and a plain warning when a bucket is to be deleted.

import { mayDeleteBucket } from "./actions.js";
import { get, isFailure, post } from "./api.js";
import { Options } from "./options.js";
import { bytes, count, element, figure, say, show } from "./text.js";

const OTHER = "\u0000other"; // no folder's name: it cannot hold NUL
const LOOK_AGAIN_MS = 400;
const FIELDS = ["storage_url", "access_key", "secret_key", "session_token"];
const part = (id) => document.getElementById(id);

export class StartForm {
  constructor(onStarted) {
    this.onStarted = onStarted;
    this.chosen = null; // what the server says about the folder and the bucket
    this.asked = 0;
    this.form = part("start");
    this.source = part("source");
    this.otherOption = element("option", { value: OTHER }, "Another folder…");
    this.source.append(this.otherOption);
    this.options = new Options(part("options"), () => this.folder(), () => this.warn());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    this.source.addEventListener("change", () => {
      show(part("other"), this.source.value === OTHER);
      this.look();
    });
    for (const id of ["other-source", "dest", "storage_url"]) part(id).addEventListener("input", () => this.soon());
    part("confirm").addEventListener("input", () => this.allow());
    this.source.addEventListener("focus", () => this.list());
  }

  folder() {
    return this.source.value === OTHER ? part("other-source").value : this.source.value;
  }

  bucket() {
    return part("dest").value || part("dest").placeholder; // the server's own default
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), LOOK_AGAIN_MS);
    this.allow();
  }

  // The folders, and again while the server still walks through them.
  async list() {
    try {
      const { value, changed } = await get("folders");
      if (changed) this.fill(value.folders);
      this.room(value.storage_space);
      clearTimeout(this.listTimer);
      if (value.walking && !document.hidden) this.listTimer = setTimeout(() => this.list(), 1000);
    } catch (error) {
      if (!isFailure(error)) throw error;
    }
  }

  fill(folders) {
    const known = new Map([...this.source.options].map((option) => [option.value, option]));
    const wanted = new Set(["", OTHER]);
    for (const folder of folders) {
      wanted.add(folder.source);
      const text = `${folder.source} (${this.described(folder)})`;
      const option = known.get(folder.source);
      if (option) say(option, text);
      else this.otherOption.before(element("option", { value: folder.source }, text));
    }
    for (const [value, option] of known) if (!wanted.has(value) && value !== this.source.value) option.remove();
  }

  described(folder) {
    if (!folder.files) return folder.complete ? "empty" : "size not known yet";
    const more = folder.complete ? "" : "more than ";
    return `${more}${count(folder.files, "file")}, ${bytes(folder.bytes)}`;
  }

  async look() {
    clearTimeout(this.timer);
    const asked = ++this.asked;
    this.chosen = null;
    if (this.counted !== this.folder()) this.options.count();
    this.counted = this.folder();
    const query = new URLSearchParams({ source: this.folder() });
    const dest = part("dest");
    if (dest.validity.valid) query.set("dest", this.bucket());
    if (part("storage_url").value) query.set("storage_url", part("storage_url").value);
    try {
      const { value } = await get(`folders?${query}`);
      if (asked === this.asked) this.chosen = value;
      this.room(value.storage_space);
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (asked === this.asked) say(part("size"), error.message);
      if (asked === this.asked) this.warn();
      return;
    }
    if (asked === this.asked) this.tell();
  }

  room(space) {
    const full = "The storage is full: nothing can be sent until there is room on the disk of STORAGE_DIR.";
    say(part("space"), space === "full" ? full : "The disk of the storage is nearly full (95 % or more).");
    show(part("space"), space === "full" || space === "low");
  }

  tell() {
    const folder = this.chosen.chosen;
    say(part("size"), folder.empty
      ? folder.exists ? "This folder holds no file." : "There is no such folder."
      : folder.empty === null ? "It is not known now whether this folder holds files."
      : `${folder.complete ? "" : "More than "}${count(folder.files, "file")}, ${bytes(folder.bytes)}.`);
    this.warn();
  }

  // null: nothing is deleted because the folder is empty.
  warning() {
    const folder = this.chosen?.chosen;
    const asked = this.options.values();
    if (!folder?.empty || asked.delete === 0) return null;
    const name = this.bucket();
    const why = folder.exists ? "The folder is empty" : "The folder does not exist";
    if (this.chosen.bucket_delete === "refuse") {
      return `${why}: the sync will fail, because this server is configured to delete no bucket (BUCKET_DELETE=refuse).`;
    }
    if (asked.plan) return null;
    if (!mayDeleteBucket(asked)) {
      const below = asked.prefix ? ` below ${asked.prefix}` : "";
      const which = asked.exclude || asked.include ? " that the patterns select" : "";
      return `${why}: every object of the bucket ${name}${below}${which} will be deleted.`;
    }
    const bucket = this.chosen.bucket;
    let objects = "How many objects it holds is not known here.";
    if (bucket && bucket.objects_known !== null) {
      const many = bucket.more ? `more than ${figure(bucket.objects_known)} objects` : count(bucket.objects_known, "object");
      objects = `It held ${many} after the last sync.`;
    }
    return `${why}: the bucket ${name} will be deleted, with every object and version in it. ${objects}`;
  }

  warn() {
    const text = this.warning();
    say(part("danger-text"), text || "");
    show(part("danger"), text !== null);
    show(part("confirmation"), this.deletes());
    if (text === null) part("confirm").value = "";
    this.allow();
  }

  deletes() {
    const { plan, delete: deletes } = this.options.values();
    return Boolean(this.chosen && this.chosen.chosen.empty && this.chosen.bucket_delete !== "refuse") && !plan && deletes !== 0;
  }

  allow() {
    const confirmed = !this.deletes() || part("confirm").value === this.bucket();
    part("go").disabled = !confirmed;
    const what = mayDeleteBucket(this.options.values()) ? "Delete the bucket" : "Delete the objects";
    say(part("go"), this.deletes() ? what : "Start");
    part("go").classList.toggle("red", this.deletes());
  }

  async start() {
    const fields = { dest: this.bucket(), ...this.options.values() };
    if (this.folder()) fields.source = this.folder();
    for (const name of FIELDS) {
      if (part(name).value) fields[name] = part(name).value;
    }
    show(part("refused"), false);
    part("go").disabled = true;
    try {
      // The folder may have been emptied since it was looked at.
      const before = this.deletes();
      await this.look();
      if (this.deletes() && !before) return;
      const job = await post("sync", fields);
      this.options.started();
      part("secret_key").value = "";
      part("session_token").value = "";
      part("confirm").value = "";
      this.onStarted(job);
    } catch (error) {
      if (!isFailure(error)) throw error;
      say(part("refused"), error.message);
      show(part("refused"), true);
    } finally {
      this.allow();
    }
  }
}
