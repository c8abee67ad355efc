/* See LICENSE file for copyright and license details. */
/*
 * Chance. What it decides is kept in a list, and a list can decide in its
 * place: 0 is always the simplest, and what a list does not say is 0. So a
 * schedule becomes a shorter one if decisions are left out, and a simpler one
 * if they are made 0, as property testing libraries do it.
 */
#include <sys/types.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../prhelper.h"
#include "sim.h"

enum {
	LIST_MAX = 1 << 20,
	STEPS_MAX = 64,
	SHRINK_TIME = 8, /* seconds of the processor */
};

static uint64_t state;
static uint32_t decided[LIST_MAX], list[LIST_MAX], trial[LIST_MAX];
static size_t n_decided, n_list;
static size_t steps[STEPS_MAX], n_steps; /* where in decided each begins */
static int replaying;

/* The shortest list so far that does what it shall. */
static struct {
	uint32_t list[LIST_MAX];
	size_t n, steps[STEPS_MAX], n_steps;
} best;

/* splitmix64: each seed is another sequence. */
static uint64_t
next(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void
chance_seed(uint64_t seed)
{
	state = seed;
	replaying = 0;
	n_decided = n_steps = 0;
}

void
chance_list(const uint32_t *p, size_t n)
{
	memmove(list, p, n * sizeof(*p));
	n_list = n;
	replaying = 1;
	n_decided = n_steps = 0;
}

const uint32_t *
chance_decided(size_t *n)
{
	*n = n_decided;
	return decided;
}

void
chance_step(void)
{
	if (n_steps < STEPS_MAX)
		steps[n_steps++] = n_decided;
}

static uint32_t
raw(uint32_t n)
{
	return n ? (uint32_t)((next() >> 32) * n >> 32) : 0;
}

static uint32_t
listed(uint32_t n)
{
	return n && n_decided < n_list ? list[n_decided] % n : 0;
}

static uint32_t
keep(uint32_t v)
{
	if (n_decided < LIST_MAX)
		decided[n_decided++] = v;
	return v;
}

uint32_t
decide(uint32_t v, uint32_t n)
{
	return keep(replaying ? listed(n) : v);
}

uint32_t
draw(uint32_t n)
{
	return keep(replaying ? listed(n) : raw(n));
}

uint32_t
draw_down(uint32_t n)
{
	return n - 1 - keep(replaying ? listed(n) : n - 1 - raw(n));
}

int
chance(int n)
{
	int yes = replaying ? listed(2) && n > 0 : raw(1000) < (uint32_t)n;

	return (int)keep(yes);
}

static void
keep_best(void)
{
	memcpy(best.list, decided, n_decided * sizeof(*decided));
	memcpy(best.steps, steps, n_steps * sizeof(*steps));
	best.n = n_decided;
	best.n_steps = n_steps;
}

/* Try with these decisions left out, or 0; what is not asked for is cut off. */
static int
attempt(int (*run)(const uint32_t *, size_t), size_t from, size_t to, int cut)
{
	size_t i, n = best.n;

	memcpy(trial, best.list, n * sizeof(*trial));
	if (cut) {
		memmove(trial + from, trial + to, (n - to) * sizeof(*trial));
		n -= to - from;
	} else {
		for (i = from; i < to && trial[i] == 0; i++)
			;
		if (i == to)
			return 0;
		memset(trial + from, 0, (to - from) * sizeof(*trial));
	}
	if (!run(trial, n) || (cut && n_decided >= best.n))
		return 0;
	keep_best();
	return 1;
}

/* Whole steps of the schedule, many at once or one. */
static void
cut_steps(int (*run)(const uint32_t *, size_t), clock_t end)
{
	size_t i, n;

	for (n = best.n_steps; n > 0; n /= 2)
		for (i = best.n_steps; i-- > 0 && clock() < end;)
			if (i + n < best.n_steps)
				attempt(run, best.steps[i], best.steps[i + n],
				    1);
}

/* Any chunk of that size, from the end on. */
static void
cut_chunks(int (*run)(const uint32_t *, size_t), size_t size, int cut,
    clock_t end)
{
	size_t at = best.n;

	while (at >= size && clock() < end) {
		at -= size;
		if (at + size <= best.n)
			attempt(run, at, at + size, cut);
	}
}

size_t
chance_shrink(int (*run)(const uint32_t *, size_t))
{
	clock_t end = clock() + SHRINK_TIME * CLOCKS_PER_SEC;
	size_t size, was;

	keep_best();
	do {
		was = best.n;
		cut_steps(run, end);
		for (size = best.n / 2; size > 0; size /= 2) {
			cut_chunks(run, size, 0, end);
			cut_chunks(run, size, 1, end);
		}
	} while (best.n < was && clock() < end);
	memcpy(decided, best.list, best.n * sizeof(*decided));
	n_decided = best.n;
	while (n_decided > 0 && decided[n_decided - 1] == 0)
		n_decided--;
	return n_decided;
}

int
chance_write(const char *name)
{
	FILE *f = fopen(name, "w");
	size_t i;

	if (!f)
		return -1;
	for (i = 0; i < n_decided; i++)
		fprintf(f, "%u%c", decided[i], i % 16 == 15 ? '\n' : ' ');
	fputc('\n', f);
	return fclose(f) ? -1 : 0;
}

int
chance_read(const char *name)
{
	FILE *f = fopen(name, "r");
	size_t n = 0;

	if (!f)
		return -1;
	while (n < LIST_MAX && fscanf(f, "%u", &trial[n]) == 1)
		n++;
	fclose(f);
	chance_list(trial, n);
	return 0;
}
