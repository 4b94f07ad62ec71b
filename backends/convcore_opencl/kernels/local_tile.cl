/*
 * Purpose
 *   Implicit GEMM for discrete GPUs: a work-group keeps a tile of results in its registers and brings what they share
 *   through __local memory.  correlate computes forward, 1x1 kernels as plain GEMM, and grad_input as one dense
 *   correlation for each phase of the stride; grad_weight sums over pixels what correlate sums over channels and taps.
 *
 * Formula
 *   C[m][n] = sum_l A[m][l] * B[l][n], with C a TILE_M x TILE_N tile
 *   correlate    m output channel, n pixel (image, i, j), l = (c * TAPS_H + r) * TAPS_W + s
 *                A = packed weight, B = in[n, c, i * STRIDE_H + r * DILATION_H - before.x, ...]
 *   grad_weight  m output channel, n = (c * TAPS_H + r) * TAPS_W + s, l pixel (image, i, j)
 *                A = g[n, k, i, j], B = x[n, c, i * STRIDE_H + r * DILATION_H - before.x, ...]
 *
 * Operands
 *   in, x   (N, channels, image.x, image.y)       in the layout of at()
 *   out     (N, out_channels, result.x, result.y) in the layout of at(); written at the `grid` points only
 *   g       (N, out_channels, grid.x, grid.y)     in the layout of at()
 *   packed  [groups][blocks][depth * TAPS_H * TAPS_W][TILE_M], pack.cl's copy of the weight with BLOCK = TILE_M
 *   dw      (chunks, out_channels, channels / groups, TAPS_H, TAPS_W) in row-major order
 *   bias    one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 *   index map of a work-item (my, mx) in its group and of its ITEM x ITEM results, in quarters of 4:
 *
 *            TILE_N ->    4      4             4      4
 *                       |mx = 0|mx = 1| ... |mx = 0|mx = 1| ...
 *     TILE_M  my = 0  4 | q 0,0                q 0,1             row    = q_m * TILE_M / (ITEM / 4) + my * 4 + i
 *             my = 1  4 |                                        column = q_n * TILE_N / (ITEM / 4) + mx * 4 + j
 *             ...       | q 1,0                q 1,1
 *
 * Tunables
 *   TILE_M, TILE_N  32 to 128  results of a group; with ITEM they make TILE_M * TILE_N / ITEM^2 work-items, at most 256
 *   ITEM            4, 8       results of a work-item along each side: ITEM^2 accumulators, 64 of a GPU's 255 registers
 *   TILE_K          8, 16      steps of the reduction in __local memory: 2 * TILE_K * (TILE_M + TILE_N + 8) elements,
 *                              16.5 KB for 128 x 128 x 8
 *   INSIDE          0, 1       whether no tap leaves the image: nothing is looked up or masked
 *   TENSOR          0, 1, 2    multiply by the tensor cores of NVIDIA: not, in tf32, in f16; see mma() below
 *
 * Blocking
 *   Double buffering: the next slices are loaded from global memory into registers, the present ones multiplied, the
 *   next stored to __local memory; one barrier a step.  Rows of __local memory are 4 elements longer than a tile.
 *
 * The caller guarantees
 *   one work-group for each tile: groups * blocks * column tiles (grad_weight: * chunks); every work-item has its
 * place. Division by a run-time size d is by (magic, shift): floor(n / d) = (mul_hi(n, magic) + n) >> shift for n <
 * 2^31. images * grid.x * grid.y and the elements of a channel's image are at most 2^31 - 1.  With SKIP_OUTSIDE fill is
 * 0.
 *
 * Edges
 *   Rows beyond the last are zeros in `packed`, columns beyond it repeat the last one and are not stored; what is
 * beyond the reduction is 0 in both operands.  With SKIP_OUTSIDE (grad_input) a result that is NaN is computed again,
 * without the products that do not exist.
 *
 * Source
 *   Nath, Tomov and Dongarra, "An Improved MAGMA GEMM for Fermi GPUs" (2010); Chetlur et al., "cuDNN: Efficient
 *   Primitives for Deep Learning" (2014), section 3, for the image that is never unrolled in memory.
 */

