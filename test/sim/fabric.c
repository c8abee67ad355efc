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
	SOON = 200, /* until a command comes back, when all works */
	SD_MAJOR = 8,
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
	[F_SHORT] = "payload cut off",
	[F_ATTENTIONS] = "unit attentions without end",
	[F_DOWN] = "path goes",
	[F_UP] = "path returns",
	[F_HOST] = "another host acts",
	[F_MAP] = "device-mapper is busy",
	[F_STATE] = "no room to remember",
	[F_SUSPENDED] = "the map is suspended",
	[F_WRITES] = "writes under way",
	[F_DAEMON] = "multipathd acts",
	[F_TABLE] = "table changes",
	[F_POWER] = "power loss, reset",
	[F_KILL] = "prhelper is killed",
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

void
fabric_trouble(int64_t until)
{
	if (until > w.calm_at)
		w.calm_at = until;
}

static struct flight *
flight_at(struct road *r, int i)
{
	return &r->flight[(r->first + i) % QUEUE_MAX];
}

/* Has this helper, not one that was killed, a command on the path? */
static int
waits(struct road *r)
{
	return r->queued && !flight_at(r, r->queued - 1)->orphan;
}

int
fabric_usable(int path)
{
	const struct road *r = &w.road[path];

	return r->state == RUNNING && !r->unlisted && !r->queued;
}

void
fabric_reset(enum kind kind, int paths, int foreign)
{
	int i;

	/* The buffers of the flights need not be clean, and are large. */
	for (i = 0; i < PATHS_MAX; i++) {
		memset(&w.road[i], 0, offsetof(struct road, flight));
		w.road[i].refused_since = NEVER;
	}
	memset(&w, 0, offsetof(struct world, road));
	w.paths = paths;
	w.lun.kind = kind;
	w.lun.holder = NOBODY;
	w.lun.n = paths + foreign;
	w.others = foreign;
	w.look_at = NEVER;
	w.lun.full_status = 1;
}

