/* See LICENSE file for copyright and license details. */
/*
 * What lies between prhelper and the logical unit: paths that go and return,
 * commands and answers that are lost, late or refused, and time, which is
 * virtual: it passes only while somebody waits. This is the other side of
 * the seam under mpath.c, with the promises that prhelper.h makes for it.
 */
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../../prhelper.h"
#include "sim.h"

enum {
	PENDING = 0xff, /* how: no outcome yet */
	CALLS_MAX = 200000,
	SD_MAJOR = 8,
	DM_MAJOR = 253,
};

static const char unit[] = "naa.6001405simulated";

struct world w;
uint8_t tracing[TRACE_MAX];
unsigned long fault_counts[FAULTS];

const char *const fault_names[FAULTS] = {
	[F_SLOW] = "slow answer",
	[F_LATE] = "late answer",
	[F_NOT_SENT] = "lost, not executed",
	[F_NO_ANSWER] = "executed, answer lost",
	[F_SILENT] = "silent",
	[F_HELD] = "silent, executed later",
	[F_BUSY] = "busy",
	[F_FULL] = "task set full",
	[F_ALUA] = "in transition",
	[F_RESET] = "unit attention 29h",
	[F_ATTENTION] = "unit attention",
	[F_ABORTED] = "aborted command",
	[F_MEDIUM] = "medium error",
	[F_HARDWARE] = "hardware error",
	[F_REFUSED] = "no room for a registration",
	[F_DOWN] = "path goes",
	[F_UP] = "path returns",
	[F_HOST] = "another host acts",
	[F_MAP] = "device-mapper is busy",
	[F_STATE] = "no room to remember",
};

static dev_t
dev_of(int path)
{
	return makedev(SD_MAJOR, 16 * path);
}

static int
path_of(dev_t dev)
{
	int path = (int)minor(dev) / 16;

	if (path >= w.paths || dev_of(path) != dev)
		violated("a command goes to a path that the map never had");
	return path;
}

static int
happens(enum fault f)
{
	if (!w.rate[f] || !chance(w.rate[f]))
		return 0;
	fault_counts[f]++;
	note("%s", fault_names[f]);
	return 1;
}

int
fabric_usable(int path)
{
	const struct road *r = &w.road[path];

	return r->state == RUNNING && !r->unlisted && !r->flight.there;
}

void
fabric_reset(enum kind kind, int paths, int foreign)
{
	int i;

	/* The buffers of the flights need not be clean, and are large. */
	for (i = 0; i < PATHS_MAX; i++) {
		memset(&w.road[i], 0, offsetof(struct road, flight));
		w.road[i].flight.there = 0;
	}
	memset(&w, 0, offsetof(struct world, road));
	w.paths = paths;
	w.lun.kind = kind;
	w.lun.holder = NOBODY;
	w.lun.n = paths + foreign;
	w.lun.full_status = 1;
}

/* The one of the command's faults that the dice choose; FAULTS: none. */
static enum fault
choose(void)
{
	int i, n = (int)draw(1000);

	for (i = 0; i < F_COMMAND; i++)
		if ((n -= w.rate[i]) < 0)
			return (enum fault)i;
	return FAULTS;
}

/* Does it take room for one more registration? */
static int
needs_room(int path, const struct request *rq)
{
	int action = rq->cdb[1] & ACTION_MASK;

	return rq->cdb[0] == PR_OUT && rq->len >= PARAMS_LEN &&
	    (action == REGISTER || action == REGISTER_AND_IGNORE) &&
	    get64(rq->data + 8) && !w.lun.nexus[path].key;
}

/* How long something lasts that may be short or as long as a time-out. */
static int64_t
some_time(void)
{
	return w.clock + 1 + draw(chance(700) ? 100 : 10000);
}

static void
attention(int path, uint16_t code)
{
	target_attention(&w.lun, path, code);
}

