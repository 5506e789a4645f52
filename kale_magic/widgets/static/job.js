function chooser(model, root) {
  const box = one(root, ".job");
  box.addEventListener("change", () => model.send({ t: "job", label: box.value }));
  return listen(model, "job", () => {
    const j = model.get("job"), key = j.all.join();
    if (box.dataset.key !== key) { box.innerHTML = j.all.map(x => `<option>${esc(x)}</option>`).join(""); box.dataset.key = key; }
    box.value = j.label;
    one(root, ".doing").innerHTML = j.state ? `<span class="pill" data-s="${esc(j.state)}">${esc(j.state)}</span>` : "no run yet";
  });
}
