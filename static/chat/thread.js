// The messages of the conversation on screen, kept equal to what the server says of it.

import { Answer, UserMessage } from "./message.js";

export class Thread {
  #shown = new Map(); // message id -> UserMessage | Answer

  constructor(list, { onAgain, onGrown }) {
    this.list = list;
    Object.assign(this, { onAgain, onGrown });
  }

  /** The answer being written, or null. */
  get answering() {
    return [...this.#shown.values()].find((item) => item.message?.status === "streaming") ?? null;
  }

  /** Shows exactly these messages; those already on screen keep their place and the reader's selection. */
  show(messages) {
    const kept = new Map();
    for (const message of messages) {
      const shown = this.#shown.get(message.id);
      if (shown instanceof Answer) shown.update(message);
      kept.set(message.id, shown ?? this.#create(message));
    }
    for (const [id, item] of this.#shown) if (!kept.has(id)) item.node.remove();
    let previous = null;
    for (const { node } of kept.values()) {
      const place = previous ? previous.nextSibling : this.list.firstChild;
      if (place !== node) this.list.insertBefore(node, place);
      previous = node;
    }
    this.#shown = kept;
    this.onGrown();
  }

  wait(message) {
    this.#shown.get(message.message)?.wait(message);
  }

  append({ message, text, reasoning }) {
    this.#shown.get(message)?.append(text, reasoning);
  }

  finish(message) {
    this.#shown.get(message.id)?.update(message);
  }

  #create(message) {
    if (message.role === "user") return new UserMessage(message);
    return new Answer(message, { onAgain: this.onAgain, onGrown: this.onGrown });
  }
}
