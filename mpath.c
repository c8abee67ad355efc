/* See LICENSE file for copyright and license details. */
/*
 * One command of the guest over all paths of a multipath map. The guest sees
 * one nexus with one key; behind it each path is a nexus of its own, whose
 * registration it keeps by itself, while the reservation belongs to the
 * logical unit and is held through one path.
 *
 * A command that changes something goes to one path first, the canary. Only
 * what that one has accepted is done on the others, its siblings. What a path
 * answers is turned into a verdict by the tables below; what is only for a
 * while is repeated on that path. Where the answer was lost, or a path
 * disagrees with the others, it is asked what it holds:
 *
 *	U-probe	REGISTER key 0, new key 0: GOOD if it holds no key
 *	K-probe	REGISTER key K, new key K: GOOD if it holds just K
 *
 * neither of which changes anything but PRGENERATION.
 *
 * The world is seen only through dm_read(), dm_queues(), sg_batch(),
 * state_*(), now() and wait_until(): a simulator has its own.
 * No threads, no clock, no files, no ioctl here.
 */
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <stdint.h>
#include <string.h>

#include "prhelper.h"

#define NO_PATH ((dev_t)-1)
#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	UNDO_TIME = 5000,    /* of MPATH_TIME, kept for taking back */
	CANARY_TIME = 10500, /* SG_TIME, and the kernel's way back */
	PAUSE_MIN = 50,      /* before a path is asked again; doubled */
	PAUSE_MAX = 1000,
	ROUNDS_MAX = 3,   /* looks for paths that came meanwhile */
	FORCES_MAX = 8,   /* on a path that is reset, or another one is */
	MARKS_TIME = 250, /* between looks while a path is not as it should */
	IDLE_TIME = 2000, /* for a path to be done with the guest's writes */
	HEAD_LEN = 8,     /* of what an IN returns */
	KEY_LEN = 8,
	RESERVATION_LEN = 16,  /* what follows the head, if there is one */
	RESERVATION_TYPE = 21, /* its byte with scope and type */
	CAPABILITIES_LEN = 8,
	PTPL_A = 0x01, /* byte 3 of the capabilities: APTPL is on */
};

/* Bits in byte 20 of a parameter list, SPC-4 6.16. */
enum { FLAGS = 20, APTPL = 0x01, ALL_TG_PT = 0x04, SPEC_I_PT = 0x08 };

/* Reservation types, SPC-4 6.15. */
enum {
	WRITE_EXCLUSIVE = 1,
	EXCLUSIVE_ACCESS = 3,
	REGISTRANTS_ONLY = 5,
	ALL_REGISTRANTS_WE = 7,
	ALL_REGISTRANTS_EA = 8,
};

/* What a path's answer means; of two, the greater one says more. */
enum verdict {
	AWAY,      /* not executed: the path cannot be used */
	LOST,      /* may have been executed */
	ELSEWHERE, /* another path may give a better answer */
	CONFLICT,  /* RESERVATION CONFLICT: often of this path alone */
	FINAL,     /* what the guest must be told */
	DONE,      /* executed */
	/* only for a while, and only within settle() */
	IS_BUSY,
	IN_TRANSITION,
	ATTENTION,
	WAS_RESET,   /* a unit attention, too */
	WAS_REMOVED, /* one of ours, or of another: so are these */
	ABORTED,
};

struct op {
	const struct request *rq; /* of the guest */
	struct reply *rp;         /* for the guest */
	struct map map;           /* best path first */
	struct lun *lun;          /* NULL for an IN */
	uint64_t was;             /* the lun's key before this command */
	struct lun before;        /* the lun before a change of the key */
	int64_t end;              /* time to send something ends */
	int action;
	uint64_t key, sa_key; /* of the guest's parameter list */
	int group;            /* of the map, to be used again at the end */
	dev_t canary;
	dev_t unsure; /* a path that may have executed what others refused */
	int ours;     /* the reservation that a RESERVE meets; -1: unknown */
	int lost;     /* a path that held the key has it no more */
	int verified; /* no path said GOOD, but the effect is there */
	int self;     /* a PREEMPT concerns our own key */
	int same;     /* the key is registered once more */
	int anyway;   /* a path that missed a change is as good as another */
	int gone;     /* the key before was removed by another node */
	int blind;    /* keys are put where there was none, or any */
	int reset;    /* a path was, and may have lost its key */
	int suspect;  /* no clean path has its key, though none is astray */
	int listed; /* before: how often the key to be removed was registered */
	struct reply last; /* of the last send_to() */
	struct job *jobs;  /* PATHS_MAX; only what is used is touched */
	uint8_t *buf;      /* DATA_MAX: what the last ask() returned */
	uint32_t got;
	uint32_t generation; /* PRGENERATION as of the last READ KEYS */
};

/* What is done about a path, for the trace. */
static void
trace_step(dev_t dev, const char *what)
{
	trace(TRACE_PATH_STEP, "path=%u:%u %s", major(dev), minor(dev), what);
}

static int move_holder(struct op *, int);
static int proven(struct op *);
static int unclean(struct op *);
static int ask_siblings(struct op *);
static void note_ghosts(struct op *);
static void heal_aside(struct op *);

/* Do all registrants hold a reservation of this type? */
static int
all_hold(int type)
{
	return type == ALL_REGISTRANTS_WE || type == ALL_REGISTRANTS_EA;
}

/* Verdicts */

/* clang-format off */
enum { ANY = 0xff };

static const struct {
	uint8_t key, asc, ascq, verdict;
} senses[] = {
	{ 0x0, ANY,  ANY,  DONE },
	{ 0x1, ANY,  ANY,  DONE },	/* recovered error */
	{ 0x2, 0x04, 0x01, IN_TRANSITION },	/* becoming ready */
	{ 0x2, 0x04, 0x07, IN_TRANSITION },	/* operation in progress */
	{ 0x2, 0x04, 0x0a, IN_TRANSITION },	/* asymmetric access state */
	{ 0x2, 0x04, 0x02, AWAY },	/* initializing command required */
	{ 0x2, 0x04, 0x03, AWAY },	/* manual intervention required */
	{ 0x2, 0x04, 0x0b, AWAY },	/* standby */
	{ 0x2, 0x04, 0x0c, AWAY },	/* unavailable */
	{ 0x2, ANY,  ANY,  ELSEWHERE },
	{ 0x3, ANY,  ANY,  ELSEWHERE },
	{ 0x4, ANY,  ANY,  ELSEWHERE },
	{ 0x5, 0x25, 0x00, AWAY },	/* logical unit not supported */
	{ 0x6, 0x29, ANY,  WAS_RESET },
	{ 0x6, 0x2a, 0x03, WAS_REMOVED },	/* reservations preempted */
	{ 0x6, 0x2a, 0x04, WAS_REMOVED },	/* reservations released */
	{ 0x6, 0x2a, 0x05, WAS_REMOVED },	/* registrations preempted */
	{ 0x6, ANY,  ANY,  ATTENTION },
	{ 0xb, ANY,  ANY,  ABORTED },
	{ ANY, ANY,  ANY,  FINAL },
};

/*
 * Names for the trace; how often a passing verdict is asked for again, with
 * a rest or at once, and what it is taken for in the end.
 */
static const struct {
	const char *name;
	uint8_t times, rests, verdict;
} verdicts[] = {
	[AWAY] =          { "away", 0, 0, AWAY },
	[LOST] =          { "lost", 0, 0, LOST },
	[ELSEWHERE] =     { "try elsewhere", 0, 0, ELSEWHERE },
	[CONFLICT] =      { "conflict", 0, 0, CONFLICT },
	[FINAL] =         { "final", 0, 0, FINAL },
	[DONE] =          { "good", 0, 0, DONE },
	[IS_BUSY] =       { "busy", 13, 1, ELSEWHERE },
	[IN_TRANSITION] = { "in transition", 13, 1, AWAY }, /* 10 s */
	[ATTENTION] =     { "unit attention", 8, 0, ELSEWHERE },
	[WAS_RESET] =     { "was reset", 8, 1, ELSEWHERE },
	[WAS_REMOVED] =   { "unit attention", 8, 0, ELSEWHERE },
	[ABORTED] =       { "aborted", 1, 0, LOST },
};
/* clang-format on */

/*
 * What LIO (2h/08h/00h) and SPDK (2h/00h/00h) say to a nexus that is not
 * registered. For LIO it is also a REGISTER whose effect it could not write
 * down.
 */
static int
unregistered(const struct job *j, uint32_t sense)
{
	if (j->rq.cdb[0] != PR_OUT || (sense != 0x020800 && sense != 0x020000))
		return ELSEWHERE;
	switch (j->rq.cdb[1] & ACTION_MASK) {
	case RESERVE:
	case RELEASE:
	case CLEAR: return CONFLICT;
	case REGISTER:
	case REGISTER_AND_IGNORE: return LOST;
	default: return ELSEWHERE;
	}
}

static int
sense_verdict(const struct job *j)
{
	uint32_t sense = proto_sense_of(j->rp.sense);
	uint8_t key = (uint8_t)(sense >> 16), asc = (uint8_t)(sense >> 8);
	uint8_t ascq = (uint8_t)sense;
	int i = 0;

	while ((senses[i].key != ANY && senses[i].key != key) ||
	    (senses[i].asc != ANY && senses[i].asc != asc) ||
	    (senses[i].ascq != ANY && senses[i].ascq != ascq))
		i++;
	return key == 0x2 && senses[i].verdict == ELSEWHERE ?
	    unregistered(j, sense) :
	    senses[i].verdict;
}

