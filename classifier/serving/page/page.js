"use strict";

const $ = (id) => document.getElementById(id);
const MEGA = 1_000_000;
let service = null; // what /api/service says
let current = null; // the image that is shown, as a Blob
let running = null; // the request under way
let shown = []; // prediction, answer and images of each card

// ---------------------------------------------------------------- talking to the service

class Refusal extends Error {}

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The service does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) {
    $("gate").hidden = false;
    $("main").hidden = true;
    $("token").focus();
  }
  throw new Refusal(sentence(problem.detail || `The service answered ${response.status}.`));
}

const sentence = (line) => line[0].toUpperCase() + line.slice(1) + (/[.?!]$/.test(line) ? "" : ".");

async function start() {
  try {
    service = await (await call("api/service")).json();
  } catch (error) {
    $("served").textContent = error.message;
    return;
  }
  $("gate").hidden = true;
  $("main").hidden = false;
  describeService();
  await addExamples();
}

async function ask(image) {
  if (image.size > service.most_megabytes * MEGA) {
    fail(`The file has ${(image.size / MEGA).toFixed(1)} MB; at most ${service.most_megabytes} MB are read.`);
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  const query = new URLSearchParams({ method: $("method").value });
  if ($("class").value) query.set("class", $("class").value);
  document.body.classList.add("working");
  $("status").textContent = "Working …";
  $("error").hidden = true;
  try {
    // The bytes alone: the file's name does not leave this computer.
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await call(`api/explain?${query}`, { method: "POST", body: image, headers, signal: mine.signal });
    const first = image !== current;
    current = image;
    show(await response.json());
    if (first && matchMedia("(max-width: 60rem)").matches) $("results").scrollIntoView();
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  } finally {
    if (running === mine) document.body.classList.remove("working");
  }
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = false;
  $("status").textContent = "";
  $("cards").replaceChildren();
  $("controls").hidden = $("how").hidden = $("notes").hidden = true;
  current = null;
  $("error").scrollIntoView({ block: "nearest" }); // on a phone it lies below the screen
}

// ---------------------------------------------------------------- words and numbers

function percent(share) {
  if (share > 0.999 && share < 1) return ">\u00a099.9\u00a0%";
  if (share > 0 && share < 0.001) return "<\u00a00.1\u00a0%";
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

const decimals = (value) => value.toFixed(3).replace(/^0/, "");

function add(parent, tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

const factsOf = (name) => service.models.find((model) => model.name === name);

// ---------------------------------------------------------------- the result

function show(answer) {
  shown = [];
  $("cards").replaceChildren(...answer.predictions.map((prediction) => card(prediction, answer)));
  addNotes($("notes"), sharedNotes(answer));
  $("controls").hidden = $("how").hidden = false;
  const called = answer.predictions.map((p) => `${p.model}: ${p.label}`).join("; ");
  const { format, width, height } = answer.image;
  $("status").textContent = `${called}. The image: ${format}, ${width} × ${height} pixels.`;
  drawViews();
}

function card(prediction, answer) {
  const facts = factsOf(prediction.model);
  const article = $("card").content.cloneNode(true).firstElementChild;
  const part = (selector) => article.querySelector(selector);
  const label = prediction.probabilities.find((p) => p.name === prediction.label);
  part("h3").textContent = prediction.model;
  part(".call-label").textContent = prediction.label;
  part(".call-figure").textContent = `(probability ${percent(label.calibrated)})`;
  addBars(part(".bars"), prediction);
  part(".decision").textContent = decision(prediction, facts);
  addUnlike(part(".unlike"), prediction.familiarity);
  addNotes(part(".notes"), prediction.notes.filter((note) => !sharedNotes(answer).includes(note)));
  addNeighbours(part(".neighbours"), prediction.familiarity);

  const picture = answer.pictures[prediction.shape];
  part(".stack").style.aspectRatio = String(picture.aspect_ratio);
  part(".xray").alt = "The image";
  const heat = prediction.heat_map;
  part(".heat").src = heat.picture;
  part(".heat").alt = heat.is_empty ? "" : `Heat map: where the network found evidence for ${heat.class_name}`;
  const cells = heat.layer ? `, ${heat.cells[0]} × ${heat.cells[1]} cells of layer ${heat.layer}` : "";
  part("figcaption").textContent = heat.is_empty
    ? `Nothing in the image speaks for ${heat.class_name} (${service.methods[heat.method]}).`
    : `Evidence for ${heat.class_name} (${service.methods[heat.method]}${cells}).`;
  shown.push({ prediction, picture, xray: part(".xray"), heat: part(".heat"), size: facts.image_size });
  return article;
}

const sharedNotes = ({ predictions }) =>
  predictions[0].notes.filter((note) => predictions.every((p) => p.notes.includes(note)));

function addNotes(list, notes) {
  list.replaceChildren();
  for (const note of notes) add(list, "li", note);
  list.hidden = !notes.length;
}

function addBars(grid, prediction) {
  const several = prediction.probabilities.length > 2;
  for (const p of several ? prediction.probabilities : prediction.probabilities.slice(1)) {
    add(grid, "span", p.name);
    const bar = add(grid, "span", "", p.name === prediction.label ? "bar called" : "bar");
    bar.setAttribute("aria-hidden", "true");
    add(bar, "i").style.width = `${100 * p.calibrated}%`;
    if (prediction.threshold !== null) {
      add(bar, "b").style.left = `calc(${100 * Math.min(prediction.threshold, 1)}% - 1px)`;
    }
    add(grid, "span", percent(p.calibrated));
    add(grid, "span", `Uncalibrated, as the network gives it: ${percent(p.uncalibrated)}`, "quiet");
  }
}

function decision(prediction, facts) {
  if (prediction.threshold === null) return "Called: the most likely class. The figures are calibrated on validation.";
  const positive = prediction.probabilities[1];
  const side = prediction.label === positive.name ? "reaches" : "is below";
  const over = prediction.threshold >= 1 ? "" : ` of ${percent(prediction.threshold)}`;
  const test = facts.test
    ? ` On its ${facts.test.images} test images this model has sensitivity ${decimals(facts.test.sensitivity)}, ` +
      `specificity ${decimals(facts.test.specificity)} there, and AUROC ${decimals(facts.test.auroc)}.`
    : "";
  return (
    `The calibrated probability of ${positive.name} ${side} the threshold${over} (the mark), ` +
    `chosen for ${facts.threshold_purpose}.${test}`
  );
}

function addUnlike(paragraph, familiarity) {
  if (familiarity && !familiarity.unlike_training_data) return;
  paragraph.hidden = false;
  if (!familiarity) {
    paragraph.textContent =
      "This model was made by an earlier version: it cannot tell whether the image is unlike its training data.";
    return;
  }
  const times = (familiarity.distance / familiarity.limit).toFixed(1);
  paragraph.textContent = "";
  add(paragraph, "strong", "Unlike the training data. ");
  paragraph.append(
    `99 of 100 validation images lie within a limit; this image lies ${times} times as far from the training data. ` +
      "The figures here mean little for such an image.",
  );
}

function addNeighbours(block, familiarity) {
  if (!familiarity) return;
  add(block, "h4", "Nearest training images", "quiet");
  const list = add(block, "ul");
  for (const neighbour of familiarity.neighbours) {
    const item = add(list, "li", "", neighbour.picture ? "pictured" : "");
    if (neighbour.picture) Object.assign(add(item, "img"), { src: neighbour.picture, alt: "" });
    item.append(neighbour.label);
  }
}

function drawViews() {
  const opacity = Number($("opacity").value);
  $("opacity-value").textContent = `${opacity} %`;
  const seen = $("as-seen").checked;
  for (const view of shown) {
    view.xray.src = seen ? view.prediction.input_picture : view.picture.picture;
    view.xray.classList.toggle("as-seen", seen);
    view.heat.style.opacity = String(opacity / 100);
  }
}

// ---------------------------------------------------------------- the rest of the page

function describeService() {
  const names = service.models.map((model) => model.name).join(", ");
  $("served").textContent = `${service.models.length === 1 ? "Model" : "Models, side by side"}: ${names}.`;
  $("limits").textContent = `PNG, JPEG, TIFF, BMP, GIF, WebP or JPEG 2000, up to ${service.most_megabytes} MB`;
  $("version").textContent = `xray-balancer ${service.version}`;
  $("method").replaceChildren();
  for (const [name, title] of Object.entries(service.methods)) add($("method"), "option", title).value = name;
  $("class").replaceChildren($("class").firstElementChild);
  for (const name of service.models[0].classes) add($("class"), "option", name).value = name;
  $("models").replaceChildren(...service.models.map(about));
}

function about(model) {
  const details = document.createElement("details");
  add(details, "summary", model.name);
  const list = add(details, "dl");
  const drawings = model.trained_on_drawings ? ", on drawings, not X-rays" : "";
  const rows = {
    Network: `${model.network}, ${model.image_size} × ${model.image_size} pixels`,
    Training: `regime ${model.regime}, seed ${model.trial_seed}${drawings}`,
    Classes: model.classes.join(", "),
    Decision:
      model.threshold === null
        ? model.threshold_purpose
        : `threshold ${percent(model.threshold)}: ${model.threshold_purpose} (${model.threshold_rule})`,
    Temperature: model.temperature.toFixed(2),
    Test: model.test
      ? `AUROC ${decimals(model.test.auroc)} on ${model.test.images} images`
      : "not known: the model lies outside its run",
  };
  for (const [term, text] of Object.entries(rows)) {
    add(list, "dt", term);
    add(list, "dd", text);
  }
  const opened = () => addModelCard(add(details, "div", "", "card-text"), model.name);
  details.addEventListener("toggle", opened, { once: true });
  return details;
}

const plain = (text) => text.replace(/\*\*|`/g, ""); // cards are written in Markdown

async function addModelCard(block, name) {
  try {
    const made = await (await call(`api/card?${new URLSearchParams({ model: name })}`)).json();
    add(block, "h3", plain(made.title));
    for (const text of made.sentences) add(block, "p", plain(text));
    for (const section of made.sections) {
      add(block, "h4", plain(section.title));
      for (const text of section.paragraphs) add(block, "p", plain(text));
      if (section.rows.length) addTable(block, [section.header, ...section.rows]);
      const bullets = section.bullets.length ? add(block, "ul") : null;
      for (const text of section.bullets) add(bullets, "li", plain(text));
    }
  } catch (error) {
    add(block, "p", error.message);
  }
}

function addTable(block, rows) {
  const table = add(add(block, "div", "", "scroll"), "table");
  rows.forEach((cells, i) => {
    const line = add(table, "tr");
    for (const cell of cells) add(line, i ? "td" : "th", plain(cell));
  });
}

async function addExamples() {
  const examples = await (await call("api/examples")).json();
  $("examples").replaceChildren();
  for (const example of examples) {
    const button = add(add($("examples"), "li"), "button");
    button.type = "button";
    Object.assign(add(button, "img"), { src: example.thumbnail, alt: "" });
    button.append(`${example.number}: ${example.label}`);
    button.addEventListener("click", async () => {
      try {
        await choose(await (await call(`api/examples/${example.number}`)).blob(), button);
      } catch (error) {
        fail(error.message);
      }
    });
  }
}

async function choose(image, button = null) {
  for (const other of $("examples").querySelectorAll("button")) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  await ask(image);
}

function chooseFrom(files) {
  if (files.length > 1) fail("Several files were given; choose one.");
  else if (files.length) choose(files[0]);
}

$("file").addEventListener("change", (event) => {
  chooseFrom(event.target.files);
  event.target.value = ""; // the same file can be chosen again
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && service) chooseFrom(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => service && chooseFrom(event.clipboardData.files));
$("opacity").addEventListener("input", drawViews);
$("as-seen").addEventListener("change", drawViews);
for (const id of ["class", "method"]) $(id).addEventListener("change", () => current && ask(current));
$("gate").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  $("token").value = "";
  start();
});
start();
