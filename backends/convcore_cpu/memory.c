#define _GNU_SOURCE
#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { MOST_BLOCKS = 16, CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };

static block kept[MOST_BLOCKS]; /* oldest first */
static int count;
static size_t bytes_kept;

static block remove_kept(int i) {
    const block found = kept[i];
    bytes_kept -= found.size;
    for (count--; i < count; i++) kept[i] = kept[i + 1];
    return found;
}

/* Free the oldest blocks until so many bytes at most are kept. */
static void trim(size_t most) {
    while (bytes_kept > most) free(remove_kept(0).start);
}

static block fresh(size_t size) {
    block made = {NULL, size};
    const int large = size >= 2 * (size_t)HUGE_PAGE;
    if (posix_memalign(&made.start, large ? HUGE_PAGE : CACHE_LINE, size)) made.start = NULL;
#if defined(__linux__)
    if (large && made.start) madvise(made.start, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return made;
}

/* Return the smallest kept block of `least` to `most` bytes; one that starts nowhere if there is none. */
static block find(size_t least, size_t most) {
    int best = -1;
    for (int i = 0; i < count; i++) {
        const int fits = kept[i].size >= least && kept[i].size <= most;
        if (fits && (best < 0 || kept[i].size <= kept[best].size)) best = i;
    }
    return best < 0 ? (block){NULL, 0} : remove_kept(best);
}

block take_workspace(size_t size) {
    const block found = find(size, SIZE_MAX);
    if (found.start) return found;
    trim(size < MOST_KEPT ? MOST_KEPT - size : 0);
    return fresh(size);
}

block take_result(size_t size) {
    const block found = find(size, size + size / 4);
    return found.start ? found : fresh(size);
}

void give_back(block taken) {
    if (taken.size > MOST_KEPT) {
        free(taken.start);
        return;
    }
    if (count == MOST_BLOCKS) free(remove_kept(0).start);
    kept[count++] = taken;
    bytes_kept += taken.size;
    trim(MOST_KEPT);
}