static int
verdict(const struct job *j)
{
	switch (j->how) {
	case SG_ANSWERED: break;
	case SG_LOST:
	case SG_SILENT: return LOST;
	default: return AWAY;
	}
	switch (j->rp.status) {
	case GOOD: return DONE;
	case RESERVATION_CONFLICT: return CONFLICT;
	case BUSY:
	case TASK_SET_FULL: return IS_BUSY;
	case TASK_ABORTED: return LOST;
	case CHECK_CONDITION: return sense_verdict(j);
	default: return ELSEWHERE;
	}
}

/* Marks */

static struct mark *
find_mark(struct lun *lun, dev_t dev)
{
	int i;

	for (i = 0; i < lun->n; i++)
		if (lun->marks[i].dev == dev)
			return &lun->marks[i];
	return NULL;
}

static int
mark_of(struct lun *lun, dev_t dev)
{
	const struct mark *m = find_mark(lun, dev);

	return m ? m->mark : MARK_NONE;
}

/* The mark of a path, a new one if it has none. */
static struct mark *
mark_for(struct lun *lun, dev_t dev)
{
	struct mark *m = find_mark(lun, dev);

	if (m)
		return m;
	m = &lun->marks[lun->n < MARKS_MAX ? lun->n++ : 0];
	*m = (struct mark){ .dev = dev };
	return m;
}

static void
set_mark(struct lun *lun, dev_t dev, int mark)
{
	mark_for(lun, dev)->mark = (uint8_t)mark;
}

/*
 * No path has the key any more. What missed a change may have an older one,
 * and what device-mapper was told is not to be forgotten.
 */
static void
drop_marks(struct lun *lun)
{
	struct mark *m;
	int i, n = 0;

	lun->ghosts = 0;
	for (i = 0; i < lun->n; i++) {
		m = &lun->marks[i];
		if (m->mark == MARK_CLEAN || m->mark == MARK_GONE ||
		    m->mark == MARK_ROBBED)
			m->mark = MARK_NONE;
		else if (m->mark != MARK_TAINTED)
			m->mark = MARK_CLEAR;
		if (m->mark != MARK_NONE || m->failed)
			lun->marks[n++] = *m;
	}
	lun->n = n;
}

/*
 * How many paths have this mark? Clean ones have the key, as far as we know;
 * on tainted ones a command that was given up may still be executed.
 */
static int
marked(const struct lun *lun, int mark)
{
	int i, n = 0;

	for (i = 0; i < lun->n; i++)
		n += lun->marks[i].mark == mark;
	return n;
}

/*
 * How many paths have the key, also those that the map has lost, and what
 * such ones had before they came back as another nexus?
 */
static int
recorded(const struct lun *lun)
{
	return marked(lun, MARK_CLEAN) + marked(lun, MARK_GONE) + lun->ghosts;
}

/* No path of ours holds the reservation; what may come late aside. */
static void
none_holds(struct lun *lun)
{
	lun->holder = marked(lun, MARK_TAINTED) ? 0 : NO_PATH;
}

/* A command that removes our keys, too, may have been executed. */
static void
doubt(struct op *op)
{
	int i;

	for (i = 0; i < op->lun->n; i++)
		op->lun->marks[i].mark = MARK_TAINTED;
}

/* Sending */

static void
trace_done(const struct job *j, int v)
{
	static const char *const hows[] = {
		[SG_ANSWERED] = "answered",
		[SG_DEAD] = "dead",
		[SG_UNUSABLE] = "unusable",
		[SG_LOST] = "lost",
		[SG_SILENT] = "silent",
	};
	uint64_t key = 0, sa_key = 0;

	if (j->rq.cdb[0] == PR_OUT && j->rq.len >= PARAMS_LEN) {
		key = get64(j->rq.data);
		sa_key = get64(j->rq.data + KEY_LEN);
	}
	trace(TRACE_PATH_DONE,
	    "path=%u:%u %s type=%u key=%llx new=%llx: %s; %s "
	    "status=%02x sense=%06x tries=%d",
	    major(j->dev), minor(j->dev), proto_name(j->rq.cdb),
	    j->rq.cdb[2] & TYPE_MASK, (unsigned long long)key,
	    (unsigned long long)sa_key, verdicts[v].name, hows[j->how],
	    j->rp.status, proto_sense_of(j->rp.sense), j->tries);
}

/* Is this an answer to be asked for again? Then pause is long enough. */
static int
again(struct op *op, struct job *j, int *pause)
{
	int p, v = verdict(j);

	trace_done(j, v);
	j->verdict = verdicts[v].verdict;
	op->reset |= v == WAS_RESET || v == WAS_REMOVED;
	/* Other registrations may be gone: first look at those. */
	if (op->blind && (v == WAS_RESET || v == WAS_REMOVED)) {
		j->verdict = WAS_REMOVED;
		return 0;
	}
	/* Only a unit attention is fetched: see drain(). */
	if (j->rq.cdb[0] == TEST_UNIT_READY && v < ATTENTION)
		return 0;
	if (j->tries >= verdicts[v].times)
		return 0;
	p = j->tries < 5 ? PAUSE_MIN << j->tries : PAUSE_MAX;
	if (verdicts[v].rests && p > *pause)
		*pause = p;
	j->tries++;
	return 1;
}

/* Whenever it is executed, the path has then the key that it had before. */
static int
keeps_key(const struct request *rq)
{
	switch (rq->cdb[1] & ACTION_MASK) {
	case RESERVE:
	case RELEASE: return 1;
	case REGISTER:
		return rq->len == PARAMS_LEN &&
		    get64(rq->data) == get64(rq->data + KEY_LEN);
	default: return 0;
	}
}

/* What a path that did not answer holds is not known any more. */
static void
taint(struct op *op, struct job *j)
{
	if (j->how == SG_SILENT)
		proto_sense(&j->rp, COMMAND_TIMEOUT);
	if (j->rp.status == GOOD)
		proto_sense(&j->rp, IO_TERMINATED);
	if (!op->lun || j->rq.cdb[0] != PR_OUT)
		return;
	if (op->lun->holder == NO_PATH)
		op->lun->holder = 0; /* it may reserve */
	/* The key once more changes nothing, unless it is still to come. */
	if (!keeps_key(&j->rq) && !(op->same && j->how == SG_LOST))
		set_mark(op->lun, j->dev, MARK_TAINTED);
}

static void
mute(struct op *op, dev_t dev)
{
	int i;

	for (i = 0; i < op->map.n; i++)
		if (op->map.paths[i].dev == dev)
			op->map.paths[i].mute = 1;
}

/* Send until each job has a verdict. Their order changes. */
static void
settle(struct op *op, struct job *jobs, int n, int patience)
{
	struct job j;
	int64_t left;
	int i, pause;

	for (i = 0; i < n; i++) {
		jobs[i].tries = 0;
		jobs[i].how = SG_UNUSABLE;
		jobs[i].verdict = AWAY;
	}
	while (n > 0 && (left = op->end - now()) > 0) {
		sg_batch(jobs, n, op->map.wwid,
		    patience < left ? patience : (int)left);
		pause = 0;
		for (i = 0; i < n;) {
			if (again(op, &jobs[i], &pause)) {
				i++;
				continue;
			}
			if (jobs[i].verdict == LOST)
				taint(op, &jobs[i]);
			if (jobs[i].verdict <= LOST)
				mute(op, jobs[i].dev);
			j = jobs[i];
			jobs[i] = jobs[--n];
			jobs[n] = j;
		}
		if (n > 0 && pause > 0)
			wait_until(now() + pause);
	}
}

/* Send one command to the n paths of jobs. */
static void
send_all(struct op *op, int n, const struct request *rq)
{
	int i;

	for (i = 0; i < n; i++)
		op->jobs[i].rq = *rq;
	settle(op, op->jobs, n, PATIENCE);
}

static int
good(struct op *op)
{
	proto_status(op->rp, GOOD);
	return DONE;
}

/*
 * Who was registered with ALL_TG_PT, by another program, can be registered
 * only with it again: without it LIO says INVALID FIELD IN CDB.
 */
static int
wants_all_ports(const struct job *j)
{
	const struct request *rq = &j->rq;
	int action = rq->cdb[1] & ACTION_MASK;

	return rq->cdb[0] == PR_OUT && rq->len == PARAMS_LEN &&
	    (action == REGISTER || action == REGISTER_AND_IGNORE) &&
	    !(rq->data[FLAGS] & ALL_TG_PT) &&
	    proto_sense_of(j->rp.sense) == INVALID_FIELD;
}

static int
settle_one(struct op *op, struct job *j, int patience)
{
	settle(op, j, 1, patience);
	if (j->verdict == AWAY)
		proto_sense(&j->rp, LU_COMM_FAILURE);
	op->last = j->rp;
	return j->verdict;
}

static int
send_all_ports(struct op *op, dev_t dev, const struct request *rq, int patience)
{
	struct job j = { .dev = dev, .rq = *rq };
	uint8_t params[PARAMS_LEN];

	memcpy(params, rq->data, PARAMS_LEN);
	params[FLAGS] |= ALL_TG_PT;
	j.rq.data = params;
	return settle_one(op, &j, patience);
}

/* Send a command to one path; its reply is the last one. */
static int
send_to(struct op *op, dev_t dev, const struct request *rq, int patience)
{
	struct job j = { .dev = dev, .rq = *rq };
	int v = settle_one(op, &j, patience);

	return v == FINAL && wants_all_ports(&j) ?
	    send_all_ports(op, dev, rq, patience) :
	    v;
}

/* Is there another path that seems to work, from the ith on? */
static int
others_active(const struct op *op, int i)
{
	for (; i < op->map.n; i++)
		if (op->map.paths[i].active)
			return 1;
	return 0;
}

