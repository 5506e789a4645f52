function render({ model, el }) {
  const root = frame(model, el, "step", `<form class="bar gate" hidden aria-label="Continue"><label><span class="prompt"></span> <input class="answer" autocomplete="off" spellcheck="false"></label><button></button></form><div class="kale-say" role="status" aria-live="polite"></div><div class="body"></div>`), body = one(root, ".body");
  const open = new Set(["Parameters", "Description", "Points", "Traceback"]);
  const pill = s => s ? `<span class="pill" data-s="${esc(s)}">${esc(s)}</span>` : "";
  const part = (title, html) => html ? `<details data-k="${title}"${open.has(title) ? " open" : ""}><summary>${title}</summary>${html}</details>` : "";
  const rows = (list, f) => list.length ? `<table>${list.map(f).join("")}</table>` : "";
  const gate = one(root, ".gate"), answer = one(gate, "input");
  function ask() {
    const g = model.get("view").gate || {}, is = g.kind === "input", id = g.kind && g.kind !== "none" ? g.id : "";
    if ((gate.dataset.id || "") === id) return;
    gate.dataset.id = id; gate.hidden = !id; answer.value = "";
    answer.type = g.password ? "password" : "text"; answer.placeholder = is ? "" : "x=3 name='Cu'";
    one(gate, ".prompt").textContent = is ? g.prompt.trim() || "input" : "Waits for a person. Values for it, if any:";
    one(gate, "button").textContent = is ? "Answer" : "Continue";
  }
  gate.addEventListener("keydown", e => e.stopPropagation());
  gate.addEventListener("submit", e => { e.preventDefault(); model.send({ t: "continue", [model.get("view").gate.kind === "input" ? "answer" : "set"]: answer.value }); answer.value = ""; });
  function draw() {
    const v = model.get("view");
    if (body.contains(document.activeElement) && document.activeElement.matches("input")) { root.dataset.late = 1; return; }
    const focus = document.activeElement?.dataset?.f;
    if (v.several) {
      body.innerHTML = `<h3>${v.several.length} steps</h3>` + rows(v.several, r => `<tr><td><button data-step="${esc(r[0])}" data-f="s${esc(r[0])}">${esc(r[0])}</button></td><td>${pill(r[1])}</td></tr>`);
    } else if (!v.name) {
      body.innerHTML = `<div class="soft">${esc(v.empty || "Click a step in the picture.")}</div>`;
    } else {
      body.innerHTML = `<h3 data-kale-panel="${esc(v.label)}">${v.is_point ? `<button data-step="${esc(v.name)}" data-f="up">${esc(v.name)}</button> ` : ""}${esc(v.label)} ${pill(v.state)}</h3>` +
        (v.reason ? `<div class="reason">${esc(v.reason)}</div>` : "") +
        part("Description", v.html) + part("Traceback", v.traceback && `<pre>${v.traceback}</pre>`) +
        rows(v.facts, r => `<tr><th scope="row">${esc(r[0])}</th><td>${esc(r[1])}</td></tr>`) +
        part("Parameters", rows(v.swept, r => `<tr><th scope="row">${esc(r[0])}</th><td>${esc(r[1])}</td></tr>`) + (v.params.length ? rows(v.params, (r) => `<tr><th scope="row"><label>${esc(r[0])}</label></th><td><input data-p="${esc(r[0])}" aria-label="${esc(r[0])}" value="${esc(r[1])}"></td></tr>`) +
          (v.can_submit ? `<button data-go="run" data-f="go">Run with these</button> <button data-go="from" data-f="gofrom">Run from here with these</button>` : "") + (v.can_change ? ` <button data-go="push" data-f="gopush">Change now, while it runs</button>` : "") : "")) +
        part("Points", rows(v.points, r => r[0] < 0 ? `<tr><td colspan="3">${esc(r[1])}</td></tr>` : `<tr><td><button data-point="${r[0]}" data-f="p${r[0]}">${esc(r[1])}</button></td><td>${pill(r[2])}</td><td>${esc(r[3])}</td></tr>`)) +
        part("Outputs", rows(v.outputs, r => `<tr>${r.map(x => `<td>${esc(x)}</td>`).join("")}</tr>`)) +
        part("History", rows(v.history, r => `<tr><td>${esc(r[0])}</td><td>${esc(r[1])}</td></tr>`)) +
        part("Code", v.code && `<pre tabindex="0" aria-label="Code">${esc(v.code)}</pre>`) + part("Script", v.script && `<pre tabindex="0" aria-label="Script">${esc(v.script)}</pre>`);
    }
    if (focus) one(body, `[data-f="${focus}"]`)?.focus({ preventScroll: true });
  }
  body.addEventListener("toggle", e => { const k = e.target.dataset.k; e.target.open ? open.add(k) : open.delete(k); }, true);
  body.addEventListener("focusout", () => setTimeout(() => root.dataset.late && (delete root.dataset.late, keep(draw))));
  function keep(f) {
    const typed = [...body.querySelectorAll("[data-p]")].filter(i => i.value !== i.defaultValue).map(i => [i.dataset.p, i.value]), name = model.get("view").label;
    const was = one(body, "[data-kale-panel]")?.dataset.kalePanel;
    f();
    if (was === name) for (const [p, value] of typed) { const i = one(body, `[data-p="${p}"]`); if (i) i.value = value; }
  }
  body.addEventListener("click", e => {
    const d = e.target.closest("button")?.dataset;
    if (!d) return;
    if (d.step) model.send({ t: "pick", step: d.step, point: null });
    else if (d.point) model.send({ t: "pick", step: model.get("view").name, point: +d.point });
    else if (d.go) model.send({ t: "act", act: d.go, params: Object.fromEntries([...body.querySelectorAll("[data-p]")].filter(i => i.value !== i.defaultValue).map(i => [i.dataset.p, i.value])) });
  });
  const off = [listen(model, "view", () => { ask(); keep(draw); }), heard(model, { say: m => say(root, m.text, m.bad) })];
  return () => off.forEach(f => f());
}
export default { render };
