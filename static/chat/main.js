// Wires the page together: the server's messages to the thread, the reader's actions to the server.

import { Composer } from "./composer.js";
import { page, t } from "./page.js";
import { Follower } from "./scroll.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Socket } from "./socket.js";
import { Thread } from "./thread.js";

const welcome = document.getElementById("welcome");
const notice = document.getElementById("notice");
const status = document.getElementById("status");

const settings = new Settings();
const sidebar = new Sidebar();
const follower = new Follower(document.getElementById("scroller"), document.getElementById("jump"));
const thread = new Thread(document.getElementById("thread"), {
  onAgain: () => ask({ type: "regenerate" }),
  onGrown: () => follower.follow(),
});
const composer = new Composer(document.getElementById("composer"), {
  onSend: (content) => ask({ type: "send", content }),
  onStop: () => socket.isOpen && socket.send({ type: "stop", conversation: page.conversation }),
});
let asked = null; // the type of the question that the server has not taken up yet

function tell(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

/** Sends a question. The field keeps its text until the server has it, so that nothing is ever lost. */
function ask(message) {
  if (asked || !socket.isOpen) return;
  asked = message.type;
  tell("");
  composer.enabled = false;
  socket.send({ ...message, conversation: page.conversation, settings: settings.read() });
}

function refreshComposer() {
  composer.enabled = socket.isOpen && !asked && settings.models.length > 0;
  composer.answering = thread.answering !== null;
}

function showConversation(conversation) {
  const isNew = page.conversation === null;
  if (isNew) {
    page.conversation = conversation.id;
    history.replaceState(null, "", `/c/${conversation.id}`);
    document.title = `${conversation.title} · Atrium`;
  }
  if (isNew || asked) sidebar.touch(conversation.id, conversation.title);
  if (asked === "send") composer.clear();
  if (asked) follower.pin();
  asked = null;
  welcome.hidden = true;
  thread.show(conversation.messages);
  if (thread.answering) status.textContent = t("answering");
}

const receivers = {
  models: ({ models }) => {
    settings.showModels(models);
    tell(models.length ? "" : t("no_models"));
  },
  conversation: showConversation,
  waiting: (message) => thread.wait(message),
  delta: (message) => thread.append(message),
  done: ({ message }) => {
    thread.finish(message);
    status.textContent = "";
    if (message.status === "complete") settings.markReady(message.model);
  },
  error: ({ message }) => {
    asked = null;
    tell(message);
  },
};

const socket = new Socket("/ws/chat/", {
  onOpen: () => {
    asked = null;
    tell("");
    socket.send({ type: "open", conversation: page.conversation });
  },
  onMessage: (message) => {
    receivers[message.type](message);
    refreshComposer();
  },
  onLost: () => {
    tell(t("offline"));
    refreshComposer();
  },
});

for (const button of document.querySelectorAll(".examples button")) {
  button.addEventListener("click", () => {
    composer.fill(button.textContent);
    if (!composer.sendButton.disabled) ask({ type: "send", content: button.textContent });
  });
}
