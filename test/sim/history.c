/* See LICENSE file for copyright and license details. */
/*
 * What must be true in the long run, over commands, looks and the death of
 * prhelper. As in invariant.c each sentence is printed when it is broken.
 *
 * Words: the guest may have one of several keys, or none, as long as it does
 * not know itself how its last command ended. A key is removed if somebody
 * else took it from our paths, and none has it any more: another host, or the
 * target when it lost power; it is as it was once the guest registers it
 * again. All is settled if each usable path that the map lists has the guest's
 * key, or none if it has none.
 */
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../../prhelper.h"
#include "sim.h"

enum {
	NONE = 1,           /* a set of keys: no key */
	STRANGE = 1 << 7,   /* a key that the guest cannot have */
	/* So long a write may be refused, ms: where commands never fail, and
	   after faults, whose commands are repeated once a second. */
	WINDOW_MAX = 300,
	WINDOW_FAULTS_MAX = 2000,
};

unsigned long windows, revivals;
int64_t longest_window, longest_calm[2], longest_settle;

static struct {
	unsigned may;      /* have one of these keys: the guest */
	unsigned removed;  /* these keys */
	unsigned revived;  /* these although they were, in this command */
	unsigned told;     /* that these are nobody's, in this command */
	unsigned removing; /* these were, during this command */
	unsigned before;   /* what it might have had when that began */
	int lost;          /* who remembered it was killed */
	uint64_t forgotten; /* these paths had a key then, and still unknown */
	int unknown;       /* there were such when the command began */
	int entitled;      /* it knows that it is registered */
	int registers;     /* its command, by this action; or 0 */
	int action;        /* of the command, NOBODY: there is none */
	int twin;          /* another host has its key, too */
	int held;          /* a path that works had a key when it began */
	uint64_t key, sa;
} h;

/* The set with that key. */
static unsigned
set_of(uint64_t key)
{
	if (!key)
		return NONE;
	return key - GUEST_KEY < KEYS ? 2u << (key - GUEST_KEY) : STRANGE;
}

/* Has another host a key that nothing tells from this one? */
static int
anothers(uint64_t key)
{
	int i;

	for (i = w.paths; i < w.paths + w.others; i++)
		if (key && w.lun.nexus[i].key == key)
			return 1;
	return 0;
}

void
history_reset(void)
{
	memset(&h, 0, sizeof(h));
	h.may = NONE;
	h.action = NOBODY;
}

void
history_begins(const struct request *rq)
{
	int i;

	h.action = NOBODY;
	h.key = h.sa = 0;
	h.registers = 0;
	h.removing = 0;
	h.told = 0;
	h.before = h.may;
	for (i = 0; i < w.state.n; i++)
		h.forgotten &=
		    ~(1ull << minor(w.state.marks[i].dev) / 16);
	h.unknown = h.forgotten != 0;
	if (rq->cdb[0] == PR_CLEANUP) {
		h.action = REGISTER_AND_IGNORE;
		h.registers = 1;
	} else if (rq->cdb[0] == PR_OUT && rq->len >= PARAMS_LEN) {
		h.action = rq->cdb[1] & ACTION_MASK;
		h.key = get64(rq->data);
		h.sa = get64(rq->data + 8);
		h.registers = h.action == REGISTER ||
		    h.action == REGISTER_AND_IGNORE;
	}
	if (h.registers && h.sa)
		h.removed &= ~set_of(h.sa);
	h.twin = anothers(h.key);
	h.held = 0;
	for (i = 0; i < w.paths; i++)
		h.held |= fabric_usable(i) && w.lun.nexus[i].key;
	/* It gives up what it has. */
	if ((h.registers && !h.sa) || h.action == CLEAR)
		h.entitled = 0;
}

uint64_t
history_key(void)
{
	return h.registers ? h.sa : 0;
}

/* Others have done something: perhaps the guest has nothing any more. */
void
history_other(void)
{
	int i;

	for (i = 0; i < w.lun.n; i++)
		if (ours(i) && w.lun.nexus[i].key &&
		    (set_of(w.lun.nexus[i].key) & h.may))
			return;
	h.may |= NONE;
}

void
history_removed(uint64_t key, int by_others)
{
	unsigned set = set_of(key);
	int i;

	if (ours_have(&w.lun, key))
		return;
	/* What one of our paths was may have it still. */
	for (i = w.paths + w.others; i < w.lun.n; i++)
		if (w.lun.nexus[i].key == key)
			return;
	if (h.may & set)
		h.may |= NONE;
	h.removing |= set;
	if (!by_others)
		return;
	h.removed |= set;
	h.may &= ~set;
	history_other();
}

/* Is there a path of which prhelper knows that it has the key? */
static int
witness(void)
{
	int i;

	for (i = 0; i < w.state.n; i++)
		if (w.state.marks[i].mark == MARK_CLEAN &&
		    fabric_usable((int)minor(w.state.marks[i].dev) / 16))
			return 1;
	return 0;
}

void
history_looks(void)
{
	h.told = 0;
}

