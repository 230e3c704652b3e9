"use strict";

function add(parent, tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function table(parent, header, rows) {
  const scroll = add(parent, "div");
  scroll.className = "scroll";
  const body = add(scroll, "table");
  for (const [cells, tag] of [[header, "th"], ...rows.map((row) => [row, "td"])]) {
    const line = add(body, "tr");
    for (const cell of cells) add(line, tag, cell);
  }
}

async function start() {
  const described = await (await fetch("openapi.json")).json();
  for (const [path, methods] of Object.entries(described.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const section = add(document.getElementById("paths"), "section");
      add(section, "h2", `${method.toUpperCase()} ${path}`);
      add(section, "p", operation.description ?? "");
      const parameters = (operation.parameters ?? []).map((p) => [p.name, p.in, p.description ?? ""]);
      if (parameters.length) table(section, ["parameter", "in", "meaning"], parameters);
      table(section, ["status", "meaning"], Object.entries(operation.responses).map(([s, r]) => [s, r.description]));
    }
  }
}

document.getElementById("sample").textContent = [
  `curl -F file=@image.png ${location.origin}/api/predict`,
  `curl --data-binary @image.png "${location.origin}/api/explain?method=gradcam&class=NAME"`,
].join("\n");
start();