/* A PERSISTENT RESERVE IN to one path after the other. */
static int
ask_paths(struct op *op, const struct request *rq, struct reply *best)
{
	int i, v, found = AWAY;

	for (i = 0; i < op->map.n && found < CONFLICT; i++) {
		v = send_to(op, op->map.paths[i].dev, rq,
		    others_active(op, i + 1) ? PATIENCE : CANARY_TIME);
		if (v < found)
			continue;
		found = v;
		*best = op->last;
	}
	return found;
}

/* Ask any path; the payload is in buf. 0, or -1 if none answers. */
static int
ask(struct op *op, int action)
{
	struct request rq = {
		.cdb = { PR_IN, (uint8_t)action, [7] = DATA_MAX >> 8 },
		.fd = -1,
		.len = DATA_MAX,
		.data = op->buf,
	};
	struct reply rp;

	op->got = 0;
	if (ask_paths(op, &rq, &rp) != DONE)
		return -1;
	op->got = rp.len;
	return op->got >= HEAD_LEN ? 0 : -1;
}

/* How often a key (0: any) is registered; -1 if that is not known. */
static int
count_key(struct op *op, uint64_t key)
{
	uint32_t i, len;
	int n = 0;

	if (ask(op, READ_KEYS) < 0)
		return -1;
	len = get32(op->buf + 4);
	if (len > op->got - HEAD_LEN)
		return -1;
	op->generation = get32(op->buf);
	for (i = 0; i + KEY_LEN <= len; i += KEY_LEN)
		n += key == 0 || get64(op->buf + HEAD_LEN + i) == key;
	return n;
}

/* 1 and key and type of the reservation; 0 if there is none; -1 unknown. */
static int
read_reservation(struct op *op, uint64_t *key, int *type)
{
	*key = 0;
	*type = 0;
	if (ask(op, READ_RESERVATION) < 0)
		return -1;
	if (get32(op->buf + 4) < RESERVATION_LEN)
		return 0;
	if (op->got < HEAD_LEN + RESERVATION_LEN)
		return -1;
	*key = get64(op->buf + HEAD_LEN);
	*type = op->buf[RESERVATION_TYPE] & TYPE_MASK;
	return 1;
}

static uint8_t
guest_aptpl(const struct op *op)
{
	return op->rq->data[FLAGS] & APTPL ? APTPL_ON : APTPL_OFF;
}

/*
 * The APTPL bit to send beside a key: any REGISTER without it may erase what
 * the target has written down.
 */
static uint8_t
aptpl(struct op *op)
{
	struct lun *lun = op->lun;
	int i;

	for (i = 0; i < ROUNDS_MAX && lun->aptpl == APTPL_UNKNOWN; i++)
		if (ask(op, REPORT_CAPABILITIES) == 0 &&
		    op->got >= CAPABILITIES_LEN)
			return op->buf[3] & PTPL_A ? APTPL : 0; /* now */
	return lun->aptpl == APTPL_ON ? APTPL : 0;
}

/* Make a PERSISTENT RESERVE OUT of our own. */
static void
make_out(struct op *op, struct request *rq, uint8_t params[PARAMS_LEN],
    int action, int type, uint64_t key, uint64_t sa_key)
{
	*rq = (struct request){
		.cdb = { PR_OUT, (uint8_t)action,
		    (uint8_t)type, [8] = PARAMS_LEN },
		.fd = -1,
		.len = PARAMS_LEN,
		.data = params,
	};
	memset(params, 0, PARAMS_LEN);
	put64(params, key);
	put64(params + KEY_LEN, sa_key);
	params[FLAGS] = aptpl(op);
}

static int
send_out(struct op *op, dev_t dev, int action, int type, uint64_t key,
    uint64_t sa_key)
{
	uint8_t params[PARAMS_LEN];
	struct request rq;

	make_out(op, &rq, params, action, type, key, sa_key);
	return send_to(op, dev, &rq, PATIENCE);
}

static int
register_on(struct op *op, dev_t dev, int action, uint64_t key, uint64_t sa_key)
{
	return send_out(op, dev, action, 0, key, sa_key);
}

/* U-probe with key 0, K-probe else: DONE if the path holds just this. */
static int
probe(struct op *op, dev_t dev, uint64_t key)
{
	return register_on(op, dev, REGISTER, key, key);
}

/*
 * Our own command may have left unit attentions on the siblings, where the
 * guest's I/O would meet them: fetch them.
 */
static void
drain(struct op *op)
{
	static const struct request rq = { .cdb = { TEST_UNIT_READY },
		.fd = -1 };
	int i, n = 0;

	for (i = 0; i < op->map.n; i++)
		if (op->map.paths[i].dev != op->canary)
			op->jobs[n++].dev = op->map.paths[i].dev;
	send_all(op, n, &rq);
}

static int
is_clean(struct op *op, dev_t dev)
{
	return mark_of(op->lun, dev) == MARK_CLEAN;
}

/*
 * Is this path not as it should be? Where no key is wanted, one of which
 * nothing is known is left alone.
 */
static int
astray(struct op *op, dev_t dev)
{
	int mark = mark_of(op->lun, dev);

	return mark != MARK_CLEAN && (op->lun->key || mark != MARK_NONE);
}

/* The canary */

/*
 * Is a conflict on this path the answer of the logical unit, or does the
 * path only lack the key that the others have?
 */
static int
believed(struct op *op, dev_t dev)
{
	int v, mark = mark_of(op->lun, dev);

	if (op->key == 0)
		return mark != MARK_CLEAR && mark != MARK_TAINTED;
	/* What is known of the path tells that this is not its key. */
	if (op->key != op->was &&
	    (mark == MARK_CLEAN ||
		(op->was != 0 && probe(op, dev, op->was) == DONE)))
		return 1;
	v = probe(op, dev, op->key);
	if (v != CONFLICT) {
		/* Only the holder may reserve again, whatever path that is. */
		return v > LOST && !(op->ours && op->action == RESERVE);
	}
	trace_step(dev, "does not hold the key: another path may");
	if (mark == MARK_CLEAN && op->key == op->was) {
		op->lost = 1;
		set_mark(op->lun, dev, MARK_ROBBED);
	}
	return 0;
}

/* The answer was lost: is the effect there? */
static int
took_effect(struct op *op, dev_t dev)
{
	uint8_t saved;
	uint64_t key;
	int v, type;

	switch (op->action) {
	case REGISTER:
	case REGISTER_AND_IGNORE:
		saved = op->lun->aptpl;
		op->lun->aptpl = guest_aptpl(op);
		v = probe(op, dev, op->sa_key);
		op->lun->aptpl = saved;
		/* What it had before is no effect of a wrong key. */
		return v == DONE &&
		    (op->key == op->was ||
			(op->sa_key && op->sa_key != op->was));
	case RESERVE:
		/* Another node with our key may have reserved, too. */
		if (op->key != op->was)
			return 0;
		if (read_reservation(op, &key, &type) != 1 ||
		    type != (op->rq->cdb[2] & TYPE_MASK) ||
		    (!all_hold(type) && key != op->key))
			return 0;
		return (op->ours == 0 && !all_hold(type)) || proven(op);
	case CLEAR:
		return op->key == op->was && op->listed > 0 &&
		    count_key(op, 0) == 0;
	case PREEMPT:
	case PREEMPT_AND_ABORT:
		if (op->key != op->was)
			return 0;
		if (!op->self)
			return op->listed > 0 && count_key(op, op->sa_key) == 0;
		/* The sender's own is left, or none. */
		v = count_key(op, op->key);
		return v >= 0 && v < op->listed;
	default: return 0;
	}
}

static int
canary_patience(const struct op *op, int i)
{
	if (op->action == PREEMPT_AND_ABORT)
		return SG_ABORT_TIME + PATIENCE;
	/* These may be repeated: so another path can have them. */
	if ((op->action == RELEASE || op->action == REGISTER_AND_IGNORE) &&
	    others_active(op, i + 1))
		return PATIENCE;
	return CANARY_TIME;
}

/* A key that worked is the guest's, though we may have been restarted. */
static void
adopt_key(struct op *op, dev_t dev)
{
	struct lun *lun = op->lun;

	/* RELEASE may be GOOD with any key where nothing is reserved. */
	if (op->action != RESERVE && op->action != PREEMPT &&
	    op->action != PREEMPT_AND_ABORT)
		return;
	if (lun->key != op->key)
		drop_marks(lun);
	lun->key = op->key;
	set_mark(lun, dev, MARK_CLEAN);
}

/* Send the guest's command to the ith path. */
static int
send_guest(struct op *op, int i)
{
	dev_t dev = op->map.paths[i].dev;
	struct reply rp;
	int v;

	v = send_to(op, dev, op->rq, canary_patience(op, i));
	rp = op->last;
	if (v == DONE)
		adopt_key(op, dev);
	if (v == LOST && took_effect(op, dev)) {
		trace_step(dev, "took effect");
		proto_status(&rp, GOOD);
		op->verified = 1;
		v = DONE;
	}
	op->last = rp;
	if (v == DONE)
		op->canary = dev;
	return v;
}

/* Another node has removed our key: a path that held it has it no more. */
static void
lost_key(struct op *op)
{
	warn("%s: key 0x%llx is not registered any more", op->map.wwid,
	    (unsigned long long)op->was);
	op->lun->key = op->was = 0;
	op->lun->holder = 0;
	drop_marks(op->lun);
}

/* For a path that missed a change a wrong key may be right. */
static int
outdated(struct op *op, dev_t dev)
{
	int mark = mark_of(op->lun, dev);

	return !op->anyway &&
	    (mark > MARK_CLEAN || (op->was && mark == MARK_NONE));
}

/*
 * Send the guest's command to one path after the other until one counts. A
 * refusal may be the echo of a command before it whose answer was lost.
 */
