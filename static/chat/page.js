// What the server wrote into the page: the conversation's id and settings, and the texts in the reader's language.

export const page = JSON.parse(document.getElementById("page").textContent);

/** The text of this key with its {placeholders} filled in. */
export function t(key, values = {}) {
  return page.strings[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const icons = document.querySelector(".icon use").getAttribute("href").split("#")[0];

/** An icon of the sprite, hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${icons}#${name}`);
  svg.append(use);
  return svg;
}

/** An element with properties and children; texts become text nodes, never HTML. */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A small button with an icon whose label is read aloud and shown on hover. */
export function iconButton(name, label, onClick) {
  const button = element("button", { className: "quiet", type: "button", title: label }, icon(name));
  button.setAttribute("aria-label", label);
  button.addEventListener("click", onClick);
  return button;
}

/** A button that copies what `read` returns and shows for a moment that it did. */
export function copyButton(label, read) {
  const button = iconButton("copy", label, async () => {
    await navigator.clipboard.writeText(read());
    button.replaceChildren(icon("check"));
    button.title = t("copied");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.title = label;
    }, 1500);
  });
  return button;
}
