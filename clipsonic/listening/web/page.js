// One page of the test: its sounds and its questions, whatever the design.

import { button, make, say, show } from "./dom.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

// Resolves to +1 or -1: where the listener goes from here.
export function runPage(api, player, test, page, first) {
  return new Promise((resolve) => new Screen(api, player, test, page, first, resolve).open());
}

class Screen {
  constructor(api, player, test, page, first, leave) {
    Object.assign(this, { api, player, test, page, first, leave });
    this.started = performance.now();
    this.plays = {};
    this.players = [];
    this.questions = [];
    for (const sound of Object.keys(page.answers)) this.plays[sound] = 1;
    if (test.design === "preference" && page.answers[page.sounds[0]]) for (const sound of page.sounds) this.plays[sound] = 1;
  }

  open() {
    const { page, test } = this;
    const names = page.sounds.length > 1 ? page.sounds.map((_, i) => LETTERS[i]) : [""];
    const sounds = page.sounds.map((sound, i) => this.playButton(sound, names[i]));
    if (page.reference) sounds.unshift(this.playButton(page.reference, "Reference"));
    this.next = button("Next", () => this.go(1), { className: "main grow", disabled: true });
    const back = this.first ? null : button("Back", () => this.go(-1));
    this.keys = (event) => this.key(event);
    document.addEventListener("keydown", this.keys);
    const scales = page.scales.map((name) => test.scales.find((scale) => scale.name === name));
    for (const scale of scales) this.questions.push(this.question(scale, names));
    show(
      make("h2", {}, page.training ? "Practice" : "Listen and rate"),
      page.picture ? this.picture() : null,
      page.prompt ? make("blockquote", { className: "prompt" }, page.prompt) : null,
      make("div", { className: "row", role: "group", "aria-label": "Sounds" }, ...sounds),
      this.hint = make("p", { className: "hint" }),
      ...this.questions,
      make("div", { className: "row" }, back, this.next),
      this.help(),
    );
    this.refresh();
  }

  help() {
    const most = this.test.design === "preference" ? 2 : 5;
    const rate = this.test.design === "mushra" ? null : ["; ", make("kbd", {}, "1"), "–", make("kbd", {}, String(most)), " answers"];
    return make("p", { className: "hint keys" }, make("kbd", {}, "Space"), " plays", ...(rate || []), "; ", make("kbd", {}, "Enter"), " goes on");
  }

  picture() {
    const image = make("img", { className: "prompt", alt: "The picture that the sound was made for" });
    this.api.call(`picture/${this.page.page}`, undefined, "blob").then((blob) => { image.src = URL.createObjectURL(blob); }, (e) => say(e.message, true));
    return image;
  }

  playButton(sound, name) {
    const label = () => `Play ${name || "the sound"}`;
    const press = button(label(), () => toggle(), { className: "main", "data-sound": sound });
    const toggle = () => {
      if (press.classList.contains("playing")) { this.player.halt(); return; }
      this.player.play(`sound/${sound}`, (playing, heard) => {
        press.classList.toggle("playing", playing);
        press.textContent = playing ? `Stop ${name || "the sound"}` : label();
        if (heard) this.plays[sound] = (this.plays[sound] || 0) + 1;
        this.refresh();
      }).catch((error) => say(error.message, true));
    };
    this.players.push({ sound, toggle });
    return press;
  }

  question(scale, names) {
    const { design } = this.test;
    const set = make("fieldset", { "data-scale": scale.name }, make("legend", {}, scale.question));
    if (design === "mushra") {
      this.page.sounds.forEach((sound, i) => set.append(this.slider(sound, scale, names[i] || "the sound")));
      set.append(make("div", { className: "ends", "aria-hidden": "true" }, make("span", {}, `0 ${scale.labels[0]}`), make("span", {}, `100 ${scale.labels.at(-1)}`)));
      return set;
    }
    const choices = design === "preference"
      ? [[1, "A", "sound A"], [0, "=", "no difference"], [2, "B", "sound B"]]
      : scale.labels.map((label, i) => [i + 1, String(i + 1), label]);
    const sound = this.page.sounds[0];
    set.append(make("div", { className: "choices" }, ...choices.map(([value, big, small]) => {
      const radio = make("input", { type: "radio", name: scale.name, value: String(value) });
      radio.checked = this.page.answers[sound]?.[scale.name] === value;
      radio.onchange = () => this.answered(sound, scale.name, value);
      return make("label", {}, radio, make("b", {}, big), make("span", {}, small));
    })));
    set.addEventListener("focusin", () => this.mark(set));
    return set;
  }

  slider(sound, scale, name) {
    const value = this.page.answers[sound]?.[scale.name];
    const output = make("output", {}, value === undefined ? "–" : String(value));
    const range = make("input", { type: "range", min: "0", max: "100", step: "1", "aria-label": `${scale.question} ${name}` });
    range.value = String(value ?? 50);
    range.oninput = () => { output.textContent = range.value; };
    range.onchange = () => { output.textContent = range.value; this.answered(sound, scale.name, Number(range.value)); };
    return make("div", { className: "slider" }, make("b", {}, name), range, output);
  }

  answered(sound, scale, rating) {
    (this.page.answers[sound] ??= {})[scale] = rating;
    const seconds = Math.round((performance.now() - this.started) / 100) / 10;
    const plays = Math.max(...this.page.sounds.map((s) => this.plays[s] || 0));
    this.api.answer({ sound, scale, rating, plays, seconds }).catch((error) => say(error.message, true));
    this.refresh();
  }

  get heard() { return !this.test.must_play || this.page.sounds.every((sound) => this.plays[sound]); }

  isAnswered(scale) {
    const rated = this.test.design === "preference" ? this.page.sounds.slice(0, 1) : this.page.sounds;
    return rated.every((sound) => this.page.answers[sound]?.[scale] !== undefined);
  }

  refresh() {
    const { heard } = this;
    for (const set of this.questions) set.disabled = !heard;
    const many = this.page.sounds.length > 1;
    this.hint.textContent = heard ? "" : `Play ${many ? "every sound" : "the sound"} to its end, then answer.`;
    this.next.disabled = !heard || !this.page.scales.every((scale) => this.isAnswered(scale));
    const open = this.questions.find((set) => !this.isAnswered(set.dataset.scale));
    if (open) this.mark(open);
  }

  mark(current) { for (const set of this.questions) set.classList.toggle("current", set === current); }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const at = document.activeElement;
    const busy = at?.matches("button, textarea, select, a, input[type=range], input[type=radio]:not(:checked)");
    const current = this.questions.find((set) => set.classList.contains("current"));
    if (event.key === " " && !busy) {
      event.preventDefault();
      (this.players.find(({ sound }) => !this.plays[sound]) || this.players[0]).toggle();
    } else if (event.key === "Enter" && !at?.matches("button, a") && !this.next.disabled) {
      event.preventDefault();
      this.go(1);
    } else if (/^[0-5]$/.test(event.key) && !current?.disabled) {
      const radio = current?.querySelector(`input[type=radio][value="${event.key}"]`);
      if (radio) { event.preventDefault(); radio.checked = true; radio.onchange(); }
    }
  }

  go(step) {
    document.removeEventListener("keydown", this.keys);
    this.player.halt();
    this.leave(step);
  }
}
