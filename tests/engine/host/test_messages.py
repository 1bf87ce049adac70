"""What nodes say: drawn as plain text, sent to the page that queued the prompt, and never in the way of a prompt."""

import pytest

from regionstyle.nodes.engine.host.messages import LONGEST_SHOWN, drawable, show_message


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("", ""),
        ("mosaic -> the star & moon", "mosaic -> the star & moon"),
        ("one\n\ntwo\n", "one;\ntwo"),
        ("<img src=x onerror=alert(1)>", "<\u200bimg src=x onerror=alert(1)>"),
        ("a < b </b>", "a <\u200b b <\u200b/b>"),
        ("half a pair \ud83d", r"half a pair \ud83d"),
    ],
)
def test_a_text_is_drawn_as_it_is_written(text, drawn):
    """The front end of 0.3.64 takes it for HTML, and a file's own words may stand in it."""
    assert drawable(text) == drawn


def test_a_long_text_is_shortened():
    assert len(drawable("first " + "x" * 100_000)) < LONGEST_SHOWN + 100


def test_without_a_server_nothing_happens(caplog):
    show_message("nobody can see this")
    assert not caplog.records


# A real PromptServer that nobody listens to and a real executor; what the server would send is gathered.
SERVER = """
import asyncio, logging, struct
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
import server, execution, nodes
from importlib import import_module
from regionstyle.nodes.extension import SLICES

sent, logged, errors = [], [], []
prompt_server = server.PromptServer(loop)

def send_sync(event, data, sid=None):
    if event == server.BinaryEventTypes.TEXT:
        size = struct.unpack(">I", data[:4])[0]
        sent.append([data[4 : 4 + size].decode(), data[4 + size :].decode(), sid])
    elif event == "execution_error":
        errors.append([data["exception_type"], data["exception_message"]])

prompt_server.send_sync = send_sync
handler = logging.Handler()
handler.emit = lambda record: logged.append([record.levelname, record.getMessage()])
logging.getLogger("regionstyle").addHandler(handler)
loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
modules = [import_module(f"regionstyle.nodes.{name}.nodes") for name in SLICES]
for module in modules:
    getattr(module, "register", list)()
for module in modules:
    nodes.NODE_CLASS_MAPPINGS |= {node.define_schema().node_id: node for node in module.NODES}
names = execution.PromptExecutor.__init__.__code__.co_varnames
options = {"cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}} if "cache_args" in names else {}
executor = execution.PromptExecutor(prompt_server, cache_type=execution.CacheType.CLASSIC, **options)

def run(prompt, client="page"):
    sent.clear(), logged.clear(), errors.clear()
    valid = loop.run_until_complete(execution.validate_prompt("p", prompt, None))
    assert valid[0], valid
    extra = {} if client is None else {"client_id": client}
    loop.run_until_complete(executor.execute_async(prompt, "p", extra, valid[2]))
    return {"sent": list(sent), "logged": list(logged), "errors": list(errors), "success": executor.success,
            "text": {node: list(out.get("text", ())) for node, out in executor.history_result["outputs"].items()}}

def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}

def iou(threshold=0.5):
    return {"1": node("SolidMask", value=1.0, width=16, height=16),
            "2": node("RegionStyleMaskIoU", found=["1", 0], truth=["1", 0], threshold=threshold)}

def regions(value, phrase="<b>star</b>"):
    return {"1": node("SolidMask", value=value, width=16, height=16),
            "3": node("RegionStyleRegionsFromMask", mask=["1", 0], phrase=phrase, style=""),
            "4": node("RegionStyleSaveRegions", regions=["3", 0], filename_prefix="r")}

def report(text):
    return {"5": node("PrimitiveString", value=text),
            "6": node("RegionStyleSaveReport", report=["5", 0], filename_prefix="r")}

import tempfile, folder_paths
folder_paths.set_output_directory(tempfile.mkdtemp())
result = {"first": run(iou()), "cached": run(iou()), "nobody": run(iou(0.25), None)}
result["empty"], result["full"] = run(regions(0.0)), run(regions(1.0))
result["cut"] = run({"1": node("SolidMask", value=1.0, width=16, height=16),
                     "2": node("RegionStyleCombineMasks", a=["1", 0], b=["1", 0], operation="subtract"),
                     "3": node("RegionStyleExpert", model=["4", 0], expert="tinyworld/mosaic.safetensors",
                               strength=1.0, mask=["2", 0]),
                     "4": node("RegionStyleTinyWorldLoader"),
                     "5": node("RegionStyleMaskIoU", found=["2", 0], truth=["2", 0], threshold=0.5),
                     "6": node("PreviewAny", source=["3", 1])})
result["failed"], result["mended"] = run(report("no JSON")), run(report("{}"))

class Broken:
    instance = property(lambda self: 1 / 0)
    client_id = "page"

    def send_progress_text(self, *args):
        raise RuntimeError("the page is gone")

server.PromptServer.instance = Broken()
result["broken"] = run(iou(0.75))
print(json.dumps(result))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def told(request):
    return request.getfixturevalue(request.param)(SERVER)


@pytest.mark.slow
class TestInComfyUI:
    def test_a_message_is_sent_to_the_page_and_kept_in_history(self, told):
        assert told["first"]["sent"] == [["2", "mask 1: 1", "page"]]
        assert told["first"]["text"]["2"] == ["mask 1: 1"]
        assert told["first"]["logged"] == []

    def test_a_cached_node_says_nothing_anew_and_nothing_is_taken_away(self, told):
        assert told["cached"]["success"]
        assert told["cached"]["sent"] == []

    def test_a_prompt_without_a_page_runs_in_silence(self, told):
        assert told["nobody"]["success"]
        assert told["nobody"]["sent"] == []
        assert told["nobody"]["text"]["2"] == ["mask 1: 1"]

    def test_a_warning_comes_first_and_goes_to_the_log(self, told):
        assert told["empty"]["sent"][0] == [
            "3", "'<\u200bb>star<\u200b/b>' not found in image 0: empty mask;\n1 regions", "page",
        ]  # fmt: skip
        assert told["empty"]["text"]["3"] == ["'<b>star</b>' not found in image 0: empty mask\n1 regions"]
        assert told["empty"]["logged"] == [
            ["WARNING", "Regions from Mask: '<b>star</b>' not found in image 0: empty mask"]
        ]

    def test_masks_that_became_empty_and_one_that_was_given(self, told):
        assert told["cut"]["success"], told["cut"]["errors"]
        said = {node: text for node, text, _ in told["cut"]["sent"]}
        assert (said["2"], said["3"]) == ("empty mask: image 0", "empty mask: image 0")

    def test_what_an_earlier_run_said_is_replaced(self, told):
        assert [text for node, text, _ in told["full"]["sent"] if node == "3"] == [" ", "1 regions"]

    def test_an_error_is_its_sentence_once(self, told):
        sentence = "report: got 'no JSON', expected JSON text. Connect the report of Score Result."
        assert told["failed"]["sent"] == [["6", sentence, "page"]]
        assert [[kind, text.strip()] for kind, text in told["failed"]["errors"]] == [["RegionStyleError", sentence]]
        assert told["mended"]["success"]
        assert told["mended"]["sent"][0] == ["6", " ", "page"]  # the error is not true any more

    def test_a_page_that_is_gone_does_not_stop_the_prompt(self, told):
        assert told["broken"]["success"]
        assert told["broken"]["text"]["2"] == ["mask 1: 1"]
