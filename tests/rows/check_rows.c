/* Hold every row of the table of micro-kernels against its formula, written as loops.
 *
 * For machines that are only emulated, where the Python tests of the rows cannot run: `make test-neon` compiles this
 * with the kernels for aarch64.  The numbers are small integers, so every sum is exact and must be equal.
 *
 * Prints a line for each row and exits with the number of rows that are wrong, or that nothing here checks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "element.h"
#include "isa.h"
#include "micro.h"

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
        return 1;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static int check_dot_##TYPE(const micro_kernel *row) {                                                             \
        static TYPE a[MEMORY], b[MEMORY];                                                                              \
        TYPE out[MAX_TILE_ROWS];                                                                                       \
        index_t a_offset[MAX_TILE_ROWS];                                                                               \
        for (int i = 0; i < MEMORY; i++) a[i] = (TYPE)draw(), b[i] = (TYPE)draw();                                     \
        for (int m = 0; m < row->rows; m++) a_offset[m] = rand() % 200;                                                \
        for (index_t width = 1; width <= WIDTH; width++) {                                                             \
            const dot_loop loop = {LINES, width, 40, 30, a_offset};                                                    \
            ((dot_function *)row->function)(&loop, a, b, out);                                                         \
            for (int m = 0; m < row->rows; m++) {                                                                      \
                TYPE sum = 0;                                                                                          \
                for (int p = 0; p < LINES; p++) {                                                                      \
                    for (int q = 0; q < width; q++) sum += a[a_offset[m] + p * 40 + q] * b[p * 30 + q];                \
                }                                                                                                      \
                if (out[m] != sum) return 0;                                                                           \
            }                                                                                                          \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

CHECKS(f32)
CHECKS(f64)
CHECKS(i64)

static const struct {
    const char *dtype, *algorithm;
    int (*right)(const micro_kernel *row);
} checks[] = {
    {"f32", "outer", check_outer_f32}, {"f64", "outer", check_outer_f64}, {"i64", "outer", check_outer_i64},
    {"f32", "dot", check_dot_f32},     {"f64", "dot", check_dot_f64},     {"i64", "dot", check_dot_i64},
};

static const char *verdict(const micro_kernel *row) {
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (strcmp(row->dtype, checks[i].dtype) || strcmp(row->algorithm, checks[i].algorithm)) continue;
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
