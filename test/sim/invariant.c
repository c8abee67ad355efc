/* See LICENSE file for copyright and license details. */
/*
 * What must always be true. Each check is one small function whose sentence
 * is printed when it is broken. They look at the logical unit itself, which
 * prhelper can only ask.
 *
 * Words: a path is sound in a command if it could be used from its begin to
 * its end and nothing went wrong on it. A command is calm if nobody else
 * changed anything meanwhile: no other host, and no command that was sent
 * for an earlier one and executed late. What must hold at the end of a calm
 * command must still have held at some moment of any other: the moments are
 * noted after each command that the target executes.
 *
 * Ours is a nexus of our paths. A reservation is ours with key K if a nexus
 * of ours that has K holds it, or if all registrants hold it and one of our
 * nexuses has K: this is what the guest, which has but one nexus, takes for
 * its own.
 */
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../../prhelper.h"
#include "sim.h"

enum {
	MOMENTS_MAX = 8,
	SLACK = 2 * PATIENCE, /* when time is up a path may be silent */
	GHOST_TYPE = 5,
	WAIT_MIN = 9000, /* for a path that is busy, or in transition */
};

/* The guest's command, and what was seen since it began. */
static struct {
	int in;     /* it is a PERSISTENT RESERVE IN */
	int out;    /* ... an OUT with a whole list */
	int action; /* of it, or NOBODY; CLEANUP counts as an unregistration */
	uint64_t key, sa;
	int type;
	int64_t begin;
	struct target was;   /* the logical unit at its begin */
	uint8_t up[NEXUS_MAX]; /* the path could be used at its begin */
	uint8_t gated[PATHS_MAX]; /* ... and was failed by us */
	unsigned long changes; /* of the logical unit by others */
	int cut;             /* a payload was, on the way to prhelper */
	uint64_t remembered; /* key, at its begin */
	int known;           /* ... and just where it is registered */
	int misled;            /* ... and another's counts as ours */
	int unclean;           /* ... and not where it should be */
	int tainted;           /* ... and on some path may have come late */
	int holder_known;      /* ... and who of us holds the reservation */
	int doubtful;          /* ... and some path may have it unnoticed */
	int changing;          /* ... and is not known for sure */
	int marks;             /* ... of so many paths something */
	int hindered;          /* some command of ours, or its answer */
	/* at some moment: */
	int got_key;    /* a nexus of ours had the new key */
	int lost_key;   /* ... one had none */
	int reserved;   /* the reservation was ours, of that type */
	int free;       /* it was not ours */
	int cleared;    /* nobody was registered */
	int preempted;  /* no other host had the service action key */
	int accepted;   /* a path has said that it got the new key */
	unsigned long first; /* command that gave the new key to one of ours */
	int moments;
	struct target moment[MOMENTS_MAX]; /* during an IN */
} c;

/* Before the target executes a command. */
static struct {
	uint64_t key[NEXUS_MAX];
	int holder, type;
	uint32_t generation;
	unsigned long changes;
} b;

int
ours(int nexus)
{
	return nexus != NOBODY &&
	    (nexus < w.paths || nexus >= w.paths + w.others);
}

int
ours_have(const struct target *t, uint64_t key)
{
	int i;

	for (i = 0; i < w.paths; i++)
		if (t->nexus[i].key == key)
			return 1;
	return 0;
}

static int
others_have(const struct target *t, uint64_t key)
{
	int i;

	for (i = w.paths; i < w.paths + w.others; i++)
		if (t->nexus[i].key == key)
			return 1;
	return 0;
}

/* Is the reservation ours, with that key? */
static int
held(const struct target *t, uint64_t key)
{
	if (!key || t->holder == NOBODY)
		return 0;
	if (target_all(t))
		return ours_have(t, key);
	return ours(t->holder) && t->nexus[t->holder].key == key;
}

/* Did we know that this path of ours held the reservation? */
static int
holder_known(int path)
{
	dev_t dev = w.state.holder;

	return dev && (int)minor(dev) / 16 == path;
}

static int
calm(void)
{
	return c.changes == 0;
}

static int
sound(int path)
{
	return path < w.paths && c.up[path] && fabric_usable(path) &&
	    !w.road[path].touched;
}

static int
troubled(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		if (w.road[i].touched)
			return 1;
	return 0;
}

static int
plain(void)
{
	int i;

	if (w.reborn || !calm() || c.hindered || troubled())
		return 0;
	for (i = 0; i < w.paths; i++)
		if (c.up[i] != fabric_usable(i))
			return 0;
	return 1;
}

static int
registers(void)
{
	return c.action == REGISTER || c.action == REGISTER_AND_IGNORE;
}

static int
preempts(void)
{
	return c.action == PREEMPT || c.action == PREEMPT_AND_ABORT;
}

int
guest_action(void)
{
	return c.action;
}

uint64_t
guest_victim(void)
{
	return preempts() ? c.sa : 0;
}

void
guest_cut(void)
{
	c.cut = 1;
}

void
guest_hindered(void)
{
	c.hindered = 1;
}

static void
observe(void)
{
	const struct target *t = &w.lun;

	c.got_key |= ours_have(t, c.sa);
	c.lost_key |= ours_have(t, 0);
	c.reserved |= held(t, c.key) && t->type == c.type;
	c.free |= !held(t, c.key);
	c.cleared |= t->nreg == 0;
	c.preempted |= !others_have(t, c.sa);
	if (c.action == NOBODY && c.moments < MOMENTS_MAX)
		c.moment[c.moments++] = *t;
}

/*
 * All nexuses with the key that is remembered are paths marked as clean, or
 * noted as what such paths were before.
 */
