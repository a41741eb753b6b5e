// The field where a message is written, with its send and stop buttons.

export class Composer {
  #answering = false;
  #enabled = false;

  constructor(form, { onSend, onStop }) {
    this.field = form.querySelector("textarea");
    this.sendButton = form.querySelector("#send");
    this.stopButton = form.querySelector("#stop");
    this.onSend = onSend;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.field.addEventListener("keydown", (event) => this.#onKey(event));
    this.field.addEventListener("input", () => this.#refresh());
    this.stopButton.addEventListener("click", onStop);
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#answering || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      onStop();
    });
    this.#refresh();
  }

  /** Whether an answer is being written: then there is a stop button in place of the send button. */
  set answering(value) {
    this.#answering = value;
    this.#refresh();
  }

  /** Whether there is a connection and a model to send to. */
  set enabled(value) {
    this.#enabled = value;
    this.#refresh();
  }

  /** Puts a text into the field for the reader to send or change. */
  fill(text) {
    this.field.value = text;
    this.#refresh();
    this.field.focus();
  }

  /** Empties the field: the server has the message. */
  clear() {
    this.field.value = "";
    this.#refresh();
  }

  #submit() {
    const content = this.field.value.trim();
    if (content && this.#enabled && !this.#answering) this.onSend(content);
  }

  #onKey(event) {
    // While an input method composes (Korean, Japanese, Chinese), Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (matchMedia("(pointer: coarse)").matches) return; // on a phone Enter is a new line
    event.preventDefault();
    this.#submit();
  }

  #refresh() {
    this.stopButton.hidden = !this.#answering;
    this.sendButton.hidden = this.#answering;
    this.sendButton.disabled = !this.#enabled || !this.field.value.trim();
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }
}
