/* What the page does in the browser: players in step with each other, keys, downloads, this browser's history. */
window.clipsonic ??= (() => {
  const FORMATS = ["wav", "flac", "ogg", "mp3"];
  const KEPT_RUNS = 40;
  const stages = new Set();
  let current = null;

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

  function tell(button, words) {
    const before = button.dataset.words ?? button.textContent;
    button.dataset.words = before;
    button.textContent = words;
    setTimeout(() => (button.textContent = before), 1500);
  }

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = el("textarea", { style: "position:fixed;opacity:0" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    tell(button, "Copied");
  }

  function saveAs(url, name) {
    const link = el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  }

  /* One sound: its picture with a playhead, its player, and what can be done with it. */
  class Card {
    constructor(stage, key) {
      this.stage = stage;
      this.key = key;
      this.audio = el("audio", { preload: "auto" });
      this.image = el("img", { alt: "" });
      this.head = el("div", { class: "playhead" });
      this.seek = el("input", { type: "range", min: 0, max: 1000, value: 0, class: "seek", disabled: true });
      this.play = el("button", { type: "button", class: "play", disabled: true, onclick: () => this.toggle() }, "▶");
      this.time = el("span", { class: "time" });
      this.title = el("h3");
      this.meaning = el("p");
      this.score = el("span", { class: "score" });
      this.khz = el("div", { class: "khz", "aria-hidden": "true" });
      this.seconds = el("div", { class: "seconds", "aria-hidden": "true" });
      this.actions = el("div", { class: "actions" });
      this.seek.addEventListener("input", () => this.jump((this.seek.value / 1000) * this.length));
      for (const event of ["play", "pause", "ended", "loadedmetadata", "seeked"]) {
        this.audio.addEventListener(event, () => this.draw());
      }
      this.root = el(
        "section",
        { class: "card", "data-key": key },
        el("header", {}, this.title, this.meaning, this.score),
        el("div", { class: "plot" }, this.khz, el("div", { class: "picture" }, this.image, this.head, this.seek), this.seconds),
        el("div", { class: "transport" }, this.play, this.time),
        this.actions,
        this.audio,
      );
    }

    get length() {
      return Number.isFinite(this.audio.duration) ? this.audio.duration : (this.data.duration_s ?? 0);
    }

    update(data) {
      const changed = data.sound?.url !== this.data?.sound?.url;
      this.data = data;
      const name = `${data.name} (${data.short}), take ${data.take}`;
      this.root.setAttribute("aria-label", name);
      this.title.replaceChildren(data.name, " ", el("small", {}, data.short + (data.take > 1 ? ` · take ${data.take}` : "")));
      this.meaning.textContent = data.meaning;
      this.score.textContent = data.score ?? "";
      this.score.title = data.score_meaning ?? "";
      if (data.picture) this.image.src = data.picture;
      else this.image.removeAttribute("src");
      this.image.alt = data.picture ? `Spectrogram of ${name}` : "";
      this.root.classList.toggle("waiting", !data.picture);
      this.ticks();
      if (!changed) return;
      this.audio.pause();
      if (data.sound) this.audio.src = data.sound.url;
      else this.audio.removeAttribute("src");
      this.play.disabled = this.seek.disabled = !data.sound;
      this.seek.setAttribute("aria-label", `Position in ${name}`);
      this.fillActions();
      this.draw();
    }

    ticks() {
      const { khz = [], seconds = [] } = this.data.axes ?? {};
      this.khz.replaceChildren(el("b", {}, "kHz"), ...khz.map((t) => el("span", { style: `bottom:${t.at * 100}%` }, t.label)));
      this.seconds.replaceChildren(
        ...seconds.map((t) => el("span", { style: `left:${t.at * 100}%` }, t.label)),
        el("b", {}, "seconds"),
      );
    }

    fillActions() {
      this.actions.replaceChildren();
      if (!this.data.sound) return;
      const label = `${this.data.short}, take ${this.data.take}`;
      const save = FORMATS.map((format) =>
        el("button", { type: "button", "aria-label": `Save ${label} as ${format}`, onclick: (e) => this.save(format, e.currentTarget) }, format),
      );
      const { settings, link } = this.data;
      this.actions.append(el("span", { class: "save" }, "Save as ", ...save));
      const more = [];
      if (this.data.video) {
        more.push(el("button", { type: "button", "aria-label": `Watch the video with ${label}`, onclick: () => this.stage.watch(this.data.video.url) }, "Watch"));
        more.push(el("a", { href: this.data.video.url, download: this.data.video.orig_name ?? "video.mp4" }, "Save video"));
      }
      if (settings) {
        more.push(el("button", { type: "button", onclick: (e) => copy(JSON.stringify(settings, null, 2), e.currentTarget) }, "Copy settings"));
      }
      if (link) {
        const url = new URL(location.pathname + link, location.origin).href;
        more.push(el("button", { type: "button", onclick: (e) => copy(url, e.currentTarget) }, "Copy link"));
      }
      if (this.data.more && this.stage.trigger) {
        more.push(el("button", { type: "button", onclick: () => this.stage.trigger("more", { sound: this.data.sound.path, prompt: settings?.prompt ?? "" }) }, "More like this"));
      }
      this.actions.append(el("span", {}, ...more));
    }

    async save(format, button) {
      const { sound, file } = this.data;
      const name = file.replace(/\.\w+$/, `.${format}`);
      if (file.endsWith(`.${format}`)) return saveAs(sound.url, name);
      try {
        let path = sound.path;
        if (!path) {
          const blob = await (await fetch(sound.url)).blob();
          path = (await this.stage.upload(new File([blob], file, { type: blob.type }))).path;
        }
        const made = await this.stage.server.convert({ path, format });
        if (made.error) throw new Error(made.error);
        const root = window.gradio_config?.root ?? "";
        saveAs(`${root}/gradio_api/file=${encodeURI(made.path)}`, name);
      } catch (error) {
        console.error(error);
        tell(button, "failed");
      }
      return null;
    }

    draw() {
      const at = this.audio.currentTime || 0;
      const share = this.length ? Math.min(at / this.length, 1) : 0;
      this.head.style.left = `${share * 100}%`;
      this.head.hidden = !this.data?.sound;
      this.seek.value = Math.round(share * 1000);
      this.seek.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${this.length.toFixed(1)} seconds`);
      this.time.textContent = this.data?.sound ? `${clock(at)} / ${clock(this.length)}` : "";
      const playing = !this.audio.paused && !this.audio.ended;
      this.play.textContent = playing ? "❚❚" : "▶";
      this.play.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${this.data.name} (${this.data.short}), take ${this.data.take}`);
      this.root.classList.toggle("playing", playing);
      if (playing) requestAnimationFrame(() => this.draw());
    }

    jump(seconds) {
      this.audio.currentTime = Math.min(Math.max(seconds, 0), this.length);
      this.draw();
    }

    start(at = null) {
      if (!this.data?.sound) return;
      for (const stage of stages) {
        stage.video.pause();
        for (const card of stage.cards.values()) if (card !== this) card.audio.pause();
      }
      if (at !== null) this.audio.currentTime = at;
      current = this;
      this.audio.play().catch(() => this.draw());
    }

    toggle() {
      if (this.audio.paused) this.start();
      else this.audio.pause();
    }
  }

  /* The sounds of one run; a new run replaces them. */
  class Stage {
    constructor(element, context = {}) {
      Object.assign(this, context);
      this.element = element;
      this.cards = new Map();
      this.flipper = el("button", { type: "button", class: "flip", hidden: true, onclick: () => this.flip() }, "⇄ Flip between them");
      this.list = el("div", { class: "cards" });
      this.video = el("video", { controls: true, hidden: true, playsinline: true });
      this.video.addEventListener("play", () => current?.audio.pause());
      element.replaceChildren(this.flipper, this.video, this.list);
      stages.add(this);
    }

    get shown() {
      return this.element.isConnected && this.element.offsetParent !== null && this.cards.size > 0;
    }

    render(value) {
      const data = value?.cards ?? [];
      const keys = new Set(data.map((card) => card.key));
      for (const [key, card] of this.cards) {
        if (keys.has(key)) continue;
        card.audio.pause();
        card.root.remove();
        this.cards.delete(key);
        if (current === card) current = null;
      }
      for (const each of data) {
        if (!this.cards.has(each.key)) this.cards.set(each.key, new Card(this, each.key));
        const card = this.cards.get(each.key);
        card.update(each);
        this.list.append(card.root);
      }
      this.flipper.hidden = !data.some((card) => card.take === 1 && card.side === "B" && card.sound);
      const url = value?.video?.url ?? "";
      this.video.hidden = !url;
      if (url && this.video.getAttribute("src") !== url) this.video.src = url;
      if (!url) this.video.removeAttribute("src");
      if (value?.autoplay && value.run !== this.played) {
        this.played = value.run;
        this.cards.values().next().value?.start(0);
      }
    }

    /* Show the video with the sound of one card. */
    watch(url) {
      this.video.src = url;
      this.video.play().catch(() => {});
    }

    /* Play the next sound of the take, or the one of a side, from where the first one is. */
    flip(side = null) {
      const from = current?.stage === this ? current : null;
      const take = from?.data.take ?? 1;
      const sides = [...this.cards.values()].filter((card) => card.data.take === take);
      const target = side ? sides.find((card) => card.data.side === side) : sides[(sides.indexOf(from) + 1) % sides.length];
      if (!target || (target === from && !from.audio.paused)) return;
      const at = from && !from.audio.ended ? from.audio.currentTime : 0;
      target.start(Math.min(at, target.length));
    }
  }

  const visibleStage = () => [...stages].find((stage) => stage.shown);
  const press = (kind) => [...document.querySelectorAll(`button.${kind}`)].find((button) => button.offsetParent !== null)?.click();

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.defaultPrevented) return;
    const inside = event.target.closest?.("input, textarea, select, button, summary, a, video, [role=tab], [role=listbox], [contenteditable]");
    const typing = inside && !(inside.matches("input.seek") && event.key !== " ") && !inside.matches(".card button");
    if (typing || (inside && [" ", "Enter"].includes(event.key) && !inside.matches("input.seek"))) return;
    const stage = visibleStage();
    const key = event.key.toLowerCase();
    if (key === " " && stage) (current?.stage === stage ? current : stage.cards.values().next().value).toggle();
    else if (["a", "b", "c"].includes(key) && stage) stage.flip(key.toUpperCase());
    else if (key === "r") press("reroll");
    else if (key === "enter") press("generate");
    else return;
    event.preventDefault();
  });

  // Whoever presses a button with a pointer wants the next space to play, not to press it again.
  document.addEventListener("click", (event) => {
    if (event.detail > 0) event.target.closest?.("button.generate, button.reroll, .card button, .flip, .examples button")?.blur();
  });

  function store(mode, work) {
    return new Promise((resolve, reject) => {
      const opening = indexedDB.open("clipsonic", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("runs", { keyPath: "id", autoIncrement: true });
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const database = opening.result;
        const transaction = database.transaction("runs", mode);
        const request = work(transaction.objectStore("runs"));
        transaction.oncomplete = () => (database.close(), resolve(request.result));
        transaction.onerror = () => (database.close(), reject(transaction.error));
      };
    });
  }

  async function remember(value) {
    try {
      const cards = await Promise.all(
        value.cards.map(async (card) => ({ ...card, sound: null, video: null, more: false, blob: await (await fetch(card.sound.url)).blob() })),
      );
      await store("readwrite", (runs) => runs.add({ time: Date.now(), title: value.title, cards }));
      const ids = await store("readonly", (runs) => runs.getAllKeys());
      for (const id of ids.slice(0, -KEPT_RUNS)) await store("readwrite", (runs) => runs.delete(id));
      window.dispatchEvent(new Event("clipsonic:history"));
    } catch (error) {
      console.warn("this browser keeps no history", error);
    }
  }

  function mount(element, props, server, upload, trigger, watch) {
    const stage = new Stage(element.querySelector(".stage"), { server, upload, trigger });
    let kept = null;
    const show = () => {
      stage.render(props.value);
      if (props.value?.done && props.value.run !== kept) {
        kept = props.value.run;
        remember(props.value);
      }
    };
    watch("value", show);
    show();
  }

  /* The list of what this browser has made; the sounds lie in the browser itself. */
  function mountHistory(element, props, server, upload) {
    const list = el("ul", { class: "runs" });
    const empty = el("p", {}, "Nothing yet. What you make is kept here, in this browser only.");
    const clear = el("button", { type: "button", onclick: () => store("readwrite", (runs) => runs.clear()).then(refresh) }, "Delete all");
    const place = el("div", { class: "stage" });
    element.querySelector(".history").replaceChildren(empty, list, clear, place);
    const stage = new Stage(place, { server, upload });
    let urls = [];
    let shown = null;

    function replay(run) {
      for (const url of urls) URL.revokeObjectURL(url);
      urls = run.cards.map((card) => URL.createObjectURL(card.blob));
      shown = run.id;
      stage.render({ cards: run.cards.map((card, i) => ({ ...card, sound: { url: urls[i] } })), run: `history-${run.id}-${Date.now()}`, autoplay: true });
    }

    function row(run) {
      const title = run.title || "untitled";
      const link = run.cards[0]?.link;
      return el(
        "li",
        {},
        el("span", { class: "what" }, title, " ", el("small", {}, `${run.cards.map((c) => c.short).join(", ")} · ${new Date(run.time).toLocaleString()}`)),
        el("button", { type: "button", "aria-label": `Replay ${title}`, onclick: () => replay(run) }, "▶ Replay"),
        link ? el("a", { href: location.pathname + link, "aria-label": `Make ${title} again` }, "Make again") : null,
        el("button", { type: "button", "aria-label": `Delete ${title}`, onclick: () => forget(run.id) }, "Delete"),
      );
    }

    async function forget(id) {
      await store("readwrite", (runs) => runs.delete(id));
      if (shown === id) stage.render(null);
      await refresh();
    }

    async function refresh() {
      const runs = (await store("readonly", (all) => all.getAll()).catch(() => [])).reverse();
      list.replaceChildren(...runs.map(row));
      empty.hidden = runs.length > 0;
      clear.hidden = runs.length === 0;
      if (!runs.length) stage.render(null);
    }

    window.addEventListener("clipsonic:history", refresh);
    refresh();
  }

  /* Gradio gives the buttons of example pictures no name. */
  function nameExamples() {
    for (const image of document.querySelectorAll(".examples button:not([aria-label]) img")) {
      const file = decodeURIComponent(image.src.split("/").pop());
      image.closest("button").setAttribute("aria-label", `Example: ${file.replace(/\.\w+$/, "")}`);
    }
  }
  new MutationObserver(nameExamples).observe(document.documentElement, { childList: true, subtree: true });

  /* After a deep link has filled in the page: make its sound. */
  function follow() {
    const query = new URLSearchParams(location.search);
    if (query.get("prompt")) press("generate");
  }

  return { mount, mountHistory, follow };
})();