static int
canary(struct op *op)
{
	int i, v, skipped = 0, found = AWAY;
	dev_t dev;

	op->lost = op->verified = 0;
	op->unsure = 0;
	for (i = 0; i < op->map.n && found < FINAL; i++) {
		dev = op->map.paths[i].dev;
		if (op->key != op->was && outdated(op, dev)) {
			skipped++;
			continue;
		}
		/* Those that had it for sure are the ones to be believed. */
		if (op->lost && !is_clean(op, dev))
			continue;
		v = send_guest(op, i);
		if (v >= found) {
			found = v;
			*op->rp = op->last;
		}
		if (v == LOST)
			op->unsure = dev;
		/* Another one's end would leave the reservation behind. */
		if (v == LOST && dev == op->lun->holder &&
		    op->action != RELEASE && op->action != CLEAR &&
		    op->sa_key == 0)
			break;
		if (v == CONFLICT && believed(op, dev))
			break;
	}
	if (found != DONE && op->unsure && took_effect(op, op->unsure)) {
		op->verified = 1;
		op->canary = op->unsure;
		return good(op);
	}
	if (i == op->map.n && op->lost)
		lost_key(op);
	/* It would be right for none but such a path, if at all. */
	if (skipped == op->map.n && (op->key || op->action != REGISTER)) {
		proto_status(op->rp, RESERVATION_CONFLICT);
		return CONFLICT;
	}
	return found;
}

/* The siblings */

/* This path does not hold what it should; it is seen to when it returns. */
static void
missed(struct op *op, dev_t dev)
{
	int mark = mark_of(op->lun, dev);

	trace_step(dev, "missed the change");
	if (op->same && mark != MARK_TAINTED &&
	    mark_of(&op->before, dev) == MARK_CLEAN)
		set_mark(op->lun, dev, MARK_CLEAN); /* it missed nothing */
	else if (mark != MARK_TAINTED && mark != MARK_GONE)
		set_mark(op->lun, dev, op->lun->key ? MARK_SET : MARK_CLEAR);
}

/*
 * The first path has a new key; nothing is known of the others yet, and those
 * that the map has no more have missed it.
 */
static void
begin(struct op *op, uint64_t sa_key)
{
	struct lun *lun = op->lun;
	int i;

	lun->key = sa_key;
	lun->changing = 0;
	lun->ghosts = 0;
	for (i = 0; i < lun->n; i++)
		if (lun->marks[i].mark != MARK_TAINTED)
			lun->marks[i].mark = sa_key ? MARK_SET : MARK_CLEAR;
	for (i = 0; i < op->map.n; i++)
		if (mark_of(lun, op->map.paths[i].dev) != MARK_TAINTED)
			set_mark(lun, op->map.paths[i].dev,
			    sa_key ? MARK_NONE : MARK_CLEAR);
	if (op->canary)
		set_mark(lun, op->canary, MARK_CLEAN);
	state_save(lun);
}

/* Paths that device-mapper must not use meanwhile */

/* Is there another path for the guest's I/O, registered and in use? */
static int
spare(struct op *op, dev_t but)
{
	const struct path *p;

	for (p = op->map.paths; p < op->map.paths + op->map.n; p++)
		if (p->dev != but && p->active && !p->mute &&
		    is_clean(op, p->dev))
			return 1;
	return 0;
}

/*
 * A write through a path that lacks the key would be refused, and dm would
 * hand that to the guest. So it is told to leave such paths alone, as long as
 * there is another one. What was told is written down first.
 */
static void
gate(struct op *op)
{
	struct path *p;
	int n = 0;

	if (op->lun->key == 0)
		return;
	for (p = op->map.paths; p < op->map.paths + op->map.n; p++)
		if (p->active && !is_clean(op, p->dev) && spare(op, p->dev))
			n += mark_for(op->lun, p->dev)->failed = 1;
	if (n == 0)
		return;
	state_save(op->lun);
	for (p = op->map.paths; p < op->map.paths + op->map.n; p++) {
		if (!p->active || !mark_for(op->lun, p->dev)->failed)
			continue;
		trace_step(p->dev, "not to be used");
		p->active = dm_use_path(&op->map, p->dev, 0) < 0;
	}
}

/* Put a path first that the guest's I/O can have alone, if there is one. */
static int
sender_first(struct op *op)
{
	struct path p;
	int i;

	for (i = 0; i < op->map.n; i++) {
		p = op->map.paths[i];
		if (!p.active || !is_clean(op, p.dev) ||
		    probe(op, p.dev, op->key) != DONE)
			continue;
		op->map.paths[i] = op->map.paths[0];
		op->map.paths[0] = p;
		return 1;
	}
	return 0;
}

/*
 * A PREEMPT of our own key removes the siblings for a while: no write shall be
 * on its way through them, nor on a queue.
 */
static void
gate_siblings(struct op *op)
{
	int64_t end = now() + IDLE_TIME;
	struct path *p, *last = op->map.paths + op->map.n;
	int i, sender = sender_first(op);

	/* Without the siblings another group may have to be used. */
	if (sender && op->map.paths[0].group != op->map.group)
		op->group = op->map.group;

	for (i = 0; i < op->lun->n; i++)
		if (op->lun->marks[i].mark != MARK_TAINTED)
			op->lun->marks[i].mark = MARK_SET;
	for (p = op->map.paths + 1; sender && p < last; p++)
		if (p->active)
			mark_for(op->lun, p->dev)->failed = 1;
	state_save(op->lun);
	if (!sender)
		return;
	for (p = op->map.paths + 1; p < last; p++)
		if (p->active)
			p->active = dm_use_path(&op->map, p->dev, 0) < 0;
	for (p = op->map.paths + 1; p < last; p++)
		while (path_busy(p->dev) && now() < end)
			wait_until(now() + PAUSE_MIN);
}

/*
 * Only what we failed ourselves is reinstated: when it is as it should be, or
 * when there is nothing else to use.
 */
static void
ungate(struct op *op)
{
	struct mark *m;
	int i;

	for (i = 0; i < op->lun->n; i++) {
		m = &op->lun->marks[i];
		if (!m->failed ||
		    (op->lun->key && m->mark != MARK_CLEAN &&
			spare(op, m->dev)))
			continue;
		trace_step(m->dev, "to be used again");
		if (dm_use_path(&op->map, m->dev, 1) == 0)
			m->failed = 0;
	}
	if (op->group && dm_use_group(&op->map, op->group) == 0)
		op->group = 0;
}

enum { BROUGHT, REFUSED, PREEMPTED };

/* Steps to bring a sibling to a key, each for those that need it. */
enum { ASK_FOR, LOOK_AT, FORCE };

/*
 * Which siblings need the next step? Those come first: how many. One that
 * cannot be reached is left for later; one that can, and still does not take
 * the key, would be a hole in the guest's registration.
 */
static int
sift(struct op *op, int n, int step, uint64_t sa_key, int *result)
{
	struct job *j;
	int i = 0;

	while (i < n) {
		j = &op->jobs[i];
		if (j->verdict == WAS_REMOVED ||
		    (step < FORCE && j->verdict == CONFLICT) ||
		    (step == ASK_FOR && j->verdict <= LOST &&
			j->how != SG_SILENT)) {
			i++;
			continue;
		}
		if (j->verdict == FINAL && wants_all_ports(j)) {
			j->verdict = (uint8_t)send_all_ports(
			    op, j->dev, &j->rq, PATIENCE);
			j->rp = op->last;
		}
		if (j->verdict == DONE) {
			set_mark(op->lun, j->dev, MARK_CLEAN);
		} else if (j->verdict <= LOST || !sa_key) {
			missed(op, j->dev);
		} else {
			trace_step(j->dev, "refuses the key");
			missed(op, j->dev);
			*op->rp = j->rp;
			*result = REFUSED;
		}
		op->jobs[i] = op->jobs[--n];
	}
	return n;
}

/*
 * Does the canary still have the key? If there is none: is the key listed
 * as often as we have registered it? The paths that have just got it may be
 * all that is left.
 */
static int
still_there(struct op *op)
{
	int n, v, known = recorded(op->lun);

	op->reset = 0;
	if (op->canary) {
		known += !is_clean(op, op->canary);
		v = probe(op, op->canary, op->lun->key);
		if (v == DONE || v == CONFLICT)
			return v;
	}
	n = count_key(op, op->lun->key);
	if (n >= known)
		return DONE;
	/* The count was right when it was asked for: so it was removed since */
	return n == 0 || (n > 0 && !op->canary) ? CONFLICT : LOST;
}

/*
 * Has another node removed the old key, where it was, before it changed? Then
 * a unit attention has told of it; without one, the path has lost it itself.
 */
static int
taken(struct op *op, int n, uint64_t key)
{
	dev_t devs[PATHS_MAX];
	int i;

	for (i = 0; i < n; i++)
		devs[i] = op->jobs[i].dev;
	for (i = 0; i < n && op->action == REGISTER && op->reset; i++)
		if (op->before.key == key &&
		    mark_of(&op->before, devs[i]) == MARK_CLEAN &&
		    probe(op, devs[i], 0) == DONE)
			return 1;
	return 0;
}

static void
make_step(struct op *op, struct request *rq, uint8_t params[PARAMS_LEN],
    int step, int action, uint64_t key, uint64_t sa_key)
{
	switch (step) {
	case ASK_FOR: make_out(op, rq, params, action, 0, key, sa_key); break;
	case LOOK_AT:
		make_out(op, rq, params, REGISTER, 0, sa_key, sa_key);
		break;
	default:
		make_out(op, rq, params, REGISTER_AND_IGNORE, 0, 0, sa_key);
		break;
	}
}

