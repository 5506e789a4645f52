const esc = s => String(s ?? "").replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const one = (el, q) => el.querySelector(q);
function frame(model, el, part, html) {
  el.innerHTML = `<div class="kale" data-kale="${part}" data-lm-suppress-shortcuts="true">${html}</div>`;
  const twin = model.get("twin");
  if (twin) {
    const style = document.createElement("style");
    style.textContent = `[data-kale-static="${twin}"]{display:none}`;
    el.append(style);
  }
  return el.firstElementChild;
}
function listen(model, name, handler) {
  handler();
  model.on(`change:${name}`, handler);
  return () => model.off(`change:${name}`, handler);
}
function heard(model, kinds) {
  const handler = m => kinds[m.t]?.(m);
  model.on("msg:custom", handler);
  return () => model.off("msg:custom", handler);
}
function say(root, text, bad) {
  const line = one(root, ".kale-say");
  line.textContent = text;
  line.classList.toggle("bad", !!bad);
}