/* The one of the command's faults that the dice choose; FAULTS: none. */
static enum fault
choose(void)
{
	int i, n = (int)draw_down(1000);

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
	    ((action == REGISTER && !get64(rq->data)) ||
		action == REGISTER_AND_IGNORE) &&
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

/* Does the target answer only when each task has been aborted? */
static int
aborts(const struct flight *f)
{
	return f->rq.cdb[0] == PR_OUT && f->rq.cdb[1] == PREEMPT_AND_ABORT;
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
	    fault != F_ATTENTION && fault != F_BUSY && fault != F_FULL &&
	    fault != F_ALUA; /* see obstacles() */
	fabric_trouble(w.clock);
	switch (fault) {
	case F_SLOW: f->end_at += 10 + draw(390); break;
	case F_LATE: f->end_at += 600 + draw(aborts(f) ? 50000 : 2400); break;
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
	case F_SHORT:
		f->most = 1 + draw(40);
		guest_cut();
		break;
	case F_ATTENTIONS: r->attention_until = some_time(); break;
	case F_ABORTED: f->sense = TRANSPORT_ERROR; break;
	case F_MEDIUM: f->sense = MEDIUM_ERROR; break;
	case F_HARDWARE: f->sense = TARGET_FAILURE; break;
	default: f->sense = TARGET_FULL; break;
	}
	fabric_trouble(f->end_at);
}

/* What the path says in the target's place. */
static void
obstacles(int path, struct flight *f)
{
	struct road *r = &w.road[path];

	if (r->attention_until > w.clock)
		r->touched |= TOUCHED;
	if (r->busy_until > w.clock || r->full_until > w.clock ||
	    r->alua_until > w.clock)
		r->touched |= HELD_UP;
	fabric_trouble(r->busy_until);
	fabric_trouble(r->full_until);
	fabric_trouble(r->alua_until);
	fabric_trouble(r->attention_until);
	if (r->busy_until > w.clock)
		f->busy = BUSY;
	else if (r->full_until > w.clock)
		f->busy = TASK_SET_FULL;
	else if (r->attention_until > w.clock)
		f->sense = 0x063f0e;
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
	w.road[path_of(j->dev)].mute = how != SG_ANSWERED;
	if (how != SG_ANSWERED)
		proto_sense(&j->rp, sense);
}

/* The path cannot be used: say why, and whether it is there at all. */
static int
refuse_job(int path, struct job *j)
{
	struct road *r = &w.road[path];
	int full = waits(r) || r->queued == QUEUE_MAX;

	if (!full && r->state == RUNNING)
		return 0;
	r->touched |= full || r->state == BLOCKED;
	settle(j, r->state == OFFLINE && !full ? SG_DEAD : SG_UNUSABLE,
	    LU_COMM_FAILURE);
	note("p%d: %s: %s", path + 1, words(&j->rq),
	    j->how == SG_DEAD ? "dead" : "unusable");
	return 1;
}

static void
send_job(struct job *j)
{
	int path = path_of(j->dev);
	struct road *r = &w.road[path];
	struct flight *f;

	if (refuse_job(path, j))
		return;
	w.sent++;
	f = flight_at(r, r->queued++);
	memset(f, 0, offsetof(struct flight, data));
	f->job = j;
	f->rq = j->rq;
	f->rq.data = f->data;
	if (j->rq.cdb[0] == PR_OUT)
		memcpy(f->data, j->rq.data, j->rq.len);
	else
		memset(f->data, 0, j->rq.len);
	f->action = guest_action();
	f->victim = guest_victim();
	f->key = history_key();
	f->serial = w.serial;
	f->sent_at = f->run_at = w.clock;
	f->end_at = w.clock + draw(2);
	guest_sends(path, f);
	go_wrong(path, f, choose());
	obstacles(path, f);
	if (f->run_at == w.clock && happens(F_DOWN)) {
		f->run_at = chance(500) ? w.clock : NEVER;
		f->how = f->run_at == NEVER && chance(300) ? SG_DEAD : SG_LOST;
		r->state = OFFLINE;
		r->touched = 1;
		fabric_trouble(w.clock);
	}
	if (r->queued > 1)
		r->touched = 1;
}

/* Something else, at the worst moment. */
static void
meanwhile(void)
{
	int up = (int)draw((uint32_t)w.paths);

	if (w.road[up].state == OFFLINE && happens(F_UP)) {
		w.road[up].state = RUNNING;
		w.road[up].touched = 1;
		history_watch();
	}
	if (happens(F_HOST))
		other_host();
	if (happens(F_DAEMON))
		multipathd_acts();
	if (happens(F_TABLE))
		table_changes();
	if (happens(F_POWER))
		target_fails();
}

/* It reaches the target. */
static void
execute(int path)
{
	struct flight *f = flight_at(&w.road[path], 0);

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
	meanwhile();
}

/* The next one in the queue gets its turn, as late as it was held up. */
static void
advance(struct road *r)
{
	struct flight *f;
	int64_t late;

	r->first = (r->first + 1) % QUEUE_MAX;
	if (--r->queued == 0)
		return;
	f = flight_at(r, 0);
	late = w.clock - f->sent_at;
	f->end_at += late;
	if (f->run_at != NEVER)
		f->run_at += late;
	fabric_trouble(f->end_at);
}

/* It comes back. */
static void
land(int path)
{
	struct flight *f = flight_at(&w.road[path], 0);
	struct job *j = f->job;

	advance(&w.road[path]);
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
	/* What is behind the payload is not to be relied upon. */
	if (f->most && f->rp.len > f->most)
		j->rp.len = f->rp.len = f->most;
	if (f->rq.cdb[0] == PR_IN)
		memset(j->rq.data, 0xee, j->rq.len);
	if (f->rp.len > 0)
		memcpy(j->rq.data, f->data, f->rp.len);
	guest_answered(f);
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
		if (!w.road[i].queued)
			continue;
		f = flight_at(&w.road[i], 0);
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
	f = flight_at(&w.road[path], 0);
	w.clock = at;
	if (!f->executed && at == f->run_at)
		execute(path);
	else
		land(path);
	return 1;
}

/* Up to then, or until prhelper wants to look: 1. */
static int
pass_some(int64_t until)
{
	int64_t end;

	do {
		end = w.look_at < until ? w.look_at : until;
		if (end < w.clock)
			end = w.clock;
	} while (happen(end));
	return w.look_at <= w.clock;
}

void
fabric_pass(int64_t until)
{
	while (pass_some(until))
		look();
}

void
fabric_map_event(void)
{
	if (w.looks && w.look_at > w.clock)
		w.look_at = w.clock;
}

void
fabric_abandon(void)
{
	struct road *r;
	int i, j;

	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		for (j = 0; j < r->queued; j++) {
			flight_at(r, j)->job = NULL;
			flight_at(r, j)->orphan = 1;
			r->touched = 1;
			fabric_trouble(flight_at(r, j)->end_at);
		}
	}
	w.lent = 0;
}

void
fabric_heal(void)
{
	struct flight *f;
	struct road *r;
	int i, j;

	memset(w.rate, 0, sizeof(w.rate));
	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		r->state = RUNNING;
		r->busy_until = r->full_until = r->alua_until = 0;
		r->attention_until = 0;
		for (j = 0; j < r->queued; j++) {
			f = flight_at(r, j);
			f->sent_at = w.clock;
			if (f->run_at != NEVER)
				f->run_at = w.clock + draw(SOON);
			f->end_at = w.clock + SOON;
		}
		if (r->failed && !r->gated) {
			r->failed = 0;
			fabric_map_event();
		}
	}
	if (w.reborn)
		w.look_at = w.clock; /* it has been started by now */
	w.calm_at = w.clock + QUEUE_MAX * SOON;
}

/* Between any two of its actions prhelper may be killed. */
static void
kill_point(void)
{
	if (w.mortal && happens(F_KILL))
		kill_helper();
}

