"""The kernels of discrete GPUs through NVIDIA's assembler, where it and a clang that writes PTX are installed.

It knows each instruction for the tensor cores, and it says what no test of values can: that all accumulators are in
registers.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest

pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from convcore_opencl import plans, program

from convcore.testing.problems import make_problem

CLANG = shutil.which("clang-14") or shutil.which("clang")
PTXAS = shutil.which("ptxas") or shutil.which("/usr/local/cuda/bin/ptxas")
GPU = plans.Traits("a GPU", kind="gpu", units=132, local_memory=49152, largest_group=1024, tensor_cores="nvidia")
#: What OpenCL's own library has in place of these, as far as the kernels use it.
BUILTINS = """
#define get_local_id(axis) ((uint)__nvvm_read_ptx_sreg_tid_x())
#define get_group_id(axis) ((uint)__nvvm_read_ptx_sreg_ctaid_x())
#define get_global_id(axis) ((ulong)get_group_id(0) * __nvvm_read_ptx_sreg_ntid_x() + get_local_id(0))
#define barrier(flags) __syncthreads()
#define mul_hi(a, b) ((uint)(((ulong)(a) * (b)) >> 32))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
"""
TARGET = ("-target", "nvptx64-nvidia-nvcl")
FEATURES = ("-target-cpu", "sm_80", "-target-feature", "+ptx71", "-finclude-default-header")


@pytest.mark.skipif(not (CLANG and PTXAS), reason="clang and NVIDIA's ptxas are not both installed")
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(
    ("algorithm", "instruction"),
    [
        ("window", "fma.rn.f32"),
        ("winograd2_fused", "fma.rn.f32"),
        ("local_tile", "fma.rn.f32"),
        ("tensor_tile_tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
        ("tensor_tile_f16", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
    ],
)
def test_nvidias_assembler_takes_the_kernels_and_keeps_sums_in_registers(tmp_path, algorithm, instruction, op):
    problem = make_problem(op, images=16, channels=(128, 128), size=(56, 56), padding=((1, 1), (1, 1)), bias=False)
    if plans.refusal(replace(problem, algorithm=algorithm, accuracy="fast"), GPU).endswith("grad_input only"):
        return
    chosen = plans.ALGORITHMS[algorithm].recipe(problem, GPU, 2**40)
    launch = max(chosen.launches, key=lambda launch: launch.group)
    if launch.file == "local_tile.cl":
        assert {"-DTILE_M=128", "-DTILE_N=128", "-DEMULATED=0"} <= set(launch.options)
    source, assembly = tmp_path / "kernel.cl", tmp_path / "kernel.ptx"
    source.write_text(BUILTINS + program.source(launch.file))
    features = [word for feature in FEATURES for word in ("-Xclang", feature)]
    flags = ["-x", "cl", "-O3", "-S", *features, *program.BASE_OPTIONS, *launch.options]
    subprocess.run([CLANG, *TARGET, *flags, "-o", assembly, source], check=True, capture_output=True)
    assert assembly.read_text().count(instruction) >= 16
    command = [PTXAS, "-arch=sm_90", "-v", "-c", assembly, "-o", tmp_path / "kernel.o"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    _, _, of_kernel = said.partition(f"Function properties for {launch.function}\n")
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in of_kernel.splitlines()[0]
