"""What a user sees: a node's message and an error's sentence, in the front ends of both versions of ComfyUI.

Needs a Chromium and the package playwright (`pip install -e ".[browser]"`); without them these tests are skipped.
"""

import os
import shutil
import uuid

import pytest

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
READY = "() => window.app && window.app.graph && window.app.extensionManager"
LOAD = """async (prompt) => {
    await app.loadApiJson(prompt, "messages");
    await app.loadGraphData(app.graph.serialize());  // as a saved workflow is opened
}"""
OPEN_ANOTHER = """async (prompt) => {
    await app.loadApiJson(prompt, "another");
    const graph = app.graph.serialize();
    graph.nodes.push({...graph.nodes[0], id: 99, outputs: [], inputs: []});  // 0.3.64 tells workflows by their nodes
    await app.loadGraphData({...graph, id: crypto.randomUUID()});
}"""
OPEN_STRANGERS = """async (prompt) => {
    await app.loadApiJson(prompt, "strangers");
    await app.loadGraphData({...app.graph.serialize(), id: crypto.randomUUID()});
}"""
WIDGETS = "() => app.graph.nodes.map((node) => [node.type, (node.widgets ?? []).map((widget) => widget.name)])"
# The history, which is asked for at the end of a run, comes only after another workflow was opened.
HOLD_THE_HISTORY = """() => {
    const {api} = app, fetchApi = api.fetchApi.bind(api);
    const given = new Promise((give) => { window.giveHistory = give; });
    api.fetchApi = async (route, ...more) => {
        if (route.startsWith("/history?")) await given;
        return fetchApi(route, ...more);
    };
}"""
GIVE_THE_HISTORY = "() => window.giveHistory()"
MAKE_A_SUBGRAPH = """() => {
    const node = app.graph.getNodeById(2);
    window.made = app.graph.convertToSubgraph(new Set([node])).subgraph;
}"""
OPEN_THE_SUBGRAPH = "() => app.canvas.setGraph(window.made)"
QUEUE = "async () => { await app.queuePrompt(0); }"
# The text that can be seen on the page, without its invisible spaces.
SEEN = "() => document.body.innerText.replaceAll('\\u200b', '')"
SHORT, LONG = 2_000, 60_000  # milliseconds

pytestmark = pytest.mark.slow

# Old Nodes 2.0 (0.3.64) was an experiment that draws no widget that is added after its node.
FRONT_ENDS = [("comfy_server", False), ("comfy_server", True), ("comfy_old_server", False)]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as running:
        try:
            started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(params=FRONT_ENDS, ids=["classic", "nodes-2", "oldest"])
def page(request, browser):
    """The page of a running server, with the classic nodes or Nodes 2.0."""
    name, vue_nodes = request.param
    server = request.getfixturevalue(name)
    opened = browser.new_page(viewport={"width": 1600, "height": 1000})
    opened.goto(server.url)
    opened.wait_for_function(READY, timeout=LONG)
    opened.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue_nodes)
    opened.reload()  # so that it holds from the beginning
    opened.wait_for_function(READY, timeout=LONG)
    opened.wait_for_timeout(SHORT)
    yield opened
    opened.close()


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def run(page, prompt):
    """Open a prompt in API form, and queue it as the Run button does."""
    page.evaluate(LOAD, prompt)
    page.wait_for_timeout(SHORT)
    page.evaluate(QUEUE)


