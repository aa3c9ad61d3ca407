import torch

from reflow_lightning.running.free import free_bytes

CPU = torch.device("cpu")
GIB = 1 << 30


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_it_is_what_the_system_can_make_available(tmp_path):
    root = write(tmp_path, proc__meminfo=f"MemTotal: 99 kB\nMemAvailable: {8 * GIB >> 10} kB\n")
    assert free_bytes(CPU, root) == 8 * GIB


def test_a_container_may_have_less(tmp_path):
    root = write(tmp_path, proc__meminfo=f"MemAvailable: {8 * GIB >> 10} kB\n")
    write(root, sys__fs__cgroup__memory_DOT_max=f"{3 * GIB}\n", sys__fs__cgroup__memory_DOT_current=f"{GIB}\n")
    assert free_bytes(CPU, root) == 2 * GIB


def test_a_container_without_a_limit_has_what_the_system_has(tmp_path):
    root = write(tmp_path, proc__meminfo=f"MemAvailable: {8 * GIB >> 10} kB\n")
    write(root, sys__fs__cgroup__memory_DOT_max="max\n", sys__fs__cgroup__memory_DOT_current=f"{GIB}\n")
    assert free_bytes(CPU, root) == 8 * GIB


def test_a_system_that_tells_nothing_has_half_of_its_memory(tmp_path):
    assert free_bytes(CPU, tmp_path) > 0
