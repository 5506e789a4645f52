const SLICE = 250, HIGH = 460, FAR = 0.42;
const text = (cls, x, y, s) => `<text class="${cls}" x="${x}" y="${y}">${esc(s)}</text>`;
const tip = (name, row) => `${name}: ${row[0]}${row[1] ? ` ${row[1]}` : ""}${row[2] ? `\n${row[2]}` : ""}`;
function shares(list, x, y, w) {
  return list.map(([s, part]) => { const r = `<rect data-s="${esc(s)}" x="${x}" y="${y}" width="${w * part}" height="2.5"/>`; x += w * part; return r; }).join("");
}
function card(c, row, i) {
  const [name, short, x, y, w, h, members, stack] = c, d = stack ? 8 : 0, W = w - d, H = h - d;
  const back = (k, f = "") => `<rect class="c${f}" x="${k}" y="${d - k}" width="${W}" height="${H}" rx="6"/>`;
  return `<g class="n" role="button" tabindex="${i ? -1 : 0}" data-i="${i}" ${members > 1 ? `data-kale-group="${members}"` : `data-kale-step="${esc(name)}"`} ` +
    `data-kale-state="${esc(row[0])}" aria-label="${esc(name)}: ${esc(row[0])}" aria-pressed="false" transform="translate(${x},${y})"><title>${esc(tip(name, row))}</title>` +
    (stack ? back(8) + back(4) : "") + back(0, " f") + `<path class="m" d="M6 ${d}h-1a5 5 0 0 0-5 5v${H - 10}a5 5 0 0 0 5 5h1z"/>` + text("a", 13, d + 18, short) +
    `<rect class="p" x="12" y="${d + 25}" width="66" height="15" rx="7.5"/>` + text("w", 45, d + 36, row[0]) + text("b", 84, d + 36, row[1]) +
    `<g class="h">${shares(row[3], 8, d + H - 3.5, W - 12)}</g></g>`;
}
function render({ model, el }) {
  const root = frame(model, el, "dag", `<div class="bar"><label>Run <select class="runs"></select></label><span class="head" role="status"></span><span class="gap"></span>
<span role="group" aria-label="View"><button data-v="out" aria-label="Zoom out">−</button><button data-v="in" aria-label="Zoom in">+</button><button data-v="fit">Fit</button><button data-v="turn"></button></span></div>
<svg class="view" role="group"><g class="world"><g class="frames"></g><path class="e"/><path class="t"/><g class="cards"></g></g></svg>
<div class="kale-say" role="status" aria-live="polite"></div>`);
  const svg = one(root, "svg"), world = one(root, ".world"), cards = one(root, ".cards"), runs = one(root, ".runs");
  let scene, nodes = [], index = new Map(), k = 1, tx = 0, ty = 0, pending = new Map(), ticking = 0, drag, fitted = true, cur = 0;
  const move = () => { world.setAttribute("transform", `translate(${tx},${ty}) scale(${k})`); svg.classList.toggle("far", k < FAR); };
  const zoom = (f, x = svg.clientWidth / 2, y = svg.clientHeight / 2) => {
    const z = Math.min(3, Math.max(0.02, k * f)); tx = x - (x - tx) * z / k; ty = y - (y - ty) * z / k; k = z; fitted = false; move();
  };
  const fit = () => {
    const [w, h] = scene.size, room = svg.clientWidth - 16;
    if (room <= 0) return;
    k = Math.min(1, room / w, (HIGH - 16) / h); fitted = true;
    svg.style.height = `${Math.min(HIGH, Math.max(h * k + 16, w * k > room - 1 && h * k < 90 ? 90 : 0))}px`;
    tx = Math.max(8, (room + 16 - w * k) / 2 * (w * k > room / 2 ? 1 : 0)); ty = 8; move();
  };
  const chosen = () => new Set(model.get("selected"));
  const mark = () => { const s = chosen(); nodes.forEach((g, i) => g.setAttribute("aria-pressed", s.has(scene.cards[i][0]))); };
  function draw() {
    scene = model.get("scene"); pending.clear();
    svg.setAttribute("aria-label", `workflow ${scene.title}`);
    one(root, ".frames").innerHTML = scene.frames.map(([x, y, w, h]) => `<rect x="${x}" y="${y}" width="${w}" height="${h}" rx="9"/>`).join("");
    one(root, ".e").setAttribute("d", scene.edges); one(root, ".t").setAttribute("d", scene.arrows);
    cards.innerHTML = scene.cards.map((c, i) => card(c, scene.rows[i], i)).join("");
    nodes = [...cards.children]; cur = 0;
    one(root, "[data-v=turn]").textContent = scene.down ? "Left to right" : "Top to bottom";
    fit(); mark();
  }
  function paint(i, row) {
    const g = nodes[i], c = scene.cards[i]; if (!g || `${scene.rows[i]}` === `${row}`) return;
    const share = g.lastChild, beside = share.previousSibling, word = beside.previousSibling, d = c[7] ? 8 : 0;
    g.setAttribute("data-kale-state", row[0]); g.setAttribute("aria-label", `${c[0]}: ${row[0]}`);
    word.textContent = row[0]; if (beside.textContent !== row[1]) beside.textContent = row[1];
    g.firstChild.textContent = tip(c[0], row);
    if (row[3].length || share.firstChild) share.innerHTML = shares(row[3], 8, c[5] - 3.5, c[4] - d - 12);
    scene.rows[i] = row;
  }
  function tick() {
    let left = SLICE;
    for (const [i, row] of pending) { paint(i, row); pending.delete(i); if (!--left) break; }
    ticking = pending.size ? requestAnimationFrame(tick) : 0;
  }
  function pick(i, more) {
    const name = scene.cards[i][0], s = chosen(), had = s.has(name);
    if (!more) s.clear();
    had && (more || chosen().size === 1) ? s.delete(name) : s.add(name);
    model.set("selected", [...s]); model.save_changes(); mark(); focus(i);
  }
  function focus(i) {
    nodes[cur]?.setAttribute("tabindex", -1); cur = i; nodes[i].setAttribute("tabindex", 0); nodes[i].focus({ preventScroll: true });
    const c = scene.cards[i], x = tx + c[2] * k, y = ty + c[3] * k;
    if (!fitted && (x < 0 || y < 0 || x + c[4] * k > svg.clientWidth || y + c[5] * k > svg.clientHeight)) { tx += svg.clientWidth / 2 - x; ty += svg.clientHeight / 2 - y; move(); }
  }
  function near(dx, dy) {
    const a = scene.cards[cur]; let best = cur, least = Infinity;
    scene.cards.forEach((b, i) => {
      const x = b[2] + b[4] / 2 - a[2] - a[4] / 2, y = b[3] + b[5] / 2 - a[3] - a[5] / 2, along = x * dx + y * dy, off = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 1 && along + 3 * off < least) { least = along + 3 * off; best = i; }
    });
    focus(best);
  }
  function cell(name) {
    const re = new RegExp(`%%kale[_ ](step|submit)\\s+${name}(\\s|$)`);
    const found = [...document.querySelectorAll(".jp-CodeCell")].find(c => re.test(one(c, ".cm-content, .jp-InputArea-editor")?.textContent || ""));
    found ? found.scrollIntoView({ block: "center", behavior: "smooth" }) : say(root, `The cell of ${name} is not on this page.`);
    found?.animate?.([{ outline: "3px solid #1d4ed8" }, { outline: "3px solid transparent" }], 1500);
  }
  const at = e => e.target.closest?.(".n");
  root.addEventListener("click", e => {
    const b = e.target.closest("button");
    if (!b) return;
    if (b.dataset.v === "fit") fit(); else if (b.dataset.v === "turn") model.send({ t: "turn" });
    else if (b.dataset.v) zoom(b.dataset.v === "in" ? 1.3 : 1 / 1.3);
  });
  runs.addEventListener("change", () => model.send({ t: "run", run: runs.value }));
  svg.addEventListener("dblclick", e => at(e) && cell(scene.cards[at(e).dataset.i][0]));
  svg.addEventListener("wheel", e => { if (e.ctrlKey || e.metaKey) { e.preventDefault(); const b = svg.getBoundingClientRect(); zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15, e.clientX - b.x, e.clientY - b.y); } }, { passive: false });
  svg.addEventListener("pointerdown", e => { if (!e.button) drag = { x: e.clientX - tx, y: e.clientY - ty, on: at(e), moved: 0, id: e.pointerId }; });
  svg.addEventListener("pointermove", e => {
    if (!drag) return;
    const x = e.clientX - drag.x, y = e.clientY - drag.y;
    if (!drag.moved && Math.abs(x - tx) + Math.abs(y - ty) < 5) return;
    if (!drag.moved) svg.setPointerCapture(drag.id);
    drag.moved = 1; tx = x; ty = y; fitted = false; move();
  });
  svg.addEventListener("pointerup", e => {
    const d = drag; drag = 0;
    if (!d || d.moved) return;
    if (d.on) pick(+d.on.dataset.i, e.ctrlKey || e.metaKey || e.shiftKey);
    else if (chosen().size) { model.set("selected", []); model.save_changes(); mark(); }
  });
  svg.addEventListener("keydown", e => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[e.key];
    if (way) near(...way);
    else if ((e.key === "Enter" || e.key === " ") && at(e)) pick(+at(e).dataset.i, e.ctrlKey || e.metaKey || e.shiftKey);
    else if (e.key === "Escape") { model.set("selected", []); model.save_changes(); mark(); }
    else if (e.key === "Home" && nodes.length) focus(0); else if (e.key === "End" && nodes.length) focus(nodes.length - 1);
    else if (e.key === "f") fit(); else if (e.key === "+") zoom(1.3); else if (e.key === "-") zoom(1 / 1.3); else return;
    e.preventDefault(); e.stopPropagation();
  });
  const off = [
    listen(model, "scene", draw), listen(model, "selected", mark),
    listen(model, "head", () => {
      const h = model.get("head");
      one(root, ".head").innerHTML = h.state ? `<span class="pill" data-s="${esc(h.state)}">${esc(h.state)}</span> ${esc(h.text)}` : esc(h.text || "");
      if (runs.dataset.for !== `${h.runs}`) { runs.innerHTML = h.runs.map(r => `<option value="${esc(r)}">${esc(r || "not run yet")}</option>`).join(""); runs.dataset.for = `${h.runs}`; }
      runs.value = h.run;
    }),
    heard(model, {
      patch: m => { for (const [i, row] of m.rows) pending.set(i, row); if (!ticking) tick(); },
      say: m => say(root, m.text, m.bad),
    }),
  ];
  const sizes = new ResizeObserver(() => fitted && fit());
  sizes.observe(svg);
  model.send({ t: "here" });
  return () => { off.forEach(f => f()); sizes.disconnect(); cancelAnimationFrame(ticking); };
}
export default { render };
