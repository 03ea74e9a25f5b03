// The way through a test: consent, volume and headphones, practice, pages, a few last questions, the code.

import { Api, Refused } from "./api.js";
import { button, make, say, show } from "./dom.js";
import { runPage } from "./page.js";
import { Player } from "./player.js";

const AHEAD = 2;
const api = new Api(say);
const player = new Player(api);
let test;

const pressed = (text, ...before) => new Promise((resolve) => {
  show(...before, make("div", { className: "row" }, button(text, resolve, { className: "main" })));
});

function playing(text, path, heard) {
  const press = button(text, () => player.play(path, (on, whole) => {
    press.classList.toggle("playing", on);
    if (whole) heard?.();
  }).catch((error) => say(error.message, true)));
  return press;
}

async function consent() {
  await new Promise((resolve) => {
    const box = make("input", { type: "checkbox", id: "consent" });
    const go = button("Begin", () => { go.disabled = true; resolve(); }, { className: "main", disabled: true });
    box.onchange = () => { go.disabled = !box.checked; };
    show(
      make("h2", {}, "Before we begin"),
      ...test.consent.split("\n").filter(Boolean).map((text) => make("p", {}, text)),
      test.contact ? make("p", {}, `Contact: ${test.contact}`) : null,
      make("label", { className: "tick" }, box, make("span", {}, "I have read this, I am an adult, and I take part of my own will.")),
      make("div", { className: "row" }, go),
    );
  });
  await api.join();
}

async function volume() {
  const noise = playing("Play the noise", "volume");
  await pressed(
    "The volume is right",
    make("h2", {}, "Set the volume"),
    make("p", {}, "Sit in a quiet place and put on your headphones. Play this noise and set your device to a comfortable volume. Leave it there until the end."),
    make("div", { className: "row" }, noise),
  );
}

async function trial(number, tries) {
  return new Promise((resolve) => {
    const set = make("fieldset", { disabled: true }, make("legend", {}, "Which of the three tones was the quietest?"));
    set.append(make("div", { className: "choices" }, ...[0, 1, 2].map((tone) => {
      const radio = make("input", { type: "radio", name: "quietest", value: String(tone) });
      radio.onchange = () => { next.disabled = false; next.answer = tone; };
      return make("label", {}, radio, make("b", {}, String(tone + 1)), make("span", {}, ["first", "second", "third"][tone]));
    })));
    const next = button("Next", () => { player.halt(); resolve(next.answer); }, { className: "main", disabled: true });
    const skip = test.headphones === "asked" ? button("I have no headphones", () => { player.halt(); resolve(null); }) : null;
    show(
      make("h2", {}, `Headphone check, ${number + 1} of ${test.check_trials}`),
      tries ? make("p", { role: "alert" }, "That did not sound like headphones. Please put them on and try once more.") : null,
      make("div", { className: "row" }, playing("Play the three tones", `check/${number}`, () => { set.disabled = false; })),
      set,
      make("div", { className: "row" }, next, skip),
    );
  });
}

async function headphones() {
  for (let tries = 0; ; tries += 1) {
    const answers = [];
    for (let number = 0; number < test.check_trials && answers !== null; number += 1) {
      const answer = await trial(number, tries);
      if (answer === null) { await api.call("check", { answers: null }); return; }
      answers.push(answer);
    }
    const { passed } = await api.call("check", { answers });
    player.drop(answers.map((_, number) => `check/${number}`));
    if (passed) return;
  }
}

function complete(page) {
  const rated = test.design === "preference" ? page.sounds.slice(0, 1) : page.sounds;
  return rated.every((sound) => page.scales.every((scale) => page.answers[sound]?.[scale] !== undefined));
}

const soundsOf = (page) => [...page.sounds, page.reference].filter(Boolean).map((sound) => `sound/${sound}`);

function progress(index, pages) {
  document.getElementById("progress").hidden = false;
  document.getElementById("bar").max = pages.length;
  document.getElementById("bar").value = index;
  document.getElementById("place").textContent = `Page ${index + 1} of ${pages.length}`;
}

async function notice(pages, index, step) {
  if (step < 0) return;
  const before = pages[index - 1];
  if (index === 0 && pages[0].training) {
    await pressed("Start", make("h2", {}, "First, some practice"),
      make("p", {}, "The first pages show you what to expect. They do not count. Judge each sound by itself, and use the whole scale."));
  } else if (before?.training && !pages[index].training) {
    await pressed("Go on", make("h2", {}, "Now it counts"), make("p", {}, "That was the practice. You can go back and change an answer at any time."));
  } else if (test.break_every && index && index % test.break_every === 0) {
    await pressed("Go on", make("h2", {}, "Time for a break"),
      make("p", {}, `You have done ${index} of ${pages.length} pages. Rest your ears for a minute. You may also close this page and come back later on this device.`));
  }
}

async function rate(pages) {
  for (const page of pages) for (const given of api.waiting) if (page.sounds.includes(given.sound)) (page.answers[given.sound] ??= {})[given.scale] = given.rating;
  let index = pages.findIndex((page) => !complete(page));
  if (index < 0) index = pages.length;
  let step = 1;
  while (index < pages.length) {
    progress(index, pages);
    await notice(pages, index, step);
    for (const page of pages.slice(index, index + 1 + AHEAD)) for (const path of soundsOf(page)) player.fetch(path).catch(() => {});
    step = await runPage(api, player, test, pages[index], index === 0);
    if (index >= 1) player.drop(soundsOf(pages[index - 1]));
    index += step;
  }
  document.getElementById("progress").hidden = true;
}

function field(name, label, element) {
  element.id = name;
  return make("p", {}, make("label", { htmlFor: name }, label), element);
}

async function finish() {
  show(make("h2", {}, "Sending your answers"), make("p", {}, "Please keep this page open for a moment."));
  await api.flush();
  const device = make("select", {}, ...["", "Headphones", "Earphones", "Loudspeakers"].map((text) => make("option", { value: text }, text || "No answer")));
  const hearing = make("select", {}, ...["", "Normal", "Impaired"].map((text) => make("option", { value: text }, text || "No answer")));
  const comment = make("textarea", { rows: 4, maxLength: 2000 });
  await pressed("Finish", make("h2", {}, "Almost done"), field("device", "What did you listen with?", device),
    field("hearing", "How is your hearing?", hearing), field("comment", "Anything you would like to tell us? (optional)", comment));
  return (await api.call("finish", { device: device.value, hearing: hearing.value, comment: comment.value })).code;
}

function done(code) {
  show(make("h2", {}, "Thank you"), make("p", {}, "All your answers are saved. You can close this page. Your completion code:"),
    make("p", { className: "code", id: "code" }, code));
  say("");
}

async function run() {
  test = await api.open();
  document.title = test.title;
  document.getElementById("title").textContent = test.title;
  let session = api.key ? await api.call("session").catch((error) => {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    api.forget();
    return null;
  }) : null;
  if (!session) { await consent(); session = await api.call("session"); }
  if (session.finished) { done(session.code); return; }
  api.flush().catch((error) => say(error.message, true));
  const begun = api.waiting.length || session.pages.some((page) => Object.keys(page.answers).length);
  if (!begun) await volume();
  if (!session.checked) await headphones();
  await rate(session.pages);
  done(await finish());
}

run().catch((error) => show(make("h2", {}, "This did not work"), make("p", { role: "alert" }, error.message),
  make("div", { className: "row" }, button("Try again", () => location.reload(), { className: "main" }))));
