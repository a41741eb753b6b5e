// The WebSocket to the server, which connects again by itself for as long as the page is open.

const NOT_LOGGED_IN = 4401;
const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 10_000;

export class Socket {
  #socket = null;
  #delay = FIRST_DELAY_MS;
  #timer = null;

  /** `onOpen()` on every connection, `onMessage(message)` for each JSON message, `onLost()` when it breaks. */
  constructor(path, { onOpen, onMessage, onLost }) {
    this.url = new URL(path, location.href);
    this.url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    Object.assign(this, { onOpen, onMessage, onLost });
    addEventListener("online", () => this.#connectNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.#connectNow());
    this.#connect();
  }

  get isOpen() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #connect() {
    clearTimeout(this.#timer);
    const socket = (this.#socket = new WebSocket(this.url));
    socket.addEventListener("open", () => {
      this.#delay = FIRST_DELAY_MS;
      this.onOpen();
    });
    socket.addEventListener("message", (event) => this.onMessage(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => {
      if (event.code === NOT_LOGGED_IN) location.reload(); // the server answers with the login page
      else this.#connectLater();
    });
  }

  #connectLater() {
    this.onLost();
    // Jitter: after a restart of the server not every page comes back in the same moment.
    this.#timer = setTimeout(() => this.#connect(), this.#delay * (0.5 + Math.random()));
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY_MS);
  }

  #connectNow() {
    if (this.#socket.readyState === WebSocket.CLOSED) this.#connect();
  }
}