void
history_told(uint64_t key)
{
	h.told |= set_of(key);
}

/* We know that it is gone: then no path that has another one shall get it. */
static void
check_forced(unsigned set, const struct flight *f)
{
	int i;

	if (!(h.told & set) || f->rq.cdb[1] != REGISTER_AND_IGNORE ||
	    f->action == REGISTER_AND_IGNORE)
		return;
	for (i = 0; i < w.paths; i++)
		if (w.road[i].touched)
			return;
	violated("a key is not forced on a path when we were told that it is "
		 "gone");
}

/*
 * A command that nobody waits for may be executed years later; and when the
 * guest's own was still under way, it was after all the later one.
 */
void
history_registered(int path, uint64_t key, const struct flight *f, int late)
{
	unsigned set = set_of(key);

	h.forgotten &= ~(1ull << path);
	if (!late)
		check_forced(set, f);
	h.told &= ~set;
	if (!late && f->key == key)
		h.removed &= ~set;
	/* Without a witness it is like one that was there all the time. */
	if (late && !witness() && (key == w.state.key ||
		(w.state.changing && key == w.state.old))) {
		h.removed &= ~set;
		h.may |= set;
	}
	if (late)
		return;
	if (anothers(key)) {
		h.removed &= ~set;
		h.may |= set;
		return;
	}
	if (!(h.removed & set))
		return;
	revivals++;
	h.revived |= set;
	note("p%d: a key that was removed is back", path + 1);
}

/* Does prhelper take that for sure? */
static int
is_clean(int path)
{
	int i;

	for (i = 0; i < w.state.n; i++)
		if ((int)minor(w.state.marks[i].dev) / 16 == path)
			return w.state.marks[i].mark == MARK_CLEAN;
	return 0;
}

/* A key that was removed */

static void
check_revived(void)
{
	int i;

	for (i = 0; h.revived && !h.lost && i < w.paths; i++)
		if ((set_of(w.lun.nexus[i].key) & h.revived & h.removed) &&
		    w.lun.nexus[i].key && fabric_usable(i) &&
		    !w.road[i].touched && is_clean(i))
			violated("a key that another node has removed is never "
				 "registered again without a new command of "
				 "the guest: p%d", i + 1);
	/* What prhelper is not sure of it will look at again. */
	if (witness())
		h.revived = 0;
}

/* What the guest may have after a command */

static int
all_answered(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		if (w.road[i].touched)
			return 0;
	return 1;
}

/* The command that registers was done: or it had been undone before its end. */
static void
registered(void)
{
	h.may = set_of(h.sa);
	if (h.removing & (h.may | h.before))
		h.may |= NONE;
	h.lost &= !h.sa;
	h.entitled = h.sa != 0;
}

/* What is left of the guest's key: for the target to say. */
static void
preempted(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		if (w.lun.nexus[i].key && (set_of(w.lun.nexus[i].key) & h.may))
			return;
	h.may |= NONE;
	h.entitled = 0;
}

/*
 * A path that missed that the guest gave up its key, or changed it, still
 * takes the old one.
 */
static void
check_key(void)
{
	if (!w.looks || h.lost || h.action == RELEASE ||
	    h.action == REGISTER_AND_IGNORE)
		return;
	/* It does not expect to have a key, and no path that works has. */
	if (h.action == REGISTER && !h.key && !h.held)
		return;
	/* What was asked for is there, whoever did it. */
	if (h.registers && !h.sa && (h.before & NONE))
		return;
	if (h.unknown)
		h.may |= set_of(h.key);
	if (h.twin || h.unknown)
		return;
	if (!(set_of(h.key) & (h.before | (h.removing ? NONE : 0))))
		violated("no command is GOOD with another key than the "
			 "guest's: %llx", (unsigned long long)h.key);
}

void
history_ends(const struct request *rq, const struct reply *rp)
{
	int good = rp->status == GOOD;

	if (h.action == NOBODY)
		return;
	if (good)
		check_key();
	if (h.registers && good)
		registered();
	else if (rq->cdb[0] == PR_CLEANUP)
		h.may |= NONE; /* it has gone, and waits for no answer */
	else if (h.registers && !all_answered())
		h.may |= set_of(h.sa);
	else if (h.action == CLEAR && good)
		h.may = NONE;
	else if (h.action == CLEAR && !all_answered())
		h.may |= NONE;
	else if (h.action == PREEMPT || h.action == PREEMPT_AND_ABORT)
		preempted();
	/* SPDK: one of our own removes all of ours. */
	if (w.lun.kind == SPDK && !good)
		h.may |= NONE;
	h.action = NOBODY;
	h.registers = 0;
}

void
history_killed(void)
{
	int i;

	if (h.action != NOBODY && h.registers)
		h.may |= set_of(h.sa) | (h.removing ? NONE : 0);
	if (h.action == CLEAR || h.action == PREEMPT ||
	    h.action == PREEMPT_AND_ABORT || w.lun.kind == SPDK)
		h.may |= NONE;
	if (h.action != NOBODY)
		h.entitled = 0;
	h.lost |= w.forgetful;
	for (i = 0; w.forgetful && i < w.paths; i++)
		if (w.lun.nexus[i].key)
			h.forgotten |= 1ull << i;
	h.action = NOBODY;
	h.registers = 0;
}