/* What goes wrong with a command that was just sent. */
static void
go_wrong(int path, struct flight *f, enum fault fault)
{
	static const uint16_t resets[] = { 0x2900, 0x2901, 0x2903, 0x2907 };
	static const uint16_t others[] = { 0x2a01, 0x2a06, 0x2a09, 0x3f03,
		0x3f0e };
	struct road *r = &w.road[path];

	if (fault == FAULTS ||
	    (fault == F_REFUSED && !needs_room(path, &f->rq)))
		return;
	fault_counts[fault]++;
	note("p%d: %s", path + 1, fault_names[fault]);
	r->touched |= fault != F_SLOW && fault != F_RESET &&
	    fault != F_ATTENTION;
	switch (fault) {
	case F_SLOW: f->end_at += 10 + draw(390); break;
	case F_LATE: f->end_at += 600 + draw(2400); break;
	case F_NOT_SENT: f->run_at = NEVER; /* fall through */
	case F_NO_ANSWER:
		f->end_at = some_time();
		f->how = SG_LOST;
		break;
	case F_SILENT:
		f->run_at = NEVER;
		f->end_at = w.clock + 11000 + draw(100000);
		f->how = SG_LOST;
		break;
	case F_HELD:
		f->run_at = w.clock + 600 + draw(15000);
		f->end_at = f->run_at + draw(1000);
		break;
	case F_BUSY: r->busy_until = some_time(); break;
	case F_FULL: r->full_until = some_time(); break;
	case F_ALUA: r->alua_until = some_time(); break;
	case F_RESET: attention(path, resets[draw(4)]); break;
	case F_ATTENTION: attention(path, others[draw(5)]); break;
	case F_ABORTED: f->sense = TRANSPORT_ERROR; break;
	case F_MEDIUM: f->sense = MEDIUM_ERROR; break;
	case F_HARDWARE: f->sense = TARGET_FAILURE; break;
	default: f->sense = TARGET_FULL; break;
	}
}

/* What the path says in the target's place. */
static void
obstacles(int path, struct flight *f)
{
	struct road *r = &w.road[path];

	if (r->busy_until > w.clock || r->full_until > w.clock ||
	    r->alua_until > w.clock)
		r->touched = 1;
	if (r->busy_until > w.clock)
		f->busy = BUSY;
	else if (r->full_until > w.clock)
		f->busy = TASK_SET_FULL;
	else if (r->alua_until > w.clock)
		f->sense = 0x02040a;
	else if (r->standby && f->rq.cdb[0] == TEST_UNIT_READY &&
	    !w.lun.nexus[path].nua)
		f->sense = 0x02040b;
}

static void
settle(struct job *j, uint8_t how, uint32_t sense)
{
	j->how = how;
	if (how != SG_ANSWERED)
		proto_sense(&j->rp, sense);
}

static void
send_job(struct job *j)
{
	int path = path_of(j->dev);
	struct road *r = &w.road[path];
	struct flight *f = &r->flight;

	if (f->there || r->state != RUNNING) {
		r->touched |= f->there || r->state == BLOCKED;
		settle(j, r->state == OFFLINE && !f->there ? SG_DEAD :
							     SG_UNUSABLE,
		    LU_COMM_FAILURE);
		note("p%d: %s: %s", path + 1, words(&j->rq),
		    j->how == SG_DEAD ? "dead" : "unusable");
		return;
	}
	memset(f, 0, offsetof(struct flight, data));
	f->there = 1;
	f->job = j;
	f->rq = j->rq;
	f->rq.data = f->data;
	if (j->rq.cdb[0] == PR_OUT)
		memcpy(f->data, j->rq.data, j->rq.len);
	else
		memset(f->data, 0, j->rq.len);
	f->action = guest_action();
	f->victim = guest_victim();
	f->serial = w.serial;
	f->run_at = w.clock;
	f->end_at = w.clock + draw(2);
	go_wrong(path, f, choose());
	obstacles(path, f);
	if (f->run_at == w.clock && happens(F_DOWN)) {
		f->run_at = chance(500) ? w.clock : NEVER;
		f->how = SG_LOST;
		r->state = OFFLINE;
		r->touched = 1;
	}
}

/* It reaches the target. */
static void
execute(int path)
{
	struct flight *f = &w.road[path].flight;
	int up = (int)draw((uint32_t)w.paths);

	f->executed = 1;
	if (f->busy) {
		proto_status(&f->rp, f->busy);
	} else if (f->sense) {
		proto_sense(&f->rp, f->sense);
	} else {
		before();
		w.lun.own = (uint8_t)(1 + f->serial % 255);
		target_run(&w.lun, path, &f->rq, &f->rp);
		w.lun.own = 0;
		after(path, f);
	}
	note("p%d: %s: %s%s", path + 1, words(&f->rq), answer(&f->rp),
	    f->how == SG_LOST ? ", the answer lost" :
	    !f->job	      ? ", long after" :
				"");
	if (w.road[up].state == OFFLINE && happens(F_UP)) {
		w.road[up].state = RUNNING;
		w.road[up].touched = 1;
	}
	if (happens(F_HOST))
		other_host();
}

/* It comes back. */
static void
land(int path)
{
	struct flight *f = &w.road[path].flight;
	struct job *j = f->job;

	f->there = 0;
	if (f->how == SG_LOST)
		note("p%d: %s: lost", path + 1, words(&f->rq));
	if (!j)
		return;
	settle(j, f->how, COMMAND_TIMEOUT);
	if (f->how == SG_LOST)
		guest_hindered();
	if (f->how != SG_ANSWERED)
		return;
	j->rp = f->rp;
	if (f->rp.len > 0)
		memcpy(j->rq.data, f->data, f->rp.len);
}

