import subprocess
import sys


def test_the_hardware_floor_imports_neither_torch_nor_a_gpu_library():
    code = (
        "import sys, gpuopt.hardware as hardware\n"
        "assert hardware.__all__ and all(hasattr(hardware, n) for n in hardware.__all__)\n"
        "heavy = {'torch', 'pynvml', 'timm', 'lightning', 'hydra', 'omegaconf'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