#define TAPS (TAPS_H * TAPS_W)
#define ITEMS_N (TILE_N / ITEM)
#define GROUP_ITEMS (TILE_M / ITEM * ITEMS_N)
#define QUARTERS (ITEM / 4)
#define PITCH_M (TILE_M + 4)
#define PITCH_N (TILE_N + 4)
/* Elements, and for the packed weight vectors, that a work-item brings in each step. */
#define LOADS_A (TILE_K * TILE_M / GROUP_ITEMS)
#define LOADS_B (TILE_K * TILE_N / GROUP_ITEMS)

#define DIVISION(size) uint size##_magic, int size##_shift
#define DIVIDE(n, size) divide(n, size##_magic, size##_shift)

int divide(int n, uint magic, int shift) { return (mul_hi((uint)n, magic) + (uint)n) >> shift; }

/* The pixel at (h, w) of a channel's image. */
RESULT pixel(global const RESULT *plane, int h, int w, int channels, int2 image, RESULT fill) {
#if !INSIDE
    h = source(h, image.x), w = source(w, image.y);
    if (h < 0 || w < 0) return fill;
#endif
    return plane[((long)h * image.y + w) * COLUMN_STEP(channels)];
}

#if TENSOR
/*
 * A warp of 32 work-items has 64 x 32 results, 4 x 4 of what one mma.sync computes, D += A * B with D 16 x 8:
 *
 *   TENSOR 1  m16n8k8, A 16 x 8 and B 8 x 8 in tf32          TENSOR 2  m16n8k16, A 16 x 16 and B 16 x 8 in f16
 *
 * With g = lane / 4, t = lane % 4 and P = 1 element of tf32 or 2 of f16 in a register of 32 bits, a lane holds
 *   A  a0 (g, P t), a1 (g + 8, P t), a2 (g, P t + 4 P), a3 (g + 8, P t + 4 P)
 *   B  b0 (P t, g), b1 (P t + 4 P, g)         with f16 the element P t + 1 in the upper half of the same register
 *   D  d0 (g, 2 t), d1 (g, 2 t + 1), d2 (g + 8, 2 t), d3 (g + 8, 2 t + 1)
 * NVIDIA, "Parallel Thread Execution ISA", section on mma.sync fragments.  Only registers go into the assembler:
 * pointers to __local memory do not survive it.  With EMULATED the lanes exchange their registers through __local
 * memory and each computes its four results from that description: for tests of the index maps where there is no such
 * device.
 */
#define LANES_OF_WARP 32
#define WARPS_N (TILE_N / 32)
#define PER_REGISTER TENSOR
#define MMA_K (8 * PER_REGISTER)
#define LANE (get_local_id(0) % LANES_OF_WARP)
#define ROW_OF(i) (get_local_id(0) / LANES_OF_WARP / WARPS_N * 64 + (i) / 2 * 16 + (i) % 2 * 8 + LANE / 4)
#define COLUMN_OF(j) (get_local_id(0) / LANES_OF_WARP % WARPS_N * 32 + (j) / 2 * 8 + LANE % 4 * 2 + (j) % 2)
#define RESULT_OF(i, j) (((i) / 2 * 4 + (j) / 2) * 4 + (i) % 2 * 2 + (j) % 2)
#define EXCHANGED (EMULATED ? GROUP_ITEMS * 6 : 1)
/* Registers must be named by constants; not in the emulation, which would take a CPU's compiler ten seconds. */
#if EMULATED
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif

