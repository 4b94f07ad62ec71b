/* Threads that run the tasks of a stage together.
 *
 * A team is its caller and some workers.  The caller opens a stage; whoever is awake takes ranges of its tasks, the
 * caller too, those of its own share first, and the stage is over when every task is done.  Nobody waits for a worker
 * that has taken nothing: if the system lets a worker sleep while another program has its core, the caller does all the
 * work itself.
 *
 * OpenMP says how many threads there may be, and does not run them: its barriers wait for every thread, which on a
 * busy machine took 10 ms where the work took 1, and its pools do not survive fork().
 */
#ifndef CONVCORE_TEAM_H
#define CONVCORE_TEAM_H

#include <stddef.h>

typedef struct team team;
typedef void (*range_function)(void *context, int member, ptrdiff_t first, ptrdiff_t last);

/* Return a team that nobody else uses, NULL for one thread or where no memory is left.  A lock (the GIL) guards both.
 */
team *team_borrow(int threads);
void team_give_back(team *borrowed);

/* Call the function for ranges that together are 0 .. tasks-1, and return when all have returned.  A NULL team will do.
 */
void team_run(team *borrowed, range_function function, void *context, ptrdiff_t tasks);

/* Runs in progress on any thread, guarded by the caller's lock; none in a forked child. */
extern int team_runs;

#endif