/* When the next thing happens, and on which path. */
static int64_t
next(int *path)
{
	const struct flight *f;
	int64_t at, first = NEVER;
	int i;

	*path = 0;
	for (i = 0; i < w.paths; i++) {
		f = &w.road[i].flight;
		if (!f->there)
			continue;
		at = f->executed || f->end_at < f->run_at ? f->end_at :
							    f->run_at;
		if (at >= first)
			continue;
		first = at;
		*path = i;
	}
	return first;
}

/* Up to then the next thing happens: 1, or nothing does: 0. */
static int
happen(int64_t until)
{
	int path;
	int64_t at = next(&path);
	struct flight *f;

	if (at > until) {
		w.clock = until;
		return 0;
	}
	f = &w.road[path].flight;
	w.clock = at;
	if (!f->executed && at == f->run_at)
		execute(path);
	else
		land(path);
	return 1;
}

void
fabric_pass(int64_t until)
{
	while (happen(until))
		;
}

/* No loop may run without end. */
static void
count_call(void)
{
	if (++w.calls > CALLS_MAX)
		violated("a command comes to an end");
}

static int
pending(const struct job *jobs, int n)
{
	int i, left = 0;

	for (i = 0; i < n; i++)
		left += jobs[i].how == PENDING;
	return left;
}

static void
abandon(struct job *jobs, int n)
{
	struct flight *f;
	int i, path;

	for (i = 0; i < n; i++) {
		if (jobs[i].how != PENDING)
			continue;
		path = path_of(jobs[i].dev);
		f = &w.road[path].flight;
		note("p%d: %s: abandoned", path + 1, words(&f->rq));
		f->job = NULL;
		w.road[path].touched = 1;
		settle(&jobs[i], SG_SILENT, COMMAND_TIMEOUT);
		guest_hindered();
	}
}

void
sg_batch(struct job *jobs, int n, const char *wwid, int patience)
{
	int64_t event = w.clock, end;
	int i, was, started = 0;

	count_call();
	if (strcmp(wwid, unit))
		violated("a command is for the logical unit of the map");
	for (i = 0; i < n; i++)
		jobs[i].how = PENDING;
	while ((was = pending(jobs, n)) > 0) {
		end = event + (started < n ? PATIENCE : patience);
		if (started < n &&
		    (!started || jobs[started - 1].how != PENDING)) {
			send_job(&jobs[started++]);
			event = w.clock;
		} else if (happen(end)) {
			if (pending(jobs, n) < was)
				event = w.clock;
		} else if (started < n) {
			send_job(&jobs[started++]);
			event = w.clock;
		} else {
			abandon(jobs, n);
		}
	}
}

int64_t
now(void)
{
	return w.clock;
}

void
wait_until(int64_t until)
{
	count_call();
	if (until - w.clock > SG_ABORT_TIME)
		violated("nobody waits longer than for PREEMPT AND ABORT");
	if (until > w.clock)
		fabric_pass(until);
}

int
dm_read(int fd, struct map *map)
{
	const struct road *r;
	struct path *p;
	int i;

	(void)fd;
	count_call();
	if (happens(F_MAP)) {
		guest_hindered();
		return DM_BUSY;
	}
	memset(map, 0, sizeof(*map));
	map->dev = makedev(DM_MAJOR, 0);
	snprintf(map->wwid, sizeof(map->wwid), "%s", unit);
	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		if (r->unlisted)
			continue;
		p = &map->paths[map->n++];
		p->dev = dev_of(i);
		p->active = !r->failed;
		p->current = r->group == 0;
	}
	return DM_MAP;
}

int
dm_queues(const struct map *map)
{
	(void)map;
	return w.queues;
}

struct lun *
state_get(const char *wwid)
{
	count_call();
	if (w.lent)
		violated("what is remembered is asked for once a command");
	if (happens(F_STATE)) {
		guest_hindered();
		return NULL;
	}
	if (strcmp(w.state.wwid, wwid)) {
		memset(&w.state, 0, sizeof(w.state));
		snprintf(w.state.wwid, sizeof(w.state.wwid), "%s", wwid);
	}
	w.lent = 1;
	w.state.busy = 1;
	return &w.state;
}

void
state_put(struct lun *lun)
{
	if (lun != &w.state || !w.lent)
		violated("what was borrowed is given back, once");
	w.lent = 0;
	w.state.busy = 0;
}

void
trace_option(const char *arg)
{
	(void)arg;
}

void
trace_print(enum trace tp, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	(void)tp;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	note("    %s", line);
}