/* Take the n paths of jobs through the steps; how many could not be. */
static int
take_steps(struct op *op, int n, int action, uint64_t key, uint64_t sa_key,
    int *result)
{
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int blind, step = ASK_FOR, rounds = 0;

	while (n > 0 && rounds < FORCES_MAX) {
		make_step(op, &rq, params, step, action, key, sa_key);
		if (step == FORCE && key && key != sa_key &&
		    taken(op, n, key)) {
			op->gone = 1;
			*result = PREEMPTED;
			break;
		}
		blind = sa_key &&
		    (step == FORCE ||
			(step == ASK_FOR && (!key || action != REGISTER)));
		if (blind && (step == FORCE || op->reset) &&
		    still_there(op) != DONE)
			break;
		op->blind = blind;
		send_all(op, n, &rq);
		op->blind = 0;
		n = sift(op, n, step, sa_key, result);
		rounds += step == FORCE;
		step = step == FORCE ? LOOK_AT : step + 1;
	}
	return n;
}

/*
 * Bring the siblings that are not as they should be from one key to another by
 * a REGISTER or a REGISTER AND IGNORE EXISTING KEY. A sibling that conflicts
 * has the new key already, or a stale one; or our own was preempted.
 */
static int
bring(struct op *op, int action, uint64_t key, uint64_t sa_key)
{
	dev_t dev, asked[PATHS_MAX];
	int i, n, all = 0, v = DONE, result = BROUGHT;

	for (i = 0; i < op->map.n; i++) {
		dev = op->map.paths[i].dev;
		if (dev != op->canary && astray(op, dev))
			op->jobs[all].dev = asked[all] = dev, all++;
	}
	n = take_steps(op, all, action, key, sa_key, &result);
	while (n > 0)
		missed(op, op->jobs[--n].dev);
	if (all && sa_key)
		v = still_there(op);
	/* Those that have it may be all that is left of it: look again. */
	for (i = 0; i < all && v == LOST; i++)
		if (is_clean(op, asked[i]))
			set_mark(op->lun, asked[i], MARK_TAINTED);
	return v == CONFLICT ? PREEMPTED : result;
}

/* The siblings give up the key; a path that missed that may hold on. */
static void
clear_all(struct op *op, int action, uint64_t key)
{
	begin(op, 0);
	bring(op, action, key, 0);
	if (op->was && recorded(op->lun) == op->lun->n)
		op->lun->holder = NO_PATH;
	else if (mark_of(op->lun, op->lun->holder) == MARK_CLEAN)
		op->lun->holder = 0;
}

/* Does a path that kept its old key have it no more? */
static int
was_removed(struct op *op, uint64_t old)
{
	dev_t dev;
	int i, v;

	for (i = 0; i < op->map.n && op->before.key == old; i++) {
		dev = op->map.paths[i].dev;
		if (mark_of(&op->before, dev) != MARK_CLEAN ||
		    is_clean(op, dev) || mark_of(op->lun, dev) == MARK_TAINTED)
			continue;
		v = probe(op, dev, old);
		if (v == DONE || v == CONFLICT)
			return v == CONFLICT;
	}
	return 0;
}

/*
 * Take the new key from the paths that got it: they get the guest's old one,
 * or nothing if another node has removed the key already.
 */
static void
retreat(struct op *op, int preempted)
{
	uint64_t old = op->action == REGISTER ? op->key : op->was;
	const struct reply rp = *op->rp;
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int i, clean, n = 0, result = BROUGHT;

	op->end += UNDO_TIME;
	if (preempted || op->gone || (old && was_removed(op, old)))
		old = 0;
	op->lun->key = old;
	op->lun->old = op->sa_key;
	op->lun->changing = old != 0;
	for (i = 0; i < op->map.n; i++) {
		clean = is_clean(op, op->map.paths[i].dev);
		missed(op, op->map.paths[i].dev);
		if (!clean)
			continue;
		op->jobs[n++].dev = op->map.paths[i].dev;
		trace_step(op->map.paths[i].dev,
		    preempted ? "must not keep the key" : "rolled back");
	}
	state_save(op->lun);
	make_out(op, &rq, params, REGISTER, 0, op->sa_key, old);
	send_all(op, n, &rq);
	sift(op, n, FORCE, old, &result);
	/* As long as no path has the old one, either may be the guest's. */
	op->lun->changing = old && marked(op->lun, MARK_CLEAN) == 0;
	*op->rp = rp;
	if (marked(op->lun, MARK_CLEAN) < n)
		warn("%s: not all paths could be rolled back", op->map.wwid);
}

static int
has_come(struct op *op, const struct map *old, dev_t dev)
{
	int i, mark = mark_of(op->lun, dev);

	for (i = 0; i < old->n && old->paths[i].dev != dev; i++)
		;
	return mark == MARK_NONE || (i == old->n && mark != MARK_CLEAN);
}

/* Paths that came while we were busy get the key, too. */
static int
catch_up(struct op *op)
{
	const struct map old = op->map;
	int i, round, r = BROUGHT;

	for (round = 0; round < ROUNDS_MAX && r == BROUGHT; round++) {
		if (dm_read(op->rq->fd, &op->map) != DM_MAP)
			break;
		for (i = 0; i < old.n; i++)
			if (old.paths[i].mute)
				mute(op, old.paths[i].dev);
		for (i = 0; i < op->map.n; i++)
			if (has_come(op, &old, op->map.paths[i].dev))
				break;
		if (i == op->map.n)
			break;
		r = bring(op, REGISTER, 0, op->sa_key);
	}
	return r == PREEMPTED ? r : BROUGHT;
}

/* Ownership */

/* Do we know which path holds our reservation? */
static int
holder_known(const struct op *op)
{
	return op->lun->holder && op->lun->holder != NO_PATH;
}

/*
 * Is the reservation held by this key, not by all registrants? -1 if that
 * cannot be told. SPDK may show no key for what we hold.
 */
static int
held_by(struct op *op, uint64_t key, int *type)
{
	uint64_t holder;
	int r = read_reservation(op, &holder, type);

	if (r < 1)
		return r;
	return !all_hold(*type) &&
	    (holder == key || (holder == 0 && holder_known(op)));
}

/*
 * Another host may use the same key. It is ours alone if the target lists it
 * just as often as we have registered it.
 */
static int
proven(struct op *op)
{
	return op->key == op->lun->key && !op->lost &&
	    count_key(op, op->key) == recorded(op->lun);
}

static void
holder_first(struct op *op)
{
	struct path p;
	int i;

	for (i = 1; i < op->map.n; i++) {
		if (op->map.paths[i].dev != op->lun->holder)
			continue;
		p = op->map.paths[i];
		op->map.paths[i] = op->map.paths[0];
		op->map.paths[0] = p;
	}
}

/* Is the reservation ours, but not to be reached through who holds it? */
static int
holder_away(struct op *op)
{
	dev_t dev = op->lun->holder;
	int i = 0, v;

	if (dev == NO_PATH)
		return 0;
	while (i < op->map.n && op->map.paths[i].dev != dev)
		i++;
	if (dev && i < op->map.n) {
		v = probe(op, dev, op->key);
		if (v > LOST && v != CONFLICT)
			return 0; /* else it is another nexus by now */
	}
	return proven(op);
}

/* The commands, each with its verdict and a reply that is in place */

/* How many that had the key before have not got the new one? */
static int
left_behind(struct op *op)
{
	const struct lun *lun = &op->before;
	int i, n = lun->ghosts;

	for (i = 0; i < lun->n; i++)
		n += (lun->marks[i].mark == MARK_CLEAN ||
			 lun->marks[i].mark == MARK_GONE) &&
		    !is_clean(op, lun->marks[i].dev);
	return n;
}

/*
 * After a key change the old key is left on paths that missed it, and with it
 * perhaps the reservation: preempt it, if it is our own.
 */
static void
lay_ghosts(struct op *op, int before, int known)
{
	int left = left_behind(op), held, type;

	if (op->was == 0 || op->was == op->sa_key || left <= 0)
		return;
	if (before != known || count_key(op, op->was) != left) {
		warn("%s: key 0x%llx is left as it is: another host has it, "
		     "too",
		    op->map.wwid, (unsigned long long)op->was);
		return;
	}
	held = held_by(op, op->was, &type);
	if (held < 0)
		return;
	if (held) {
		op->lun->holder = 0;
		state_save(op->lun);
	}
	send_out(op, op->canary, PREEMPT, type ? type : REGISTRANTS_ONLY,
	    op->sa_key, op->was);
	if (held)
		op->lun->holder =
		    held_by(op, op->sa_key, &type) == 1 ? op->canary : 0;
	drain(op);
}

/*
 * The guest's key is to change. Who comes after us, if we are killed, shall
 * know both the new one and the old one.
 */
static void
announce(struct op *op, uint64_t sa_key)
{
	int i;

	op->before = *op->lun;
	if (op->action == REGISTER && op->key == sa_key && op->was == sa_key)
		return;
	for (i = 0; i < op->map.n && op->was && !sa_key; i++)
		if (mark_of(op->lun, op->map.paths[i].dev) == MARK_NONE)
			set_mark(op->lun, op->map.paths[i].dev, MARK_CLEAR);
	if (!op->lun->changing)
		op->lun->old = op->was;
	op->lun->key = sa_key;
	op->lun->changing = 1;
	state_save(op->lun);
}

/* It does not change; or without an answer: heal() will find out. */
static void
refused(struct op *op, int v)
{
	if (v == LOST) {
		doubt(op);
		return;
	}
	op->lun->key = op->was;
	op->lun->old = op->before.old;
	op->lun->changing = op->was ? op->before.changing : 0;
}

/*
 * The key that the guest has, once more, and it is still there: then a path
 * that cannot be reached has it, too.
 */
static int
registers_again(struct op *op)
{
	return op->was && op->sa_key == op->was && op->key == op->was &&
	    op->lun->aptpl == guest_aptpl(op) && ask_siblings(op) == DONE &&
	    proven(op);
}

