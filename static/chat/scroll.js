// Keeps the latest text in view while the reader is at the end, and lets go as soon as they scroll up.

const NEAR_END_PX = 40;

export class Follower {
  #pinned = true;
  #lastTop = 0;

  constructor(scroller, jumpButton) {
    this.scroller = scroller;
    this.jumpButton = jumpButton;
    scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    jumpButton.addEventListener("click", () => this.pin());
    new ResizeObserver(() => this.follow()).observe(scroller); // the keyboard of a phone, a taller composer
  }

  /** Goes to the end and stays there. */
  pin() {
    this.#pinned = true;
    this.follow();
  }

  /** Call after the content has grown. */
  follow() {
    if (this.#pinned) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.jumpButton.hidden = this.#pinned || this.#isAtEnd();
  }

  #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #onScroll() {
    const top = this.scroller.scrollTop;
    if (this.#isAtEnd()) this.#pinned = true;
    else if (top < this.#lastTop) this.#pinned = false; // only the reader scrolls up
    this.#lastTop = top;
    this.jumpButton.hidden = this.#pinned;
  }
}
