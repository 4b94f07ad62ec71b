/* Blocks of memory that are kept for the next call, for workspaces and for large results.
 *
 * Fresh memory costs a page fault every 4 KiB, more than the arithmetic of many a layer, and the system's allocator
 * gives large blocks back at once.  Blocks that are given back are kept here, MOST_KEPT bytes of them at most; large
 * ones ask for huge pages.  A lock (the GIL) guards all of it.
 */
#ifndef CONVCORE_MEMORY_H
#define CONVCORE_MEMORY_H

#include <stddef.h>

typedef struct {
    void *start; /* NULL: there is no memory left */
    size_t size;
} block;

enum { MOST_KEPT = 64 << 20 };

/* Return a block of at least `size` bytes, aligned to a cache line.  Where a workspace must be fresh, blocks kept give
 * way to it: together they stay within MOST_KEPT, unless it is larger itself.  A kept block becomes a result only if
 * that wastes little of it. */
block take_workspace(size_t size);
block take_result(size_t size);
void give_back(block taken);

#endif
