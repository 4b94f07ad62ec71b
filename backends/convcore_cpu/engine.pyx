# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Bind programs to the C kernels and run them.

Binds ``kernels/*.h``: a :class:`Program` of ``plans.py`` becomes C structures once, when a plan is made.  A run
takes the GIL to look at its arrays and to borrow a workspace, and holds it no longer until the result is complete.
The plan owns the structures and keeps the tables alive; the workspace is allocated before anything is written.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.buffer cimport PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp

from convcore_cpu cimport kernels
from convcore_cpu.kernels cimport index_t, micro_kernel

import math
from dataclasses import dataclass

import numpy as np

from convcore.spi import Packed, Plan

cdef object _ndarray = np.ndarray
cdef object _empty = np.empty

cdef extern from "omp.h" nogil:
    int omp_get_max_threads()

cdef extern from "team.h" nogil:
    ctypedef struct team
    ctypedef void (*range_function)(void *context, int member, Py_ssize_t first, Py_ssize_t last) noexcept
    team *team_borrow(int threads)
    void team_give_back(team *borrowed)
    void team_run(team *borrowed, range_function function, void *context, Py_ssize_t tasks)
    int team_runs   # the GIL guards it, and teams

cdef extern from "subnormals.h" nogil:
    unsigned int flush_subnormals()
    void restore_subnormals(unsigned int before)

cdef extern from "memory.h" nogil:
    ctypedef struct block:
        void *start
        size_t size
    block take_workspace(size_t size)
    block take_result(size_t size)
    void give_back(block taken)


@dataclass(frozen=True)
class MicroKernel:
    """One row of the table of micro-kernels.

    Attributes
    ----------
    name, dtype, algorithm, isa : str
        ``dtype_algorithm_tile__isa`` and its parts.
    rows, columns : int
        Of the tile, in elements.
    lanes : int
        Elements in a vector.
    multiply : float
        Cycles for each vector that is multiplied and added: 0.5 where the processor has two units as wide, else 1.
    """

    name: str
    dtype: str
    algorithm: str
    isa: str
    rows: int
    columns: int
    lanes: int
    multiply: float = 0.5


cdef dict _micro_kernels = {}   # name -> address
cdef dict _tasks = {}           # name -> address

_ITEMSIZE = {"f32": 4, "f64": 8, "i64": 8}


def _list_tasks():
    for i in range(kernels.named_task_count):
        _tasks[kernels.named_tasks[i].name.decode()] = <size_t> &kernels.named_tasks[i]


def _list_micro_kernels():
    cdef const kernels.micro_kernel_table *table
    listed = {}
    for isa in range(kernels.isa_count()):
        table = kernels.isa_micro_kernels(isa)
        multiply = kernels.isa_multiply(isa)
        rows = []
        for i in range(table.count):
            row = &table.rows[i]
            dtype = row.dtype.decode()
            name = row.name.decode()
            lanes = row.vector_bytes // _ITEMSIZE[dtype]
            rows.append(
                MicroKernel(
                    name, dtype, row.algorithm.decode(), row.isa.decode(), row.rows, row.columns, lanes, multiply
                )
            )
            _micro_kernels[name] = <size_t> row
        listed[kernels.isa_name(isa).decode()] = (bool(kernels.isa_available(isa)), tuple(rows))
    return listed


_list_tasks()
_listed = _list_micro_kernels()

#: Pixels ``kernels/rest.h`` computes at most, and rows at a time.
MAX_REST = kernels.MAX_REST
MAX_REST_ROWS = kernels.MAX_REST_ROWS
#: Bytes there are on the stack for a band of ``kernels/sliding.h``.
MAX_BAND_BYTES = kernels.MAX_BAND_BYTES
#: Tiles, and pixels of them, a task of ``kernels/panels.h`` or ``correlate.h`` may have.
MAX_TILES_PER_TASK = kernels.MAX_TILES_PER_TASK
MAX_PIXELS_PER_TASK = kernels.MAX_PIXELS_PER_TASK
#: Phases of columns a task of ``kernels/pack.h`` may copy.
MAX_PHASES_PER_TASK = kernels.MAX_PHASES_PER_TASK
#: The micro-kernels of every instruction set that was compiled, worst first.
MICRO_KERNELS = {isa: rows for isa, (_, rows) in _listed.items()}
#: The instruction sets this processor has, worst first.
ISAS = tuple(isa for isa, (available, _) in _listed.items() if available)


cdef union StepData:
    kernels.pack_step pack
    kernels.correlate_step correlate
    kernels.rest_step rest
    kernels.panels_step panels
    kernels.channels_step channels
    kernels.sliding_step sliding
    kernels.strips_step strips
    kernels.accumulate_step accumulate
    kernels.lines_step lines
    kernels.reduce_step reduce
    kernels.tiles_step tiles
    kernels.weights_step weights
    kernels.multiply_step multiply
    kernels.blocks_step blocks
    kernels.fused_step fused
    kernels.grads_step grads
    kernels.products_step products
    kernels.taps_step taps
    kernels.fold_step fold
    kernels.sum_step sum
    kernels.pool_step pool


cdef struct BoundStep:
    StepData data
    kernels.task_function function
    index_t tasks
    bint per_image


cdef const void *_table(step, name) except NULL:
    return <const void *> <size_t> step.tables[name].ctypes.data


cdef const micro_kernel *_kernel(name) except NULL:
    return <const micro_kernel *> <size_t> _micro_kernels[name]


cdef int _bind_band(step, kernels.band *band) except -1:
    band.sizes = step.band
    band.lines = <const kernels.axis *> _table(step, "lines")
    band.columns = <const kernels.axis *> _table(step, "columns")
    band.fill = _table(step, "fill")
    if "line_of" in step.tables:
        band.line_of = <const index_t *> _table(step, "line_of")
        band.column_of = <const index_t *> _table(step, "column_of")
    return 0


cdef int _bind(step, BoundStep *bound) except -1:
    cdef StepData *data = &bound.data
    cdef BoundStep part
    bound.function = (<const kernels.named_task *> <size_t> _tasks[step.task]).function
    bound.tasks = step.tasks
    bound.per_image = step.per_image
    kind = step.task.split("_")[0]
    if kind == "pack":
        data.pack.sizes = step.sizes
        data.pack.turn = _kernel(step.transform) if step.transform else NULL
        data.pack.collect = _kernel(step.fill) if step.fill else NULL
        data.pack.lines = <const kernels.axis *> _table(step, "lines")
        data.pack.columns = <const kernels.axis *> _table(step, "columns")
        data.pack.fill = _table(step, "fill")
        if "line_of" in step.tables:
            data.pack.line_of = <const index_t *> _table(step, "line_of")
            data.pack.column_of = <const index_t *> _table(step, "column_of")
    elif kind in ("correlate", "exact"):
        data.correlate.sizes = step.sizes
        data.correlate.kernel = _kernel(step.kernel)
        data.correlate.interleave = _kernel(step.transform) if step.transform else NULL
        data.correlate.offsets = <const index_t *> _table(step, "offsets")
        data.correlate.a_row = <const index_t *> _table(step, "a_row")
        data.correlate.out_row = <const index_t *> _table(step, "out_row")
        data.correlate.tile_row = <const index_t *> _table(step, "tile_row")
        data.correlate.inside = <const index_t *> _table(step, "inside")
    elif kind == "rest":
        data.rest.sizes = step.sizes
        data.rest.kernel = _kernel(step.kernel)
        data.rest.offsets = <const index_t *> _table(step, "offsets")
        data.rest.a_row = <const index_t *> _table(step, "a_row")
        data.rest.out_row = <const index_t *> _table(step, "out_row")
    elif kind == "panels":
        data.panels.sizes = step.sizes
        data.panels.kernel = _kernel(step.kernel)
        data.panels.collect = _kernel(step.transform)
        data.panels.offsets = <const index_t *> _table(step, "offsets")
        data.panels.a_row = <const index_t *> _table(step, "a_row")
        data.panels.out_row = <const index_t *> _table(step, "out_row")
        data.panels.tile_row = <const index_t *> _table(step, "tile_row")
    elif kind == "channels":
        data.channels.sizes = step.sizes
        data.channels.kernel = _kernel(step.kernel)
        data.channels.turn = _kernel(step.transform)
        data.channels.fill = _kernel(step.fill)
        _bind_band(step, &data.channels.band)
        data.channels.pieces = <const index_t *> _table(step, "pieces")
        data.channels.gathers = <const index_t *> _table(step, "gathers")
        data.channels.offsets = <const index_t *> _table(step, "offsets")
        data.channels.tile_row = <const index_t *> _table(step, "tile_row")
        data.channels.a_terms = <const index_t *> _table(step, "a_terms")
    elif kind == "bands":
        data.sliding.sizes = step.sizes
        data.sliding.kernel = _kernel(step.kernel)
        _bind_band(step, &data.sliding.band)
        data.sliding.pieces = <const index_t *> _table(step, "pieces")
        data.sliding.gathers = <const index_t *> _table(step, "gathers")
        data.sliding.patches = <const index_t *> _table(step, "patches")
    elif kind in ("strips", "weigh"):
        data.strips.sizes = step.sizes
        data.strips.kernel = _kernel(step.kernel)
    elif kind == "accumulate":
        data.accumulate.sizes = step.sizes
        data.accumulate.kernel = _kernel(step.kernel)
        data.accumulate.turn = _kernel(step.transform) if step.transform else NULL
        data.accumulate.a_row = <const index_t *> _table(step, "a_row")
        data.accumulate.out_row = <const index_t *> _table(step, "out_row")
    elif kind == "lines":
        data.lines.sizes = step.sizes
        data.lines.kernel = _kernel(step.kernel)
        if step.band:
            _bind_band(step, &data.lines.band)
        data.lines.a_row = <const index_t *> _table(step, "a_row")
    elif kind == "reduce":
        data.reduce.sizes = step.sizes
    elif kind == "tiles":
        data.tiles.sizes = step.sizes
        _bind_band(step, &data.tiles.band)
        data.tiles.pixels = _kernel(step.kernel)
        data.tiles.points = _kernel(step.transform)
        data.tiles.fill_band = _kernel(step.fill)
        data.tiles.piece_lines = <const index_t *> _table(step, "piece_lines")
        data.tiles.column_pieces = <const index_t *> _table(step, "column_pieces")
        data.tiles.out_offsets = <const index_t *> _table(step, "out_offsets")
    elif kind == "weights":
        data.weights.sizes = step.sizes
        data.weights.kernel = _kernel(step.kernel)
        data.weights.along_columns = _kernel(step.second)
        data.weights.turn = _kernel(step.transform)
        if step.fill:
            data.weights.whole = _kernel(step.fill)
            data.weights.whole_taps = <const index_t *> _table(step, "whole_taps")
            data.weights.whole_offsets = <const index_t *> _table(step, "whole_offsets")
        data.weights.column_taps = <const index_t *> _table(step, "column_taps")
        data.weights.line_taps = <const index_t *> _table(step, "line_taps")
        data.weights.half_offsets = <const index_t *> _table(step, "half_offsets")
        data.weights.out_offsets = <const index_t *> _table(step, "out_offsets")
    elif kind == "blocks":
        memset(&part, 0, sizeof(part))
        _bind(step.parts[0], &part)
        data.blocks.tiles = part.data.tiles
        _bind(step.parts[1], &part)
        data.blocks.multiply = part.data.multiply
    elif kind == "fused":
        data.fused.sizes = step.sizes
        memset(&part, 0, sizeof(part))
        _bind(step.parts[0], &part)
        data.fused.weights = part.data.weights
        data.fused.kernel = _kernel(step.kernel)
        data.fused.transform = _kernel(step.transform)
        data.fused.along_lines = _kernel(step.second)
        data.fused.a_row = <const index_t *> _table(step, "a_row")
        data.fused.tile_row = <const index_t *> _table(step, "tile_row")
        data.fused.in_offsets = <const index_t *> _table(step, "in_offsets")
        data.fused.half_offsets = <const index_t *> _table(step, "half_offsets")
        data.fused.line_offsets = <const index_t *> _table(step, "line_offsets")
    elif kind == "grads":
        data.grads.sizes = step.sizes
        data.grads.kernel = _kernel(step.kernel)
        data.grads.turn = _kernel(step.turn) if step.turn else NULL
        data.grads.out_offsets = <const index_t *> _table(step, "out_offsets")
    elif kind == "products":
        data.products.sizes = step.sizes
        data.products.kernel = _kernel(step.kernel)
        data.products.transform = _kernel(step.transform)
        data.products.turn = _kernel(step.turn) if step.turn else NULL
        data.products.a_row = <const index_t *> _table(step, "a_row")
        data.products.tile_row = <const index_t *> _table(step, "tile_row")
        data.products.in_offsets = <const index_t *> _table(step, "in_offsets")
        data.products.out_offsets = <const index_t *> _table(step, "out_offsets")
    elif kind == "taps":
        data.taps.sizes = step.sizes
        data.taps.kernel = _kernel(step.kernel)
        data.taps.in_offsets = <const index_t *> _table(step, "in_offsets")
        data.taps.out_offsets = <const index_t *> _table(step, "out_offsets")
    elif kind == "multiply":
        data.multiply.sizes = step.sizes
        data.multiply.kernel = _kernel(step.kernel)
        data.multiply.transform = _kernel(step.transform)
        data.multiply.output = _kernel(step.second)
        data.multiply.a_row = <const index_t *> _table(step, "a_row")
        data.multiply.out_row = <const index_t *> _table(step, "out_row")
        data.multiply.tile_row = <const index_t *> _table(step, "tile_row")
        data.multiply.in_offsets = <const index_t *> _table(step, "in_offsets")
        data.multiply.out_offsets = <const index_t *> _table(step, "out_offsets")
    elif kind == "fold":
        data.fold.sizes = step.sizes
        data.fold.line_ends = <const index_t *> _table(step, "line_ends")
        data.fold.line_of = <const index_t *> _table(step, "line_of")
        data.fold.column_of = <const index_t *> _table(step, "column_of")
    elif kind == "sum":
        data.sum.sizes = step.sizes
    elif kind in ("maxpool", "maxpoolgrad"):
        data.pool.sizes = step.sizes
    return 0


cdef class Stages:
    """Stages of bound steps: the steps of a stage run side by side, the stages one after the other."""

    cdef BoundStep *steps
    cdef index_t *ends
    cdef int count
    cdef object keep_alive

    def __cinit__(self, stages):
        self.count = len(stages)
        self.steps = <BoundStep *> calloc(sum(map(len, stages)) + 1, sizeof(BoundStep))
        self.ends = <index_t *> calloc(self.count + 1, sizeof(index_t))
        if self.steps == NULL or self.ends == NULL:
            raise MemoryError
        at = 0
        for i, stage in enumerate(stages):
            for step in stage:
                _bind(step, &self.steps[at])
                at += 1
            self.ends[i] = at
        self.keep_alive = stages

    def __dealloc__(self):
        free(self.steps)
        free(self.ends)

    cdef void run(self, char **buffers, index_t images, index_t scratch_bytes, team *helpers) noexcept nogil:
        cdef index_t first = 0, tasks, step
        cdef int i
        cdef StageRun stage
        stage.buffers, stage.images, stage.scratch_bytes = buffers, images, scratch_bytes
        for i in range(self.count):
            stage.steps = self.steps + first
            tasks = 0
            for step in range(first, self.ends[i]):
                tasks += _task_count(&self.steps[step], images)
            team_run(helpers, _run_tasks, &stage, tasks)
            first = self.ends[i]


cdef struct StageRun:
    const BoundStep *steps
    char **buffers
    index_t images, scratch_bytes


cdef inline index_t _task_count(const BoundStep *step, index_t images) noexcept nogil:
    return step.tasks * images if step.per_image else step.tasks


cdef void _run_tasks(void *context, int member, index_t first, index_t last) noexcept nogil:
    """Run the tasks first .. last-1 of a stage, numbered through its steps."""
    cdef const StageRun *stage = <const StageRun *> context
    cdef char *buffers[kernels.BUFFERS]
    memcpy(buffers, stage.buffers, sizeof(buffers))
    buffers[kernels.SCRATCH] += member * stage.scratch_bytes
    cdef const BoundStep *step = stage.steps
    cdef index_t _task, tasks = _task_count(step, stage.images)
    for _task in range(last - first):
        while first >= tasks:
            first -= tasks
            step += 1
            tasks = _task_count(step, stage.images)
        step.function(&step.data, buffers, stage.images, first)
        first += 1


cdef enum:
    # Smaller results the system's allocator has at hand (bytes).
    KEPT_FROM = 128 << 10


cdef class ResultMemory:
    """Memory of a large result or a packed weight, given back when the last that looks at it is gone."""

    cdef block memory
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.memory, self.size = take_result(size), size
        if self.memory.start == NULL:
            raise MemoryError(f"convcore_cpu: no memory for a result of {size} bytes")

    def __dealloc__(self):
        if self.memory.start != NULL:
            give_back(self.memory)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.memory.start, self.size, False, flags)


cdef int _thread_count(int limit) noexcept:
    """Return how many threads a run may use, 0 being no limit: runs that go on at the same time share them."""
    if limit == 1:
        return 1
    cdef int threads = omp_get_max_threads()
    if limit:
        threads = min(threads, limit)
    return max(1, threads // team_runs)


cdef struct Operand:
    bint present
    int dimensions
    Py_ssize_t shape[4]
    Py_ssize_t itemsize
    char format[8]


cdef Operand _operand(shape, dtype):
    cdef Operand operand
    operand.present = True
    operand.dimensions = len(shape)
    for i, size in enumerate(shape):
        operand.shape[i] = size
    operand.itemsize = dtype.itemsize
    operand.format = memoryview(np.empty(0, dtype)).format.encode().ljust(8, b"\0")
    return operand


cdef bint _acquire(array, const Operand *operand, Py_buffer *view) except -1:
    """Hold the array's buffer if it is exactly the operand a plan expects; hold nothing otherwise."""
    cdef int i
    if type(array) is not _ndarray:
        return False
    try:
        PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    except (BufferError, ValueError):
        return False
    cdef bint same = (
        view.ndim == operand.dimensions
        and strcmp(view.format, operand.format) == 0
        and <size_t> view.buf % operand.itemsize == 0
    )
    for i in range(view.ndim if same else 0):
        same = same and view.shape[i] == operand.shape[i]
    if not same:
        PyBuffer_Release(view)
    return same


cdef class Engine:
    """A program bound to C structures, with what a call of it needs at hand."""

    cdef Stages before, each, after, exact, packing
    cdef Engine instead
    cdef index_t images, images_per_batch
    cdef index_t image_bytes[kernels.BUFFERS]
    cdef size_t workspace_bytes, scratch_bytes, packed_bytes
    cdef int threads
    cdef Operand expected[3]  # first, second, bias
    cdef object result_shape, result_dtype
    cdef size_t result_bytes
    cdef bint checked_by_core

    def __init__(self, program, problem):
        self.before = Stages(program.before)
        self.each = Stages(program.each)
        self.after = Stages(program.after)
        self.exact = Stages(program.exact)
        self.packing = Stages(program.packing)
        self.packed_bytes = program.packed_bytes
        self.instead = Engine(program.instead, problem) if program.instead else None
        self.images, self.images_per_batch = problem.input_shape[0], program.images_per_batch
        memset(self.image_bytes, 0, sizeof(self.image_bytes))
        self.image_bytes[kernels.FIRST], self.image_bytes[kernels.SECOND], self.image_bytes[kernels.OUT] = (
            program.image_bytes
        )
        self.workspace_bytes = program.workspace_bytes
        self.scratch_bytes = program.scratch_bytes
        self.threads = program.threads or 0
        memset(self.expected, 0, sizeof(self.expected))
        for i, (shape, dtype) in enumerate(zip(problem.operand_shapes, problem.dtypes)):
            self.expected[i] = _operand(shape, dtype)
        if problem.bias:
            self.expected[2] = _operand((problem.result_channels,), problem.result_dtype)
        self.result_shape, self.result_dtype = problem.result_shape, problem.result_dtype
        self.result_bytes = math.prod(problem.result_shape) * problem.result_dtype.itemsize
        # Integers need the core's look at their magnitudes.
        self.checked_by_core = problem.result_dtype.kind == "i"

    cdef int execute(self, char *first, char *second, char *weight, char *bias, char *out) except -1:
        """Run; ``second`` may be packed, ``weight`` is what it was made of."""
        global team_runs
        cdef block workspace = block(NULL, 0)
        team_runs += 1
        cdef int threads = _thread_count(self.threads)
        cdef size_t size = self.workspace_bytes + threads * self.scratch_bytes
        if size:
            workspace = take_workspace(size)
            if workspace.start == NULL:
                team_runs -= 1
                raise MemoryError(f"convcore_cpu: no memory for a workspace of {size} bytes")
        cdef team *helpers = team_borrow(threads)
        with nogil:
            self.run_batches(first, second, weight, bias, out, <char *> workspace.start, helpers)
        team_give_back(helpers)
        team_runs -= 1
        if size:
            give_back(workspace)
        return 0

    cdef void run_batches(
        self, char *first, char *second, char *weight, char *bias, char *out, char *workspace, team *helpers
    ) noexcept nogil:
        cdef int nan_seen = 0
        cdef index_t image = 0, images
        cdef unsigned int subnormals = flush_subnormals()
        cdef char *buffers[kernels.BUFFERS]
        buffers[kernels.BIAS], buffers[kernels.WORKSPACE] = bias, workspace
        buffers[kernels.SCRATCH] = workspace + self.workspace_bytes
        buffers[kernels.NAN_SEEN] = <char *> &nan_seen
        buffers[kernels.FIRST], buffers[kernels.SECOND], buffers[kernels.OUT] = first, second, out
        self.before.run(buffers, self.images, self.scratch_bytes, helpers)
        while image < self.images:
            images = min(self.images_per_batch, self.images - image)
            buffers[kernels.FIRST] = first + image * self.image_bytes[kernels.FIRST]
            buffers[kernels.SECOND] = second + image * self.image_bytes[kernels.SECOND]
            buffers[kernels.OUT] = out + image * self.image_bytes[kernels.OUT]
            self.each.run(buffers, images, self.scratch_bytes, helpers)
            if nan_seen and self.exact.count:
                self.exact.run(buffers, images, self.scratch_bytes, helpers)
                nan_seen = 0
            image += images
        buffers[kernels.FIRST], buffers[kernels.SECOND], buffers[kernels.OUT] = first, second, out
        self.after.run(buffers, self.images, self.scratch_bytes, helpers)
        if nan_seen and self.instead is not None:
            self.instead.run_batches(first, weight, weight, bias, out, workspace, helpers)
        restore_subnormals(subnormals)

    def run(self, first, second, bias, out):
        """Run on arrays that are exactly what the problem says."""
        cdef Py_buffer views[4]
        cdef char *data[4]
        cdef int i
        arrays = (first, second, bias, out)
        memset(data, 0, sizeof(data))
        memset(views, 0, sizeof(views))
        try:
            for i in range(4):
                if arrays[i] is not None:
                    PyObject_GetBuffer(arrays[i], &views[i], PyBUF_WRITABLE if i == 3 else PyBUF_SIMPLE)
                    data[i] = <char *> views[i].buf
            self.execute(data[0], data[1], data[1], data[2], data[3])
        finally:
            for i in range(4):
                PyBuffer_Release(&views[i])

    cdef ResultMemory pack(self, weight):
        """Return what the program reads instead of the weight."""
        cdef ResultMemory packed = ResultMemory(self.packed_bytes)
        cdef char *buffers[kernels.BUFFERS]
        cdef Py_buffer view
        memset(buffers, 0, sizeof(buffers))
        PyObject_GetBuffer(weight, &view, PyBUF_SIMPLE)
        buffers[kernels.SECOND], buffers[kernels.WORKSPACE] = <char *> view.buf, <char *> packed.memory.start
        with nogil:
            self.packing.run(buffers, self.images, 0, NULL)
        PyBuffer_Release(&view)
        return packed

    cdef object new_result(self):
        if self.result_bytes < KEPT_FROM:
            return _empty(self.result_shape, self.result_dtype)
        return _ndarray(self.result_shape, self.result_dtype, ResultMemory(self.result_bytes))

    cdef object try_direct(self, first, second, bias, ResultMemory packed):
        """Return the result if every operand is already what the problem says, else None."""
        cdef Py_buffer views[4]
        cdef char *data[3]
        cdef char *second_data
        cdef int i
        memset(data, 0, sizeof(data))
        memset(views, 0, sizeof(views))
        try:
            for i in range(3):
                array = first if i == 0 else second if i == 1 else bias
                if not self.expected[i].present:
                    if array is not None:
                        return None
                elif not _acquire(array, &self.expected[i], &views[i]):
                    return None
                data[i] = <char *> views[i].buf
            out = self.new_result()
            PyObject_GetBuffer(out, &views[3], PyBUF_WRITABLE)
            second_data = data[1] if packed is None else <char *> packed.memory.start
            self.execute(data[0], second_data, data[1], data[2], <char *> views[3].buf)
            return out
        finally:
            for i in range(4):
                PyBuffer_Release(&views[i])


class CPUPlan(Plan):
    """A plan of the CPU engine: a program, bound and ready.

    Parameters
    ----------
    problem : Problem
        What to compute.
    program : Program
        How, as ``plans.py`` laid it out.
    prepacked : callable, optional
        Returns the program for a weight that is packed once, or None.
    details : callable, optional
        Returns what the choice was among, in words.
    """

    def __init__(self, problem, program, prepacked=None, details=None):
        super().__init__(problem)
        self.algorithm = program.algorithm
        self.workspace_bytes = program.memory_bytes
        self.notes = program.notes
        self.engine = Engine(program, problem)
        # Made by the first weight that is packed: False until then, and None if none is.
        self.prepacked, self.packed_engine = prepacked, None if prepacked is None else False
        self.describe = details

    def run(self, first, second, bias, out):
        """Compute into ``out``; see :meth:`convcore.spi.Plan.run`."""
        self.engine.run(first, second, bias, out)

    def prepare(self, second):
        """Lay the weight out as the cheapest program reads it, if that is cheaper than reading it as it is."""
        if self.packed_engine is False:
            # Two threads may make one each: they are the same.
            program = self.prepacked()
            self.packed_engine = None if program is None else Engine(program, self.problem)
        return None if self.packed_engine is None else (<Engine> self.packed_engine).pack(second)

    def details(self):
        """Return what the choice was among; see :meth:`convcore.spi.Plan.details`."""
        return "" if self.describe is None else self.describe()

    def __call__(self, first, second=None, bias=None, out=None):
        """Compute and return the result; arrays that need no care skip the way through the core."""
        if out is None and type(second) is Packed and second.plan is self and second.prepared is not None:
            result = (<Engine> self.packed_engine).try_direct(first, second.weight, bias, second.prepared)
            if result is not None:
                return result
        elif out is None:
            engine = <Engine> self.engine
            if not engine.checked_by_core:
                result = engine.try_direct(first, second, bias, None)
                if result is not None:
                    return result
        return Plan.__call__(self, first, second, bias, out)
