// The list of conversations: rename, delete, and on narrow screens the drawer it lives in.

import { element, page, t } from "./page.js";

const csrfToken = document.querySelector("input[name=csrfmiddlewaretoken]").value;

async function post(path, fields = {}) {
  const body = new URLSearchParams({ csrfmiddlewaretoken: csrfToken, ...fields });
  const response = await fetch(path, { method: "POST", body });
  if (!response.ok) throw new Error(response.status === 400 ? await response.text() : t("request_failed"));
}

export class Sidebar {
  constructor() {
    this.list = document.getElementById("conversations");
    this.template = document.getElementById("conversation-template");
    this.dialog = document.getElementById("conversation-dialog");
    this.form = this.dialog.querySelector("form");
    this.problem = this.form.querySelector(".field-error");
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest(".more");
      if (button) this.#edit(button.closest("li"));
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#attempt(() => this.#rename());
    });
    this.form.elements.cancel.addEventListener("click", () => this.dialog.close());
    this.form.elements.delete.addEventListener("click", () => this.#attempt(() => this.#delete()));
    document.addEventListener("click", (event) => this.#onClick(event));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") document.body.classList.remove("sidebar-open");
    });
  }

  /** The conversation was written in: it comes first, and is added when it is new. */
  touch(id, title) {
    let item = this.list.querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (!item) {
      item = this.template.content.firstElementChild.cloneNode(true);
      item.dataset.id = id;
    }
    const link = item.querySelector("a");
    link.href = `/c/${id}`;
    link.textContent = title || t("untitled");
    link.setAttribute("aria-current", "page");
    if (this.list.firstElementChild !== item) this.list.prepend(item);
  }

  #edit(item) {
    this.edited = item;
    this.form.elements.title.value = item.querySelector("a").textContent;
    this.problem.hidden = true;
    this.form.elements.delete.textContent = t("delete");
    this.confirmed = false;
    this.dialog.showModal();
    this.form.elements.title.select();
  }

  async #attempt(action) {
    try {
      await action();
    } catch (error) {
      this.problem.textContent = error instanceof TypeError ? t("request_failed") : error.message;
      this.problem.hidden = false;
    }
  }

  async #rename() {
    const title = this.form.elements.title.value.trim();
    await post(`/c/${this.edited.dataset.id}/rename`, { title });
    this.edited.querySelector("a").textContent = title;
    if (this.edited.dataset.id === page.conversation) document.title = `${title} · Atrium`;
    this.dialog.close();
  }

  async #delete() {
    if (!this.confirmed) {
      this.confirmed = true; // the second press deletes
      this.problem.textContent = t("ask_delete", { title: this.edited.querySelector("a").textContent });
      this.problem.hidden = false;
      return;
    }
    await post(`/c/${this.edited.dataset.id}/delete`);
    if (this.edited.dataset.id === page.conversation) location.assign("/");
    else this.edited.remove();
    this.dialog.close();
  }

  #onClick(event) {
    const { target } = event;
    if (target.closest("[data-open-sidebar]")) {
      document.body.classList.add("sidebar-open");
      document.querySelector(".sidebar a").focus();
    }
    if (target.closest("[data-close-sidebar]")) document.body.classList.remove("sidebar-open");
    const menu = document.querySelector(".account");
    if (menu.open && !menu.contains(target)) menu.open = false;
  }
}
