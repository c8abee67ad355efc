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
	PTPL_A = 0x01,    /* byte 3 of the capabilities: APTPL is on */
};

enum { REMOVED = 0x2a }; /* ASC: reservations, registrations preempted */

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
	WAS_REMOVED, /* a unit attention, too: a key may be gone */
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
	dev_t unsure;  /* a path that may have executed what others refused */
	int held;      /* a key that is to go has a reservation of ours */
	int ours;      /* the reservation that a RESERVE meets; -1: unknown */
	int lost;      /* a path that held the key has it no more */
	int verified;  /* no path said GOOD, but the effect is there */
	int told;      /* that keys were removed, before the first refusal */
	int self;      /* a PREEMPT concerns our own key */
	int gone;      /* the key before was removed by another node */
	int blind;     /* keys are put where there was none, or any */
	int reset;     /* a path was, and may have lost its key: the ASC */
	int asked;     /* for aptpl, once is enough */
	uint8_t aptpl; /* to be sent if the guest has not told it */
	int listed; /* before: how often the key to be removed was registered */
	struct reply last;   /* of the last send_to() */
	struct job *jobs;    /* PATHS_MAX; only what is used is touched */
	uint8_t *buf;        /* DATA_MAX: what the last ask() returned */
	uint32_t len;        /* of that, behind its head */
	uint32_t generation; /* PRGENERATION as of the last READ KEYS */
};

/* What is done about a path, for the trace. */
static void
trace_step(dev_t dev, const char *what)
{
	trace(TRACE_PATH_STEP, "path=%u:%u %s", major(dev), minor(dev), what);
}

static int move_holder(struct op *, int);
static int reserved(struct op *);
static int proven(struct op *);
static int ask_siblings(struct op *);

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
	{ 0x6, 0x29, ANY,  WAS_REMOVED },	/* power on, or reset */
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
	[WAS_REMOVED] =   { "was reset, or removed", 8, 0, ELSEWHERE },
	[ABORTED] =       { "aborted", 1, 0, LOST },
};
/* clang-format on */

/* Is it a REGISTER of either kind? */
static int
registers(const struct request *rq)
{
	int action = rq->cdb[1] & ACTION_MASK;

	return rq->cdb[0] == PR_OUT && rq->len == PARAMS_LEN &&
	    (action == REGISTER || action == REGISTER_AND_IGNORE);
}

/*
 * What LIO (2h/08h/00h) and SPDK (2h/00h/00h) say to a nexus that is not
 * registered. For LIO it is also a REGISTER whose effect it could not write
 * down.
 */