int
record_whole(void)
{
	int i, n = -w.state.ghosts;

	if (!w.state.key)
		return 0;
	for (i = 0; i < w.lun.n; i++)
		n += w.lun.nexus[i].key == w.state.key;
	for (i = 0; i < w.state.n; i++)
		n -= w.state.marks[i].mark == MARK_CLEAN ||
		    w.state.marks[i].mark == MARK_GONE;
	return n == 0;
}

static void
count_anew(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		w.road[i].mute = 0;
	w.serial++;
	w.calls = w.sent = 0;
}

/* A path is remembered that is to be seen to, when it can be. */
static int
unclean(void)
{
	int i;

	for (i = 0; i < w.state.n; i++)
		if (w.state.marks[i].mark != MARK_CLEAN)
			return 1;
	return w.reborn;
}

void
guest_begins(const struct request *rq)
{
	int i;

	memset(&c, 0, offsetof(__typeof__(c), moment));
	c.action = NOBODY;
	c.in = rq->cdb[0] == PR_IN;
	c.out = rq->cdb[0] == PR_OUT && rq->len >= PARAMS_LEN;
	if (rq->cdb[0] == PR_OUT)
		c.action = rq->cdb[1] & ACTION_MASK;
	if (rq->cdb[0] == PR_CLEANUP)
		c.action = REGISTER_AND_IGNORE;
	c.type = rq->cdb[2] & TYPE_MASK;
	if (c.out) {
		c.key = get64(rq->data);
		c.sa = get64(rq->data + 8);
	}
	c.begin = w.clock;
	c.was = w.lun;
	c.remembered = w.state.key;
	c.known = record_whole() && !history_lost();
	c.misled = others_have(&w.lun, w.state.key) && record_whole();
	c.unclean = unclean();
	for (i = 0; i < w.state.n; i++) {
		c.tainted |= w.state.marks[i].mark == MARK_TAINTED;
		c.doubtful |= w.state.marks[i].mark == MARK_TAINTED ||
		    w.state.marks[i].mark == MARK_SET;
	}
	c.holder_known = holder_known(w.lun.holder);
	c.changing = w.state.changing;
	c.marks = w.state.n;
	for (i = 0; i < w.paths; i++) {
		c.up[i] = (uint8_t)fabric_usable(i);
		c.gated[i] = w.road[i].gated;
		w.road[i].touched = 0;
	}
	count_anew();
	observe();
	history_begins(rq);
}

/* While the target executes something */

void
before(void)
{
	int i;

	for (i = 0; i < w.lun.n; i++)
		b.key[i] = w.lun.nexus[i].key;
	b.holder = w.lun.holder;
	b.type = w.lun.type;
	b.generation = w.lun.generation;
	b.changes = w.lun.changes;
}

/* Of a path of ours: it was not a REGISTER of ours that did it. */
static void
disturb(int by_others)
{
	int i;

	for (i = 0; i < w.paths; i++) {
		if (w.lun.nexus[i].key == b.key[i])
			continue;
		w.road[i].disturbed = 1;
		if (b.key[i])
			history_removed(b.key[i], by_others);
	}
	history_watch();
}

void
after_other(void)
{
	if (w.lun.changes == b.changes) {
		if (w.lun.generation != b.generation)
			observe();
		return;
	}
	c.changes++;
	w.moved |= w.lun.holder != b.holder || w.lun.type != b.type;
	disturb(1);
	history_other();
	observe();
}

/* The guest's command may remove another's registration with that key. */
static int
may_remove(const struct flight *f, uint64_t key)
{
	if (f->action == CLEAR)
		return 1;
	if (f->action != PREEMPT && f->action != PREEMPT_AND_ABORT)
		return 0;
	return f->victim == key || f->victim == 0;
}

/* Until then a write through a sibling without a key would be refused. */
static void
check_gives_up_first(void)
{
	int i, holder = w.lun.holder;

	if (!c.out || !registers() || c.sa || !calm() || c.unclean ||
	    (c.action == REGISTER && c.key != c.remembered))
		return;
	if (holder == NOBODY || holder != c.was.holder || target_all(&w.lun) ||
	    !ours(holder) || !holder_known(holder) || !sound(holder) ||
	    w.lun.nexus[holder].key != c.remembered)
		return;
	for (i = 0; i < w.paths; i++)
		if (b.key[i] == c.remembered && !w.lun.nexus[i].key)
			violated("who unregisters gives up the reservation "
				 "first: p%d", i + 1);
}

/* The path does not have the key that it was asked for, and nobody has. */
static int
tells(const struct flight *f)
{
	uint64_t key;
	int i;

	if (f->rq.cdb[0] != PR_OUT || f->rq.cdb[1] != REGISTER ||
	    f->rq.len < PARAMS_LEN || f->how == SG_LOST ||
	    f->rp.status != RESERVATION_CONFLICT)
		return 0;
	key = get64(f->rq.data);
	for (i = 0; i < w.lun.n; i++)
		if (w.lun.nexus[i].key == key)
			return 0;
	return key && get64(f->rq.data + 8) == key;
}

/* It is registered just as often as we did it: nothing tells whose it is. */
static int
passes_for_ours(uint64_t key)
{
	return c.known && key == c.remembered;
}

static void
check_others_keys(const struct flight *f)
{
	int i;

	for (i = w.paths; i < w.paths + w.others; i++) {
		if (w.lun.nexus[i].key == b.key[i])
			continue;
		if (w.lun.nexus[i].key || (!may_remove(f, b.key[i]) &&
			!history_twin(b.key[i]) && !passes_for_ours(b.key[i])))
			violated("no registration of another node is removed "
				 "or changed but by the guest's own PREEMPT "
				 "of its key, or CLEAR");
	}
}

