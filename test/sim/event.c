/* See LICENSE file for copyright and license details. */
/*
 * What others do to the paths, the map and the target, between commands or
 * during one: cables, multipathd, the power. The other hosts are in sim.c.
 */
#include <sys/types.h>

#include <stdint.h>
#include <string.h>

#include "../../prhelper.h"
#include "sim.h"

/* A path goes, in n of 1,000 cases; dm may find out, and drop it. */
void
path_down(int n)
{
	int i = (int)draw((uint32_t)w.paths);
	struct road *r = &w.road[i];
	int was;

	if (!chance(n))
		return;
	r->state = chance(700) ? OFFLINE : BLOCKED;
	if (!w.looks)
		r->failed = 0;
	r->failed |= (uint8_t)chance(500);
	was = w.looks && r->unlisted;
	r->unlisted = (r->state == OFFLINE && chance(200)) || was;
	if (!was)
		r->seen_away = 0;
	note("p%d is %s%s%s", i + 1, r->state == OFFLINE ? "offline" :
							    "blocked",
	    r->failed ? ", failed" : "", r->unlisted ? ", not listed" : "");
	if (r->failed || r->unlisted)
		fabric_map_event();
	history_watch();
}

/* Each path that is gone returns in n of 1,000 cases, failed or not. */
void
path_up(int n)
{
	struct road *r;
	int i;

	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		if (r->state == RUNNING || !chance(n))
			continue;
		r->state = RUNNING;
		if (r->unlisted)
			fabric_map_event();
		r->unlisted = 0;
		if (!w.looks) {
			r->failed = (uint8_t)chance(200);
		} else if (r->failed && chance(300)) {
			r->failed = r->gated = 0;
			fabric_map_event();
		}
		note("p%d is running%s", i + 1, r->failed ? ", failed" : "");
		history_watch();
	}
}

static void
replace(int i)
{
	before();
	target_replace(&w.lun, i);
	w.road[i].disturbed = 1;
	after_other();
	note("p%d is another nexus now", i + 1);
}

/* A path that the map lists is another nexus; only while nobody can see it. */
void
path_replaced(void)
{
	int i = (int)draw((uint32_t)w.paths);

	if (!w.road[i].queued && w.road[i].state == RUNNING)
		replace(i);
}

/* It reinstates what works, whoever failed it, and may err. */
void
multipathd_acts(void)
{
	int i = (int)draw((uint32_t)w.paths);
	struct road *r = &w.road[i];

	if (r->unlisted || (r->failed && r->state != RUNNING))
		return;
	if (!r->failed && !chance(200))
		return;
	r->failed = !r->failed;
	r->gated = 0;
	note("multipathd %s p%d", r->failed ? "fails" : "reinstates", i + 1);
	fabric_map_event();
	history_watch();
}

/* After a reload every path starts as active. */
static void
reload(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		w.road[i].failed = w.road[i].gated = 0;
	fabric_map_event();
	history_watch();
}

/* A path leaves the map, or one is added: with another nexus, or its own. */
void
table_changes(void)
{
	int i = (int)draw((uint32_t)w.paths);
	struct road *r = &w.road[i];

	if (!r->unlisted) {
		r->unlisted = (uint8_t)chance(700);
		r->seen_away = 0;
		note(r->unlisted ? "p%d leaves the map" : "the map is reloaded",
		    i + 1);
	} else {
		r->unlisted = 0;
		r->state = RUNNING;
		/* What goes and is another one at once nobody could see. */
		if (!r->queued && r->seen_away && chance(500))
			replace(i);
		r->joined = w.serial;
		r->joined_at = w.sent;
		note("p%d is in the map", i + 1);
	}
	reload();
}

/* Power loss, or a reset of the logical unit. */
void
target_fails(void)
{
	int i;

	/* Each path is asked again after a rest. */
	fabric_trouble(w.clock + 1000);
	before();
	if (chance(500)) {
		target_power_loss(&w.lun);
		note("the target loses power");
	} else {
		for (i = 0; i < w.lun.n; i++)
			target_attention(&w.lun, i, 0x2903);
		note("the logical unit is reset");
	}
	after_other();
}