static int
unregistered(const struct job *j, uint32_t sense)
{
	int action = j->rq.cdb[1] & ACTION_MASK;

	if (j->rq.cdb[0] != PR_OUT || (sense != 0x020800 && sense != 0x020000))
		return ELSEWHERE;
	if (registers(&j->rq))
		return LOST;
	return action >= RESERVE && action <= CLEAR ? CONFLICT : ELSEWHERE;
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

/* All paths get this mark, but for those on which something may come late. */
static void
mark_all(struct op *op, int mark)
{
	struct mark *m;
	int i;

	for (i = 0; i < op->map.n; i++)
		mark_for(op->lun, op->map.paths[i].dev);
	for (m = op->lun->marks; m < op->lun->marks + op->lun->n; m++)
		if (m->mark != MARK_TAINTED)
			m->mark = (uint8_t)mark;
}

/* Paths */

static struct path *
find_path(struct map *map, dev_t dev)
{
	int i;

	for (i = 0; i < map->n; i++)
		if (map->paths[i].dev == dev)
			return &map->paths[i];
	return NULL;
}

static int
rank(const struct op *op, const struct path *p)
{
	int clean = op->lun && mark_of(op->lun, p->dev) == MARK_CLEAN;
	int holds = op->lun && op->lun->holder == p->dev;

	return holds << 3 | clean << 2 | p->active << 1 |
	    (p->group == op->map.group);
}

/* The best canary first: who holds the reservation hears of all first. */
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
	if (v == WAS_REMOVED)
		op->reset = (int)(proto_sense_of(j->rp.sense) >> 8 & 0xff);
	/* Other registrations may be gone: first look at those. */
	if (op->blind && v == WAS_REMOVED) {
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
	int action = rq->cdb[1] & ACTION_MASK;

	return action == RESERVE || action == RELEASE ||
	    (action == REGISTER && rq->len == PARAMS_LEN &&
		get64(rq->data) == get64(rq->data + KEY_LEN));
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
	/* The key that it has, once more: executed or not, but not later. */
	if (j->how == SG_LOST && registers(&j->rq) &&
	    j->rq.cdb[1] == REGISTER_AND_IGNORE &&
	    get64(j->rq.data + KEY_LEN) == op->was &&
	    mark_of(op->lun, j->dev) == MARK_CLEAN)
		return;
	if (!keeps_key(&j->rq))
		set_mark(op->lun, j->dev, MARK_TAINTED);
}

/* Send until each job has a verdict. Their order changes. */
static void
settle(struct op *op, struct job *jobs, int n, int patience)
{
	struct path *p;
	struct job j;
	int64_t left;
	int i, pause;

	for (i = 0; i < n; i++) {
		jobs[i].tries = 0;
		jobs[i].how = SG_UNUSABLE;
		jobs[i].verdict = AWAY;
	}
	while (n > 0 && (left = op->end - now()) > 0) {
		/* Only so many that there is time if each one is silent. */
		i = (int)left / PATIENCE + 1;
		if (i > n)
			i = n;
		sg_batch(jobs, i, op->map.wwid,
		    patience < left ? patience : (int)left);
		pause = 0;
		while (i-- > 0) {
			if (again(op, &jobs[i], &pause))
				continue;
			if (jobs[i].verdict == LOST)
				taint(op, &jobs[i]);
			if (jobs[i].verdict <= LOST &&
			    (p = find_path(&op->map, jobs[i].dev)))
				p->mute = 1;
			j = jobs[i];
			jobs[i] = jobs[--n];
			jobs[n] = j;
		}
		left = op->end - now();
		if (n > 0 && pause > 0 && left > 0)
			wait_until(now() + (pause < left ? pause : left));
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

static int
conflict(struct op *op)
{
	proto_status(op->rp, RESERVATION_CONFLICT);
	return CONFLICT;
}

/*
 * Who was registered with ALL_TG_PT, by another program, can be registered
 * only with it again: without it LIO says INVALID FIELD IN CDB.
 */
static int
wants_all_ports(const struct job *j)
{
	return registers(&j->rq) && !(j->rq.data[FLAGS] & ALL_TG_PT) &&
	    proto_sense_of(j->rp.sense) == INVALID_FIELD;
}

/* Send a command to one path; its reply is the last one. */
static int
send_to(struct op *op, dev_t dev, const struct request *rq, int patience)
{
	struct job j = { .dev = dev, .rq = *rq };
	uint8_t params[PARAMS_LEN];

	settle(op, &j, 1, patience);
	if (j.verdict == FINAL && wants_all_ports(&j)) {
		memcpy(params, rq->data, PARAMS_LEN);
		params[FLAGS] |= ALL_TG_PT;
		j.rq.data = params;
		settle(op, &j, 1, patience);
	}
	if (j.verdict == AWAY)
		proto_sense(&j.rp, LU_COMM_FAILURE);
	op->last = j.rp;
	return j.verdict;
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

/* Ask any path; all of the payload is in buf. 0, or -1 if none answers. */
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
	int i;

	for (i = 0; i < ROUNDS_MAX; i++) {
		if (ask_paths(op, &rq, &rp) != DONE || rp.len < HEAD_LEN)
			continue;
		op->len = get32(op->buf + 4);
		if (action == REPORT_CAPABILITIES ||
		    op->len <= rp.len - HEAD_LEN)
			return 0;
	}
	return -1;
}

/* How often a key (0: any) is registered; -1 if that is not known. */
static int
count_key(struct op *op, uint64_t key)
{
	uint32_t i;
	int n = 0;

	if (ask(op, READ_KEYS) < 0)
		return -1;
	op->generation = get32(op->buf);
	for (i = 0; i + KEY_LEN <= op->len; i += KEY_LEN)
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
	if (op->len < RESERVATION_LEN)
		return 0;
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
	if (op->lun->aptpl)
		return op->lun->aptpl == APTPL_ON ? APTPL : 0;
	if (!op->asked) {
		op->asked = 1;
		if (ask(op, REPORT_CAPABILITIES) == 0)
			op->aptpl = op->buf[3] & PTPL_A ? APTPL : 0; /* now */
		else if (op->rq && registers(op->rq))
			op->aptpl = op->rq->data[FLAGS] & APTPL;
	}
	return op->aptpl;
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

static int
is_new(struct op *op, dev_t dev)
{
	return mark_of(op->lun, dev) == MARK_NONE;
}

/* Had it the key, when somebody looked at it? */
static int
is_back(struct op *op, dev_t dev)
{
	int mark = mark_of(op->lun, dev);

	return mark == MARK_GONE || (mark == MARK_CLEAN && op->lun->loaded);
}

/* Probe those paths of the map: how many; their verdicts are in jobs. */
static int
probe_those(struct op *op, int (*those)(struct op *, dev_t), uint64_t key)
{
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int i, n = 0;

	for (i = 0; i < op->map.n; i++)
		if (those(op, op->map.paths[i].dev))
			op->jobs[n++].dev = op->map.paths[i].dev;
	if (n)
		make_out(op, &rq, params, REGISTER, 0, key, key);
	send_all(op, n, &rq);
	return n;
}

/* The first of the n jobs with this verdict, or 0. */
static dev_t
with_verdict(struct op *op, int n, int verdict)
{
	int i;

	for (i = 0; i < n; i++)
		if (op->jobs[i].verdict == verdict)
			return op->jobs[i].dev;
	return 0;
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
	int v;

	if (op->key != op->was && op->action != REGISTER)
		return 0;
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
		return reserved(op) > 0 &&
		    ((op->ours == 0 && !all_hold(op->rq->cdb[2] & TYPE_MASK)) ||
			proven(op) > 0);
	case CLEAR: return op->listed > 0 && count_key(op, 0) == 0;
	case PREEMPT:
	case PREEMPT_AND_ABORT:
		if (!op->self)
			return op->sa_key && op->listed > 0 &&
			    count_key(op, op->sa_key) == 0;
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

/*
 * Another node has removed our key: a path may have got it late, though. One
 * that had it for sure, and has it no more, may hold what a tool of this host
 * has put there: that stays.
 */
static void
lost_key(struct op *op)
{
	int i;

	warn("%s: key 0x%llx is not registered any more", op->map.wwid,
	    (unsigned long long)op->was);
	op->lun->key = op->was = 0;
	op->lun->holder = 0;
	for (i = 0; i < op->map.n; i++)
		if (mark_of(op->lun, op->map.paths[i].dev) < MARK_ROBBED)
			set_mark(op->lun, op->map.paths[i].dev, MARK_CLEAR);
	drop_marks(op->lun);
}

/*
 * For a path that missed a change a wrong key may be right; what came late
 * may be a key that was removed.
 */
static int
outdated(struct op *op, dev_t dev)
{
	int mark = mark_of(op->lun, dev);

	if (op->key == 0 || op->action == REGISTER_AND_IGNORE)
		return 0;
	if (op->key == op->was)
		return mark == MARK_TAINTED;
	return mark > MARK_CLEAN || (op->was && mark == MARK_NONE);
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

	op->lost = op->verified = op->told = 0;
	op->unsure = 0;
	for (i = 0; i < op->map.n && found < FINAL; i++) {
		dev = op->map.paths[i].dev;
		if (outdated(op, dev)) {
			skipped++;
			continue;
		}
		/* Those that had it for sure are the ones to be believed. */
		if (op->lost && !is_clean(op, dev))
			continue;
		v = send_guest(op, i);
		op->told |= i == 0 && v == CONFLICT && op->reset == REMOVED;
		if (v >= found) {
			found = v;
			*op->rp = op->last;
		}
		if (v == LOST)
			op->unsure = dev;
		/* Another one's end would leave the reservation behind. */
		if (v <= ELSEWHERE && op->held && dev == op->lun->holder &&
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
	return skipped == op->map.n && op->key != op->was ? conflict(op) :
							    found;
}

/* The siblings */

/* This path does not hold what it should; it is seen to when it returns. */
static void
missed(struct op *op, dev_t dev)
{
	int mark = mark_of(op->lun, dev);

	trace_step(dev, "missed the change");
	if (mark != MARK_TAINTED && mark != MARK_GONE)
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

	lun->key = sa_key;
	lun->changing = 0;
	lun->ghosts = 0;
	mark_all(op, sa_key ? MARK_SET : MARK_CLEAR);
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

/* What device-mapper is told is written down first. */
static void
fail_marked(struct op *op, struct path *p)
{
	state_save(op->lun);
	for (; p < op->map.paths + op->map.n; p++) {
		if (!p->active || is_clean(op, p->dev) ||
		    !mark_for(op->lun, p->dev)->failed)
			continue;
		trace_step(p->dev, "not to be used");
		p->active = dm_use_path(&op->map, p->dev, 0) < 0;
	}
}

/*
 * A write through a path that lacks the key would be refused, and dm would
 * hand that to the guest. So it is told to leave such paths alone, as long as
 * there is another one.
 */
static void
gate(struct op *op)
{
	struct path *p;
	int n = 0;

	for (p = op->map.paths; op->lun->key && p < op->map.paths + op->map.n;
	     p++)
		if (p->active && !is_clean(op, p->dev) && spare(op, p->dev))
			n += mark_for(op->lun, p->dev)->failed = 1;
	if (n)
		fail_marked(op, op->map.paths);
}

/* Put a path first that the guest's I/O can have alone, if there is one. */
static int
sender_first(struct op *op)
{
	struct path *p, first;

	for (p = op->map.paths; p < op->map.paths + op->map.n; p++) {
		if (!p->active || !is_clean(op, p->dev) ||
		    probe(op, p->dev, op->key) != DONE)
			continue;
		first = *p;
		*p = op->map.paths[0];
		op->map.paths[0] = first;
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
	int sender = sender_first(op);

	/* Without the siblings another group may have to be used. */
	if (sender && op->map.paths[0].group != op->map.group)
		op->group = op->map.group;
	mark_all(op, MARK_SET);
	if (!sender) {
		state_save(op->lun);
		return;
	}
	for (p = op->map.paths + 1; p < last; p++)
		if (p->active)
			mark_for(op->lun, p->dev)->failed = 1;
	fail_marked(op, op->map.paths + 1);
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

/* The path does not hold what it did: what has the key has no path now. */
static void
is_ghost(struct op *op, dev_t dev)
{
	trace_step(dev, "is another nexus");
	set_mark(op->lun, dev, MARK_ROBBED);
	op->lun->ghosts++;
	if (op->lun->holder == dev)
		op->lun->holder = 0;
}

/* A path that had the key when it went is another nexus if it has it not. */
static void
note_ghosts(struct op *op)
{
	int i, n = probe_those(op, is_back, op->lun->key);

	for (i = 0; i < n; i++)
		if (op->jobs[i].verdict == CONFLICT)
			is_ghost(op, op->jobs[i].dev);
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
			j->verdict =
			    (uint8_t)send_to(op, j->dev, &j->rq, PATIENCE);
			j->rp = op->last;
		}
		if (j->verdict == DONE) {
			if (step != LOOK_AT &&
			    mark_of(op->lun, j->dev) == MARK_GONE)
				is_ghost(op, j->dev);
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
 * How many paths have the old key still, if nobody has removed it? Those that
 * may give it up late count only if they are asked for.
 */
static int
kept(struct op *op, uint64_t old, int late)
{
	const struct mark *m;
	int mark, n = op->before.ghosts;

	if (op->before.key != old)
		return 0;
	for (m = op->before.marks; m < op->before.marks + op->before.n; m++) {
		mark = mark_of(op->lun, m->dev);
		n += (m->mark == MARK_CLEAN || m->mark == MARK_GONE) &&
		    mark != MARK_CLEAN && (late || mark != MARK_TAINTED);
	}
	return n;
}

/* Is a key registered less often than it was? Who removes one removes all. */
static int
fewer(struct op *op, uint64_t key, int was)
{
	int n = key ? count_key(op, key) : -1;

	return n >= 0 && n < was;
}

/* Take the n paths of jobs through the steps; how many could not be. */
static int
take_steps(struct op *op, int n, int action, uint64_t key, uint64_t sa_key,
    int *result)
{
	const int actions[] = { action, REGISTER, REGISTER_AND_IGNORE };
	const uint64_t keys[] = { key, sa_key, 0 };
	uint8_t params[PARAMS_LEN];
	struct request rq;
	int blind, step = ASK_FOR, rounds = 0;

	while (n > 0 && rounds < FORCES_MAX) {
		make_out(op, &rq, params, actions[step], 0, keys[step], sa_key);
		/* Has another node removed the old key, where it still was?
		   Then a unit attention has told of it. */
		if (step == FORCE && key != sa_key && op->reset &&
		    op->action == REGISTER &&
		    fewer(op, key, kept(op, key, 0))) {
			op->gone = 1;
			*result = PREEMPTED;
			break;
		}
		blind = sa_key && step != LOOK_AT;
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
	if (is_clean(op, op->lun->holder))
		op->lun->holder = 0;
}

/* The paths that have a key get an older one, or none. */
static void
take_back(struct op *op, uint64_t key, uint64_t old)
{
	uint8_t params[PARAMS_LEN];
	struct request rq;
	dev_t dev;
	int i, mark, clean = 0, n = 0, result = BROUGHT;

	op->lun->key = old;
	op->lun->old = key;
	op->lun->changing = old != 0;
	for (i = 0; i < op->map.n; i++) {
		dev = op->map.paths[i].dev;
		mark = mark_of(op->lun, dev);
		missed(op, dev);
		if (mark != MARK_CLEAN && mark != MARK_TAINTED)
			continue;
		clean += mark == MARK_CLEAN;
		op->jobs[n++].dev = dev;
		trace_step(dev, old ? "rolled back" : "must not keep the key");
	}
	state_save(op->lun);
	make_out(op, &rq, params, REGISTER, 0, key, old);
	send_all(op, n, &rq);
	sift(op, n, FORCE, old, &result);
	if (marked(op->lun, MARK_CLEAN) < clean)
		warn("%s: not all paths could be rolled back", op->map.wwid);
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
	int have = kept(op, old, 0);

	op->end += UNDO_TIME;
	if (preempted || op->gone || fewer(op, old, have))
		old = 0;
	take_back(op, op->sa_key, old);
	/* Or has removed it meanwhile: then some have it, and some no more. */
	if (fewer(op, old, have + marked(op->lun, MARK_CLEAN))) {
		take_back(op, old, 0);
		old = 0;
	}
	/* As long as no path has the old one, either may be the guest's. */
	op->lun->changing = old && marked(op->lun, MARK_CLEAN) == 0;
	*op->rp = rp;
}

/* Paths without a key get what is wanted, unless that is removed meanwhile. */
static void
bring_all(struct op *op, int action)
{
	if (bring(op, action, 0, op->key) == PREEMPTED)
		retreat(op, 1);
}

/*
 * Paths that came while we were busy get the key, too; but not those of another
 * logical unit, if the map leads there by now.
 */
static int
catch_up(struct op *op)
{
	struct map map;
	struct path *p, *was;
	int new, round, r = BROUGHT;

	for (round = 0; round < ROUNDS_MAX && r == BROUGHT; round++) {
		if (dm_read(op->rq->dev, &map, 1) != DM_MAP ||
		    strcmp(map.wwid, op->map.wwid) != 0)
			break;
		new = 0;
		for (p = map.paths; p < map.paths + map.n; p++) {
			was = find_path(&op->map, p->dev);
			p->mute = was && was->mute;
			new |= !p->mute && !is_clean(op, p->dev);
		}
		op->map = map;
		if (!new)
			break;
		r = bring(op, REGISTER, 0, op->sa_key);
	}
	return r == PREEMPTED ? r : BROUGHT;
}

/* Ownership */

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
	    (holder == key || (holder == 0 && op->lun->holder));
}

/* Is the reservation one as the guest's RESERVE asks for? -1: unknown. */
static int
reserved(struct op *op)
{
	int held, r = held_by(op, op->key, &held);

	if (r < 0)
		return r;
	return (r || all_hold(held)) && held == (op->rq->cdb[2] & TYPE_MASK);
}

/* How many paths may have the key, though that is not known of them? */
static int
doubtful(struct op *op)
{
	int i, n = marked(op->lun, MARK_TAINTED) + marked(op->lun, MARK_SET);

	for (i = 0; i < op->map.n; i++)
		n += is_new(op, op->map.paths[i].dev);
	return n;
}

/*
 * Another host may use the same key. It is ours alone if the target lists it
 * just as often as we have registered it; if a doubtful one may have it, that
 * is unknown: -1.
 */
static int
proven(struct op *op)
{
	int n, known;

	if (op->key != op->lun->key || op->lost)
		return 0;
	n = count_key(op, op->key);
	known = recorded(op->lun);
	if (n < 0 || (n > known && n <= known + doubtful(op)))
		return -1;
	return n == known;
}

enum { OTHERS, UNSURE, HERE, OURS };

/*
 * Whose is the reservation that our key has? HERE: ours, and who holds it
 * answers; OURS: he does not.
 */
static int
whose(struct op *op)
{
	dev_t dev = op->lun->holder;
	int v, r;

	if (find_path(&op->map, dev)) {
		v = probe(op, dev, op->key);
		if (v > LOST && v != CONFLICT)
			return HERE;
		if (v == CONFLICT)
			dev = 0; /* it is another nexus by now */
	}
	r = proven(op);
	if (r > 0)
		return OURS;
	return r < 0 || dev ? UNSURE : OTHERS;
}

/* The commands, each with its verdict and a reply that is in place */

/*
 * After a key change the old key is left on paths that missed it, and with it
 * perhaps the reservation: preempt it, if it is our own. CONFLICT: it is, and
 * is left as it was; LOST: perhaps.
 */
static int
lay_ghosts(struct op *op, int before, int known)
{
	int held, type, n, ours, left = kept(op, op->was, 1);

	if (op->was == 0 || op->was == op->sa_key || left == 0)
		return DONE;
	n = count_key(op, op->was);
	if (n == 0)
		return DONE;
	ours = op->held && !is_clean(op, op->lun->holder);
	held = n < 0 ? -1 : held_by(op, op->was, &type);
	if (held < 0)
		return ours ? LOST : DONE;
	if (before != known || n > left) {
		warn("%s: key 0x%llx is left as it is: another host has it, "
		     "too",
		    op->map.wwid, (unsigned long long)op->was);
		return held && ours ? CONFLICT : DONE;
	}
	if (held) {
		op->lun->holder = 0;
		state_save(op->lun);
	}
	send_out(op, op->canary, PREEMPT, type ? type : REGISTRANTS_ONLY,
	    op->sa_key, op->was);
	if (held) {
		held = held_by(op, op->was, &type);
		if (held)
			return held < 0 ? LOST : CONFLICT;
		op->lun->holder = op->canary;
	}
	drain(op);
	return DONE;
}

/*
 * The guest's key is to change, on the first path at least. Who comes after
 * us, if we are killed, shall know both the new one and the old one; so shall
 * heal(), if there is no answer.
 */
static int
change_key(struct op *op)
{
	struct lun *lun = op->lun;
	int v;

	op->before = *lun;
	if (!lun->changing)
		lun->old = op->was;
	lun->key = op->sa_key;
	/* The key that there is, once more, is no change. */
	lun->changing |= op->action != REGISTER || op->key != op->sa_key ||
	    op->was != op->sa_key;
	state_save(lun);
	v = canary(op);
	if (v == LOST) {
		mark_all(op, MARK_TAINTED);
	} else if (v != DONE) {
		lun->key = op->was;
		lun->old = op->before.old;
		lun->changing = op->was ? op->before.changing : 0;
	}
	return v;
}

/*
 * The first path took the key that the guest has, once more. Was it still
 * there? Then a path that cannot be reached has it, too.
 */
static int
has_again(struct op *op, int aptpl)
{
	return op->sa_key == op->was && op->key == op->was &&
	    aptpl == guest_aptpl(op) && !op->reset &&
	    is_clean(op, op->canary) && ask_siblings(op) == DONE &&
	    proven(op) > 0;
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
		return good(op);
	}
	r = lay_ghosts(op, before, known);
	if (r == DONE)
		return good(op);
	proto_sense(op->rp, IO_TERMINATED);
	if (r == CONFLICT) {
		retreat(op, 0);
	} else {
		op->lun->old = op->was;
		op->lun->changing = 1;
	}
	return LOST;
}

/*
 * The guest's key is to go, or to change, and what it holds with it: that is
 * true only if the path that holds it is there, or it can be moved.
 */
static int
bring_holder(struct op *op)
{
	int i, held, type, w;

	op->held = 0;
	for (i = 0; i < ROUNDS_MAX; i++) {
		held = held_by(op, op->key, &type);
		if (held < 1)
			return held == 0;
		w = whose(op);
		if (w != OURS || op->sa_key) {
			/* What is away is for lay_ghosts(). */
			op->held = w >= HERE;
			return w != UNSURE;
		}
		move_holder(op, type);
	}
	return 0;
}

static int
register_key(struct op *op)
{
	struct lun *lun = op->lun;
	uint8_t was_aptpl = lun->aptpl;
	int v, r, known, before = -1, i = 0;

	if (op->was && op->sa_key)
		note_ghosts(op);
	do {
		if (op->was && op->key == op->was && op->key != op->sa_key &&
		    !bring_holder(op)) {
			proto_sense(op->rp, LU_COMM_FAILURE);
			return AWAY;
		}
		known = recorded(lun);
		op->reset = 0;
		if (op->was && op->sa_key)
			before = count_key(op, op->was);
		/* Who removes one of a key removes them all. */
		op->gone =
		    before >= 0 && before < known && op->was != op->sa_key;
		/* The holder's end is what the others are told of. */
		sort_paths(op);
		v = change_key(op);
	} while (v == AWAY && op->held && !op->sa_key && ++i < ROUNDS_MAX);
	if (v != DONE)
		return v;
	if (op->sa_key == 0) {
		clear_all(op, op->action, op->key);
		drain(op);
		return good(op);
	}
	if (before == known && has_again(op, was_aptpl)) {
		lun->changing = 0;
		return registered(op, bring(op, REGISTER, 0, op->key), 0, 0);
	}
	lun->aptpl = guest_aptpl(op);
	if (op->key == 0)
		lun->holder = 0; /* who is not registered holds nothing */
	begin(op, op->sa_key);
	r = bring(op, op->action, op->key, op->sa_key);
	if (r == REFUSED)
		lun->aptpl = was_aptpl;
	return registered(op, r, before, known);
}

/*
 * A command that changes the holder, or removes keys, ours perhaps, too. Who
 * comes after us shall not trust what it is about to change, nor shall we if
 * it was lost.
 */
static int
canary_unsure(struct op *op, int keys)
{
	const struct lun was = *op->lun;
	int v;

	op->lun->holder = 0;
	if (keys)
		mark_all(op, MARK_TAINTED);
	state_save(op->lun);
	*op->lun = was;
	v = canary(op);
	if (v != DONE && op->unsure) {
		op->lun->holder = 0;
		if (keys)
			mark_all(op, MARK_TAINTED);
	}
	return v;
}

/*
 * A RESERVE was refused, but it is for the holder to reserve again, and who
 * that is may not be known, or he could not be asked.
 */
static int
own_already(struct op *op, int v)
{
	int r = reserved(op);

	if (r > 0)
		r = proven(op);
	if (r > 0)
		return good(op);
	if (r == 0 || v != CONFLICT)
		return v;
	proto_sense(op->rp, IO_TERMINATED);
	return LOST;
}

static int
reserve(struct op *op)
{
	int v, held, type = op->rq->cdb[2] & TYPE_MASK;

	op->ours = held_by(op, op->key, &held);
	v = canary_unsure(op, 0);
	if (v != DONE)
		return v < FINAL ? own_already(op, v) : v;
	/* Verified only: one that was asked before may hold it. */
	op->lun->holder = all_hold(type) || op->verified ? 0 : op->canary;
	if (op->map.n > 1 && !op->lun->warned &&
	    (type == WRITE_EXCLUSIVE || type == EXCLUSIVE_ACCESS)) {
		op->lun->warned = 1;
		warn("%s: a reservation of type %d lets in one path only",
		    op->map.wwid, type);
	}
	return DONE;
}

/* The key that we have registered, or the guest's, if that is not known. */
static uint64_t
own_key(const struct op *op)
{
	return op->lun->key ? op->lun->key : op->key;
}

/*
 * A path that is not the holder says GOOD and does nothing, and only who holds
 * it sees that a key is wrong.
 */
static int
release_held(struct op *op)
{
	struct reply rp;
	int i, v, held, type, found = DONE;

	for (i = 0; i < op->map.n; i++) {
		v = send_guest(op, i);
		rp = op->last;
		if (v == DONE || v == LOST) {
			held = held_by(op, own_key(op), &type);
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
	if (marked(op->lun, MARK_GONE) == 0 && op->lun->ghosts == 0)
		return good(op);
	/* Or one that the map has no more. */
	proto_sense(op->rp, LU_COMM_FAILURE);
	return AWAY;
}

/* The path that holds it did not answer: another one must, if we may. */
static int
release_lost(struct op *op)
{
	int type;

	if (held_by(op, own_key(op), &type) < 1)
		return LOST;
	if (type != op->rq->cdb[2]) {
		proto_sense(op->rp, INVALID_RELEASE);
		return FINAL;
	}
	if (whose(op) == OURS && move_holder(op, type))
		return release_held(op);
	return LOST;
}

static int
release(struct op *op)
{
	int v, type, held = held_by(op, own_key(op), &type);

	if (held == 0) {
		v = canary(op);
	} else {
		v = release_held(op);
		if (v <= LOST)
			v = release_lost(op);
		if (v == DONE)
			op->lun->holder = 0;
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
	v = canary_unsure(op, 1);
	if (v == DONE) {
		op->lun->key = 0;
		op->lun->holder = 0;
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
	int n = 1, v = probe(op, op->canary, op->key);

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
	if (v != DONE && (n != 1 || marked(op->lun, MARK_TAINTED)))
		set_mark(op->lun, op->canary, MARK_TAINTED);
	bring_all(op, REGISTER);
}

/*
 * SPDK removes every registration with the holder's key, the sender's, too,
 * and then refuses the sender because it has none. Another node would now
 * hold the reservation, and PRGENERATION would have risen otherwise: for SPDK
 * by one for each registration that went.
 */
static int
wiped(struct op *op, uint32_t generation)
{
	uint64_t key;
	int type, n = count_key(op, op->key);

	return n == 0 && op->listed > 1 &&
	    op->generation - generation == (uint32_t)op->listed &&
	    read_reservation(op, &key, &type) == 0;
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
		return conflict(op);
	}
	trace_step(op->canary, "registered again: the target had removed it");
	op->lun->holder = 0;
	begin(op, op->key);
	for (i = 0, v = LOST; i < ROUNDS_MAX && v <= ELSEWHERE; i++)
		v = send_out(op, op->canary, RESERVE, type, op->key, 0);
	bring_all(op, REGISTER);
	return v == DONE ? good(op) : conflict(op);
}

/* It was not executed: the siblings have what they had before. */
static void
undo_gate(struct op *op, const struct lun *was)
{
	const struct mark *m;

	for (m = was->marks; m < was->marks + was->n; m++)
		if (m->mark == MARK_CLEAN &&
		    mark_of(op->lun, m->dev) == MARK_SET)
			set_mark(op->lun, m->dev, MARK_CLEAN);
}

static int
preempt(struct op *op)
{
	const struct lun was = *op->lun;
	uint32_t generation;
	uint64_t key;
	int v, type, held, ours, named, known = recorded(op->lun);

	held = read_reservation(op, &key, &type);
	ours = held == 1 && !all_hold(type) && key == op->key;
	named = held == 1 && (all_hold(type) || !key || key == op->sa_key);
	/* Key 0: all others, if all hold it, and nothing else. */
	op->self = (op->key && op->key == op->sa_key) ||
	    (op->sa_key == 0 && (held < 0 || all_hold(type)));
	if (op->self && op->key && op->key == op->was)
		gate_siblings(op);
	op->listed = count_key(op, op->self ? op->key : op->sa_key);
	generation = op->generation;
	op->reset = 0;
	v = canary_unsure(op, op->self);
	if (op->self && !op->told && (op->lun->n == 0 || op->listed == known) &&
	    v > AWAY && v != FINAL && (v != DONE || op->verified) &&
	    wiped(op, generation))
		return rebuild(op);
	if (v != DONE) {
		if (v == AWAY)
			undo_gate(op, &was);
		return v;
	}
	/* Only where all hold it is GOOD the answer to that. */
	if (op->sa_key == 0)
		op->self = 1;
	if (op->self || !ours) {
		held = read_reservation(op, &key, &type);
		op->lun->holder = named && held == 1 && !all_hold(type) &&
			(key == op->key || (op->self && key == 0)) ?
		    op->canary :
		    0;
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
	const struct reply rp = *op->rp;
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
	*op->rp = rp;
	op->rq = guest;
	op->action = action;
	op->sa_key = sa_key;
	op->was = op->lun->key; /* it may have been removed */
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
	int spec_i_pt = rq->len > FLAGS && (rq->data[FLAGS] & SPEC_I_PT);

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

/*
 * Ask the siblings that have the key whether it is still registered. One that
 * a predecessor took for clean may be another nexus by now; if it does not
 * answer, it is like one that was not in the map. LOST: those that can be
 * asked have it no more, but not all can be asked.
 */
static int
ask_siblings(struct op *op)
{
	const struct job *j;
	int n = probe_those(op, is_clean, op->key), lost = 0;
	int had = marked(op->lun, MARK_CLEAN) + marked(op->lun, MARK_GONE);
	dev_t has = with_verdict(op, n, DONE);

	for (j = op->jobs; j < op->jobs + n; j++)
		lost += j->verdict == CONFLICT;
	if (lost && !has && op->lun->loaded && lost < had &&
	    count_key(op, op->key) != 0)
		return LOST;
	for (j = op->jobs; j < op->jobs + n; j++)
		if (j->verdict == CONFLICT && has && op->lun->loaded)
			is_ghost(op, j->dev);
		else if (j->verdict == CONFLICT)
			set_mark(op->lun, j->dev, MARK_ROBBED);
		else if (j->verdict != DONE && has && op->lun->loaded)
			set_mark(op->lun, j->dev, MARK_GONE);
	if (has)
		op->canary = has;
	return has ? DONE : lost ? CONFLICT : AWAY;
}

/*
 * The key was removed by another node while paths were away, and must never
 * be registered again. Or it never came to be, since we were killed.
 */
static void
renounce(struct op *op)
{
	struct lun *lun = op->lun;

	if (lun->changing && lun->old) {
		lun->key = op->key = lun->old;
		lun->changing = 0;
		lun->old = 0;
		return;
	}
	lost_key(op);
	op->key = 0;
	state_save(lun);
}

/*
 * Can one of the paths that are not clean be reached by now? It is not enough
 * for a path to have the key: it may have got it late. *holding: one of
 * those that have it; *holds: how many beside those that are tainted.
 */
static int
reachable(struct op *op, dev_t *holding, int *holds)
{
	const struct job *j;
	int mark, reached = 0, n = probe_those(op, astray, op->key);

	*holding = with_verdict(op, n, DONE);
	*holds = 0;
	for (j = op->jobs; j < op->jobs + n; j++) {
		reached |= j->verdict > LOST;
		mark = mark_of(op->lun, j->dev);
		if (mark == MARK_GONE && j->verdict == DONE && op->lun->loaded)
			set_mark(op->lun, j->dev, MARK_CLEAN);
		else
			*holds += j->verdict == DONE && mark != MARK_TAINTED;
		if (mark == MARK_ROBBED && j->verdict == DONE)
			set_mark(op->lun, j->dev, MARK_SET); /* from us */
		if (op->key == 0 || j->verdict != CONFLICT)
			continue;
		if (mark == MARK_TAINTED)
			set_mark(op->lun, j->dev, MARK_SET);
		if (mark == MARK_GONE)
			is_ghost(op, j->dev);
	}
	return reached;
}

/*
 * Is the key registered? DONE: op->canary, if there is one, has it; CONFLICT:
 * no more. Paths that should have it, and cannot be asked, must be listed with
 * it: it was preempted if the target does not list it.
 */
static int
ask_key(struct op *op, dev_t holding, int holds)
{
	int n, known, may = holds + marked(op->lun, MARK_TAINTED);
	int clean = marked(op->lun, MARK_CLEAN), v = ask_siblings(op);
	struct mark *m;

	if (v != AWAY)
		return v;
	op->reset = 0;
	n = count_key(op, op->key);
	known = recorded(op->lun);
	if (n == 0)
		return CONFLICT;
	if (holding ? clean > 0 && n < clean + may : n != known || may > 0)
		return AWAY;
	/* No clean one has answered: is somebody else registered, too? */
	for (m = op->lun->marks; m < op->lun->marks + op->lun->n; m++)
		if (m->mark == MARK_CLEAN && n > known + may)
			m->mark = MARK_SET;
		else if (m->mark == MARK_CLEAN && op->lun->loaded)
			m->mark = MARK_GONE;
	op->canary = holding;
	if (holding)
		set_mark(op->lun, holding, MARK_CLEAN);
	return DONE;
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
	op->key = op->sa_key = op->was = op->lun->key;
	if (!reachable(op, &holding, &holds) && !op->lun->loaded)
		return;
	if (op->key)
		v = ask_key(op, holding, holds);
	if (v > LOST)
		op->lun->loaded = 0; /* else look once more */
	if (v == DONE && op->key) {
		op->lun->changing = 0;
		gate(op); /* only now a path has answered that can be used */
		state_save(op->lun); /* who has it, before others get it */
	}
	if (v == CONFLICT)
		renounce(op);
	else if (v == DONE)
		bring_all(op, op->key ? REGISTER : REGISTER_AND_IGNORE);
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

/* What a command of the guest has begun is left as it is. */
static void
heal(struct op *op)
{
	const uint64_t was = op->lun->key, key = op->key, sa_key = op->sa_key;
	const struct reply rp = *op->rp;
	const int action = op->action;

	op->action = REGISTER;
	/* A change was cut off anywhere in it, or got no answer. */
	if (op->lun->changing) {
		mark_all(op, MARK_TAINTED);
		op->lun->holder = 0;
	}
	heal_once(op);
	if (op->lun->key != was)
		heal_once(op);
	if (marked(op->lun, MARK_CLEAN) > 0 || op->lun->key == 0)
		op->lun->changing = 0;
	find_sizes(op);
	ungate(op);
	sort_paths(op);
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

	for (m = op->lun->marks; m < op->lun->marks + op->lun->n; m++)
		if (m->mark == MARK_CLEAN && !find_path(&op->map, m->dev))
			m->mark = MARK_GONE;
}

/* Which paths have this key? Those that have none, if it is 0. */
static int
find_key(struct op *op, uint64_t key)
{
	int i, n = probe_those(op, is_new, key), found = 0;

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
	for (k = 0; k + KEY_LEN <= op->len && n < PATHS_MAX; k += KEY_LEN) {
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
	struct reply rp = { .status = GOOD };
	struct op op = {
		.jobs = jobs,
		.buf = buf,
		.rp = &rp,
		.action = REGISTER,
		.end = now() + MPATH_TIME - UNDO_TIME,
	};
	int r;

	/* Who has it sees to it. */
	if (!(op.lun = state_get(wwid, 0)))
		return 1;
	r = dm_read(op.lun->map, &op.map, 1);
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

	if (op->lun->n == 0 && op->lun->key == 0 && !op->lun->changing)
		learn(op);
	/* A path that is not as it should be must not answer the guest. */
	if (unclean(op) &&
	    (op->lun->changing || op->action != REGISTER_AND_IGNORE ||
		op->sa_key == 0))
		heal(op);
	op->was = op->lun->key;
	if (op->action == REGISTER_AND_IGNORE)
		op->key = op->was; /* what the guest names does not count */
	if (op->rq->cdb[0] == PR_CLEANUP)
		return cleanup(op);
	if ((size_t)op->action >= LEN(commands)) {
		proto_sense(op->rp, INVALID_FIELD);
		return FINAL;
	}
	return commands[op->action](op);
}

static int
run_once(struct op *op)
{
	int v;

	if (op->map.n == 0)
		return AWAY;
	if (op->rq->cdb[0] == PR_IN) {
		sort_paths(op);
		return ask_paths(op, op->rq, op->rp);
	}
	if (!op->map.wwid[0])
		return AWAY;
	if (!(op->lun = state_get(op->map.wwid, TURN_TIME))) {
		proto_status(op->rp, BUSY);
		return FINAL;
	}
	op->lun->map = op->map.dev;
	op->asked = 0;
	note_gone(op);
	sort_paths(op);
	v = run_out(op);
	if (v == AWAY && unclean(op))
		heal(op);
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
	const int out = rq->cdb[0] != PR_IN;
	int r;

	if (rq->cdb[0] == PR_OUT && op.action == PREEMPT_AND_ABORT)
		op.end += SG_ABORT_TIME;
	/*
	 * The kernel keeps the device of a path as long as the map has it:
	 * whoever only reads need not look whose it is.
	 */
	while ((r = dm_read(rq->dev, &op.map, out)) == DM_MAP) {
		if (rq->cdb[0] == PR_OUT && check_params(&op) < 0)
			return;
		if (run_once(&op) != AWAY)
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