static void
check_others_reservation(const struct flight *f)
{
	int i, others = 0, all = b.type == 7 || b.type == 8;

	if (b.holder == NOBODY ||
	    (w.lun.holder == b.holder && w.lun.type == b.type))
		return;
	for (i = w.paths; i < w.paths + w.others; i++)
		others |= b.key[i] != 0;
	if (all && (!others || w.lun.nreg == 0 || f->action == RELEASE ||
	    (w.lun.holder != NOBODY && w.lun.type == b.type)))
		return;
	if ((all || !ours(b.holder)) && !may_remove(f, b.key[b.holder]) &&
	    (ours(b.holder) || (!history_twin(b.key[b.holder]) &&
				   !passes_for_ours(b.key[b.holder]))))
		violated("no reservation of another node is released or "
			 "changed but by the guest's own PREEMPT of its key, "
			 "or CLEAR; all registrants': or RELEASE");
}

static int
none_left(void)
{
	int i = 0;

	while (i < w.paths && !w.lun.nexus[i].key)
		i++;
	return i == w.paths;
}

void
after(int path, const struct flight *f)
{
	int i, late = !f->job || f->serial != w.serial, had = c.got_key;

	if (f->rq.cdb[0] == PR_OUT && f->rp.status == GOOD && !late)
		w.road[path].disturbed = 0;
	if (!late && tells(f))
		history_told(get64(f->rq.data));
	if (w.lun.generation != b.generation)
		observe();
	if (w.lun.changes == b.changes)
		return;
	check_others_keys(f);
	check_others_reservation(f);
	if (!late)
		check_gives_up_first();
	/* What comes late may have been sent before the guest said so. */
	if (w.looks && !late && w.lun.nreg && f->rq.cdb[0] == PR_OUT &&
	    f->rp.status == GOOD &&
	    (f->rq.cdb[1] == REGISTER || f->rq.cdb[1] == REGISTER_AND_IGNORE) &&
	    w.lun.aptpl != w.aptpl &&
	    /* Killed before the guest's first one was over: it will be
	       repeated. */
	    (w.state.aptpl != APTPL_UNKNOWN || history_lost()))
		violated("APTPL is as the guest wants it after each REGISTER "
			 "of ours");
	for (i = 0; i < w.paths; i++)
		if (w.lun.nexus[i].key && w.lun.nexus[i].key != b.key[i])
			history_registered(i, w.lun.nexus[i].key, f, late);
	for (i = 0; i < w.paths; i++)
		if (b.key[i] && may_remove(f, b.key[i]) &&
		    !w.lun.nexus[i].key)
			history_removed(b.key[i], 0);
	if ((late || none_left()) && f->rq.cdb[0] == PR_OUT &&
	    f->rq.cdb[1] >= CLEAR &&
	    f->rq.cdb[1] <= PREEMPT_AND_ABORT)
		history_late();
	if (w.lun.holder != b.holder || w.lun.type != b.type)
		w.moved = late;
	if (late) {
		c.changes++;
		disturb(0);
	}
	history_watch();
	observe();
	if (!late && !had && c.got_key)
		c.first = w.sent;
}

void
guest_answered(const struct flight *f)
{
	const uint8_t *list = f->rq.data;

	if (f->rq.cdb[0] != PR_OUT || f->rq.cdb[1] != c.action ||
	    !registers() || f->rp.status != GOOD || get64(list + 8) != c.sa)
		return;
	if (c.action == REGISTER && (get64(list) != c.key || c.key == c.sa))
		return;
	c.accepted = 1;
}

/* When the guest has its answer: form and time */

static void
check_form(const struct request *rq, const struct reply *rp)
{
	static const uint8_t none[SENSE_LEN];
	int sensed = memcmp(rp->sense, none, SENSE_LEN) != 0;

	switch (rp->status) {
	case GOOD:
	case CHECK_CONDITION:
	case BUSY:
	case RESERVATION_CONFLICT:
	case TASK_SET_FULL: break;
	default: violated("the status is one of those we know");
	}
	if (sensed != (rp->status == CHECK_CONDITION))
		violated("there is sense data with CHECK CONDITION only, and "
			 "always");
	if (rp->len && (rq->cdb[0] != PR_IN || rp->status != GOOD))
		violated("there is a payload with GOOD to an IN only");
	if (rp->len > rq->len)
		violated("the payload is not longer than the allocation "
			 "length");
	if (w.lent)
		violated("what was borrowed is given back, once");
	if (proto_sense_of(rp->sense) >> 8 == 0x0204)
		violated("that a path is in standby, or in transition, is no "
			 "answer");
	if (proto_sense_of(rp->sense) == COMMAND_TIMEOUT && !c.hindered)
		violated("a time-out is told if there was one only");
}

static void
check_time(void)
{
	int64_t most = MPATH_TIME + SLACK;

	if (c.action == PREEMPT_AND_ABORT)
		most += SG_ABORT_TIME;
	if (w.clock - c.begin > most)
		violated("no command outlasts its deadline: %lld ms",
		    (long long)(w.clock - c.begin));
}

/* IN */

static int
same_in(const struct target *moment, const struct request *rq,
    const struct reply *rp)
{
	static struct target t;
	static uint8_t data[DATA_MAX];
	struct request rq2 = *rq;
	struct reply rp2;

	t = *moment;
	t.nexus[0].nua = 0;
	rq2.data = data;
	memset(data, 0, sizeof(data));
	target_run(&t, 0, &rq2, &rp2);
	return rp2.status == GOOD &&
	    (rp2.len == rp->len || (rp2.len > rp->len && troubled())) &&
	    memcmp(data, rq->data, rp->len) == 0;
}

