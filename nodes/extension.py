"""What ComfyUI gets from this pack: the node classes of all slices."""

from importlib import import_module

from comfy_api.latest import ComfyExtension, io

# Each of these modules defines `NODES`, a list of node classes in menu order.
NODE_MODULES = (
    "tinyworld.nodes",
    "router.nodes",
    "router.train_nodes",
    "router.routing_nodes",
    "sms.nodes",
    "sms.generator_nodes",
    "app.nodes",
    "grounding.nodes",
    "grounding.network_nodes",
    "grounding.box_nodes",
    "grounding.grounding_nodes",
    "grounding.region_nodes",
    "grounding.mask_nodes",
    "grounding.region_file_nodes",
    "metrics.nodes",
    "app.metric_nodes",
)


class RegionStyleExtension(ComfyExtension):
    """The extension: adds model folders and what ships with the pack to ComfyUI's, and its nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # not in on_load, which 0.3.64 does not call
        import_module(".grounding.comfy_networks", __package__).register_folders()
        import_module(".tinyworld.comfy_tinyworld", __package__).register_experts()
        import_module(".sms.comfy_generator", __package__).register_folder()
        import_module(".router.comfy_gate", __package__).register_folder()
        return [node for module in NODE_MODULES for node in import_module(f".{module}", __package__).NODES]