static void
keep_absent(struct op *op)
{
	int i;

	op->lun->ghosts = op->before.ghosts;
	for (i = 0; i < op->before.n; i++)
		if (op->before.marks[i].mark == MARK_GONE)
			set_mark(op->lun, op->before.marks[i].dev, MARK_GONE);
}

/* The first path has the new key; and the others? */
static int
registered(struct op *op, int r, int before, int known)
{
	if (r == REFUSED) {
		retreat(op, 0);
		return FINAL;
	}
	if (r == BROUGHT)
		r = catch_up(op);
	if (r == PREEMPTED) {
		/* Ours came first; what came then is as it is. */
		warn("%s: preempted while registering", op->map.wwid);
		retreat(op, 1);
	} else {
		lay_ghosts(op, before, known);
	}
	return good(op);
}

static int
register_key(struct op *op)
{
	struct lun *lun = op->lun;
	uint8_t was_aptpl = lun->aptpl;
	int v, r, same, known, before = -1;

	if (op->was && op->key == op->was)
		note_ghosts(op);
	known = recorded(lun);
	op->reset = 0;
	if (op->was && op->was != op->sa_key)
		before = count_key(op, op->was);
	/* Who removes one of a key removes them all. */
	op->gone = before >= 0 && before < known;
	same = registers_again(op);
	if (same)
		op->before = *lun;
	else
		announce(op, op->sa_key);
	v = canary(op);
	if (v != DONE) {
		if (!same)
			refused(op, v);
		return v;
	}
	same = same && !op->reset && is_clean(op, op->canary);
	lun->aptpl = guest_aptpl(op);
	if (op->reset && op->was && op->was != op->sa_key &&
	    count_key(op, op->was) == 0)
		op->gone = 1;
	if (op->action == REGISTER && op->key == 0)
		none_holds(lun);
	begin(op, op->sa_key);
	if (same)
		keep_absent(op);
	op->same = same;
	r = bring(op, op->action, op->key, op->sa_key);
	op->same = 0;
	if (r == REFUSED)
		lun->aptpl = was_aptpl;
	return registered(op, r, before, known);
}

static int
unregister(struct op *op)
{
	int i, v, type;

	for (i = 0; i < ROUNDS_MAX; i++)
		if (held_by(op, op->key, &type) < 1 || !holder_away(op) ||
		    !move_holder(op, type))
			break;
	/* The holder's end is what the others are told of. */
	holder_first(op);
	announce(op, 0);
	v = canary(op);
	if (v != DONE) {
		refused(op, v);
		return v;
	}
	clear_all(op, op->action, op->key);
	drain(op);
	return good(op);
}

/*
 * Who comes after us shall not trust what a command is about to change: the
 * holder, and with some our keys.
 */
static void
save_unsure(struct op *op, int keys)
{
	op->before = *op->lun;
	op->lun->holder = 0;
	if (keys)
		doubt(op);
	state_save(op->lun);
	*op->lun = op->before;
}

static int
reserve(struct op *op)
{
	int v, held, type = op->rq->cdb[2] & TYPE_MASK;

	op->ours = held_by(op, op->key, &held);
	if (op->ours)
		holder_first(op);
	save_unsure(op, 0);
	v = canary(op);
	if (v != DONE)
		return v < FINAL && op->ours == 1 && held == type &&
			holder_away(op) ?
		    good(op) :
		    v;
	if (all_hold(type))
		none_holds(op->lun);
	else if (!op->verified)
		op->lun->holder = op->canary;
	else if (op->ours != 1)
		op->lun->holder = 0; /* or one that was asked before */
	if (op->map.n > 1 && !op->lun->warned &&
	    (type == WRITE_EXCLUSIVE || type == EXCLUSIVE_ACCESS)) {
		op->lun->warned = 1;
		warn("%s: a reservation of type %d lets in one path only",
		    op->map.wwid, type);
	}
	return DONE;
}

/* A path that is not the holder says GOOD and does nothing. */
static int
release_held(struct op *op)
{
	struct reply rp;
	int i, n, v, held, type, found = DONE;

	holder_first(op);
	for (i = 0; i < op->map.n; i++) {
		v = send_guest(op, i);
		rp = op->last;
		if (v == DONE || v == LOST) {
			held = held_by(op, op->key, &type);
			op->canary = v == DONE ? op->map.paths[i].dev : 0;
			if (held == 0 && (v == DONE || !all_hold(type)))
				return good(op);
			if (held < 1) {
				v = LOST;
				proto_sense(&rp, IO_TERMINATED);
			}
		}
		if (v == FINAL ||
		    (v == CONFLICT && believed(op, op->map.paths[i].dev))) {
			*op->rp = rp;
			return FINAL;
		}
		if (v < found) {
			found = v;
			*op->rp = rp;
		}
	}
	if (found != DONE)
		return found;
	/* No path of ours holds it: another node has the same key. */
	for (i = n = 0; i < op->map.n; i++)
		n += mark_of(op->lun, op->map.paths[i].dev) != MARK_NONE;
	if (n == op->lun->n && op->lun->ghosts == 0)
		return good(op);
	/* Or one that the map has no more. */
	proto_sense(op->rp, LU_COMM_FAILURE);
	return AWAY;
}

/* The path that holds it did not answer: another one must, if we may. */
static int
release_lost(struct op *op, int was_held)
{
	int type, held = held_by(op, op->key, &type);

	if (was_held == 1 && held == 0)
		return good(op);
	if (held < 1)
		return LOST;
	if (type != op->rq->cdb[2]) {
		proto_sense(op->rp, INVALID_RELEASE);
		return FINAL;
	}
	if (holder_away(op) && move_holder(op, type))
		return release_held(op);
	return LOST;
}

/* Who holds it is not known, and only that one sees that a key is wrong. */
static int
release_wrong(struct op *op)
{
	int i, v;

	for (i = 0; i < op->map.n; i++) {
		v = send_to(op, op->map.paths[i].dev, op->rq, PATIENCE);
		if (v == CONFLICT) {
			*op->rp = op->last;
			return v;
		}
	}
	return good(op);
}

static int
release(struct op *op)
{
	int v, type, held = held_by(op, op->key, &type);

	if (held == 0 || op->lun->holder == NO_PATH ||
	    (op->lun->key && op->lun->key != op->key)) {
		/* Not ours. But the holder knows a wrong key when he sees it */
		holder_first(op);
		v = canary(op);
		if (v == DONE && op->key != op->lun->key && !op->lun->holder &&
		    held_by(op, op->lun->key, &type) == 1)
			v = release_wrong(op);
	} else {
		v = release_held(op);
		if (v <= LOST)
			v = release_lost(op, held);
		if (v == DONE)
			none_holds(op->lun);
	}
	if (v == DONE)
		drain(op);
	return v;
}

static int
clear(struct op *op)
{
	int v;

	op->listed = count_key(op, op->key);
	save_unsure(op, 1);
	v = canary(op);
	if (v != DONE && op->unsure)
		doubt(op);
	if (v == DONE) {
		op->lun->key = 0;
		op->lun->holder = NO_PATH;
		drop_marks(op->lun);
		drain(op);
	}
	return v;
}

/*
 * After a PREEMPT that concerned our own key: whose registrations are left is
 * for the target to tell.
 */
static void
restore_siblings(struct op *op)
{
	int n = 1, r, v = probe(op, op->canary, op->key);

	/* No answer: but if the key is there, only the sender has it. */
	if (v != DONE && v != CONFLICT)
		n = count_key(op, op->key);
	if (v == CONFLICT || n == 0) {
		trace_step(op->canary, "the caller was removed, too");
		clear_all(op, REGISTER, op->key);
		return;
	}
	op->sa_key = op->key;
	begin(op, op->key);
	if (v != DONE && n != 1)
		set_mark(op->lun, op->canary, MARK_TAINTED);
	r = bring(op, REGISTER, 0, op->key);
	if (r == PREEMPTED)
		retreat(op, 1);
	else if (r == REFUSED)
		warn("%s: a path does not take the key back", op->map.wwid);
}

/*
 * SPDK removes every registration with the holder's key, the sender's, too,
 * and then refuses the sender because it has none. Another node would now
 * hold the reservation, and PRGENERATION would have risen otherwise: for SPDK
 * by one for each registration that went.
 */
static int
wiped(struct op *op, int v, uint32_t generation)
{
	uint64_t key;
	int i, type, n = -1;

	for (i = 0; i < ROUNDS_MAX && n < 0; i++)
		n = count_key(op, op->key);
	if (n < 0)
		doubt(op);
	if (n == 0 && op->listed > 1 &&
	    op->generation - generation == (uint32_t)op->listed &&
	    read_reservation(op, &key, &type) == 0)
		return 1;
	if (n == 0 && v != DONE && op->was)
		lost_key(op);
	return 0;
}

/* Register and reserve again, as the PREEMPT should have left it. */
static int
rebuild(struct op *op)
{
	int i, v = AWAY, type = op->rq->cdb[2] & TYPE_MASK;

	op->sa_key = op->key;
	for (i = 0; i < ROUNDS_MAX * op->map.n && v != DONE; i++) {
		op->canary = op->map.paths[i % op->map.n].dev;
		v = register_on(op, op->canary, REGISTER, 0, op->key);
	}
	if (v != DONE) {
		lost_key(op);
		return CONFLICT;
	}
	trace_step(op->canary, "registered again: the target had removed it");
	op->lun->holder = 0;
	begin(op, op->key);
	for (i = 0, v = LOST; i < ROUNDS_MAX && v <= ELSEWHERE; i++)
		v = send_out(op, op->canary, RESERVE, type, op->key, 0);
	if (v == DONE && !all_hold(type))
		op->lun->holder = op->canary;
	if (bring(op, REGISTER, 0, op->key) == PREEMPTED)
		retreat(op, 1);
	return v == DONE ? good(op) : CONFLICT;
}