def wait_for(page, text):
    """Until it can be read; the assertion shows what could be read instead."""
    for _ in range(LONG // 500):
        if text in page.evaluate(SEEN):
            return
        page.wait_for_timeout(500)
    assert text in page.evaluate(SEEN)


def wait_until_gone(page, text):
    for _ in range(LONG // 500):
        if text not in page.evaluate(SEEN):
            return
        page.wait_for_timeout(500)
    assert text not in page.evaluate(SEEN)


def empty_mask(phrase):
    return {
        "1": node("SolidMask", value=0.0, width=16, height=16),
        "2": node("RegionStyleRegionsFromMask", mask=["1", 0], phrase=phrase, style=""),
        "3": node("RegionStyleSaveRegions", regions=["2", 0], filename_prefix="regions/browser"),
    }


def test_messages_can_be_read_on_their_nodes(page):
    phrase = f"<b>{uuid.uuid4().hex}</b>"  # another one each time: what is cached is not run
    run(page, empty_mask(phrase))
    wait_for(page, f"'{phrase}' not found in image 0: empty mask")
    wait_for(page, "wrote regions/browser_")
    page.evaluate(QUEUE)  # everything is cached now, and still to be read
    page.wait_for_timeout(SHORT)
    wait_for(page, f"'{phrase}' not found in image 0: empty mask")


def test_messages_are_there_again_on_a_page_that_is_loaded_anew_and_for_a_cached_run(page):
    phrase = uuid.uuid4().hex
    said = f"'{phrase}' not found in image 0: empty mask"
    run(page, empty_mask(phrase))
    wait_for(page, said)
    wait_for(page, "wrote regions/browser_")
    page.wait_for_timeout(2 * SHORT)  # until the front end has kept the workflow
    page.reload()
    page.wait_for_function(READY, timeout=LONG)
    wait_for(page, said)
    wait_for(page, "wrote regions/browser_")
    page.evaluate(OPEN_ANOTHER, empty_mask(phrase))  # of the same nodes: everything is cached
    page.wait_for_timeout(SHORT)
    assert said not in page.evaluate(SEEN), "a message of another workflow"
    page.evaluate(QUEUE)
    wait_for(page, said)
    wait_for(page, "wrote regions/browser_")
    page.evaluate(HOLD_THE_HISTORY)
    page.evaluate(QUEUE)
    page.wait_for_timeout(SHORT)
    page.evaluate(OPEN_ANOTHER, empty_mask(phrase))
    page.evaluate(GIVE_THE_HISTORY)
    page.wait_for_timeout(SHORT)
    assert said not in page.evaluate(SEEN), "a message of the workflow that was open when the run was started"


def test_nodes_of_another_workflow_get_nothing_for_their_ids(page):
    phrase = uuid.uuid4().hex
    run(page, empty_mask(phrase))
    wait_for(page, phrase)
    page.wait_for_timeout(2 * SHORT)
    page.reload()
    page.wait_for_function(READY, timeout=LONG)
    wait_for(page, f"'{phrase}' not found in image 0: empty mask")
    color = uuid.uuid4().int % 0xFFFFFF  # another one each time: what is cached is not run
    image = {"1": node("EmptyImage", width=16, height=16, batch_size=1, color=color)}
    page.evaluate(
        OPEN_STRANGERS, image | {"2": node("ImageInvert", image=["1", 0]), "3": node("PreviewImage", images=["2", 0])}
    )
    page.wait_for_timeout(SHORT)
    before = page.evaluate(WIDGETS)
    page.evaluate(QUEUE)
    page.wait_for_timeout(2 * SHORT)
    drawn = [(kind, name) for kind, names in page.evaluate(WIDGETS) for name in names if "text-preview" in name]
    assert not drawn, before


def test_messages_of_a_subgraph_are_on_its_nodes_when_it_is_opened(page):
    phrase = uuid.uuid4().hex
    said = f"'{phrase}' not found in image 0: empty mask"
    page.evaluate(LOAD, empty_mask(phrase))
    page.wait_for_timeout(SHORT)
    page.evaluate(MAKE_A_SUBGRAPH)
    page.evaluate(QUEUE)
    wait_for(page, "wrote regions/browser_")
    assert said not in page.evaluate(SEEN)
    page.evaluate(OPEN_THE_SUBGRAPH)
    wait_for(page, said)


def test_a_message_that_was_drawn_again_goes_when_its_node_says_nothing(page):
    red = {"1": node("EmptyImage", width=64, height=64, batch_size=1, color=0xFF0000)}
    mask = {"2": node("SolidMask", value=0.0, width=64, height=64)}
    blend = {
        "3": node("RegionStylePoissonBlend", foreground=["1", 0], background=["1", 0], mask=["2", 0]),
        "4": node("PreviewImage", images=["3", 0]),
    }
    said = "the mask is empty above 0.5"
    run(page, red | mask | blend)
    wait_for(page, said)
    page.wait_for_timeout(2 * SHORT)
    page.reload()
    page.wait_for_function(READY, timeout=LONG)
    wait_for(page, said)
    page.evaluate("() => { app.graph.getNodeById(2).widgets[0].value = 1; }")
    page.evaluate(QUEUE)
    wait_until_gone(page, said)


def test_an_error_can_be_read_without_a_click(page):
    name = uuid.uuid4().hex
    run(page, {"1": node("PrimitiveString", value=name), "2": node("RegionStyleSaveReport", report=["1", 0])})
    wait_for(page, f"report: got '{name}', expected JSON text. Connect the report of Score Result.")
    assert "regionstyle." not in page.evaluate(SEEN).lower()  # no path of a class before it
    assert "errors.RegionStyleError" not in page.evaluate(SEEN)
