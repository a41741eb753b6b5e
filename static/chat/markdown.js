// Markdown to DOM. An answer is untrusted: HTML in it is shown as text, and what Markdown yields is sanitised as well.

import hljs from "../vendor/highlight.js";
import { Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";
import { copyButton, element, t } from "./page.js";

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol", "p",
  "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["align", "checked", "class", "disabled", "href", "start", "title", "type"];

function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    // A remote image would tell its server what was written here: the reader decides by following a link.
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || t("image"))}</a>`,
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

function highlight(code, language) {
  const known = language && hljs.getLanguage(language);
  if (!known) return document.createTextNode(code);
  const html = hljs.highlight(code, { language, ignoreIllegals: true }).value;
  return DOMPurify.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true });
}

function dressCode(pre) {
  const code = pre.querySelector("code");
  const text = code.textContent;
  const language = /(?:^| )language-(\S+)/.exec(code.className)?.[1] ?? "";
  code.replaceChildren(highlight(text, language));
  const header = element("header", {}, element("span", {}, language), copyButton(t("copy_code"), () => text));
  const frame = element("div", { className: "code" });
  pre.replaceWith(frame);
  pre.tabIndex = 0; // scrolls sideways by keyboard too
  frame.append(header, pre);
}

function renderTokens(tokens) {
  const html = marked.parser(tokens);
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true,
  });
  fragment.querySelectorAll("pre").forEach(dressCode);
  fragment.querySelectorAll("table").forEach((table) => {
    const frame = element("div", { className: "table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  });
  return fragment;
}

/** Shows a growing Markdown text in `container`, one child per block; only blocks that changed are made anew. */
export class MarkdownView {
  #blocks = [];

  constructor(container) {
    this.container = container;
  }

  /** `complete`: every block is rendered once more, since a link definition at the end may change the first. */
  show(text, { complete = false } = {}) {
    const tokens = marked.lexer(text).filter((token) => token.type !== "space");
    tokens.forEach((token, index) => {
      if (!complete && this.#blocks[index] === token.raw) return;
      const block = element("div", {}, renderTokens([token]));
      if (index < this.container.children.length) this.container.children[index].replaceWith(block);
      else this.container.append(block);
    });
    while (this.container.children.length > tokens.length) this.container.lastChild.remove();
    this.#blocks = tokens.map((token) => token.raw);
  }
}
