/* See LICENSE file for copyright and license details. */
/*
 * The clock, in a room of its own so that a simulator can have another one.
 */
#include <sys/types.h>

#include <stdint.h>
#include <time.h>

#include "prhelper.h"

int64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void
wait_until(int64_t t)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(t / 1000),
		.tv_nsec = (long)(t % 1000) * 1000000,
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL))
		;
}