static void
check_in(const struct request *rq, const struct reply *rp)
{
	int i;

	if (rq->cdb[0] != PR_IN || rp->status != GOOD)
		return;
	for (i = 0; i < c.moments; i++)
		if (same_in(&c.moment[i], rq, rp))
			return;
	if (c.moments < MOMENTS_MAX)
		violated("what an IN returns is what the target would have "
			 "said at some moment of it");
}

/* GOOD has its effect */

/* With many silent paths there may be no time to ask the others. */
static int
timely(void)
{
	return w.clock - c.begin < 9 * SG_TIME / 10;
}

static void
check_registered(void)
{
	int i;

	if (!registers() || !c.sa)
		return;
	if (c.action == REGISTER && calm() && !history_twin(c.key) &&
	    !ours_have(&c.was, c.key) &&
	    !ours_have(&c.was, c.sa))
		violated("REGISTER is not GOOD with a key that none of our "
			 "paths had");
	if (!c.got_key)
		violated("REGISTER is GOOD if our key was registered");
	if (calm() && !ours_have(&w.lun, c.sa))
		violated("after REGISTER our key is registered");
	for (i = 0; calm() && timely() && !c.cut && i < w.paths; i++)
		if (sound(i) && w.lun.nexus[i].key != c.sa)
			violated("after REGISTER each sound path has the "
				 "guest's key: p%d", i + 1);
}

/* A path that was added to the table while its first sibling got the key. */
static void
check_joined(void)
{
	const struct road *r;
	int i;

	if (!registers() || !c.sa || !c.first || !calm() || c.hindered ||
	    !timely())
		return;
	for (i = 0; i < w.paths; i++) {
		r = &w.road[i];
		if (r->joined == w.serial && r->joined_at <= c.first &&
		    fabric_usable(i) && !r->touched &&
		    w.lun.nexus[i].key != c.sa)
			violated("after REGISTER a path that came meanwhile "
				 "has the guest's key: p%d", i + 1);
	}
}

/*
 * Could a path be asked that has the key? If not, who came after a helper that
 * was killed cannot know whether all paths are other nexuses, or the guest has
 * moved to another host, with its key.
 */
static int
can_tell(void)
{
	int i = 0;

	while (i < w.paths &&
	    !(c.up[i] && c.was.nexus[i].key == c.remembered))
		i++;
	return i < w.paths;
}

/*
 * The key that changes is ours alone: then what had the old one, dead paths and
 * ghosts, too, has it no more, and so cannot hold the reservation with it.
 */
static void
check_ghosts(void)
{
	int i;

	if (!registers() || !c.sa || !c.remembered || c.sa == c.remembered ||
	    !c.known || c.changing || others_have(&c.was, c.remembered) ||
	    !can_tell() || !plain())
		return;
	for (i = 0; i < w.lun.n; i++)
		if (ours(i) && w.lun.nexus[i].key == c.remembered)
			violated("after a change of a key that was ours alone "
				 "no nexus of ours has the old one: %d", i + 1);
}

/* Could prhelper have moved the reservation away from a path that is gone? */
static int
can_rescue(void)
{
	uint64_t key = c.was.nexus[c.was.holder].key;
	int i, some = 0;

	for (i = 0; i < w.paths; i++) {
		some |= sound(i) && c.was.nexus[i].key == key;
		if (w.road[i].touched || w.road[i].disturbed)
			return 0;
	}
	return some && w.lun.kind != SPDK && c.known && key == c.remembered;
}

/* Can prhelper know of a path? It is in the table, or was when it looked. */
static int
heard_of(int path)
{
	int i;

	for (i = 0; i < w.state.n; i++)
		if ((int)minor(w.state.marks[i].dev) / 16 == path)
			return 1;
	return path < w.paths && !w.road[path].unlisted;
}

/* One of which it does not is as if another node had the key. */
static int
had_by_unknown(uint64_t key)
{
	int i = 0;

	while (i < w.lun.n &&
	    (!ours(i) || c.was.nexus[i].key != key || heard_of(i)))
		i++;
	return i < w.lun.n;
}

/*
 * The guest gives its key up, or changes it: then what it holds must not stay
 * behind with the old one, through a path that did not hear of it.
 */
static void
check_left_behind(void)
{
	uint64_t key = c.action == REGISTER ? c.key : c.remembered;
	int holder = c.was.holder;

	if (!registers() || !c.out || c.sa == key || key != c.remembered)
		return;
	if (ours(holder) && !target_all(&c.was) &&
	    (c.known || (holder < w.paths && !had_by_unknown(key))) &&
	    w.lun.holder == holder &&
	    held(&c.was, key) && held(&w.lun, key) &&
	    (c.holder_known ||
		(!others_have(&c.was, key) && !others_have(&w.lun, key))))
		violated(c.sa ? "a change of the key is GOOD only if our "
				"reservation goes with it" :
				"an unregistration is GOOD only if our "
				"reservation goes with it");
}

static void
check_unregistered(void)
{
	uint64_t key = c.action == REGISTER ? c.key : c.remembered;
	int i, holder = c.was.holder;

	if (!registers() || c.sa)
		return;
	if (!c.lost_key)
		violated("after an unregistration some path had no key");
	if (!calm())
		return;
	for (i = 0; timely() && i < w.paths; i++)
		if (sound(i) && w.lun.nexus[i].key)
			violated("after an unregistration no sound path has "
				 "a key: p%d", i + 1);
	if (c.out && ours(holder) && !target_all(&c.was) &&
	    held(&c.was, key) && held(&w.lun, key) &&
	    (sound(holder) || can_rescue()))
		violated("who unregisters does not hold the reservation any "
			 "longer");
}