static int
preempt(struct op *op)
{
	uint32_t generation;
	uint64_t key;
	int v, type, held, ours, known;

	held = read_reservation(op, &key, &type);
	ours = held == 1 && !all_hold(type) && key == op->key;
	/* Key 0: all others, if all hold it, and nothing else. */
	op->self = (op->key && op->key == op->sa_key) ||
	    (op->sa_key == 0 && (held < 0 || all_hold(type)));
	if (op->self) {
		holder_first(op);
		if (op->key && op->key == op->was)
			gate_siblings(op);
	}
	op->listed = count_key(op, op->self ? op->key : op->sa_key);
	generation = op->generation;
	known = op->was == 0 || op->key == op->was;
	save_unsure(op, op->self);
	v = canary(op);
	if (op->self && known && v > AWAY && v != FINAL &&
	    (v != DONE || op->verified) && wiped(op, v, generation))
		return rebuild(op);
	if (v != DONE && op->unsure) {
		op->lun->holder = 0;
		if (op->self)
			doubt(op);
	}
	if (v != DONE) {
		if (op->self && unclean(op))
			heal_aside(op);
		return v;
	}
	/* Only where all hold it is GOOD the answer to that. */
	if (op->sa_key == 0)
		op->self = 1;
	if (op->self || !ours) {
		known = op->self || held >= 0;
		held = read_reservation(op, &key, &type);
		if (held < 0 || !known)
			op->lun->holder = 0;
		else if (held && !all_hold(type) &&
		    (key == op->key || (op->self && key == 0)))
			op->lun->holder = op->canary;
	}
	if (op->self)
		restore_siblings(op);
	drain(op);
	return good(op);
}

/*
 * The path that holds our reservation is dead: preempt our own key through
 * another one, which then holds it, as if the guest had asked for it.
 */
static int
move_holder(struct op *op, int type)
{
	const struct request *guest = op->rq;
	const uint64_t sa_key = op->sa_key;
	const int action = op->action;
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int v;

	make_out(op, &rq, params, PREEMPT, type, op->key, op->key);
	op->rq = &rq;
	op->action = PREEMPT;
	op->sa_key = op->key;
	v = preempt(op);
	op->rq = guest;
	op->action = action;
	op->sa_key = sa_key;
	return v == DONE;
}

/* QEMU's own: a guest has left; its reservation may be another host's now. */
static int
cleanup(struct op *op)
{
	op->canary = 0;
	clear_all(op, REGISTER_AND_IGNORE, 0);
	return recorded(op->lun) > 0 ? good(op) : AWAY;
}

/* One command of the guest */

/* Is the parameter list one that all paths can have? */
static int
check_params(struct op *op)
{
	const struct request *rq = op->rq;
	int spec_i_pt = 0;

	if (op->action <= REGISTER_AND_IGNORE && rq->len > FLAGS)
		spec_i_pt = rq->data[FLAGS] & SPEC_I_PT;
	if (op->action > REGISTER_AND_IGNORE)
		return 0; /* refused anyway */
	if (rq->len < PARAMS_LEN || (rq->len > PARAMS_LEN && !spec_i_pt)) {
		proto_sense(op->rp, PARAMS_LENGTH);
		return -1;
	}
	if (spec_i_pt && op->map.n > 1) {
		/* Whom it names is a nexus, not another of our paths. */
		proto_sense(op->rp, INVALID_PARAM);
		return -1;
	}
	op->key = get64(rq->data);
	op->sa_key = get64(rq->data + KEY_LEN);
	/* Each path registers for itself. */
	rq->data[FLAGS] &= (uint8_t)~ALL_TG_PT;
	return 0;
}

static int
rank(const struct op *op, const struct path *p)
{
	int clean = op->lun && mark_of(op->lun, p->dev) == MARK_CLEAN;

	return clean << 2 | p->active << 1 | (p->group == op->map.group);
}

/* The best canary first. */
static void
sort_paths(struct op *op)
{
	struct path p;
	int i, j;

	for (i = 1; i < op->map.n; i++) {
		p = op->map.paths[i];
		for (j = i;
		     j > 0 && rank(op, &op->map.paths[j - 1]) < rank(op, &p);
		     j--)
			op->map.paths[j] = op->map.paths[j - 1];
		op->map.paths[j] = p;
	}
}

/* Paths that returned */

/* Is there a path of the map that is not as it should be? */
static int
unclean(struct op *op)
{
	int i;

	if (op->lun->changing || op->lun->loaded)
		return 1;
	for (i = 0; i < op->lun->n; i++)
		if (op->lun->marks[i].failed)
			return 1;
	for (i = 0; i < op->map.n; i++)
		if (astray(op, op->map.paths[i].dev))
			return 1;
	return 0;
}

/* Ask the siblings that have the key whether it is still registered. */
static int
ask_siblings(struct op *op)
{
	int i, v, found = AWAY;
	dev_t dev;

	for (i = 0; i < op->map.n && found != DONE; i++) {
		dev = op->map.paths[i].dev;
		if (!is_clean(op, dev))
			continue;
		v = probe(op, dev, op->key);
		if (v == CONFLICT)
			set_mark(op->lun, dev, MARK_ROBBED);
		if (v == DONE)
			op->canary = dev;
		if (v == DONE || v == CONFLICT)
			found = v;
	}
	return found;
}

/*
 * No path that has the key can be reached. It was preempted if the target
 * does not list it; it is ours, if it is listed as often as it should be.
 */
static int
ask_alone(struct op *op)
{
	int n;

	op->reset = 0;
	n = count_key(op, op->key);
	if (n == 0)
		return CONFLICT;
	if (n > 0 && n == recorded(op->lun) &&
	    marked(op->lun, MARK_TAINTED) == 0)
		return DONE;
	return AWAY;
}

/*
 * The key was removed by another node while paths were away, and must never
 * be registered again. Or it never came to be, since we were killed. A path
 * that had it for sure, or never did, may hold what a tool of this host has
 * put there: that stays.
 */
static void
renounce(struct op *op)
{
	struct lun *lun = op->lun;
	dev_t dev;
	int i, mark;

	if (lun->changing && lun->old) {
		lun->key = op->key = lun->old;
		lun->changing = 0;
		lun->old = 0;
		return;
	}
	for (i = 0; i < op->map.n; i++) {
		dev = op->map.paths[i].dev;
		mark = mark_of(lun, dev);
		if (mark == MARK_GONE && probe(op, dev, op->key) == CONFLICT)
			mark = MARK_ROBBED;
		if (mark != MARK_NONE && mark != MARK_ROBBED)
			mark = MARK_CLEAR;
		set_mark(lun, dev, mark);
	}
	lost_key(op);
	op->key = 0;
	state_save(lun);
}

/*
 * Can one of the paths that are not clean be reached by now? It is not enough
 * for a path to have the key: it may have got it late. *holding: one of
 * those that have it, *holds.
 */
static int
reachable(struct op *op, dev_t *holding, int *holds)
{
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int i, n = 0, reached = 0;

	*holding = 0;
	*holds = 0;
	make_out(op, &rq, params, REGISTER, 0, op->key, op->key);
	for (i = 0; i < op->map.n; i++)
		if (astray(op, op->map.paths[i].dev))
			op->jobs[n++].dev = op->map.paths[i].dev;
	send_all(op, n, &rq);
	for (i = 0; i < n; i++) {
		if (op->jobs[i].verdict == DONE) {
			*holding = op->jobs[i].dev;
			++*holds;
		}
		if (op->jobs[i].verdict == CONFLICT && op->key &&
		    mark_of(op->lun, op->jobs[i].dev) == MARK_TAINTED)
			set_mark(op->lun, op->jobs[i].dev, MARK_SET);
		reached |= op->jobs[i].verdict > LOST;
	}
	return reached;
}

/*
 * Is the key registered? DONE: op->canary has it; CONFLICT: no more. Paths
 * that should have it, and cannot be asked, must be listed with it.
 */
static int
ask_key(struct op *op, dev_t holding, int holds)
{
	int i, n, clean = marked(op->lun, MARK_CLEAN), v = ask_siblings(op);
	int known = recorded(op->lun) + holds;

	if (v != AWAY)
		return v;
	if (!holding)
		return ask_alone(op);
	n = clean > 0 ? count_key(op, op->key) : 0;
	if (clean > 0 && n < clean + holds)
		return AWAY;
	for (i = 0; n > known && i < op->lun->n; i++)
		if (op->lun->marks[i].mark == MARK_CLEAN)
			op->lun->marks[i].mark = MARK_SET;
	op->canary = holding;
	set_mark(op->lun, holding, MARK_CLEAN);
	return DONE;
}

/* The path does not hold what it did: what has the key has no path now. */
static void
is_ghost(struct op *op, dev_t dev)
{
	trace_step(dev, "is another nexus");
	set_mark(op->lun, dev, MARK_SET);
	op->lun->ghosts++;
	if (op->lun->holder == dev)
		op->lun->holder = 0;
}

/* A path that had the key when it went is another nexus if it has it not. */
static void
note_ghosts(struct op *op)
{
	dev_t dev;
	int i;

	for (i = 0; i < op->map.n; i++) {
		dev = op->map.paths[i].dev;
		if (mark_of(op->lun, dev) == MARK_GONE &&
		    probe(op, dev, op->key) == CONFLICT)
			is_ghost(op, dev);
	}
}

/*
 * Bring the paths of the map that are not clean, and can be reached, to what
 * the guest wants: its key, or none.
 */
