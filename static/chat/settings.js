// Model choice and the settings drawer: what the next answer is asked for with.

import { page, t } from "./page.js";

const LAST_MODEL = "atrium.model";

export class Settings {
  constructor() {
    this.model = document.getElementById("model");
    this.state = document.getElementById("model-state");
    this.systemPrompt = document.getElementById("system-prompt");
    this.temperature = document.getElementById("temperature");
    this.maxTokens = document.getElementById("max-tokens");
    this.systemPrompt.value = page.settings.system_prompt;
    this.temperature.value = page.settings.temperature ?? "";
    this.maxTokens.value = page.settings.max_tokens ?? "";
    this.models = [];
    this.wanted = page.settings.model || localStorage.getItem(LAST_MODEL);
    this.model.addEventListener("change", () => {
      this.wanted = this.model.value;
      localStorage.setItem(LAST_MODEL, this.wanted);
      this.#showState();
    });
    const drawer = document.getElementById("settings");
    document.getElementById("open-settings").addEventListener("click", () => drawer.showModal());
    drawer.addEventListener("click", (event) => {
      if (event.target === drawer && drawer.querySelector("form").reportValidity()) drawer.close(); // the backdrop
    });
  }

  /** What the reader may choose from. The choice stays where it can. */
  showModels(models) {
    this.models = models;
    const names = models.map((model) => model.name);
    this.model.replaceChildren(...names.map((name) => new Option(name, name)));
    this.model.disabled = names.length === 0;
    if (names.includes(this.wanted)) this.model.value = this.wanted;
    if (names.length === 0) this.model.append(new Option("–", ""));
    this.#showState();
  }

  /** As the server's TurnSettings. */
  read() {
    return {
      model: this.model.value,
      system_prompt: this.systemPrompt.value,
      temperature: this.temperature.value === "" ? null : this.temperature.valueAsNumber,
      max_tokens: this.maxTokens.value === "" ? null : this.maxTokens.valueAsNumber,
    };
  }

  /** The chosen model has answered, so it is loaded. */
  markReady(name) {
    const model = this.models.find((candidate) => candidate.name === name);
    if (model) model.state = "ready";
    this.#showState();
  }

  #showState() {
    const state = this.models.find((model) => model.name === this.model.value)?.state;
    const shown = state === "ready" || state === "asleep" ? state : "loading";
    this.state.className = `state ${state ? shown : ""}`;
    this.model.title = state ? t(`state_${shown}`) : "";
  }
}