static void
check_reserved(void)
{
	int i;

	if (c.action != RESERVE)
		return;
	if (!c.reserved && !others_have(&w.lun, c.key) &&
	    !others_have(&c.was, c.key))
		violated("RESERVE is GOOD if the reservation was there, of "
			 "that type and ours");
	if (!calm() || others_have(&w.lun, c.key))
		return;
	if (!held(&w.lun, c.key) || w.lun.type != c.type)
		violated("after RESERVE the reservation is there, of that "
			 "type and ours");
	for (i = 0; c.type >= GHOST_TYPE && i < w.paths; i++)
		if (sound(i) && w.lun.nexus[i].key &&
		    !target_may(&w.lun, i, 1))
			violated("after RESERVE for registrants each "
				 "registered path may write: p%d", i + 1);
}

static void
check_released(void)
{
	/* An old key may still be on a path that has missed its change. */
	int was = held(&c.was, c.key) &&
	    (c.key == c.remembered || !c.remembered);

	if (c.action != RELEASE || !was || history_lost())
		return;
	/* SPDK says GOOD, but hands it to the next registrant. */
	if (w.lun.kind == SPDK && target_all(&c.was))
		return;
	/* Our holder is away and may as well be another node with our key. */
	if (!c.known && !target_all(&c.was) && !c.up[c.was.holder])
		return;
	if (!c.free)
		violated("RELEASE is GOOD if the reservation was not ours "
			 "at some moment");
	if (calm() && held(&w.lun, c.key))
		violated("after RELEASE the reservation is not ours");
	if (calm() && c.was.type != c.type)
		violated("RELEASE of another type than that of our "
			 "reservation is not GOOD");
}

static void
check_cleared(void)
{
	if (c.action != CLEAR)
		return;
	if (!ours_have(&c.was, c.key) && c.key != c.remembered && calm())
		violated("CLEAR is not GOOD without our key");
	if (!c.cleared)
		violated("CLEAR is GOOD if all registrations were gone");
	if (calm() && (w.lun.nreg || w.lun.holder != NOBODY))
		violated("after CLEAR nobody is registered or holds a "
			 "reservation");
}

/* Does the service action key name the holder of the reservation? */
static int
names_holder(const struct target *t)
{
	if (t->holder == NOBODY)
		return 0;
	if (target_all(t))
		return !c.sa;
	return c.sa ==
	    (t->kind == SPDK ? t->crkey : t->nexus[t->holder].key);
}

static void
check_preempted(void)
{
	/* SPDK: who preempts himself removes nobody, a sibling everybody. */
	int self = w.lun.kind == SPDK && c.key == c.sa;
	int i;

	if (!preempts() || (self && names_holder(&c.was)))
		return;
	if (calm() && c.known && !ours_have(&c.was, c.key) &&
	    c.key != c.remembered)
		violated("PREEMPT is not GOOD without our key");
	if (c.sa && !self && !c.preempted)
		violated("PREEMPT is GOOD if the other nodes with that key "
			 "were removed");
	if (!calm())
		return;
	if (c.sa && !self && others_have(&w.lun, c.sa))
		violated("after PREEMPT no other node has the key");
	if (names_holder(&c.was) &&
	    (!held(&w.lun, c.key) || w.lun.type != c.type))
		violated("after PREEMPT of the holder the reservation is "
			 "ours, of that type");
	for (i = 0; timely() && !c.cut && ours_have(&w.lun, c.key) &&
	     i < w.paths; i++)
		if (sound(i) && c.was.nexus[i].key == c.key &&
		    w.lun.nexus[i].key != c.key)
			violated("after PREEMPT each sound path that had the "
				 "guest's key has it, if the target left it "
				 "to one: p%d", i + 1);
}

/*
 * The guest's I/O must not meet a unit attention that this command has made.
 * What others make is theirs to explain.
 */
static void
check_drained(void)
{
	const struct nexus *n;
	int i, j;

	for (i = 0; calm() && timely() && i < w.paths; i++) {
		n = &w.lun.nexus[i];
		for (j = 0; sound(i) && j < n->nua; j++)
			if (n->own[j] == 1 + w.serial % 255)
				violated("no unit attention that we made is "
					 "left on a sound path: p%d", i + 1);
	}
}

/* A refusal has none */

static void
check_rolled_back(void)
{
	int i;

	if (!registers() || !calm() || c.hindered || !timely())
		return;
	for (i = 0; i < w.paths; i++)
		if (sound(i) &&
		    w.lun.nexus[i].key != c.was.nexus[i].key &&
		    w.lun.nexus[i].key != c.remembered &&
		    w.lun.nexus[i].key != w.state.key &&
		    (c.action != REGISTER || w.lun.nexus[i].key != c.key))
			violated("after a REGISTER that failed each sound "
				 "path has what it had, or the guest's old "
				 "key: p%d", i + 1);
}

static void
check_unchanged(const struct reply *rp)
{
	const struct target *t = &w.lun;
	int i, same;

	/* SPDK refuses the holder's sibling, and removes it all the same. */
	if (!calm() || c.hindered || (preempts() && t->kind == SPDK))
		return;
	/* First of all it may have seen to a path that had what it must not. */
	if (c.unclean)
		return;
	/* What is taken back from an orphan may have held it. */
	if (registers() && ours(c.was.holder) &&
	    c.was.nexus[c.was.holder].key != c.remembered)
		return;
	/* It may have been done, and only that not be known. */
	if (c.action == RELEASE && troubled())
		return;
	/* ... also if we do that to ourselves. */
	if (t->kind == SPDK && ours(c.was.holder) && !c.up[c.was.holder] &&
	    troubled())
		return;
	/* It was aborted, on the way or by us: then it may have happened. */
	if (rp->status == CHECK_CONDITION &&
	    proto_sense_of(rp->sense) >> 16 == 0xb && troubled())
		return;
	same = t->holder == c.was.holder ||
	    (ours(t->holder) && ours(c.was.holder)) ||
	    (target_all(t) && target_all(&c.was));
	/* A ghost may have held it for all registrants. */
	if (target_all(&c.was) && t->nreg == 0)
		return;
	if (!same || t->type != c.was.type)
		violated("a command that was refused changes no reservation");
	if (c.action == RELEASE && t->holder != c.was.holder)
		violated("RELEASE that was refused moves no reservation");
	for (i = w.paths; i < w.paths + w.others; i++)
		if (t->nexus[i].key != c.was.nexus[i].key)
			violated("a command that was refused removes no node");
}