static void
heal_once(struct op *op)
{
	dev_t holding;
	int holds, v = DONE;

	op->canary = 0;
	op->lost = 0;
	op->key = op->sa_key = op->was = op->lun->key;
	if (!reachable(op, &holding, &holds) && !op->suspect)
		return;
	op->suspect = 0;
	if (op->key)
		v = ask_key(op, holding, holds);
	if (v == DONE && op->key) {
		note_ghosts(op);
		op->lun->changing = 0;
		gate(op); /* only now a path has answered that can be used */
		state_save(op->lun); /* who has it, before others get it */
	}
	if (v == CONFLICT)
		renounce(op);
	else if (v == DONE &&
	    bring(op, op->key ? REGISTER : REGISTER_AND_IGNORE, 0, op->key) ==
		PREEMPTED)
		retreat(op, 1);
}

/*
 * A path that a predecessor took for clean may have become another nexus when
 * nobody looked. If none has the key, it was removed. One that does not answer
 * is like one that was not in the map.
 */
static void
verify(struct op *op)
{
	dev_t dev, bad[PATHS_MAX];
	int i, v, n = 0, held = 0;

	for (i = 0; i < op->map.n && op->lun->key; i++) {
		dev = op->map.paths[i].dev;
		if (!is_clean(op, dev))
			continue;
		v = probe(op, dev, op->lun->key);
		held |= v == DONE;
		if (v == CONFLICT)
			bad[n++] = dev;
		else if (v != DONE)
			set_mark(op->lun, dev, MARK_GONE);
	}
	op->suspect = n > 0 && !held;
	for (i = 0; held && i < n; i++)
		is_ghost(op, bad[i]);
}

/* A path that came while it was not registered may have no size. */
static void
find_sizes(struct op *op)
{
	int i;

	for (i = 0; i < op->map.n; i++)
		if (is_clean(op, op->map.paths[i].dev) &&
		    path_size(op->map.paths[i].dev) == 0)
			path_rescan(op->map.paths[i].dev);
}

static void
heal(struct op *op)
{
	const uint64_t key = op->lun->key;

	if (op->lun->loaded && !op->lun->changing)
		verify(op);
	op->lun->loaded = (uint8_t)op->suspect; /* look once more */
	/* A change was cut off anywhere in it, or got no answer. */
	if (op->lun->changing) {
		doubt(op);
		op->lun->holder = 0;
	}
	heal_once(op);
	if (op->lun->key != key)
		heal_once(op);
	if (marked(op->lun, MARK_CLEAN) > 0 || op->lun->key == 0)
		op->lun->changing = 0;
	find_sizes(op);
	ungate(op);
}

/* In the midst of a command of the guest. */
static void
heal_aside(struct op *op)
{
	const uint64_t key = op->key, sa_key = op->sa_key;
	const struct reply rp = *op->rp;
	const int action = op->action;

	op->action = REGISTER;
	heal(op);
	*op->rp = rp;
	op->action = action;
	op->key = key;
	op->sa_key = sa_key;
}

/* A path that is not in the map may come back as another nexus. */
static void
note_gone(struct op *op)
{
	struct mark *m;
	int i, j;

	for (i = 0; i < op->lun->n; i++) {
		m = &op->lun->marks[i];
		for (j = 0; j < op->map.n && op->map.paths[j].dev != m->dev;)
			j++;
		if (m->mark == MARK_CLEAN && j == op->map.n)
			m->mark = MARK_GONE;
	}
}

/* Which paths have this key? Those that have none, if it is 0. */
static int
find_key(struct op *op, uint64_t key)
{
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int i, n = 0, found = 0;

	make_out(op, &rq, params, REGISTER, 0, key, key);
	for (i = 0; i < op->map.n; i++)
		if (mark_of(op->lun, op->map.paths[i].dev) == MARK_NONE)
			op->jobs[n++].dev = op->map.paths[i].dev;
	send_all(op, n, &rq);
	for (i = 0; i < n; i++) {
		if (op->jobs[i].verdict != DONE)
			continue;
		set_mark(op->lun, op->jobs[i].dev, key ? MARK_CLEAN : MARK_SET);
		found++;
	}
	return found;
}

/*
 * Nothing is remembered, but a predecessor may have registered the paths: with
 * which of the keys that the target lists? One key, or we do not know.
 */
static void
learn(struct op *op)
{
	uint64_t key, keys[PATHS_MAX];
	int i, j, n = 0, distinct = 0;
	uint32_t k;

	if (count_key(op, 0) < 1)
		return;
	for (k = 0; k + KEY_LEN <= op->got - HEAD_LEN && n < PATHS_MAX;
	     k += KEY_LEN) {
		key = get64(op->buf + HEAD_LEN + k);
		for (j = 0; j < n && keys[j] != key; j++)
			;
		if (j == n)
			keys[n++] = key;
	}
	if (find_key(op, 0) < op->map.n)
		for (i = 0; i < n; i++) {
			if (find_key(op, keys[i]) == 0)
				continue;
			op->lun->key = keys[i];
			distinct++;
		}
	if (distinct == 1)
		return;
	op->lun->key = 0;
	op->lun->n = 0;
}

/* A unit that is remembered: 1 if one of its paths is to be looked at again. */
static int
look_at(const char *wwid)
{
	struct job jobs[PATHS_MAX];
	uint8_t buf[DATA_MAX];
	struct op op = {
		.jobs = jobs,
		.buf = buf,
		.action = REGISTER,
		.end = now() + MPATH_TIME - UNDO_TIME,
	};
	struct reply rp;
	int r;

	op.rp = &rp;
	proto_status(&rp, GOOD);
	if (!(op.lun = state_get(wwid)))
		return 1;
	r = dm_look(op.lun->map, &op.map);
	if (r == DM_MAP && (op.map.n == 0 || strcmp(op.map.wwid, wwid) == 0)) {
		note_gone(&op);
		sort_paths(&op);
		if (unclean(&op))
			heal(&op);
		r = unclean(&op);
	} else {
		r = r == DM_BUSY;
	}
	state_put(op.lun);
	return r;
}

int
mpath_look(void)
{
	char wwid[WWID_LEN];
	int i = 0, marks = 0;

	while (state_next(&i, wwid) == 0)
		marks |= look_at(wwid);
	/* Who has a unit in use may leave a mark that no event tells of. */
	return marks || state_busy() ? MARKS_TIME : LOOK_TIME;
}

static int
run_out(struct op *op)
{
	static int (*const commands[])(struct op *) = {
		[REGISTER] = register_key,
		[RESERVE] = reserve,
		[RELEASE] = release,
		[CLEAR] = clear,
		[PREEMPT] = preempt,
		[PREEMPT_AND_ABORT] = preempt,
		[REGISTER_AND_IGNORE] = register_key,
	};
	int v;

	if (op->lun->n == 0 && op->lun->key == 0 && !op->lun->changing)
		learn(op);
	/* A path that is not as it should be must not answer the guest. */
	if (unclean(op) &&
	    (op->lun->changing ||
		(op->action != REGISTER_AND_IGNORE &&
		    (op->action != REGISTER || op->key != 0)))) {
		heal_aside(op);
		sort_paths(op);
	}
	op->was = op->lun->key;
	if (op->action == REGISTER_AND_IGNORE)
		op->key = op->was; /* what the guest names does not count */
	if (op->rq->cdb[0] == PR_CLEANUP)
		return cleanup(op);
	if ((size_t)op->action >= LEN(commands)) {
		proto_sense(op->rp, INVALID_FIELD);
		return FINAL;
	}
	if ((op->action == REGISTER || op->action == REGISTER_AND_IGNORE) &&
	    op->sa_key == 0)
		return unregister(op);
	v = commands[op->action](op);
	if (v == AWAY && op->action == REGISTER && op->key == 0 &&
	    unclean(op)) {
		/* Perhaps the key that it has was removed, and that is why. */
		heal_aside(op);
		sort_paths(op);
		op->was = op->lun->key;
		op->anyway = 1; /* it does not expect to have one */
		v = commands[op->action](op);
	}
	return v;
}

static int
run_once(struct op *op)
{
	int v;

	if (op->map.n == 0 || !op->map.wwid[0])
		return AWAY;
	if (op->rq->cdb[0] == PR_IN) {
		sort_paths(op);
		return ask_paths(op, op->rq, op->rp);
	}
	if (!(op->lun = state_get(op->map.wwid))) {
		proto_status(op->rp, BUSY);
		return FINAL;
	}
	op->lun->map = op->map.dev;
	note_gone(op);
	sort_paths(op);
	v = run_out(op);
	gate(op);
	ungate(op);
	state_put(op->lun);
	op->lun = NULL;
	return v;
}

void
mpath_run(const struct request *rq, struct reply *rp)
{
	struct job jobs[PATHS_MAX];
	uint8_t buf[DATA_MAX];
	struct op op = {
		.jobs = jobs,
		.buf = buf,
		.rq = rq,
		.rp = rp,
		.action = rq->cdb[1] & ACTION_MASK,
		.end = now() + MPATH_TIME - UNDO_TIME,
	};
	int r, v;

	if (rq->cdb[0] == PR_OUT && op.action == PREEMPT_AND_ABORT)
		op.end += SG_ABORT_TIME;
	for (;;) {
		r = dm_read(rq->fd, &op.map);
		if (r != DM_MAP)
			break;
		if (rq->cdb[0] == PR_OUT && check_params(&op) < 0)
			return;
		v = run_once(&op);
		if (v != AWAY)
			return;
		/* Nothing was executed: a path may come back. */
		if (!dm_queues(&op.map)) {
			proto_sense(rp, LU_COMM_FAILURE);
			return;
		}
		if (now() + PAUSE_MAX >= op.end) {
			proto_status(rp, BUSY);
			return;
		}
		wait_until(now() + PAUSE_MAX);
	}
	if (r == DM_OTHER)
		proto_refuse(rq, rp, "no SCSI device, no multipath map");
	else if (r == DM_BUSY)
		proto_status(rp, BUSY);
	else
		proto_sense(rp, LU_COMM_FAILURE);
}
