// Plays one sound at a time. A sound counts as heard when it has played to its end.

export class Player {
  constructor(api) {
    this.api = api;
    this.audio = new Audio();
    this.urls = new Map();
    this.audio.addEventListener("ended", () => this.stopped(true));
    this.audio.addEventListener("pause", () => { if (!this.audio.ended) this.stopped(false); });
  }

  // Fetches a sound ahead, so that a lost network does not interrupt a page that is shown.
  fetch(path) {
    if (!this.urls.has(path)) {
      const url = this.api.call(path, undefined, "blob").then((blob) => URL.createObjectURL(blob));
      url.catch(() => this.urls.delete(path));
      this.urls.set(path, url);
    }
    return this.urls.get(path);
  }

  drop(paths) {
    for (const path of paths) {
      this.urls.get(path)?.then((url) => URL.revokeObjectURL(url), () => {});
      this.urls.delete(path);
    }
  }

  // `changed(playing, heard)` is called when the sound starts and when it stops.
  async play(path, changed) {
    this.halt();
    this.changed = changed;
    const url = await this.fetch(path);
    if (this.changed !== changed) return;
    this.audio.src = url;
    changed(true, false);
    await this.audio.play().catch((error) => {
      this.stopped(false);
      if (error.name !== "AbortError") throw error;
    });
  }

  halt() { if (!this.audio.paused) this.audio.pause(); this.stopped(false); }

  stopped(heard) {
    const changed = this.changed;
    this.changed = null;
    changed?.(false, heard);
  }
}