/* No loop may run without end. */
static void
count_call(void)
{
	if (++w.calls > CALLS_MAX)
		violated("a command comes to an end");
	kill_point();
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
		f = flight_at(&w.road[path], w.road[path].queued - 1);
		note("p%d: %s: abandoned", path + 1, words(&f->rq));
		fabric_trouble(f->end_at);
		guest_gives_up(f);
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
	w.rested = 0;
	if (strcmp(wwid, unit) && (wwid[0] || jobs->rq.cdb[0] != PR_IN))
		violated("a command is for the logical unit of the map");
	for (i = 0; i < n; i++)
		jobs[i].how = PENDING;
	while ((was = pending(jobs, n)) > 0) {
		kill_point();
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
	w.rested = 1;
	if (until > w.clock)
		while (happen(until))
			;
}

static int
read_map(struct map *map)
{
	struct road *r;
	struct path *p;
	int i;

	count_call();
	if (happens(F_MAP)) {
		guest_hindered();
		return DM_BUSY;
	}
	memset(map, 0, sizeof(*map));
	map->dev = MAP_DEV;
	map->group = 1;
	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		if (w.rested)
			r->mute = 0; /* it begins again */
		r->seen = !r->failed && !r->unlisted;
		if (r->unlisted)
			continue;
		p = &map->paths[map->n++];
		p->dev = dev_of(i);
		p->active = !r->failed;
		p->group = r->group + 1;
	}
	if (map->n || !w.looks)
		snprintf(map->wwid, sizeof(map->wwid), "%s", unit);
	return DM_MAP;
}

int
dm_read(dev_t dev, struct map *map, int named)
{
	int r;

	if (dev != MAP_DEV)
		violated("a map that was seen once is looked at");
	r = read_map(map);
	w.saw_map |= r == DM_MAP;
	if (!named)
		map->wwid[0] = '\0';
	return r;
}

/* Is there another path that seems to work, and has not fallen silent? */
static int
spare(int path)
{
	int i = 0;

	while (i < w.paths &&
	    (i == path || !w.road[i].seen || w.road[i].mute))
		i++;
	return i < w.paths;
}

/* A repeated message is no event. */
int
dm_use_path(const struct map *map, dev_t dev, int use)
{
	int path = path_of(dev);
	struct road *r = &w.road[path];

	count_call();
	if (map->dev != MAP_DEV)
		violated("the message is for the map");
	if (use && !r->noted)
		violated("only what we failed is reinstated by us: p%d",
		    path + 1);
	if (!use && !r->noted)
		violated("what we fail was written down before: p%d",
		    path + 1);
	if (!use && !spare(path))
		violated("no path is failed by us for one that does not "
			 "answer: p%d", path + 1);
	if (happens(F_SUSPENDED)) {
		fabric_trouble(w.clock);
		return -1;
	}
	if (r->unlisted)
		return -1;
	note("p%d: %s", path + 1, use ? "reinstated" : "failed by us");
	if (r->failed == !use)
		return 0;
	r->failed = !use;
	r->gated = !use;
	r->seen &= (uint8_t)use;
	if (!use && target_may(&w.lun, path, 1) && happens(F_WRITES))
		r->writes_until = w.clock + 1 + draw(chance(800) ? 50 : 3000);
	fabric_map_event();
	history_watch();
	return 0;
}

int
dm_use_group(const struct map *map, int group)
{
	count_call();
	if (map->dev != MAP_DEV)
		violated("the message is for the map");
	if (group != 1)
		violated("the group that was in use is used again");
	if (happens(F_SUSPENDED))
		return -1;
	note("group %d is to be used", group);
	return 0;
}

/* The kernel never loses a size here. */
uint64_t
path_size(dev_t dev)
{
	(void)dev;
	return 1;
}

void
path_rescan(dev_t dev)
{
	violated("p%d has a size", path_of(dev) + 1);
}

int
path_busy(dev_t dev)
{
	count_call();
	return w.road[path_of(dev)].writes_until > w.clock;
}

int
dm_queues(const struct map *map)
{
	(void)map;
	return w.queues;
}

struct lun *
state_get(const char *wwid, int ms)
{
	(void)ms;
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

/* With it what it will tell device-mapper, or has told; who can say which? */
static void
write_down(const struct lun *lun)
{
	int i;

	w.saved = *lun;
	for (i = 0; i < w.paths; i++)
		w.road[i].noted = 0;
	for (i = 0; i < lun->n; i++)
		if (lun->marks[i].failed)
			w.road[path_of(lun->marks[i].dev)].noted = 1;
}

void
state_save(struct lun *lun)
{
	count_call();
	if (lun != &w.state || !w.lent)
		violated("only who has borrowed it writes it down");
	write_down(lun);
}

void
state_put(struct lun *lun)
{
	if (lun != &w.state || !w.lent)
		violated("what was borrowed is given back, once");
	w.lent = 0;
	w.state.busy = 0;
	write_down(lun);
}

int
state_busy(void)
{
	return 0;
}

/* There is one unit, if there is something to look after. */
int
state_next(int *i, char wwid[WWID_LEN])
{
	int j, any = w.state.key || w.state.old;

	count_call();
	for (j = 0; j < w.state.n; j++)
		any |= w.state.marks[j].mark != MARK_CLEAN ||
		    w.state.marks[j].failed;
	if ((*i)++ || !any || !w.state.wwid[0])
		return -1;
	snprintf(wwid, WWID_LEN, "%s", unit);
	return 0;
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