/* One path has accepted it; another one, whose answer was lost, can wait. */
static void
check_accepted(const struct reply *rp)
{
	int holder = c.was.holder;

	/* But for one that would have left our reservation behind. */
	if ((ours(holder) && held(&c.was, c.remembered) &&
		(!sound(holder) || held(&w.lun, c.remembered))) ||
	    others_have(&c.was, c.remembered))
		return;
	if (registers() && c.sa && c.accepted && !c.changing &&
	    w.lun.n == w.paths + w.others &&
	    rp->status == CHECK_CONDITION &&
	    proto_sense_of(rp->sense) >> 16 == 0xb)
		violated("REGISTER does not fail for a lost answer after a "
			 "path has accepted it");
}

/*
 * What is wrong with one path is no answer while there is another one. But
 * one that refuses a key, or holds the reservation, speaks for all.
 */
static void
check_elsewhere(const struct reply *rp)
{
	uint32_t key = proto_sense_of(rp->sense) >> 16;
	int i;

	if (rp->status != CHECK_CONDITION ||
	    (key != 3 && key != 4 && key != 6) || registers() ||
	    c.action == RELEASE || !timely())
		return;
	for (i = 0; i < w.paths; i++)
		if (sound(i))
			violated("an error or a unit attention of one path is "
				 "not the answer if another one works: p%d",
			    i + 1);
}

/* Nothing else was wrong with a path: then it was to be waited for. */
static void
check_waited(const struct reply *rp)
{
	int i;

	if (c.hindered || c.action == RELEASE || registers() || !c.known ||
	    (c.out && c.key != c.remembered) ||
	    (rp->status != BUSY && rp->status != TASK_SET_FULL &&
		proto_sense_of(rp->sense) != LU_COMM_FAILURE) ||
	    w.clock - c.begin > WAIT_MIN)
		return;
	for (i = 0; i < w.paths; i++)
		if (c.up[i] && fabric_usable(i) &&
		    !(w.road[i].touched & TOUCHED))
			violated("a path that is only busy or in transition "
				 "is waited for: p%d", i + 1);
}

/*
 * If nothing is remembered: a path without the guest's key does not speak for
 * the one that has it.
 */
static void
check_conflict(const struct request *rq, const struct reply *rp)
{
	static struct target one;
	static uint8_t data[DATA_MAX];
	struct request rq1 = *rq;
	struct reply rp1;
	int i;

	if (!c.out || rp->status != RESERVATION_CONFLICT || !plain() ||
	    c.marks || c.action == RELEASE || !c.key ||
	    (w.lun.kind == SPDK && preempts()))
		return;
	rq1.data = data;
	for (i = 0; i < w.paths; i++) {
		if (!sound(i) || c.was.nexus[i].key != c.key)
			continue;
		memcpy(data, rq->data, rq->len);
		one = c.was;
		one.nexus[i].nua = 0;
		target_run(&one, i, &rq1, &rp1);
		if (rp1.status == GOOD)
			violated("a conflict is not the answer if a path that "
				 "has the guest's key would be GOOD: p%d",
			    i + 1);
	}
}

/* The holder may reserve again: so may the guest, whatever path that is. */
static void
check_own(const struct reply *rp)
{
	if (c.action == RESERVE && rp->status == RESERVATION_CONFLICT &&
	    c.known && c.key == c.remembered && !c.changes && can_tell() &&
	    ours(c.was.holder) && held(&c.was, c.key) && held(&w.lun, c.key) &&
	    c.was.type == c.type && w.lun.type == c.type)
		violated("RESERVE of what is the guest's already is no "
			 "conflict");
}

/* While prhelper sends */

/* The first path that an IN goes to. */
static void
check_first(int path)
{
	int i;

	for (i = 0; w.road[path].failed && i < w.paths; i++)
		if (fabric_usable(i) && !w.road[i].failed)
			violated("an IN does not go to a path that has failed "
				 "first: p%d", path + 1);
}

void
guest_sends(int path, const struct flight *f)
{
	static const uint8_t reserved[] = { 16, 17, 18, 19, 21, 22, 23 };
	size_t i;

	if (c.in && w.sent == 1)
		check_first(path);
	if (f->rq.cdb[0] != PR_OUT || f->rq.len != PARAMS_LEN)
		return;
	for (i = 0; i < sizeof(reserved); i++)
		if (f->data[reserved[i]])
			violated("what is reserved in a parameter list is 0");
}

/* Nobody waits for it any longer. */
void
guest_gives_up(const struct flight *f)
{
	if (f->rq.cdb[0] == PR_OUT && f->rq.cdb[1] == PREEMPT_AND_ABORT &&
	    f->sent_at - c.begin < SG_TIME &&
	    w.clock - f->sent_at < SG_ABORT_TIME)
		violated("PREEMPT AND ABORT has the time that it needs: "
			 "%lld ms", (long long)(w.clock - f->sent_at));
}

/* What prhelper remembers is true */

