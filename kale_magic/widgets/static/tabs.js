function render({ model, el }) {
  const root = frame(model, el, "tabs", `<div class="bar tabs" role="tablist" aria-label="Parts">${model.get("titles").map(t => `<button role="tab" data-tab="${esc(t.toLowerCase())}">${esc(t)}</button>`).join("")}</div>`);
  const tabs = [...root.querySelectorAll("button")];
  const choose = name => { model.set("tab", name); model.save_changes(); };
  root.addEventListener("click", e => { const b = e.target.closest("button"); if (b) choose(b.dataset.tab); });
  root.addEventListener("keydown", e => {
    const at = tabs.indexOf(document.activeElement), to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[e.key];
    if (at < 0 || to === undefined) return;
    e.preventDefault();
    const b = tabs[(to + tabs.length) % tabs.length];
    choose(b.dataset.tab);
    b.focus();
  });
  return listen(model, "tab", () => {
    root.dataset.shown = model.get("tab");
    for (const b of tabs) { const on = b.dataset.tab === model.get("tab"); b.setAttribute("aria-selected", on); b.tabIndex = on ? 0 : -1; }
  });
}
export default { render };
