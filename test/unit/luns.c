/* See LICENSE file for copyright and license details. */
/*
 * state_get() and state_put(): whose turn it is, and what is forgotten when
 * there is no room.
 */
#include <sys/types.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../../prhelper.h"
#include "check.h"

enum { THREADS = 8, TURNS = 200, SHORT = 300 };

static struct lun *
get(const char *wwid)
{
	return state_get(wwid, TURN_TIME);
}

static void
nap(long ms)
{
	const struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static void
memory(void)
{
	struct lun *a = get("naa.1"), *b = get("naa.2");

	check(a && b && a != b, "two units at a time");
	check(a->key == 0 && a->n == 0 && a->holder == 0 &&
		strcmp(a->wwid, "naa.1") == 0, "what is new is empty");
	a->key = 0x1234;
	a->n = 1;
	a->marks[0].mark = MARK_CLEAN;
	state_put(a);
	state_put(b);
	a = get("naa.1");
	check(a && a->key == 0x1234 && a->n == 1 &&
		a->marks[0].mark == MARK_CLEAN, "what was kept is there");
	state_put(a);
}

static atomic_int inside, collisions;
static int64_t counter; /* only touched by who has the turn */

static void *
contender(void *arg)
{
	struct lun *l;
	int i;

	for (i = 0; i < TURNS; i++) {
		if (!(l = get("naa.1")))
			break;
		if (atomic_fetch_add(&inside, 1))
			atomic_fetch_add(&collisions, 1);
		counter++;
		atomic_fetch_sub(&inside, 1);
		state_put(l);
		/* One of his own is never waited for. */
		if (!(l = get(arg)))
			break;
		l->key++;
		state_put(l);
	}
	return NULL;
}

static void
turns(void)
{
	char names[THREADS][16];
	pthread_t t[THREADS];
	struct lun *l;
	uint64_t sum = 0;
	int i;

	for (i = 0; i < THREADS; i++) {
		snprintf(names[i], sizeof(names[i]), "naa.5%d", i);
		pthread_create(&t[i], NULL, contender, names[i]);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		if ((l = get(names[i]))) {
			sum += l->key;
			l->key = 0;
			state_put(l);
		}
	}
	check(counter == THREADS * TURNS && !atomic_load(&collisions),
		"one command at a time for a unit");
	check(sum == THREADS * TURNS, "and each has its turn");
}

static void *
waiter(void *arg)
{
	struct lun *l = get("naa.1");

	atomic_store((atomic_int *)arg, l ? 1 : -1);
	if (l)
		state_put(l);
	return NULL;
}

static void
waiting(void)
{
	struct lun *l = get("naa.1"), *other;
	atomic_int got = 0;
	pthread_t t;
	int64_t began;

	pthread_create(&t, NULL, waiter, &got);
	nap(100);
	check(!atomic_load(&got), "the second command of a unit waits");
	other = get("naa.2");
	check(other != NULL, "that of another unit does not");
	state_put(other);
	began = now();
	check(state_get("naa.1", SHORT) == NULL, "a turn that does not come");
	check(now() - began >= SHORT - 20, "is waited for");
	state_put(l);
	pthread_join(t, NULL);
	check(atomic_load(&got) == 1, "the second has it after the first");
}

/* The units that have to be looked after, in one word. */
static const char *
listed(void)
{
	static char list[256];
	char wwid[WWID_LEN];
	int i = 0;

	list[0] = '\0';
	while (state_next(&i, wwid) == 0 && strlen(list) < 200)
		strcat(strcat(list, wwid), " ");
	return list;
}

static void
next(void)
{
	struct lun *l;

	check(strcmp(listed(), "naa.1 ") == 0, "only one has a key");
	l = get("naa.2");
	check(strcmp(listed(), "naa.1 ") == 0,
		"one in use is left to who has it");
	l->n = 1;
	l->marks[0].mark = MARK_CLEAN;
	state_put(l);
	check(strcmp(listed(), "naa.1 ") == 0, "a clean path needs no care");
	l = get("naa.2");
	l->marks[0].mark = MARK_CLEAR;
	state_put(l);
	check(strcmp(listed(), "naa.1 naa.2 ") == 0, "another does");
	l = get("naa.2");
	l->n = 0;
	state_put(l);
}

static struct lun *
fill(int i)
{
	char name[32];

	snprintf(name, sizeof(name), "t10.%d", i);
	return get(name);
}

static void
full(void)
{
	struct lun *l, *held;
	int i;

	/* Each with a key, until there is no room. */
	for (i = 0; (l = fill(i)) && i < 2 * LUNS_MAX; i++) {
		l->key = 1;
		state_put(l);
	}
	check(i > LUNS_MAX / 2 && i <= LUNS_MAX, "the table is full");
	check(fill(LUNS_MAX * 2) == NULL, "and stays so");
	l = fill(3);
	check(l && l->key == 1, "what is in it is found");
	l->key = 0;
	l->n = 2;
	l->marks[1].failed = 1;
	state_put(l);
	check(fill(LUNS_MAX * 2) == NULL,
		"a path that we failed is not forgotten");
	l = fill(3);
	l->marks[1].failed = 0;
	l->marks[0].mark = MARK_SET;
	state_put(l);
	check(fill(LUNS_MAX * 2) == NULL, "nor one that missed something");
	l = fill(3);
	l->marks[0].mark = MARK_CLEAN;
	held = l;
	check(fill(LUNS_MAX * 2) == NULL, "what is in use is not forgotten");
	state_put(l);
	l = fill(LUNS_MAX * 2);
	check(l == held && l->key == 0 && l->n == 0,
		"what has no key makes room, and is empty then");
	state_put(l);
	l = fill(3);
	check(l == held && l->n == 0, "and the old one comes back as new");
	state_put(l);
}

int
main(void)
{
	verbosity = LOG_ERRORS;
	memory();
	next();
	turns();
	waiting();
	full();
	printf("1..%d\n", tests);
	return failed != 0;
}
