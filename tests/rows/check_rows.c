/* Hold every row of the table of micro-kernels against its formula, written as loops.
 *
 * For machines that are only emulated, where the Python tests of the rows cannot run: `make test-neon` compiles this
 * with the kernels for aarch64; `tests/test_rows.py` runs it on the installed engine.  The numbers are small integers,
 * so every sum is exact and must be equal, but for the fractions in Winograd's matrices.
 *
 * Prints a line for each row and exits with the number of rows that are wrong, or that nothing here checks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "element.h"
#include "isa.h"
#include "steps.h"

enum { LENGTH = 13, REPEATS = 3, MEMORY = 4096, LINES = 5, WIDTH = 21 };

static int draw(void) { return rand() % 17 - 8; }

#define CHECKS(TYPE)                                                                                                   \
    static int check_outer_##TYPE(const micro_kernel *row) {                                                           \
        static TYPE a[MEMORY], b[MEMORY], out[MEMORY], expected[MEMORY], init[MAX_TILE_ROWS];                          \
        index_t offsets[2 * LENGTH], a_row[MAX_TILE_ROWS], out_row[MAX_TILE_ROWS];                                     \
        const outer_loop loop = {offsets, LENGTH, REPEATS, 7, 5, a_row, out_row};                                      \
        for (int i = 0; i < MEMORY; i++)                                                                               \
            a[i] = (TYPE)draw(), b[i] = (TYPE)draw(), out[i] = expected[i] = (TYPE)draw();                             \
        for (int l = 0; l < LENGTH; l++) offsets[2 * l] = rand() % 100, offsets[2 * l + 1] = rand() % 500;             \
        for (int m = 0; m < row->rows; m++) {                                                                          \
            a_row[m] = rand() % 1000, out_row[m] = 3 + m * row->columns, init[m] = (TYPE)draw();                       \
        }                                                                                                              \
        for (int started = 0; started < 2; started++) {                                                                \
            for (int m = 0; m < row->rows; m++) {                                                                      \
                for (int j = 0; j < row->columns; j++) {                                                               \
                    TYPE sum = started ? expected[out_row[m] + j] : init[m];                                           \
                    for (int t = 0; t < REPEATS; t++) {                                                                \
                        for (int l = 0; l < LENGTH; l++) {                                                             \
                            sum += a[a_row[m] + t * 7 + offsets[2 * l]] * b[t * 5 + offsets[2 * l + 1] + j];           \
                        }                                                                                              \
                    }                                                                                                  \
                    expected[out_row[m] + j] = sum;                                                                    \
                }                                                                                                      \
            }                                                                                                          \
            ((outer_function *)row->function)(&loop, a, b, started ? NULL : init, out);                                \
            if (memcmp(out, expected, sizeof out)) return 0;                                                           \
        }                                                                                                              \
        const index_t lanes = row->vector_bytes / (index_t)sizeof(TYPE), vectors = row->columns / lanes;               \
        lane_runs runs[MAX_TILE_VECTORS];                                                                              \
        for (index_t v = 0; v < vectors; v++) {                                                                        \
            const index_t at = 2 * v * lanes;                                                                          \
            runs[v] = v % 3 == 0   ? (lane_runs){.at = at, .kept = lanes}                                              \
                      : v % 3 == 1 ? (lane_runs){at, 1, at + lanes - 2, 2, lanes}                                      \
                                   : (lane_runs){.next = at, .from = 1, .to = lanes};                                  \
        }                                                                                                              \
        const outer_loop in_runs = {offsets, LENGTH, 1, 0, 0, a_row, out_row, runs};                                   \
        for (int m = 0; m < row->rows; m++) out_row[m] = 3 + m * 2 * row->columns;                                     \
        for (int m = 0; m < row->rows; m++) {                                                                          \
            for (int j = 0; j < row->columns; j++) {                                                                   \
                const lane_runs run = runs[j / lanes];                                                                 \
                const index_t lane = j % lanes;                                                                        \
                TYPE sum = init[m];                                                                                    \
                for (int l = 0; l < LENGTH; l++) sum += a[a_row[m] + offsets[2 * l]] * b[offsets[2 * l + 1] + j];      \
                if (lane < run.kept) expected[out_row[m] + run.at + lane] = sum;                                       \
                else if (lane >= run.from && lane < run.to) expected[out_row[m] + run.next + lane] = sum;              \
            }                                                                                                          \
        }                                                                                                              \
        ((outer_function *)row->function)(&in_runs, a, b, init, out);                                                  \
        if (memcmp(out, expected, sizeof out)) return 0;                                                               \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_panel_##TYPE(const micro_kernel *row) {                                                           \
        static TYPE a[MEMORY], b[2 * MEMORY], out[MEMORY], expected[MEMORY], init[MAX_TILE_ROWS];                      \
        index_t a_row[MAX_TILE_ROWS], out_row[MAX_TILE_ROWS];                                                          \
        const index_t columns = row->columns, b_repeat = LENGTH * columns + 5;                                         \
        index_t a_at[LENGTH];                                                                                          \
        for (int i = 0; i < MEMORY; i++) a[i] = (TYPE)draw(), out[i] = expected[i] = (TYPE)draw();                     \
        for (int i = 0; i < 2 * MEMORY; i++) b[i] = (TYPE)draw();                                                      \
        for (int m = 0; m < row->rows; m++) {                                                                          \
            a_row[m] = rand() % 1000, out_row[m] = 3 + m * columns, init[m] = (TYPE)draw();                            \
        }                                                                                                              \
        for (int l = 0; l < LENGTH; l++) a_at[l] = rand() % 1000;                                                      \
        for (int way = 0; way < 4; way++) {                                                                            \
            const int started = way / 2, table = way % 2, repeats = table ? 1 : REPEATS;                               \
            const panel_loop loop = {repeats, LENGTH, 71, b_repeat, 3, table ? a_at : NULL, a_row, out_row};           \
            for (int m = 0; m < row->rows; m++) {                                                                      \
                for (int j = 0; j < columns; j++) {                                                                    \
                    TYPE sum = started ? expected[out_row[m] + j] : init[m];                                           \
                    for (int t = 0; t < repeats; t++) {                                                                \
                        for (int l = 0; l < LENGTH; l++) {                                                             \
                            const index_t at = table ? a_at[l] : t * 71 + l * 3;                                       \
                            sum += a[a_row[m] + at] * b[t * b_repeat + l * columns + j];                               \
                        }                                                                                              \
                    }                                                                                                  \
                    expected[out_row[m] + j] = sum;                                                                    \
                }                                                                                                      \
            }                                                                                                          \
            ((panel_function *)row->function)(&loop, a, b, started ? NULL : init, out);                                \
            if (memcmp(out, expected, sizeof out)) return 0;                                                           \
        }                                                                                                              \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_collect_##TYPE(const micro_kernel *row) {                                                         \
        static TYPE planes[MEMORY], panel[MEMORY], expected[MEMORY];                                                   \
        static const pixel_run runs[] = {{0, 7, 300}, {7, 19, 5}, {26, 1, 900}, {27, 5, 40}};                          \
        index_t offsets[LENGTH];                                                                                       \
        for (int way = 0; way < 6; way++) {                                                                            \
            const int step = way < 4 ? 1 : way - 2, evenly = way == 2;                                                 \
            const collect_loop loop = {.runs = runs,                                                                   \
                                       .count = 4,                                                                     \
                                       .offsets = evenly ? NULL : offsets,                                             \
                                       .length = LENGTH,                                                               \
                                       .columns = 32,                                                                  \
                                       .may_overrun = way == 1,                                                        \
                                       .has_room = way == 3,                                                           \
                                       .step = step,                                                                   \
                                       .term = 90};                                                                    \
            const size_t used = LENGTH * 32 * sizeof(TYPE); /* what follows may be overwritten */                      \
            for (int i = 0; i < MEMORY; i++) planes[i] = (TYPE)draw(), panel[i] = expected[i] = (TYPE)draw();          \
            for (int l = 0; l < LENGTH; l++) offsets[l] = evenly ? l * 90 : rand() % 2000;                             \
            for (int l = 0; l < LENGTH; l++) {                                                                         \
                for (int r = 0; r < 4; r++) {                                                                          \
                    for (int i = 0; i < runs[r].count; i++)                                                            \
                        expected[l * 32 + runs[r].lane + i] = planes[runs[r].at + offsets[l] + i * step];              \
                }                                                                                                      \
            }                                                                                                          \
            ((collect_function *)row->function)(&loop, planes, panel);                                                 \
            if (memcmp(panel, expected, loop.may_overrun || loop.has_room ? used : sizeof panel)) return 0;            \
        }                                                                                                              \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_interleave_##TYPE(const micro_kernel *row) {                                                      \
        static TYPE in[MEMORY], out[MEMORY], expected[MEMORY];                                                         \
        static const index_t in_row[] = {0, 200, 90}, out_row[] = {500, 3, 1000};                                      \
        for (index_t count = 0; count <= 3 * WIDTH; count++) {                                                         \
            const interleave_loop loop = {in_row, out_row, 3, 1500, count};                                            \
            for (int i = 0; i < MEMORY; i++) in[i] = (TYPE)draw(), out[i] = expected[i] = (TYPE)draw();                \
            for (int i = 0; i < 3 * count; i++) {                                                                      \
                const index_t r = i / count, j = i % count;                                                            \
                expected[out_row[r] + j] = in[in_row[r] + j % 2 * 1500 + j / 2];                                       \
            }                                                                                                          \
            ((interleave_function *)row->function)(&loop, in, out);                                                    \
            if (memcmp(out, expected, sizeof out)) return 0;                                                           \
        }                                                                                                              \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_inner_##TYPE(const micro_kernel *row) {                                                           \
        static TYPE a[MEMORY], terms[MEMORY], out[MEMORY], expected[MEMORY];                                           \
        index_t a_row[MAX_TILE_ROWS];                                                                                  \
        for (index_t length = 0; length <= 3 * WIDTH; length++) {                                                      \
            const inner_loop loop = {a_row, length};                                                                   \
            for (int i = 0; i < MEMORY; i++) a[i] = (TYPE)draw(), terms[i] = (TYPE)draw();                             \
            for (int i = 0; i < MEMORY; i++) out[i] = expected[i] = (TYPE)draw();                                      \
            for (int m = 0; m < row->rows; m++) {                                                                      \
                a_row[m] = rand() % 2000;                                                                              \
                for (index_t l = 0; l < length; l++) expected[m] += a[a_row[m] + l] * terms[l];                        \
            }                                                                                                          \
            ((inner_function *)row->function)(&loop, a, terms, out);                                                   \
            if (memcmp(out, expected, sizeof out)) return 0;                                                           \
        }                                                                                                              \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_band_##TYPE(const micro_kernel *row) {                                                            \
        enum { C = 3, HEIGHT = 7, PITCH = C * (WIDTH + 4) + MAX_LANES, PHASE = 5 * PITCH + MAX_LANES };                \
        static TYPE x[MEMORY], to[2 * PHASE];                                                                          \
        for (int i = 0; i < MEMORY; i++) x[i] = (TYPE)draw();                                                          \
        for (index_t width = 1; width <= WIDTH; width++) {                                                             \
            for (index_t step = 1; step <= 3; step++) {                                                                \
                const axis down = {HEIGHT + 2, 1, HEIGHT + 1, -60, 60};                                                \
                const axis across[] = {{width + 4, 1, width + 3, -step, step}, {width + 4, 2, width + 3, 2, step}};    \
                const TYPE fill = 3;                                                                                   \
                const band b = {{420, 1, 2, width + 4, PHASE, PITCH}, &down, across, NULL, NULL, &fill};               \
                ((band_function *)row->function)(&b, x, C, 2, 1, 4, width + 1, to);                                    \
                for (index_t i = 0; i < 2 * C * 4 * (width + 1); i++) {                                                \
                    const index_t j = i % (width + 1), line = i / (width + 1) % 4, c = i / (width + 1) / 4 % C;        \
                    const axis *v = across + i / (width + 1) / 4 / C;                                                  \
                    const int inside = j + 1 >= v->lo && j + 1 < v->hi && line + 2 < down.hi;                          \
                    const TYPE *found = to + (v - across) * PHASE + line * PITCH + c * (width + 4) + j;                \
                    const TYPE *from = x + c * 420 + down.base + (line + 2) * 60 + v->base + (j + 1) * v->step;        \
                    if (*found != (inside ? *from : fill)) return 0;                                                   \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_dot_##TYPE(const micro_kernel *row) {                                                             \
        enum { K = 5, HEIGHT = 7, TAPS = 10 };                                                                         \
        static TYPE x[MEMORY], g[MEMORY], out[K * TAPS], expected[K * TAPS];                                           \
        index_t a_row[TAPS + MAX_TILE_ROWS] = {0};                                                                     \
        for (int i = 0; i < MEMORY; i++) x[i] = (TYPE)draw(), g[i] = (TYPE)draw();                                     \
        for (index_t width = 1; width <= WIDTH; width++) {                                                             \
            const axis down = {HEIGHT + 2, 1, HEIGHT + 1, -40, 40}, across = {width + 4, 1, width + 3, -1, 1};         \
            const index_t pitch = (width + 4 + MAX_LANES) / MAX_LANES * MAX_LANES;                                     \
            const TYPE fill = 3;                                                                                       \
            for (int m = 0; m < TAPS; m++) a_row[m] = m / 5 * pitch + m % 5;                                           \
            const lines_step step = {.sizes = {.g_channel = 200,                                                       \
                                               .g_line = 24,                                                           \
                                               .x_pitch = pitch,                                                       \
                                               .k_per_group = K,                                                       \
                                               .channels = 1,                                                          \
                                               .rows = TAPS,                                                           \
                                               .out_channel = TAPS,                                                    \
                                               .more_lines = 1,                                                        \
                                               .more_columns = 4},                                                     \
                                     .kernel = row,                                                                    \
                                     .band = {.sizes = {.line_phases = 1, .column_phases = 1, .pitch = pitch},         \
                                              .lines = &down,                                                          \
                                              .columns = &across,                                                      \
                                              .fill = &fill},                                                          \
                                     .a_row = a_row};                                                                  \
            const index_t chunk[] = {1, 0, LINES, width};                                                              \
            for (int add = 0; add < 2; add++) {                                                                        \
                ((dot_function *)row->function)(&step, x, g, chunk, add, out);                                         \
                for (int k = 0; k < K; k++) {                                                                          \
                    for (int m = 0; m < TAPS; m++) {                                                                   \
                        TYPE sum = add ? expected[k * TAPS + m] : 0;                                                   \
                        for (int p = 1; p <= LINES; p++) {                                                             \
                            for (int q = 0; q < width; q++) {                                                          \
                                const index_t i = p + m / 5 - 1, j = q + m % 5 - 1;                                    \
                                const int inside = i >= 0 && i < HEIGHT && j >= 0 && j < width + 2;                    \
                                sum += g[k * 200 + p * 24 + q] * (inside ? x[i * 40 + j] : fill);                      \
                            }                                                                                          \
                        }                                                                                              \
                        expected[k * TAPS + m] = sum;                                                                  \
                    }                                                                                                  \
                }                                                                                                      \
                if (memcmp(out, expected, sizeof out)) return 0;                                                       \
            }                                                                                                          \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

#define SLIDING_CHECK(TYPE)                                                                                            \
    static int check_sliding_##TYPE(const micro_kernel *row) {                                                         \
        enum { HEIGHT = 11, BREADTH = 29, WIDE = 3 };                                                                  \
        TYPE x[HEIGHT * BREADTH], w[5 * WIDE], out[HEIGHT * BREADTH], bias = (TYPE)draw(), fill = 2;                   \
        for (index_t taps = 3; taps <= 5; taps++) {                                                                    \
            const index_t p_count = HEIGHT + 3 - taps, q_count = BREADTH;                                              \
            const index_t lines = (p_count + row->rows - 1) / row->rows * row->rows + taps - 1;                        \
            const index_t pitch = (q_count > row->columns ? q_count : row->columns) + row->columns;                    \
            const axis down = {HEIGHT + 2, 1, HEIGHT + 1, -BREADTH, BREADTH},                                          \
                       across = {BREADTH + 2, 1, BREADTH + 1, -1, 1};                                                  \
            const index_t gather[] = {0, p_count, q_count, 0, 1}, patch[] = {0, 0, taps, WIDE};                        \
            const index_t piece[] = {0, 0, p_count, q_count};                                                          \
            const sliding_step step = {.sizes = {.w_line = WIDE,                                                       \
                                                 .w_column = 1,                                                        \
                                                 .out_line = BREADTH,                                                  \
                                                 .out_column = 1,                                                      \
                                                 .rows = 1,                                                            \
                                                 .channels = 1,                                                        \
                                                 .gathers = 1,                                                         \
                                                 .interleaved = 1,                                                     \
                                                 .line_step = 1,                                                       \
                                                 .column_step = 1,                                                     \
                                                 .more_lines = taps - 1,                                               \
                                                 .more_columns = WIDE - 1},                                            \
                                       .kernel = row,                                                                  \
                                       .band = {.sizes = {.line_phases = 1, .column_phases = 1, .pitch = pitch},       \
                                                .lines = &down,                                                        \
                                                .columns = &across,                                                    \
                                                .fill = &fill},                                                        \
                                       .gathers = gather,                                                              \
                                       .patches = patch};                                                              \
            for (int i = 0; i < HEIGHT * BREADTH; i++) x[i] = (TYPE)draw();                                            \
            for (int i = 0; i < 5 * WIDE; i++) w[i] = (TYPE)draw();                                                    \
            ((sliding_function *)row->function)(&step, piece, x, w, &bias, 0, out, 1);                                 \
            for (index_t p = 0; p < p_count; p++) {                                                                    \
                for (index_t q = 0; q < q_count; q++) {                                                                \
                    TYPE sum = bias;                                                                                   \
                    for (index_t r = 0; r < taps; r++) {                                                               \
                        for (index_t s = 0; s < WIDE; s++) {                                                           \
                            const index_t i = p + r - 1, j = q + s - 1;                                                \
                            const int inside = i >= 0 && i < HEIGHT && j >= 0 && j < BREADTH;                          \
                            sum += w[r * WIDE + s] * (inside ? x[i * BREADTH + j] : fill);                             \
                        }                                                                                              \
                    }                                                                                                  \
                    if (out[p * BREADTH + q] != sum) return 0;                                                         \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

#define STRIP_CHECK(TYPE)                                                                                              \
    /* Line and column of x that tap (r, s) meets from pixel (p, q), and whether it is in x. */                        \
    static int meets_##TYPE(const strips_sizes *z, index_t p, index_t q, index_t r, index_t s, index_t *i,             \
                            index_t *j) {                                                                              \
        if (z->scatter) {                                                                                              \
            *i = p + z->top - r, *j = q + z->left - s;                                                                 \
            if (*i % 2 || *j % 2) return 0;                                                                            \
            *i /= 2, *j /= 2;                                                                                          \
        } else {                                                                                                       \
            *i = p * z->step + r - z->top, *j = q * z->step + s - z->left;                                             \
        }                                                                                                              \
        return *i >= 0 && *i < z->x_lines && *j >= 0 && *j < z->x_width;                                               \
    }                                                                                                                  \
                                                                                                                       \
    static int check_strips_##TYPE(const micro_kernel *row, int weighs) {                                              \
        enum { GROUPS = 3, ROWS = 2, PLANES = GROUPS * ROWS, LINES_OF_X = 6 };                                         \
        static TYPE x[MEMORY], y[PLANES * 2 * LINES_OF_X * 2 * WIDTH], bias[PLANES], w[PLANES * 49],                   \
            expected[PLANES * 49];                                                                                     \
        const index_t n = row->rows, taps = n * n;                                                                     \
        for (int i = 0; i < MEMORY; i++) x[i] = (TYPE)draw();                                                          \
        for (index_t kind = 0; kind < (weighs ? 2 : 3); kind++) {                                                      \
            for (index_t width = 1; width <= WIDTH; width++) {                                                         \
                const index_t high = kind == 2 ? 2 * LINES_OF_X - 1 : kind ? LINES_OF_X / 2 : LINES_OF_X;              \
                const index_t wide = kind == 2 ? 2 * width - 1 : kind ? (width + 1) / 2 : width;                       \
                const index_t columns = kind == 2 ? (wide + n / 2 + 1) / 2 - n / 2 / 2 : wide;                         \
                const strips_sizes z = {.x_channel = LINES_OF_X * WIDTH,                                               \
                                        .x_lines = LINES_OF_X,                                                         \
                                        .x_width = width,                                                              \
                                        .w_line = n,                                                                   \
                                        .w_column = 1,                                                                 \
                                        .out_channel = high * wide,                                                    \
                                        .out_lines = high,                                                             \
                                        .out_width = wide,                                                             \
                                        .rows = ROWS,                                                                  \
                                        .step = kind ? 2 : 1,                                                          \
                                        .scatter = kind == 2,                                                          \
                                        .top = n / 2,                                                                  \
                                        .left = n / 2,                                                                 \
                                        .planes = 2 * columns <= row->columns ? 2 : 1};                                \
                for (int i = 0; i < PLANES; i++) bias[i] = (TYPE)draw();                                               \
                for (int i = 0; i < PLANES * 49; i++) w[i] = (TYPE)draw(), expected[i] = 0;                            \
                for (index_t i = 0; i < PLANES * high * wide; i++) y[i] = (TYPE)draw();                                \
                if (weighs) ((weigh_function *)row->function)(&z, x, y, 1, GROUPS, w);                                 \
                else ((strip_function *)row->function)(&z, x, w, bias, width % 2, 0, high, GROUPS, y);                 \
                for (index_t at = 0; at < PLANES * high * wide; at++) {                                                \
                    const index_t plane = at / wide / high, p = at / wide % high, q = at % wide;                       \
                    TYPE sum = bias[plane];                                                                            \
                    for (index_t tap = 0; tap < taps; tap++) {                                                         \
                        index_t i, j;                                                                                  \
                        if (!meets_##TYPE(&z, p, q, tap / n, tap % n, &i, &j)) continue;                               \
                        const TYPE pixel = x[plane / ROWS * z.x_channel + i * width + j];                              \
                        sum += pixel * w[plane * taps + tap];                                                          \
                        expected[plane * taps + tap] += pixel * y[at];                                                 \
                    }                                                                                                  \
                    if (!weighs && y[at] != sum) return 0;                                                             \
                }                                                                                                      \
                if (weighs && memcmp(w, expected, (size_t)(PLANES * taps) * sizeof(TYPE))) return 0;                   \
            }                                                                                                          \
        }                                                                                                              \
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_strip_##TYPE(const micro_kernel *row) { return check_strips_##TYPE(row, 0); }                     \
    static int check_weigh_##TYPE(const micro_kernel *row) { return check_strips_##TYPE(row, 1); }

/* B^T of four points and of six. */
static const double points_1[] = {1};
static const double points_4[] = {1, 0, -1, 0, 0, 1, 1, 0, 0, -1, 1, 0, 0, -1, 0, 1};
static const double points_6[] = {1, -1.5, -2, 1.5, 1, 0, 0, -1, .5, 2.5, 1, 0, 0, 1, -2.5, .5, 1,   0,
                                  0, -2,   -1, 2,   1, 0, 0, .5, -1, -.5, 1, 0, 0, 1, -1.5, -2, 1.5, 1};

/* Of F(m, r): power k of the points, the last of which is infinity. */
static double power(int point, int points, int k, int most) {
    static const double of[] = {0, 1, -1, .5, -2};
    double product = 1;
    if (point == points - 1) return k == most - 1;
    for (int i = 0; i < k; i++) product *= of[point];
    return product;
}

/* The matrix of a row: `to` lines of `from` columns. */
static void matrix_of(const micro_kernel *row, double matrix[36], int *from, int *to) {
    static const double scale_4[] = {1, .5, .5, 1}, scale_6[] = {1, 1 / 3., -1 / 3., -16 / 15., 1 / 15., 1};
    const char *kind = row->algorithm + strlen("winograd_"), last = kind[strlen(kind) - 1];
    const int pointwise = !strcmp(kind, "points"), r = last >= '0' && last <= '9' ? last - '0' : 3;
    const int m = row->rows, n = pointwise ? m : m + r - 1;
    const int of_pixels = pointwise || !strncmp(kind, "pixels", 6);
    const int of_taps = !strncmp(kind, "weight", 6) || !strcmp(kind, "kernel"), to_taps = !strcmp(kind, "taps");
    const int of_results = !strcmp(kind, "grad");
    *from = of_taps ? r : of_results ? m : n;
    *to = to_taps ? r : of_pixels || of_taps || of_results ? n : m;
    for (int i = 0; i < *to; i++) {
        for (int j = 0; j < *from; j++) {
            const int point = of_taps || of_results ? i : j, k = of_taps || of_results ? j : i;
            const double scale = n == 1 ? 1 : n == 4 ? scale_4[point] : scale_6[point];
            const double *pixels = n == 1 ? points_1 : n == 4 ? points_4 : points_6;
            double *at = matrix + i * *from + j;
            if (of_pixels) *at = pixels[i * n + j];
            else if (of_taps || to_taps) *at = scale * power(point, n, k, r);
            else *at = power(point, n, k, m);
            if (n == 1) *at = 1;
        }
    }
}

#define TURN_CHECK(TYPE)                                                                                               \
    static int check_turn_##TYPE(const micro_kernel *row) {                                                            \
        static TYPE in[MEMORY], out[MEMORY], expected[MEMORY];                                                         \
        for (int may_overrun = 0; may_overrun < 2; may_overrun++) {                                                    \
            const turn_loop loop = {60, 20, WIDTH, may_overrun};                                                       \
            for (int i = 0; i < MEMORY; i++) in[i] = (TYPE)draw(), out[i] = expected[i] = (TYPE)draw();                \
            for (int r = 0; r < row->columns; r++) {                                                                   \
                for (int j = 0; j < WIDTH; j++) expected[j * 20 + r] = in[r * 60 + j];                                 \
            }                                                                                                          \
            ((turn_function *)row->function)(&loop, in, out);                                                          \
            if (memcmp(out, expected, sizeof out)) return 0;                                                           \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

#define TRANSFORM_CHECK(TYPE)                                                                                          \
    static int check_winograd_##TYPE(const micro_kernel *row) {                                                        \
        static TYPE in[2 * MEMORY], out[2 * MEMORY];                                                                   \
        _Alignas(64) TYPE seen[MAX_LANES] = {0};                                                                       \
        double matrix[36];                                                                                             \
        index_t in_offsets[36], out_offsets[36];                                                                       \
        int from, to;                                                                                                  \
        matrix_of(row, matrix, &from, &to);                                                                            \
        const char *kind = row->algorithm + strlen("winograd_");                                                       \
        const int square = !strcmp(kind, "kernel") || !strcmp(kind, "grad") || !strcmp(kind, "taps");                  \
        const int pixels_in = !strncmp(kind, "pixels", 6), pixels_out = !strncmp(kind, "output", 6);                   \
        const int lanes = 2 * row->columns, m = row->rows, groups = square ? from : 2;                                 \
        const int count = pixels_in || pixels_out ? lanes * m - 3 : row->columns - 1;                                  \
        const transform_loop loop = {.in_offsets = in_offsets,                                                         \
                                     .out_offsets = out_offsets,                                                       \
                                     .vectors = 2,                                                                     \
                                     .seen = seen,                                                                     \
                                     .groups = 2,                                                                      \
                                     .in_group = pixels_out ? 170 : 40,                                                \
                                     .out_group = pixels_in ? 170 : 40,                                                \
                                     .lines = 2,                                                                       \
                                     .in_line = 1100,                                                                  \
                                     .out_line = 1200,                                                                 \
                                     .count = count};                                                                  \
        for (int i = 0; i < 2 * MEMORY; i++) in[i] = (TYPE)draw(), out[i] = -99;                                       \
        for (int i = 0; i < 36; i++) in_offsets[i] = 3 + i * 110, out_offsets[i] = 5 + i * 120;                        \
        ((transform_function *)row->function)(&loop, in, out);                                                         \
        for (int i = 0; i < to; i++) {                                                                                 \
            for (int j = 0; j < (square ? to : groups); j++) {                                                         \
                for (int lane = 0; lane < lanes; lane++) {                                                             \
                    double sum = 0;                                                                                    \
                    for (int a = 0; a < from; a++) {                                                                   \
                        const double by = matrix[i * from + a];                                                        \
                        if (square) {                                                                                  \
                            for (int b = 0; b < from; b++)                                                             \
                                sum += by * matrix[j * from + b] * (double)in[in_offsets[a * from + b] + lane];        \
                        } else {                                                                                       \
                            sum += by * (double)in[pixels_in    ? j * 1100 + lane * m + a                              \
                                                   : pixels_out ? j * 1100 + a * 170 + lane                            \
                                                                : in_offsets[a] + j * 40 + lane];                      \
                        }                                                                                              \
                    }                                                                                                  \
                    const TYPE *at = out + (square       ? out_offsets[i * to + j] + lane                              \
                                            : pixels_in  ? j * 1200 + i * 170 + lane                                   \
                                            : pixels_out ? j * 1200 + lane * m + i                                     \
                                                         : out_offsets[i] + j * 40 + lane);                            \
                    if (pixels_out && lane * m + i >= count) sum = -99;                                                \
                    if (!square && !pixels_in && !pixels_out && lane % row->columns >= count) sum = -99;               \
                    if ((double)*at - sum > 1e-3 || (double)*at - sum < -1e-3) return 0;                               \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (int lane = 0; lane < MAX_LANES; lane++) {                                                                 \
            if (seen[lane] != 0) return 0;                                                                             \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

TRANSFORM_CHECK(f32)
TURN_CHECK(f32)
TURN_CHECK(f64)
TRANSFORM_CHECK(f64)
CHECKS(f32)
CHECKS(f64)
CHECKS(i64)
SLIDING_CHECK(f32)
SLIDING_CHECK(f64)
SLIDING_CHECK(i64)
STRIP_CHECK(f32)
STRIP_CHECK(f64)

static const struct {
    const char *dtype, *algorithm;
    int (*right)(const micro_kernel *row);
} checks[] = {
    {"f32", "outer", check_outer_f32},
    {"f64", "outer", check_outer_f64},
    {"i64", "outer", check_outer_i64},
    {"f32", "turn", check_turn_f32},
    {"f64", "turn", check_turn_f64},
    {"f32", "panel", check_panel_f32},
    {"f64", "panel", check_panel_f64},
    {"i64", "panel", check_panel_i64},
    {"f32", "collect", check_collect_f32},
    {"f64", "collect", check_collect_f64},
    {"f32", "inner", check_inner_f32},
    {"f64", "inner", check_inner_f64},
    {"i64", "inner", check_inner_i64},
    {"f32", "interleave", check_interleave_f32},
    {"f64", "interleave", check_interleave_f64},
    {"i64", "interleave", check_interleave_i64},
    {"i64", "collect", check_collect_i64},
    {"f32", "band", check_band_f32},
    {"f64", "band", check_band_f64},
    {"f32", "dot", check_dot_f32},
    {"f64", "dot", check_dot_f64},
    {"i64", "dot", check_dot_i64},
    {"f32", "sliding", check_sliding_f32},
    {"f64", "sliding", check_sliding_f64},
    {"i64", "sliding", check_sliding_i64},
    {"f32", "winograd", check_winograd_f32},
    {"f64", "winograd", check_winograd_f64},
    {"f32", "strip", check_strip_f32},
    {"f64", "strip", check_strip_f64},
    {"f32", "weigh", check_weigh_f32},
    {"f64", "weigh", check_weigh_f64},
};

static const char *verdict(const micro_kernel *row) {
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        const char *algorithm = checks[i].algorithm; /* or the first word of it */
        if (strcmp(row->dtype, checks[i].dtype) || strncmp(row->algorithm, algorithm, strlen(algorithm))) continue;
        return checks[i].right(row) ? "right" : "WRONG";
    }
    return "UNCHECKED";
}

int main(void) {
    int passed = 0, failed = 0;
    for (int isa = 0; isa < isa_count(); isa++) {
        const micro_kernel_table *table = isa_micro_kernels(isa);
        for (int i = 0; i < table->count; i++) {
            const micro_kernel *row = &table->rows[i];
            const char *found = isa_available(isa) ? verdict(row) : "skipped, this processor cannot run it";
            printf("%s: %s\n", row->name, found);
            if (!strcmp(found, "right")) passed++;
            else if (isa_available(isa)) failed++;
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed;
}
