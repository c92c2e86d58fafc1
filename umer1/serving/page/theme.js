// Light or dark: as the system has it, until the button says otherwise.

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");

function now() {
  return root.dataset.theme || (dark.matches ? "dark" : "light");
}

function show() {
  button.textContent = now() === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Change to ${button.textContent.toLowerCase()} colours`);
}

root.dataset.theme = localStorage.getItem("umer1-theme") || "";
button.addEventListener("click", () => {
  root.dataset.theme = now() === "dark" ? "light" : "dark";
  localStorage.setItem("umer1-theme", root.dataset.theme);
  show();
});
dark.addEventListener("change", show);
show();