/* Writes of the guest */

/*
 * Is the key on a nexus that prhelper cannot ask, another node's or one that
 * was ours, and is it more than one can know of? Then whose it is cannot be
 * told, and it is left as it is.
 */
static int
undecided(void)
{
	int i;

	for (i = 0; i < w.state.n; i++)
		if (w.state.marks[i].mark == MARK_TAINTED &&
		    !fabric_usable((int)minor(w.state.marks[i].dev) / 16))
			return 1;
	for (i = 0; i < w.lun.n; i++)
		if (w.lun.nexus[i].key &&
		    (set_of(w.lun.nexus[i].key) & h.may) &&
		    (i >= w.paths || !fabric_usable(i)))
			return !record_whole();
	return 0;
}

/* Has it a key, as far as it knows? Then it may write as a registrant. */
static int
entitled(void)
{
	int i;

	if (!h.entitled || w.lun.holder == NOBODY || w.lun.type < 5 ||
	    undecided())
		return 0;
	for (i = 0; i < w.paths; i++)
		if (w.lun.nexus[i].key &&
		    (set_of(w.lun.nexus[i].key) & h.may))
			return 1;
	return 0;
}

static int
group_in_use(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		if (!w.road[i].group && !w.road[i].unlisted &&
		    !w.road[i].failed && w.road[i].state == RUNNING)
			return 0;
	return 1;
}

/* Is there another path that dm could use, and the guest write through? */
static int
spare(int but)
{
	const struct road *r;
	int i;

	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		if (i != but && r->state == RUNNING && !r->unlisted &&
		    target_may(&w.lun, i, 1))
			return 1;
	}
	return 0;
}

/* Would dm write through it, or has it, and is that refused? */
static int
refuses(int i, int group)
{
	const struct road *r = &w.road[i];
	int used = !r->unlisted && !r->failed && r->group == group;

	if (r->state != RUNNING || target_may(&w.lun, i, 1))
		return 0;
	return (used && spare(i)) || r->writes_until > w.clock;
}

static void
measure(int i, int64_t since)
{
	int64_t length = w.clock - since;
	int64_t calm = w.clock - (since > w.calm_at ? since : w.calm_at);
	int most = w.faultless ? WINDOW_MAX : WINDOW_FAULTS_MAX;

	if (length > longest_window)
		longest_window = length;
	if (calm > longest_calm[w.faultless])
		longest_calm[w.faultless] = calm;
	if (calm > most)
		violated("what the guest may write is not refused for more "
			 "than %d ms: p%d, %lld ms", most, i + 1,
		    (long long)calm);
}

void
history_watch(void)
{
	int i, group, may = entitled() && !w.reborn && !h.lost;

	if (!w.looks)
		return;
	group = group_in_use();
	for (i = 0; i < w.paths; i++) {
		struct road *r = &w.road[i];
		int refused = may && refuses(i, group);

		if (r->refused_since != NEVER)
			measure(i, r->refused_since);
		if (!refused) {
			r->refused_since = NEVER;
		} else if (r->refused_since == NEVER) {
			r->refused_since = w.clock;
			windows++;
			note("p%d: a write would be refused", i + 1);
		}
	}
}

void
history_rest(void)
{
	history_watch();
	if (w.looks)
		check_revived();
}

/* A key that the guest may have, and another host has it now, or had. */
int
history_twin(uint64_t key)
{
	return (set_of(key) & h.may) != 0;
}

/* A command of the guest that removes keys was executed at last. */
void
history_late(void)
{
	h.may |= NONE;
}

/* Who remembered it was killed, and left nothing. */
int
history_lost(void)
{
	return h.lost;
}

const char *
history_keys(void)
{
	static char buf[40];
	char *p = buf;
	int i;

	if (h.lost)
		return "who knows what";
	if (h.may & NONE)
		p += sprintf(p, " or none");
	for (i = 0; i < KEYS; i++)
		if (h.may & 2u << i)
			p += sprintf(p, " or %x", GUEST_KEY + i);
	return p == buf ? "what it cannot have" : buf + 4;
}

int
history_was_removed(uint64_t key)
{
	return (set_of(key) & h.removed) != 0;
}

int
history_settled(void)
{
	unsigned has = 0;
	int i;

	if (h.lost || undecided())
		return 1;
	for (i = 0; i < w.paths; i++)
		if (fabric_usable(i) && !(h.forgotten & 1ull << i) &&
		    !anothers(w.lun.nexus[i].key))
			has |= set_of(w.lun.nexus[i].key);
	/* A successor waits for paths that had the key and cannot be asked. */
	if (w.state.loaded && has == NONE)
		return 1;
	return (has & (has - 1)) == 0 && (has & ~h.may) == 0;
}
