/* What nodes said, drawn again where nothing is run: on a page that is loaded anew, and for results from the cache.

A message is drawn by the server's progress text, which is sent once, while the node runs. The same text is in the
node's output (nodes/engine/settings/node.py), which ComfyUI keeps in /history and sends again for cached nodes; the
front end draws it for nodes of its own only. From here it goes the way of a progress text. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const OURS = "RegionStyle"; // how the ids of this pack's nodes begin
const LONGEST = 2000; // characters, as in nodes/engine/host/messages.py
const RUNS = 16; // of the history: earlier ones are forgotten

const redrawn = new WeakSet(); // nodes with a text that the server does not know of, and will not take away
let running = false; // a run of this page: what its nodes say is not in the history yet

const root = () => app.rootGraph ?? app.graph;
const unseen = (error) => console.warn("RegionStyle: messages of earlier runs cannot be shown", error);

/* The node of an id as the server gives it: "3", or "7:3" for node 3 inside of subgraph 7. */
function nodeOf(id) {
  const parts = String(id).split(":");
  return parts.reduce((place, part) => (place?.subgraph ?? place)?.getNodeById?.(Number(part)), root());
}

/* As `drawable` in messages.py makes it, for the same reasons. */
function drawable(lines) {
  const text = lines.join("\n").slice(0, LONGEST).replaceAll("<", "<\u200b");
  return text.split("\n").filter((line) => line.trim()).join(";\n");
}

/* The front end looks for an id without ":" on the graph on screen: nodes of any other graph are left out. */
const canDraw = (node, kind) => node?.graph === app.canvas.graph && node.type === kind && kind.startsWith(OURS);

function draw(run, id) {
  const node = nodeOf(id);
  if (!canDraw(node, run.prompt[2][id]?.class_type)) return;
  const text = drawable(run.outputs[id]?.text ?? []);
  if (!text && !redrawn.delete(node)) return;
  api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text: text || " ", again: true }); // "" is ignored
  if (text) redrawn.add(node);
}

const told = (run, kind) => (run.status?.messages ?? []).filter((message) => message[0] === kind).map(([, data]) => data);
const fromCache = (run) => told(run, "execution_cached").flatMap((data) => data.nodes);

/* The nodes that a run got to; of one that was stopped also those without an output, and the one where it was. */
function reached(run) {
  if (run.status?.completed) return Object.keys(run.prompt[2]);
  const stopped = [...told(run, "execution_error"), ...told(run, "execution_interrupted")];
  return [...Object.keys(run.outputs), ...stopped.flatMap(({ node_id, executed }) => [node_id, ...executed])];
}

/* The last run that `accepts` and that did not take a node from the cache tells what the node said, if anything. */
async function redraw(accepts) {
  const reply = await api.fetchApi(`/history?max_items=${RUNS}`);
  const runs = Object.values(await reply.json()).reverse();
  const known = new Set();
  for (const run of runs) {
    const kept = fromCache(run);
    for (const id of reached(run)) {
      if (known.has(id) || !accepts(run, id, runs[0]) || (kept.includes(id) && !run.outputs[id]?.text)) continue;
      known.add(id);
      draw(run, id);
    }
  }
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const kinds = (graph) => graph.nodes.map(({ id, type }) => `${id} ${type}`).sort();

/* By the id, or, since all workflows of 0.3.64 may have the same of zeros, by the nodes. */
function ofThisWorkflow(run) {
  const graph = run.prompt[3]?.extra_pnginfo?.workflow;
  if (!graph || graph.id !== root().id) return false;
  return /[1-9a-f]/.test(graph.id) || same(kinds(graph), kinds(root()));
}

const cachedIn = (last, run, id) => fromCache(last).includes(id) && same(run.prompt[2][id], last.prompt[2][id]);
const ofLastRun = (run, id, last) => ofThisWorkflow(last) && (run === last || cachedIn(last, run, id));

app.registerExtension({
  name: "RegionStyle.messages",
  setup() {
    api.addEventListener("progress_text", ({ detail }) => detail.again || redrawn.delete(nodeOf(detail.nodeId)));
    api.addEventListener("executing", ({ detail }) => {
      running = detail !== null;
      if (!running) redraw(ofLastRun).catch(unseen);
    });
    app.canvas.canvas.addEventListener("litegraph:set-graph", () => {
      if (!running) redraw(ofThisWorkflow).catch(unseen); // a subgraph was opened, or left
    });
  },
  afterConfigureGraph() {
    redraw(ofThisWorkflow).catch(unseen);
  },
});
