#define _GNU_SOURCE
#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "subnormals.h"

/* How long a thread looks for work before it goes to sleep (nanoseconds): longer than it takes to be woken, and than a
 * caller's Python takes from one call to the next. */
enum { PATIENCE = 200000, LOOKS_PER_YIELD = 64 };
/* A thread takes this part of what is left of a share at a time. */
enum { RANGES = 4 };
/* A ticket counts no further. */
static const ptrdiff_t MOST_TASKS = UINT32_MAX;

/* The tasks of a stage that a thread takes before it helps others: the same ones in every call, so that it finds in its
 * core's caches what it left there.
 * Source: Markatos and LeBlanc, "Using processor affinity in loop scheduling on shared-memory multiprocessors",
 * section 3. */
typedef struct {
    /* The number of the stage in the upper half, in the lower the tasks nobody has taken yet.  Whoever lowers it has
     * taken tasks of a stage that cannot end before they are done, so only then may the team's fields be read. */
    _Atomic uint64_t ticket;
    char room[64 - sizeof(uint64_t)]; /* no two in a line of the cache */
} share;

struct team {
    _Atomic uint32_t stage;
    _Atomic ptrdiff_t unfinished;
    share *shares;
    range_function function;
    void *context;
    ptrdiff_t tasks;
    int threads, workers;
    int home; /* the processor the workers stay away from, -1 if there is none */
    _Atomic int sleeping, caller_sleeps;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    team *next;
    struct worker {
        team *team;
        pthread_t thread;
        int member;
    } worker[];
};

int team_runs;
static team *spare; /* a list */

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Let a moment pass; return 0 when the patience of this wait, which began with look 0, is at an end. */
static int wait_on(int look, int64_t *since) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
    if (look == 0) *since = nanoseconds();
    if (look % LOOKS_PER_YIELD != LOOKS_PER_YIELD - 1) return 1;
    sched_yield();
    return nanoseconds() - *since < PATIENCE;
}

/* The first task of a thread's share, or the number of all tasks. */
static ptrdiff_t share_start(const team *t, int member) {
    return (ptrdiff_t)((uint64_t)t->tasks * (uint64_t)member / (uint64_t)t->threads);
}

/* Do tasks of a share until none is left to take. */
static void do_share(team *t, int member, int owner) {
    _Atomic uint64_t *const shared = &t->shares[owner].ticket;
    uint64_t ticket = atomic_load(shared);
    while ((uint32_t)ticket) {
        const uint32_t left = (uint32_t)ticket, count = left < RANGES ? 1 : left / RANGES;
        if (!atomic_compare_exchange_weak(shared, &ticket, ticket - count)) continue;
        const ptrdiff_t first = share_start(t, owner + 1) - left;
        t->function(t->context, member, first, first + count);
        if (atomic_fetch_sub(&t->unfinished, count) == count && atomic_load(&t->caller_sleeps)) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->done);
            pthread_mutex_unlock(&t->lock);
        }
        ticket = atomic_load(shared);
    }
}

/* Do tasks of the stage until none is left to take: one's own, then those of others. */
static void help(team *t, int member) {
    for (int i = 0; i < t->threads; i++) do_share(t, member, (member + i) % t->threads);
}

static void *work(void *argument) {
    const struct worker *self = argument;
    team *t = self->team;
    int64_t since = 0;
    uint32_t seen = 0;
    flush_subnormals();
    for (int look = 0;; look++) {
        const uint32_t stage = atomic_load(&t->stage);
        if (stage != seen) {
            seen = stage;
            help(t, self->member);
            look = 0;
        }
        if (wait_on(look, &since)) continue;
        look = -1;
        pthread_mutex_lock(&t->lock);
        atomic_fetch_add(&t->sleeping, 1);
        while (atomic_load(&t->stage) == seen) pthread_cond_wait(&t->work, &t->lock);
        atomic_fetch_sub(&t->sleeping, 1);
        pthread_mutex_unlock(&t->lock);
    }
    return NULL;
}

static void forget_teams(void) {
    spare = NULL; /* a forked child has the teams but not their workers */
    team_runs = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_teams); }

static team *new_team(int threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    team *t = calloc(1, sizeof *t + (size_t)threads * sizeof t->worker[0]);
    if (!t) return NULL;
    t->shares = calloc((size_t)threads, sizeof *t->shares);
    if (!t->shares) {
        free(t);
        return NULL;
    }
    t->threads = threads;
    t->home = -1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->done, NULL);
    sigset_t all, before; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads; i++) {
        struct worker *w = &t->worker[t->workers];
        *w = (struct worker){.team = t, .member = i};
        if (pthread_create(&w->thread, NULL, work, w)) break; /* a team of fewer does the same work */
        pthread_detach(w->thread);
        t->workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return t;
}

team *team_borrow(int threads) {
    if (threads == 1) return NULL;
    for (team **at = &spare; *at; at = &(*at)->next) {
        if ((*at)->threads == threads) {
            team *found = *at;
            *at = found->next;
            return found;
        }
    }
    return new_team(threads);
}

void team_give_back(team *borrowed) {
    if (!borrowed) return;
    borrowed->next = spare;
    spare = borrowed;
}

/* A worker that is woken on its caller's processor waits there until the caller is preempted, for milliseconds: let
 * workers run wherever the caller may, but not where it is. */
static void leave_home(team *t) {
#if defined(__linux__)
    cpu_set_t allowed;
    const int home = sched_getcpu();
    if (home < 0 || home == t->home || sched_getaffinity(0, sizeof allowed, &allowed)) return;
    t->home = home;
    if (CPU_COUNT(&allowed) > 1) CPU_CLR(home, &allowed);
    for (int i = 0; i < t->workers; i++) pthread_setaffinity_np(t->worker[i].thread, sizeof allowed, &allowed);
#endif
}

static void run_stage(team *t, ptrdiff_t tasks) {
    t->tasks = tasks;
    atomic_store(&t->unfinished, tasks);
    const uint32_t stage = atomic_load(&t->stage) + 1;
    for (int i = 0; i < t->threads; i++) {
        const uint32_t size = (uint32_t)(share_start(t, i + 1) - share_start(t, i));
        atomic_store(&t->shares[i].ticket, (uint64_t)stage << 32 | size);
    }
    atomic_store(&t->stage, stage);
    if (atomic_load(&t->sleeping)) {
        leave_home(t);
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->work);
        pthread_mutex_unlock(&t->lock);
    }
    help(t, 0);
    int64_t since = 0;
    for (int look = 0; atomic_load(&t->unfinished) && wait_on(look, &since); look++) continue;
    if (!atomic_load(&t->unfinished)) return;
    /* A worker was put to sleep in the middle of a task: it may have this core. */
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->caller_sleeps, 1);
    while (atomic_load(&t->unfinished)) pthread_cond_wait(&t->done, &t->lock);
    atomic_store(&t->caller_sleeps, 0);
    pthread_mutex_unlock(&t->lock);
}

void team_run(team *borrowed, range_function function, void *context, ptrdiff_t tasks) {
    if (!borrowed || tasks <= 1 || tasks > MOST_TASKS) {
        function(context, 0, 0, tasks);
        return;
    }
    borrowed->function = function;
    borrowed->context = context;
    run_stage(borrowed, tasks);
}