static void
check_record(void)
{
	const struct mark *m;
	int i, path;

	/* Until it is known which key it is. */
	if (w.state.changing)
		return;
	for (i = 0; i < w.state.n; i++) {
		m = &w.state.marks[i];
		path = (int)minor(m->dev) / 16;
		if (m->mark != MARK_CLEAN || w.road[path].disturbed ||
		    w.road[path].queued)
			continue;
		if (w.lun.nexus[path].key != w.state.key)
			violated("a path that is remembered as clean has the "
				 "key that is remembered: p%d", path + 1);
	}
}

/* Through which path it holds the reservation. */
static void
check_holder(void)
{
	dev_t dev = w.state.holder;
	int holder = w.lun.holder;

	if (w.moved || history_lost() || w.state.changing || !dev ||
	    target_all(&w.lun) ||
	    !ours(holder) || holder >= w.paths)
		return;
	if (w.lun.nexus[holder].key == w.state.key &&
	    (int)minor(dev) / 16 != holder)
		violated("who holds our reservation is the path that is "
			 "remembered to hold it: p%d", holder + 1);
}

/* What the guest could write through, and can, is not taken from it. */
static void
check_gated(void)
{
	int i;

	if (!w.state.key || history_lost() || !calm() || c.hindered ||
	    troubled() || w.rate[F_SUSPENDED])
		return;
	for (i = 0; i < w.paths; i++)
		if (w.road[i].gated && !c.gated[i] && sound(i) &&
		    c.was.nexus[i].key == w.state.key &&
		    w.lun.nexus[i].key == w.state.key)
			violated("no path that has the guest's key is left "
				 "failed by us: p%d", i + 1);
}

/*
 * The strongest one: when nothing went wrong but that some paths cannot be
 * used, the answer is the one that the guest would get if it had one real
 * nexus, and so is what becomes of the logical unit. The one nexus has what
 * our paths have, if those that can be used have all the same. A path that
 * cannot be used and has something else is a ghost, one more node.
 */
static int
one_nexus(struct target *t, const struct target *from)
{
	uint64_t key = 0;
	int i, j, n = 0, first = NOBODY;

	for (i = 0; i < w.paths; i++) {
		if (!c.up[i])
			continue;
		if (first == NOBODY)
			key = from->nexus[first = i].key;
		if (from->nexus[i].key != key)
			return NOBODY;
	}
	/* If it looks it knows better. */
	if ((w.looks || c.unclean) && key != c.remembered)
		return NOBODY;
	/* Then it is not clear what the guest has. */
	if (key != c.remembered && c.remembered &&
	    ours_have(from, c.remembered))
		return NOBODY;
	*t = *from;
	for (i = j = 0; i < from->nreg; i++) {
		n = from->order[i];
		if (ours(n) && key && from->nexus[n].key == key) {
			t->nexus[n].key = 0;
			if (from->holder == n)
				t->holder = first;
			if (t->nexus[first].key == key)
				continue;
			t->nexus[first].key = key;
			n = first;
		} else if (ours(n) && !key) {
			return NOBODY; /* it may be the guest's */
		}
		t->order[j++] = (uint8_t)n;
	}
	t->nreg = j;
	if (first != NOBODY)
		t->nexus[first].nua = 0;
	return first;
}

/* A node with our key holds it, and it is taken for a path that went. */
static int
misled(void)
{
	return c.misled && c.was.holder != NOBODY &&
	    c.was.nexus[c.was.holder].key == c.remembered;
}

static int
type_known(int type)
{
	return type == 1 || type == 3 || (type >= 5 && type <= 8);
}

/* Where the answer may be another than that of the target. */
static int
excused(const struct request *rq, const struct reply *rp)
{
	uint32_t sense = proto_sense_of(rp->sense);
	int action = rq->cdb[1] & ACTION_MASK;

	if (rp->status == RESERVATION_CONFLICT)
		sense = 0;
	if (rq->cdb[0] != PR_OUT)
		return 0;
	if (history_lost())
		return 1;
	/* Not passed on. */
	if (action == REGISTER_AND_MOVE || action == REPLACE_LOST)
		return sense == INVALID_FIELD;
	if (action > REPLACE_LOST)
		return sense == INVALID_FIELD || !sense;
	if (rq->len != PARAMS_LEN)
		return sense >> 16 == 5;
	if (rq->data[20] & FLAG_SPEC_I_PT)
		return sense >> 16 == 5 ||
		    (ours(c.was.holder) && !c.up[c.was.holder]);
	/* Nothing tells a ghost from a node with our key. */
	if (misled() || (ours(c.was.holder) && c.was.holder >= w.paths))
		return 1;
	/* It forgets the holder's key, until a probe of ours tells it. */
	if (w.lun.kind == SPDK && action == RELEASE && ours(c.was.holder) &&
	    !c.was.crkey)
		return 1;
	/* What came late may be a removed key: a path that knows is away. */
	if (c.tainted && (rp->status == BUSY || sense == LU_COMM_FAILURE))
		return 1;
	/* Is it a node with our key, or a path that is away and may have it? */
	if (c.doubtful && action == RESERVE && sense == IO_TERMINATED &&
	    others_have(&c.was, c.key))
		return 1;
	if (c.doubtful && registers() && c.sa != c.remembered &&
	    (rp->status == BUSY || sense == LU_COMM_FAILURE))
		return 1;
	/* SPDK: a path that is not the holder is removed, too, and refused. */
	if (w.lun.kind == SPDK && preempts() && c.key == c.sa)
		return 1;
	/* Is it held by a path that is away, or by a node with our key? */
	if (action == RELEASE && !c.known && c.was.holder != NOBODY &&
	    (c.was.nexus[c.was.holder].key == c.key ||
		c.was.nexus[c.was.holder].key == c.remembered))
		return rp->status == BUSY || rp->status == CHECK_CONDITION ||
		    !c.up[c.was.holder];
	if (!ours(c.was.holder))
		return 0;
	/* Who does not hold it hears of a conflict before an invalid type. */
	if (rq->cdb[2] >> 4 || !type_known(c.type))
		return 1;
	if (c.up[c.was.holder])
		return 0;
	/*
	 * Our holder cannot be reached, and the others answer in another
	 * way, or it is not certain that it is ours.
	 */
	if (!c.known)
		return 1;
	return action == RELEASE &&
	    ((sense == INVALID_RELEASE && c.type != c.was.type) ||
		c.key != c.remembered);
}