/* One register of a fragment: one element rounded to tf32, or two rounded to f16. */
__attribute__((always_inline)) uint fragment(local const float *first, int step) {
    uint bits;
#if EMULATED && TENSOR == 1
    bits = as_uint(first[0]);
    if ((bits & 0x7f800000) != 0x7f800000) bits = (bits + 0x1000) & 0xffffe000;
#elif EMULATED
    ushort halves[2];
    vstore_half_rte(first[0], 0, (private half *)halves);
    vstore_half_rte(first[step], 1, (private half *)halves);
    bits = halves[0] | (uint)halves[1] << 16;
#elif TENSOR == 1
    __asm__("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(first[0]));
#else
    __asm__("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(first[step]), "f"(first[0]));
#endif
    return bits;
}

#if EMULATED
float element(local const uint *registers, int k) {
#if TENSOR == 1
    return as_float(*registers);
#else
    ushort half_of = *registers >> k % 2 * 16;
    return vload_half(0, (private const half *)&half_of);
#endif
}
#endif

__attribute__((always_inline)) void mma(private float *d, private const uint *a, private const uint *b,
                                        local uint *exchange) {
#if EMULATED
    local uint *warp = exchange + get_local_id(0) / LANES_OF_WARP * LANES_OF_WARP * 6;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 0; i < 6; ++i) warp[LANE * 6 + i] = i < 4 ? a[i] : b[i - 4];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 0; i < 4; ++i) {
        const int row = LANE / 4 + i / 2 * 8, column = LANE % 4 * 2 + i % 2;
        for (int k = 0; k < MMA_K; ++k) {
            const int t = k / PER_REGISTER % 4, upper = k / (4 * PER_REGISTER);
            d[i] += element(warp + (row % 8 * 4 + t) * 6 + row / 8 + 2 * upper, k) *
                    element(warp + (column * 4 + t) * 6 + 4 + upper, k);
        }
    }
#elif TENSOR == 1
    __asm__("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __asm__("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Multiply what is in __local memory, and add it; as a function that is called it would keep sums in memory. */
__attribute__((always_inline)) void multiply(private float *sums, local const float *a, local const float *b,
                                             local uint *exchange) {
    const int t = LANE % 4 * PER_REGISTER;
    for (int k = 0; k < TILE_K; k += MMA_K) {
        uint columns[4][2];
    UNROLL for (int j = 0; j < 4; ++j)
            UNROLL for (int upper = 0; upper < 2; ++upper)
                columns[j][upper] = fragment(b + (k + t + upper * 4 * PER_REGISTER) * PITCH_N + COLUMN_OF(2 * j) -
                                                 LANE % 4 * 2 + LANE / 4,
                                             PITCH_N);
        UNROLL for (int i = 0; i < 4; ++i) {
            uint rows[4];
            UNROLL for (int part = 0; part < 4; ++part)
                rows[part] =
                    fragment(a + (k + t + part / 2 * 4 * PER_REGISTER) * PITCH_M + ROW_OF(2 * i + part % 2), PITCH_M);
            UNROLL for (int j = 0; j < 4; ++j) mma(sums + (i * 4 + j) * 4, rows, columns[j], exchange);
        }
    }
}
#else
#define ROW_OF(i) ((i) / 4 * (TILE_M / QUARTERS) + get_local_id(0) / ITEMS_N * 4 + (i) % 4)
#define COLUMN_OF(j) ((j) / 4 * (TILE_N / QUARTERS) + get_local_id(0) % ITEMS_N * 4 + (j) % 4)
#define RESULT_OF(i, j) ((i) * ITEM + (j))
#define EXCHANGED 1

/* Multiply what is in __local memory, and add it; as a function that is called it would keep sums in memory. */
__attribute__((always_inline)) void multiply(private RESULT *sums, local const RESULT *a, local const RESULT *b, local uint *exchange) {
#pragma unroll
    for (int k = 0; k < TILE_K; ++k, a += PITCH_M, b += PITCH_N) {
        union {
            vector quarter[QUARTERS];
            RESULT at[ITEM];
        } rows, columns;
#pragma unroll
        for (int q = 0; q < QUARTERS; ++q) {
            rows.quarter[q] = *(local const vector *)(a + ROW_OF(4 * q));
            columns.quarter[q] = *(local const vector *)(b + COLUMN_OF(4 * q));
        }
#pragma unroll
        for (int i = 0; i < ITEM; ++i)
#pragma unroll
            for (int j = 0; j < ITEM; ++j) sums[RESULT_OF(i, j)] += rows.at[i] * columns.at[j];
    }
}
#endif

/* One result of correlate, without the products that do not exist. */
RESULT looked_up(global const RESULT *in, global const RESULT *packed, int channels, int2 image, int length, int top,
                 int left) {
    RESULT sum = 0;
    for (int l = 0; l < length; ++l, packed += TILE_M) {
        const int h = source(top + l / TAPS_W % TAPS_H * DILATION_H, image.x);
        const int w = source(left + l % TAPS_W * DILATION_W, image.y);
        if (h >= 0 && w >= 0)
            sum += in[l / TAPS * PLANE(image) + ((long)h * image.y + w) * COLUMN_STEP(channels)] * *packed;
    }
    return sum;
}

kernel __attribute__((reqd_work_group_size(GROUP_ITEMS, 1, 1))) void
correlate(global const RESULT *in, long in0, global const RESULT *packed, long packed0, global const RESULT *bias,
          long bias0, global RESULT *out, long out0, int channels, int2 image, int out_channels, int2 result,
          int groups, int depth, int2 before, int2 grid, int2 step, int2 first, RESULT fill, int pixels,
          DIVISION(grid_x), DIVISION(grid_y)) {
    local RESULT a[2][TILE_K * PITCH_M] __attribute__((aligned(64)));
    local RESULT b[2][TILE_K * PITCH_N] __attribute__((aligned(64)));
    local uint exchange[EXCHANGED];
    const int id = get_local_id(0), tiles = (pixels + TILE_N - 1) / TILE_N;
    const int per_group = out_channels / groups, blocks = (per_group + TILE_M - 1) / TILE_M;
    const int first_column = get_group_id(0) % tiles * TILE_N, block_of_all = get_group_id(0) / tiles;
    const int group = block_of_all / blocks, first_row = block_of_all % blocks * TILE_M;
    const int length = depth * TAPS;
    packed += packed0 + (long)block_of_all * length * TILE_M;
    in += in0 + group * depth * PLANE(image);

    /* This work-item brings rows of one column of B, and vectors of A. */
    const int column = MIN(first_column + id % TILE_N, pixels - 1), line = DIVIDE(column, grid_y);
    const int n = DIVIDE(line, grid_x);
    const int top = (line - n * grid.x) * STRIDE_H - before.x, left = (column - line * grid.y) * STRIDE_W - before.y;
    global const RESULT *column_in = in + IMAGE_AT(n, channels, image);
    RESULT sums[ITEM * ITEM];
#pragma unroll
    for (int i = 0; i < ITEM * ITEM; ++i) sums[i] = 0;

    vector next_a[LOADS_A / 4];
    RESULT next_b[LOADS_B];
    for (int from = -TILE_K, now = 1; from < length; from += TILE_K, now = 1 - now) {
        const bool more = from + TILE_K < length;
        if (more) {
#pragma unroll
            for (int i = 0; i < LOADS_A / 4; ++i) {
                const int element = (i * GROUP_ITEMS + id) * 4, l = from + TILE_K + element / TILE_M;
                next_a[i] = l < length ? *(global const vector *)(packed + (long)l * TILE_M + element % TILE_M) : (vector)0;
            }
#pragma unroll
            for (int i = 0; i < LOADS_B; ++i) {
                const int l = from + TILE_K + i * (GROUP_ITEMS / TILE_N) + id / TILE_N;
                const int h = top + l / TAPS_W % TAPS_H * DILATION_H, w = left + l % TAPS_W * DILATION_W;
                next_b[i] = l < length ? pixel(column_in + l / TAPS * PLANE(image), h, w, channels, image, fill) : 0;
            }
        }
        if (from >= 0) multiply(sums, a[now], b[now], exchange);
        if (more) {
#pragma unroll
            for (int i = 0; i < LOADS_A / 4; ++i) {
                const int element = (i * GROUP_ITEMS + id) * 4;
                *(local vector *)(a[1 - now] + element / TILE_M * PITCH_M + element % TILE_M) = next_a[i];
            }
#pragma unroll
            for (int i = 0; i < LOADS_B; ++i)
                b[1 - now][(i * (GROUP_ITEMS / TILE_N) + id / TILE_N) * PITCH_N + id % TILE_N] = next_b[i];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

#pragma unroll
    for (int j = 0; j < ITEM; ++j) {
        const int at_column = first_column + COLUMN_OF(j);
        if (at_column >= pixels) continue;
        const int line = DIVIDE(at_column, grid_y), n = DIVIDE(line, grid_x);
        const int i0 = line - n * grid.x, j0 = at_column - line * grid.y;
#pragma unroll
        for (int i = 0; i < ITEM; ++i) {
            const int row = ROW_OF(i), k = first_row + row;
            if (k >= per_group) continue;
            const int channel = group * per_group + k;
            const RESULT shift = bias ? bias[bias0 + channel] : 0;
            RESULT value = sums[RESULT_OF(i, j)] + shift;
#if SKIP_OUTSIDE && !INSIDE
            if (value != value)
                value = shift + looked_up(in + IMAGE_AT(n, channels, image), packed + row, channels, image, length,
                                          i0 * STRIDE_H - before.x, j0 * STRIDE_W - before.y);
#endif
            out[out0 + at(n, channel, first.x + i0 * step.x, first.y + j0 * step.y, out_channels, result)] = value;
        }
    }
}

kernel __attribute__((reqd_work_group_size(GROUP_ITEMS, 1, 1))) void
grad_weight(global const RESULT *x, long x0, global const RESULT *g, long g0, global RESULT *dw, long dw0, int channels,
            int2 image, int out_channels, int2 grid, int groups, int2 before, RESULT fill, DIVISION(grid_x),
            DIVISION(grid_y), long items, long all_pixels, long pixels) {
    local RESULT a[2][TILE_K * PITCH_M] __attribute__((aligned(64)));
    local RESULT b[2][TILE_K * PITCH_N] __attribute__((aligned(64)));
    local uint exchange[EXCHANGED];
    const int id = get_local_id(0), depth = channels / groups, columns = depth * TAPS;
    const int per_group = out_channels / groups, blocks = (per_group + TILE_M - 1) / TILE_M;
    const int tiles = (columns + TILE_N - 1) / TILE_N;
    const int first_column = get_group_id(0) % tiles * TILE_N, first_row = get_group_id(0) / tiles % blocks * TILE_M;
    const int group = get_group_id(0) / tiles / blocks % groups;
    const long chunk = get_group_id(0) / tiles / blocks / groups;
    const int begin = chunk * pixels, end = MIN((chunk + 1) * pixels, all_pixels);
    x += x0 + group * depth * PLANE(image);
    g += g0 + group * per_group * PLANE(grid);
    RESULT sums[ITEM * ITEM];
#pragma unroll
    for (int i = 0; i < ITEM * ITEM; ++i) sums[i] = 0;

    RESULT next_a[LOADS_A], next_b[LOADS_B];
    for (int from = begin - TILE_K, now = 1; from < end; from += TILE_K, now = 1 - now) {
        const bool more = from + TILE_K < end;
        if (more) {
            /* This work-item brings rows and columns of one pixel. */
            const int l = from + TILE_K + id % TILE_K, line = DIVIDE(l, grid_y), n = DIVIDE(line, grid_x);
            const int p = line - n * grid.x, q = l - line * grid.y;
            global const RESULT *g_pixel =
                g + IMAGE_AT(n, out_channels, grid) + ((long)p * grid.y + q) * COLUMN_STEP(out_channels);
            global const RESULT *x_image = x + IMAGE_AT(n, channels, image);
#pragma unroll
            for (int i = 0; i < LOADS_A; ++i) {
                const int row = first_row + i * (GROUP_ITEMS / TILE_K) + id / TILE_K;
                next_a[i] = l < end && row < per_group ? g_pixel[row * PLANE(grid)] : 0;
            }
#pragma unroll
            for (int i = 0; i < LOADS_B; ++i) {
                const int column = MIN(first_column + i * (GROUP_ITEMS / TILE_K) + id / TILE_K, columns - 1);
                const int h = p * STRIDE_H + column / TAPS_W % TAPS_H * DILATION_H - before.x;
                const int w = q * STRIDE_W + column % TAPS_W * DILATION_W - before.y;
                next_b[i] = l < end ? pixel(x_image + column / TAPS * PLANE(image), h, w, channels, image, fill) : 0;
            }
        }
        if (from >= begin) multiply(sums, a[now], b[now], exchange);
        if (more) {
#pragma unroll
            for (int i = 0; i < LOADS_A; ++i)
                a[1 - now][id % TILE_K * PITCH_M + i * (GROUP_ITEMS / TILE_K) + id / TILE_K] = next_a[i];
#pragma unroll
            for (int i = 0; i < LOADS_B; ++i)
                b[1 - now][id % TILE_K * PITCH_N + i * (GROUP_ITEMS / TILE_K) + id / TILE_K] = next_b[i];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    dw += dw0 + (chunk * groups + group) * per_group * columns;
#pragma unroll
    for (int i = 0; i < ITEM; ++i)
#pragma unroll
        for (int j = 0; j < ITEM; ++j) {
            const int row = first_row + ROW_OF(i), column = first_column + COLUMN_OF(j);
            if (row < per_group && column < columns) dw[(long)row * columns + column] = sums[RESULT_OF(i, j)];
        }
}
