// Talks to the server. What cannot be sent waits in localStorage and is tried again until it is acknowledged.

const PATIENCE_MS = 15000;
const FIRST_WAIT_MS = 1000, LONGEST_WAIT_MS = 15000;

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

const storage = {
  get(name) { try { return localStorage.getItem(name); } catch { return storage.memory[name] ?? null; } },
  set(name, value) { storage.memory[name] = value; try { localStorage.setItem(name, value); } catch { /* private mode */ } },
  remove(name) { delete storage.memory[name]; try { localStorage.removeItem(name); } catch { /* private mode */ } },
  memory: {},
};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Api {
  constructor(say) { this.say = say; this.busy = false; }

  async open() {
    this.test = await this.call("test");
    this.name = `clipsonic-listening/${this.test.id}`;
    this.key = storage.get(this.name);
    this.waiting = JSON.parse(storage.get(`${this.name}/waiting`) || "[]");
    return this.test;
  }

  async join() {
    const { key } = await this.call("join", { consent: true });
    this.key = key;
    storage.set(this.name, key);
  }

  forget() {
    this.key = null;
    this.waiting = [];
    storage.remove(this.name);
    storage.remove(`${this.name}/waiting`);
  }

  // One call; a lost network or a server that is being restarted is waited for, a refusal is thrown.
  async call(path, body, as = "json") {
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
      try {
        const answer = await fetch(`api/${path}`, {
          method: body === undefined ? "GET" : "POST",
          headers: this.key ? { Authorization: `Bearer ${this.key}` } : {},
          body: body === undefined ? undefined : JSON.stringify(body),
          signal: AbortSignal.timeout(PATIENCE_MS),
        });
        if (answer.ok) {
          const content = await answer[as]();
          if (this.lost) { this.lost = false; this.say("The connection is back. Nothing was lost."); }
          return content;
        }
        if (answer.status < 500) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).error || "refused");
      } catch (error) {
        if (error instanceof Refused) throw error;
      }
      this.lost = true;
      this.say("No connection. Your answers are kept here and sent as soon as it is back. You may go on.", true);
      await pause(wait);
    }
  }

  // Keeps an answer here first, then sends all that wait, in their order.
  answer(given) {
    this.waiting = this.waiting.filter((old) => old.sound !== given.sound || old.scale !== given.scale || old === this.sending);
    this.waiting.push(given);
    this.keep();
    return this.flush();
  }

  keep() { storage.set(`${this.name}/waiting`, JSON.stringify(this.waiting)); }

  flush() {
    this.flushing ??= this.sendAll().finally(() => { this.flushing = null; });
    return this.flushing;
  }

  async sendAll() {
    while (this.waiting.length) {
      this.sending = this.waiting[0];
      try {
        await this.call("answer", this.sending);
        if (this.waiting.length === 1) this.say("Saved.");
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (error.status === 401) throw error;
        this.say(error.message, true);
      }
      this.waiting = this.waiting.filter((given) => given !== this.sending);
      this.sending = null;
      this.keep();
    }
  }
}