/* A path of ours that could not be used is still registered. */
static int
ghosts(void)
{
	int i;

	for (i = 0; i < w.lun.n; i++)
		if (ours(i) && !c.up[i] && w.lun.nexus[i].key)
			return 1;
	return 0;
}

static void
check_state(const struct target *one, int first)
{
	const struct target *t = &w.lun;
	int i, same;

	for (i = 0; i < w.paths + w.others; i++)
		if ((!ours(i) && one->nexus[i].key != t->nexus[i].key &&
			!history_twin(one->nexus[i].key)) ||
		    (ours(i) && c.up[i] &&
			one->nexus[first].key != t->nexus[i].key))
			violated("who is registered is as with one nexus: %s "
				 "%d", ours(i) ? "p" : "o",
			    ours(i) ? i + 1 : i + 1 - w.paths);
	/*
	 * CLEANUP moves nothing; all registrants: the ghosts still hold it;
	 * and what may be another's stays.
	 */
	if (ghosts() && registers() && !c.sa &&
	    (!c.out || target_all(&c.was) || !c.known))
		return;
	if (c.action == RELEASE && !c.known && ours(c.was.holder) &&
	    !c.up[c.was.holder])
		return;
	same = one->holder == t->holder ||
	    (one->holder == first && ours(t->holder)) ||
	    (target_all(one) && target_all(t));
	if (misled())
		return;
	/* A type that there is not stays only where it is. */
	if (one->holder != NOBODY && !type_known(one->type))
		return;
	if (!same || one->type != t->type)
		violated("the reservation is as with one nexus");
}

static void
check_as_one(const struct request *rq, const struct reply *rp)
{
	static struct target one;
	static uint8_t data[DATA_MAX];
	struct request rq1 = *rq;
	struct reply rp1;
	int first;

	if (!plain() || (first = one_nexus(&one, &c.was)) == NOBODY)
		return;
	rq1.data = data;
	if (rq->cdb[0] == PR_CLEANUP) {
		rq1.cdb[0] = PR_OUT;
		rq1.cdb[1] = REGISTER_AND_IGNORE;
		rq1.len = PARAMS_LEN;
		memset(data, 0, PARAMS_LEN);
	} else if (rq->cdb[0] == PR_OUT) {
		memcpy(data, rq->data, rq->len);
		if (rq->len >= PARAMS_LEN)
			data[20] &= (uint8_t)~FLAG_ALL_TG_PT;
	}
	target_run(&one, first, &rq1, &rp1);
	if ((rp1.status != rp->status ||
		memcmp(rp1.sense, rp->sense, SENSE_LEN)) &&
	    !excused(rq, rp))
		violated("the answer is that of one nexus, which is %s",
		    answer(&rp1));
	/* To SPDK each of our paths is somebody else: see there. */
	if (w.lun.kind == SPDK && ((c.action == RELEASE && target_all(&c.was))
	    || (preempts() && c.key == c.sa)))
		return;
	if (rp1.status == rp->status)
		check_state(&one, first);
}

void
guest_ends(const struct request *rq, const struct reply *rp)
{
	check_form(rq, rp);
	check_time();
	check_in(rq, rp);
	if (rp->status == GOOD && c.action != NOBODY) {
		check_registered();
		check_joined();
		check_ghosts();
		check_left_behind();
		check_unregistered();
		check_reserved();
		check_released();
		check_cleared();
		check_preempted();
		check_drained();
	} else {
		check_rolled_back();
		check_unchanged(rp);
		check_accepted(rp);
		check_elsewhere(rp);
		check_waited(rp);
		check_conflict(rq, rp);
		check_own(rp);
	}
	if (!w.reborn) {
		check_record();
		check_holder();
	}
	check_gated();
	check_as_one(rq, rp);
	history_ends(rq, rp);
	c.action = NOBODY;
	history_rest();
}

/*
 * Nothing was promised to it. Of a command that removes keys the next one
 * need not know: it is as if another node had removed them. And what prhelper
 * found out about such a one is forgotten.
 */
void
guest_is_left(void)
{
	int i;

	for (i = 0; i < w.paths; i++)
		if (((preempts() || c.action == CLEAR) &&
			!w.lun.nexus[i].key) ||
		    history_was_removed(w.saved.key))
			w.road[i].disturbed = 1;
	w.moved |= w.forgetful;
	history_killed();
	c.action = NOBODY;
}

void
look_begins(void)
{
	int i;

	memset(&c, 0, offsetof(__typeof__(c), moment));
	c.action = NOBODY;
	c.moments = MOMENTS_MAX;
	c.begin = w.clock;
	for (i = 0; i < w.paths; i++) {
		c.up[i] = (uint8_t)fabric_usable(i);
		w.road[i].touched = 0;
	}
	count_anew();
	history_looks();
}

void
look_ends(void)
{
	if (w.lent)
		violated("what was borrowed is given back, once");
	if (w.clock - c.begin > MPATH_TIME + SLACK)
		violated("no look outlasts its deadline: %lld ms",
		    (long long)(w.clock - c.begin));
	w.reborn = 0;
	check_record();
	history_rest();
}
