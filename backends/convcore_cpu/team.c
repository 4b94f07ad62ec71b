#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "subnormals.h"

/* Looks for work before a thread goes to sleep: some 50 us, about ten times what it costs to be woken. */
enum { LOOKS = 2000, LOOKS_PER_YIELD = 64 };
/* Ranges each thread would take if all took equal ones; they get smaller towards the end of a stage. */
enum { RANGES = 4 };
/* A ticket counts no further. */
static const ptrdiff_t MOST_TASKS = UINT32_MAX;

struct team {
    /* The number of the stage in the upper half, in the lower the tasks nobody has taken yet.  Whoever lowers it has
     * taken tasks of a stage that cannot end before they are done, so only then may the rest be read. */
    _Atomic uint64_t ticket;
    _Atomic ptrdiff_t unfinished;
    range_function function;
    void *context;
    ptrdiff_t tasks;
    int threads;
    _Atomic int sleeping, caller_sleeps;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    team *next;
};

int team_runs;
static team *spare; /* a list */

static void look_away(int looks) {
    if (looks % LOOKS_PER_YIELD == LOOKS_PER_YIELD - 1) sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint32_t untaken(team *t) { return (uint32_t)atomic_load(&t->ticket); }

/* Do tasks of the stage until none is left to take. */
static void help(team *t) {
    uint64_t ticket = atomic_load(&t->ticket);
    while ((uint32_t)ticket) {
        const uint32_t left = (uint32_t)ticket;
        uint32_t count = left / (uint32_t)(RANGES * t->threads);
        if (!count) count = 1;
        if (!atomic_compare_exchange_weak(&t->ticket, &ticket, ticket - count)) continue;
        const ptrdiff_t first = t->tasks - left;
        t->function(t->context, first, first + count);
        if (atomic_fetch_sub(&t->unfinished, count) == count && atomic_load(&t->caller_sleeps)) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->done);
            pthread_mutex_unlock(&t->lock);
        }
        ticket = atomic_load(&t->ticket);
    }
}

static void *worker(void *argument) {
    team *t = argument;
    flush_subnormals();
    for (int looks = 0;; looks++) {
        if (untaken(t)) {
            help(t);
            looks = 0;
        }
        if (looks < LOOKS) {
            look_away(looks);
            continue;
        }
        looks = 0;
        pthread_mutex_lock(&t->lock);
        atomic_fetch_add(&t->sleeping, 1);
        while (!untaken(t)) pthread_cond_wait(&t->work, &t->lock);
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
    team *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->threads = threads;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->done, NULL);
    sigset_t all, before; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, t)) break; /* a team of fewer does the same work */
        pthread_detach(thread);
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

static void run_stage(team *t, ptrdiff_t tasks) {
    t->tasks = tasks;
    atomic_store(&t->unfinished, tasks);
    atomic_store(&t->ticket, ((atomic_load(&t->ticket) >> 32) + 1) << 32 | (uint64_t)tasks);
    if (atomic_load(&t->sleeping)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->work);
        pthread_mutex_unlock(&t->lock);
    }
    help(t);
    for (int looks = 0; looks < LOOKS && atomic_load(&t->unfinished); looks++) look_away(looks);
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
        function(context, 0, tasks);
        return;
    }
    borrowed->function = function;
    borrowed->context = context;
    run_stage(borrowed, tasks);
}
