// One message in the thread: the text, what it waits for, how it ended, and what can be done with it.

import { MarkdownView } from "./markdown.js";
import { copyButton, element, iconButton, t } from "./page.js";

/** A message of the reader's own: plain text, shown as typed. */
export class UserMessage {
  constructor(message) {
    const who = element("span", { className: "visually-hidden" }, t("you"));
    this.node = element("li", { className: "message user" }, who, element("div", { className: "text" }, message.content));
  }
}

/** An answer, growing or complete. */
export class Answer {
  #text = "";
  #reasoning = "";
  #frame = 0;

  /** `onAgain` asks for another answer in place of this one; `onGrown` is called after each change on screen. */
  constructor(message, { onAgain, onGrown }) {
    this.onAgain = onAgain;
    this.onGrown = onGrown;
    this.thought = element("div");
    this.reasoning = element("details", { className: "reasoning", hidden: true }, element("summary", {}, t("reasoning")), this.thought);
    this.waiting = element("p", { className: "waiting" });
    this.prose = element("div", { className: "text prose" });
    this.foot = element("footer");
    this.node = element("li", { className: "message assistant" }, this.reasoning, this.prose, this.waiting, this.foot);
    this.node.setAttribute("aria-live", "polite");
    this.view = new MarkdownView(this.prose);
    this.update(message);
  }

  /** The message as the server knows it. A streaming one starts again from nothing: its text follows. */
  update(message) {
    this.message = message;
    this.#text = message.content;
    this.#reasoning = message.reasoning;
    const isStreaming = message.status === "streaming";
    this.node.classList.toggle("streaming", isStreaming);
    this.node.setAttribute("aria-busy", String(isStreaming)); // read aloud once, when it is complete
    this.foot.replaceChildren();
    this.waiting.hidden = !isStreaming;
    this.waiting.replaceChildren(t("answering"));
    if (isStreaming) return;
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#render(true);
    this.#showEnd();
  }

  /** More text. Drawn with the next frame, however many pieces arrive before it. */
  append(text, reasoning) {
    this.#text += text;
    this.#reasoning += reasoning;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#render(false);
    });
  }

  /** The model is loading, others are ahead, or it is this answer's turn. */
  wait({ stage, progress, queue_position: position }) {
    const percent = typeof progress === "number" ? Math.round(progress * 100) : null;
    if (stage === "loading" && percent !== null) {
      const bar = element("progress", { max: 100, value: percent });
      bar.setAttribute("aria-hidden", "true");
      this.waiting.replaceChildren(t("loading_percent", { percent }), bar);
    } else if (stage === "loading") this.waiting.replaceChildren(t("loading"));
    else if (stage === "started") this.waiting.replaceChildren(t("answering"));
    else this.waiting.replaceChildren(position ? t("queued_ahead", { count: position }) : t("queued"));
    this.onGrown();
  }

  #render(complete) {
    this.view.show(this.#text, { complete });
    this.reasoning.hidden = !this.#reasoning;
    this.thought.textContent = this.#reasoning;
    if (!complete) this.waiting.hidden = Boolean(this.#text);
    this.onGrown();
  }

  #showEnd() {
    const { status, error, finish_reason: reason, model, completion_tokens: tokens } = this.message;
    if (status === "error" || status === "interrupted") {
      const again = element("button", { className: "button", type: "button" }, t("retry"));
      again.addEventListener("click", this.onAgain);
      const text = status === "error" ? error || t("failed") : t("interrupted");
      this.foot.append(element("p", { className: "ending bad" }, element("span", {}, text), again));
    } else {
      const ending = status === "stopped" ? t("stopped") : reason === "length" ? t("length") : this.#text ? "" : t("no_text");
      if (ending) this.foot.append(element("p", { className: "ending" }, ending));
      const meta = element("p", { className: "meta" });
      if (this.#text) meta.append(copyButton(t("copy_answer"), () => this.#text));
      meta.append(iconButton("again", t("regenerate"), this.onAgain));
      meta.append(element("span", {}, [model, tokens ? t("tokens", { count: tokens }) : ""].filter(Boolean).join(" · ")));
      this.foot.append(meta);
    }
    this.onGrown();
  }
}
