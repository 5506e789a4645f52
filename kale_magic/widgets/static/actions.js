function sure(button, act) {
  if (button.dataset.sure) { delete button.dataset.sure; button.textContent = button.dataset.label; act(); return; }
  button.dataset.label = button.textContent;
  button.dataset.sure = "1";
  button.textContent = `Sure? ${button.dataset.label}`;
  button.addEventListener("blur", () => { delete button.dataset.sure; button.textContent = button.dataset.label; }, { once: true });
}
function render({ model, el }) {
  const root = frame(model, el, "actions", `<div class="bar acts" role="group" aria-label="Actions"></div><div class="kale-say" role="status" aria-live="polite"></div>`);
  const acts = one(root, ".acts");
  acts.addEventListener("click", e => {
    const b = e.target.closest("button");
    if (b?.dataset.sharp) sure(b, () => model.send({ t: "act", act: b.dataset.act }));
    else if (b) model.send({ t: "act", act: b.dataset.act });
  });
  const off = [
    listen(model, "acts", () => {
      const shown = model.get("acts"), names = shown.map(a => a.name).join();
      if (acts.dataset.names !== names) {
        acts.innerHTML = shown.map(a => `<button data-act="${a.name}"${a.sharp ? " data-sharp=1" : ""}>${esc(a.label)}</button>`).join("") + `<span class="what"></span>`;
        acts.dataset.names = names;
      }
      for (const a of shown) { const b = one(acts, `[data-act="${a.name}"]`); b.disabled = !a.on; b.title = a.tip; if (!b.dataset.sure) b.textContent = a.label; }
    }),
    listen(model, "what", () => { one(acts, ".what").textContent = model.get("what"); }),
    heard(model, { say: m => say(root, m.text, m.bad) }),
  ];
  return () => off.forEach(f => f());
}
export default { render };
