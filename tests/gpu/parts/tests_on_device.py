"""Part 1: the pack's mechanisms on the device, against the CPU and float64."""

from device_tests import run_tests
from registry import Run, part


@part("kernel-tests", order=10, seconds=70)
def kernels(run: Run) -> None:
    """Every kernel against float64 in float32, float16 and bfloat16; the fused ones, what they allocate."""
    run_tests(run, "kernels/test_cuda.py", "gpu/test_kernels_on_device.py")


@part("mechanism-tests", order=11, seconds=60)
def mechanisms(run: Run) -> None:
    """Adapters, attention tap, predictor, region crop, a whole restyling."""
    run_tests(run, "gpu/test_mechanisms_on_device.py", "engine/host/test_host.py", options=("-k", "device or gpu"))
