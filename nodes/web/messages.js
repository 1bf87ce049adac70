/* What nodes said, drawn again where nothing is run: on a page that is loaded anew, and for results from the cache.

A message is drawn by the server's progress text, which is sent once, while the node runs. The same text is in the
node's output (nodes/engine/settings/node.py), which ComfyUI keeps in /history and sends again for cached nodes; the
front end draws it for nodes of its own only. From here it goes the way of a progress text. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const OURS = "RegionStyle"; // how the ids of this pack's nodes begin
const LONGEST = 2000; // characters, as in nodes/engine/host/messages.py
const RUNS = 16; // of the history: earlier ones are forgotten

const redrawn = new Set(); // nodes with a text that the server does not know of, and will not take away

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

function draw(id, output) {
  const lines = output?.text;
  if (!Array.isArray(lines) || !String(nodeOf(id)?.type).startsWith(OURS)) return;
  redrawn.add(String(id));
  api.dispatchCustomEvent("progress_text", { nodeId: String(id), text: drawable(lines) });
}

const told = (run, kind) => (run.status?.messages ?? []).filter((message) => message[0] === kind).map(([, data]) => data);
const fromCache = (run) => told(run, "execution_cached").flatMap((data) => data.nodes);

/* The nodes that a run got to: of one that failed those with an output, and the one where it did, which had none. */
function reached(run) {
  const failed = told(run, "execution_error").map((data) => data.node_id);
  return run.status?.completed ? Object.keys(run.prompt[2]) : [...Object.keys(run.outputs), ...failed];
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
      draw(id, run.outputs[id]);
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

const cachedNow = (run, id, last) => fromCache(last).includes(id) && same(run.prompt[2][id], last.prompt[2][id]);

app.registerExtension({
  name: "RegionStyle.messages",
  setup() {
    api.addEventListener("executing", ({ detail }) => {
      const id = String(detail);
      if (detail === null) redraw(cachedNow).catch(unseen); // the run has ended
      else if (redrawn.delete(id)) api.dispatchCustomEvent("progress_text", { nodeId: id, text: " " });
    });
  },
  afterConfigureGraph() {
    redraw(ofThisWorkflow).catch(unseen);
  },
});
