// The page of API keys: copying, and asking before a key is revoked.

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.querySelector("span");
  const text = label.textContent;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    label.textContent = document.querySelector("main").dataset.copied;
    setTimeout(() => (label.textContent = text), 1500);
  });
}

const dialog = document.getElementById("confirm");
for (const form of document.querySelectorAll("[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    document.getElementById("confirm-text").textContent = form.dataset.confirm;
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => dialog.returnValue === "yes" && form.submit(), { once: true });
    dialog.showModal();
  });
}

if (document.getElementById("fresh")) {
  history.replaceState(null, "", location.href); // reloading shows the list, it does not create another key
  document.getElementById("new-key").focus();
}
