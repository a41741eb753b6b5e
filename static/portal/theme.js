// Runs before the first paint: applies the theme that the reader chose, and keeps the toggle buttons in step.
(() => {
  const KEY = "atrium.theme";
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function apply(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  }

  function toggle() {
    const theme = isDark() ? "light" : "dark";
    apply(theme);
    if (theme === (dark.matches ? "dark" : "light")) localStorage.removeItem(KEY); // follows the system again
    else localStorage.setItem(KEY, theme);
  }

  apply(localStorage.getItem(KEY));
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("[data-toggle-theme]")) toggle();
  });
})();
