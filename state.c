/* See LICENSE file for copyright and license details. */
/*
 * What is remembered of each logical unit, in memory only, and whose turn it
 * is: a unit is lent to one command at a time. Neither SCSI nor device-mapper.
 */
#include <sys/types.h>

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "prhelper.h"

/*
 * Filled from the front, each on the heap: a table of them would be large
 * enough for a huge page, which the first one would make resident.
 */
static struct lun *luns[LUNS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t returned;

static void
init(void)
{
	static int done;
	pthread_condattr_t attr;

	if (done)
		return;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&returned, &attr);
	pthread_condattr_destroy(&attr);
	done = 1;
}

/* Its entry, or one that can be made its own; NULL if there is none. */
static struct lun *
find(const char *wwid)
{
	struct lun *l, *spare = NULL;
	int i;

	for (i = 0; i < LUNS_MAX && (l = luns[i]); i++) {
		if (strcmp(l->wwid, wwid) == 0)
			return l;
		if (!l->busy && !l->key && !spare)
			spare = l;
	}
	if (i < LUNS_MAX)
		l = luns[i] = malloc(sizeof(*l));
	else
		l = spare;
	if (l) {
		memset(l, 0, sizeof(*l));
		snprintf(l->wwid, sizeof(l->wwid), "%s", wwid);
	}
	return l;
}

static void
warn_full(const char *wwid)
{
	static int64_t quiet_until;

	if (now() < quiet_until)
		return;
	quiet_until = now() + WARN_TIME;
	warn("%s: no room to remember it beside other logical units", wwid);
}

struct lun *
state_get(const char *wwid)
{
	int64_t end = now() + TURN_TIME;
	const struct timespec ts = {
		.tv_sec = (time_t)(end / 1000),
		.tv_nsec = (long)(end % 1000) * 1000000,
	};
	struct lun *l;

	pthread_mutex_lock(&lock);
	init();
	/* Looked up anew each time: the entry may be another's by now. */
	while ((l = find(wwid)) && l->busy && now() < end)
		pthread_cond_timedwait(&returned, &lock, &ts);
	if (!l)
		warn_full(wwid);
	else if (l->busy)
		l = NULL;
	else
		l->busy = 1;
	pthread_mutex_unlock(&lock);
	return l;
}

void
state_put(struct lun *l)
{
	pthread_mutex_lock(&lock);
	l->busy = 0;
	pthread_cond_broadcast(&returned);
	pthread_mutex_unlock(&lock);
}
